"""`raymill gc`: what is left over is found and removed; what a run needs, what is young and what is not ours stays."""

import os
import re
import threading
import time
from pathlib import Path

import boto3
import pytest

from raymill.cluster import lease
from raymill.cluster import stage as stages
from raymill.cluster.garbage import (
    FINISHED,
    INCOMPLETE,
    OTHER_SETTINGS,
    TEST_FILE,
    UNNAMED,
    UPLOAD,
    Garbage,
    Leftover,
    _text,
    find_garbage,
    remove_garbage,
)
from raymill.cluster.lease import held
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, Upload
from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS
from tests.support.processes import wait_until
from tests.support.stages import count_up, counting_stage, run_inline

DAY_S = 86_400.0


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"{request.getfixturevalue('s3_root')}/run"


@pytest.fixture
def store(root, request) -> Store:
    store = request.getfixturevalue("s3_store") if paths.is_remote(root) else Store()
    with held(store, root):
        pass
    return store


def age(root: str) -> float:
    """Make all files there older than the returned number of seconds."""
    if paths.is_remote(root):
        time.sleep(2.1)  # the clock of S3 has whole seconds
        return 1.0
    for path in Path(root).rglob("*"):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)
    return DAY_S


def found_in(garbage: Garbage, root: str) -> dict[str, str]:
    return {one.item.uri.removeprefix(f"{root}/"): one.why for one in garbage.old}


def files_of(record: stages.CommitRecord) -> set[str]:
    return {f"{name}/{file.path}" for name, files in record.files.items() for file in files}


def all_files(store: Store, root: str) -> dict[str, bytes]:
    uris = [file.uri for file in store.list_files(root) if "/_lease/" not in file.uri]
    return {uri.removeprefix(f"{root}/"): store.read_bytes(uri) for uri in uris}


def losing_attempt(stage: stages.Stage, root: str, index: int) -> set[str]:
    """The files of an attempt that finds the unit's record of another one."""
    before = {file.uri for file in stage.store.list_files(root)}
    stages.run_unit(stage, root, index, stage.units[index])
    return {file.uri.removeprefix(f"{root}/") for file in stage.store.list_files(root) if file.uri not in before}


def test_an_unfinished_run_keeps_what_its_records_name_and_continues_with_it(root, store, tmp_path):
    stage = counting_stage(units=4, store=store)
    named = [stages.run_unit(stage, root, index, index) for index in (1, 3)]
    losers = losing_attempt(stage, root, 3)
    assert len(losers) > 1
    foreign = {"numbers/notes.txt", "copies/000000-000-0123456789ab.parquet", "numbers/part.parquet"}
    test_file = f"_probe-{'0' * 32}"
    for path in (*foreign, test_file):
        store.write_bytes(f"{root}/{path}", b"1")
    unnamed = "squares/0123456789ab-000002.slices"
    store.write_bytes(f"{root}/{unnamed}", b"1")

    assert find_garbage(store, root, DAY_S).old == []
    garbage = find_garbage(store, root, age(root))
    wanted = dict.fromkeys((*losers, unnamed), UNNAMED) | {test_file: TEST_FILE}
    assert found_in(garbage, root) == wanted
    assert {uri.removeprefix(f"{root}/") for uri in garbage.unknown} == foreign
    before = all_files(store, root)
    remove_garbage(store, root, garbage.old)
    assert all_files(store, root) == {path: data for path, data in before.items() if path not in wanted}

    done_again = []

    def work(unit, scratch):
        done_again.append(unit)
        return count_up(unit, scratch)

    made = run_inline(counting_stage(units=4, work=work, store=store), root)
    assert done_again == [0, 2] and all(files_of(one) <= all_files(store, root).keys() for one in named)
    undisturbed = run_inline(counting_stage(units=4), str(tmp_path / "undisturbed"))
    assert made["numbers"].manifest.digest == undisturbed["numbers"].manifest.digest


def test_a_file_of_a_live_attempt_stays_while_it_is_young(tmp_path):
    root, store = str(tmp_path), Store()
    stage = counting_stage(units=4)
    stages.run_unit(stage, root, 3, 3)
    old = losing_attempt(stage, root, 3)
    seconds = age(root)
    young = losing_attempt(stage, root, 3)
    garbage = find_garbage(store, root, seconds)
    assert found_in(garbage, root).keys() == old
    assert {one.item.uri.removeprefix(f"{root}/") for one in garbage.young} == young


def test_of_a_finished_stage_only_the_records_go_and_its_artifacts_stay_as_they_are(root, store):
    stage = counting_stage(units=4, store=store)
    run_inline(stage, root)
    late = losing_attempt(stage, root, 2)
    before = all_files(store, root)
    garbage = find_garbage(store, root, age(root))
    records = {f"{stage.folder}/{index:06}.json" for index in range(4)}
    assert found_in(garbage, root) == dict.fromkeys(records, FINISHED) | dict.fromkeys(late, UNNAMED)
    remove_garbage(store, root, garbage.old)
    assert all_files(store, root) == {path: data for path, data in before.items() if path not in records | late}
    assert stages.published(stage, root)["numbers"].damage() == {}


def test_records_of_a_finished_stage_with_a_damaged_file_stay_so_that_one_unit_is_made_again(root, store):
    stage = counting_stage(units=4, store=store)
    made = run_inline(stage, root)
    store.delete([made["numbers"].file_uris[0]])
    damaged = stages.committed(stage, root).keys() ^ {0, 1, 2, 3}  # deletes its record
    assert len(damaged) == 1
    garbage = find_garbage(store, root, age(root))
    assert found_in(garbage, root) == {}


def test_records_of_other_settings_and_of_missing_files_go(tmp_path):
    root, store = str(tmp_path), Store()
    other = counting_stage(units=4, fingerprint="a" * 32)
    stages.run_unit(other, root, 1, 1)
    incomplete = stages.run_unit(counting_stage(units=4), root, 3, 3)
    seconds = age(root)
    assert find_garbage(store, root, seconds).old == [], "two unfinished stages: either may be continued"
    store.delete([f"{root}/{min(files_of(incomplete))}"])
    found = found_in(find_garbage(store, root, seconds), root)
    rest = files_of(incomplete) - {min(files_of(incomplete))}
    assert found == dict.fromkeys(rest, UNNAMED) | {f"{counting_stage(4).folder}/000003.json": INCOMPLETE}
    run_inline(counting_stage(units=4), root)
    age(root)
    found = found_in(find_garbage(store, root, seconds), root)
    assert found[f"{other.folder}/000001.json"] == OTHER_SETTINGS
    assert set(found.values()) == {OTHER_SETTINGS, FINISHED}


def test_uploads_that_did_not_end_are_aborted_and_those_of_others_are_left(root, store, request):
    run_inline(counting_stage(units=2, store=store), root)
    ours, others = f"{root}/numbers/000001-000-0123456789ab.parquet", f"{root}/numbers/mine.bin"
    if paths.is_remote(root):
        server, bucket = request.getfixturevalue("s3_server"), root.split("/")[2]
        client = boto3.client("s3", endpoint_url=server, region_name="us-east-1", **CREDENTIALS)
        for uri in (ours, others):
            client.create_multipart_upload(Bucket=bucket, Key=uri.split("/", 3)[3])
    else:
        ours = f"{root}/numbers/.{'0' * 32}.part"
        Path(ours).write_bytes(b"half")
        Path(f"{root}/numbers/.mine.part").write_bytes(b"half")
    garbage = find_garbage(store, root, age(root))
    uploads = [one for one in garbage.old if one.why == UPLOAD]
    assert [one.item.uri for one in uploads] == [ours]
    if not paths.is_remote(root):  # moto answers that every upload began in 2010
        assert UPLOAD in {one.why for one in find_garbage(store, root, 3 * DAY_S).young}
    remove_garbage(store, root, uploads)
    left = [upload.uri for upload in store.list_uploads(root)]
    assert left == ([others] if paths.is_remote(root) else [])
    if not paths.is_remote(root):
        assert Path(f"{root}/numbers/.mine.part").exists()


# --- the verb


@pytest.fixture
def run(tmp_path) -> str:
    """A finished stage and files of another attempt, both two days old."""
    root = str(tmp_path / "run")
    with held(Store(), root):
        pass
    run_inline(counting_stage(units=4), root)
    losing_attempt(counting_stage(units=4), root, 3)
    age(root)
    return root


def test_the_list_removes_nothing_and_ends_with_the_command_that_does(run, run_cli):
    before = all_files(Store(), run)
    code, out, err = run_cli("gc", run)
    assert (code, err) == (0, "") and all_files(Store(), run) == before
    lines = out.splitlines()
    assert lines[1].split() == ["what", "why", "files", "bytes"]
    assert any(line.split()[0] == "numbers/" and UNNAMED in line and line.split()[-3] == "3" for line in lines)
    assert lines[-1] == f"To remove it: raymill gc {run} --older-than 24h --delete"
    code, out, err = run_cli("gc", run, "--delete")
    assert (code, err) == (0, "") and "removed" in out
    gone = before.keys() - all_files(Store(), run).keys()
    assert {path.split("/")[0] for path in gone} == {"_commits", "numbers", "squares"} and len(gone) == 8
    assert not Path(run, "_commits").exists() or not list(Path(run, "_commits").iterdir())
    code, out, _ = run_cli("gc", run)
    assert code == 0 and "Nothing older than 24h to remove." in out


def test_the_command_that_is_printed_shows_no_secret(run, run_cli):
    keys = ("-o", "storage.access_key_id=key", "-o", "storage.secret_access_key=hunter2")
    code, out, _ = run_cli("gc", run, *keys)
    assert code == 0 and "storage.secret_access_key=..." in out and "hunter2" not in out


@pytest.mark.parametrize("options", [(), ("--delete",)])
def test_nothing_is_done_while_a_run_writes_there(run, run_cli, options):
    before = all_files(Store(), run)
    with held(Store(), run):
        code, out, err = run_cli("gc", run, *options)
    assert (code, out) == (2, "") and "another run is writing here" in err
    assert all_files(Store(), run) == before


def test_nothing_is_removed_once_another_run_took_the_output_over(run, run_cli, monkeypatch):
    before, others = all_files(Store(), run), set(threading.enumerate())

    def find_and_be_late(store, root, older_than_s):
        found = find_garbage(store, root, older_than_s)
        store.write_bytes(lease._uri(root, 99), lease._to_json(lease.Holder.me()))
        assert wait_until(lambda: all(one.name != "lease" for one in set(threading.enumerate()) - others), 30)
        return found

    monkeypatch.setattr(lease, "_REFRESH_S", 0.01)
    monkeypatch.setattr("raymill.cluster.garbage.find_garbage", find_and_be_late)
    code, _, err = run_cli("gc", run, "--delete")
    assert code == 2 and "another run took over here" in err
    assert all_files(Store(), run) == before


def test_a_folder_without_a_run_and_a_wrong_age_are_refused(run, run_cli):
    for folder in (f"{run}/numbers", f"{run}/nowhere"):
        code, _, err = run_cli("gc", folder, "--delete")
        assert code == 2 and f"{folder}: no run of" in err
    code, _, err = run_cli("gc", run, "--older-than", "soon")
    assert code == 2 and "--older-than soon: not a duration" in err


@pytest.mark.parametrize("unknown", [0, 1, 3, 4])
@pytest.mark.parametrize("delete", [False, True])
def test_the_list_adds_up_by_folder_and_cause_and_counts_what_stays(unknown, delete):
    old = [
        Leftover(FileInfo("/r/b/1", 10, ""), "b", UNNAMED),
        Leftover(FileInfo("/r/a/2", 2, ""), "a", FINISHED),
        Leftover(FileInfo("/r/b/2", 2037, ""), "b", UNNAMED),
        Leftover(Upload("/r/b/3", 0.0, "id"), "b", UPLOAD),
        Leftover(FileInfo("/r/p", 0, ""), "", TEST_FILE),
    ]
    found = Garbage(old, [Leftover(FileInfo("/r/y", 5, ""), "", UNNAMED)], [f"/r/{n}/x" for n in range(unknown)])
    names = ", ".join(f"{n}/x" for n in range(min(unknown, 3))) + ", ..." * (unknown > 3)
    count = "1 file" if unknown == 1 else f"{unknown} files"
    assert [re.split(r"  +", line) for line in _text(found, "/r", "24h", delete).splitlines()] == [
        ["/r"],
        ["what", "why", "files", "bytes"],
        [".", TEST_FILE, "1", "0 B"],
        ["a/", FINISHED, "1", "2 B"],
        ["b/", UPLOAD, "1", "0 B"],
        ["b/", UNNAMED, "2", "2.0 KiB"],
        ["total", "5", "2.0 KiB"],
        ["The bytes of interrupted multipart uploads are not counted."],
        *[["removed"]] * delete,
        ["Younger than 24h, left: 1 file, 5 B."],
        *[[f"Not ours, left: {count} ({names})."]] * (unknown > 0),
    ]
    forged = Garbage([Leftover(FileInfo("/r/a\nb/1", 1, ""), "a\nb", UNNAMED)], [], ["/r/c\r\nremoved\u2028d/x"])
    lines = _text(forged, "/r", "24h", delete).splitlines()
    assert len(lines) == 5 + delete and lines[2].startswith("a b/") and lines[-1].endswith("(c removed d/x).")
    local = [one for one in old if one.why != UPLOAD] + [Leftover(Upload("/r/b/3", 0.0, "", 7), "b", UPLOAD)]
    assert "multipart" not in _text(Garbage(local), "/r", "24h", delete)
    assert _text(Garbage(), "/r", "7d", delete) == "/r\nNothing older than 7d to remove."
