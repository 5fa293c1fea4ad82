"""`raymill gc` on runs of `curate`: an unfinished run continues after it, a finished one is the same."""

import json
import os
import time
from functools import partial
from pathlib import Path

import pytest

from raymill.cluster import cli, engine
from raymill.cluster.garbage import FINISHED, NOT_OF_RUN, PREPARED, find_garbage
from raymill.cluster.lease import held
from raymill.cluster.stage import remove
from raymill.cluster.store.store import Store
from raymill.pipelines.curate import job
from raymill.pipelines.curate.job import run_stages
from raymill.pipelines.dedup.group import Sizes
from tests.support.inline import curate_inline
from tests.support.stories import story

DAY_S = 86_400.0


@pytest.fixture
def settings(tmp_path) -> dict:
    texts = {f"s{number}": story(number) for number in range(12)} | {"copy": story(3), "last": story(5)}
    lines = [json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items()]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    return {"inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}], "output": str(tmp_path / "run")}


@pytest.fixture
def several_ranges(monkeypatch) -> None:
    """Grouping in stages of its own, as of more than half a million documents."""
    monkeypatch.setattr(job, "run_stages", partial(run_stages, sizes=Sizes(documents=5, pairs=50, batch=4)))


def age(root: str) -> None:
    for path in Path(root).rglob("*"):
        os.utime(path, (time.time() - 2 * DAY_S,) * 2)


def delete(root: str) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["gc", root, "--delete"])
    assert left.value.code == 0


def reasons(root: str) -> dict[str, set[str]]:
    """Folder -> why something in it is not needed."""
    found: dict[str, set[str]] = {}
    garbage = find_garbage(Store(), root, DAY_S)
    assert (garbage.young, garbage.unknown) == ([], [])
    for one in garbage.old:
        found.setdefault(one.folder, set()).add(one.why)
    return found


def content(root: str) -> dict[str, bytes]:
    """Every file of a run but records, leases and what prepares `group` and `ids`."""
    paths = [path for path in Path(root).rglob("*") if path.is_file()]
    kept = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    left_out = ("_commits/", "_lease/", "_work/group/", "_work/ids/")
    return {name: data for name, data in kept.items() if not name.startswith(left_out)}


def test_what_prepared_a_finished_stage_goes_and_the_run_continues(settings, several_ranges, monkeypatch, tmp_path):
    undisturbed = curate_inline(settings | {"output": str(tmp_path / "undisturbed")}, monkeypatch)

    def killed(stage, root):
        if stage.name.startswith("group."):
            raise KeyboardInterrupt
        remove(stage, root)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine, "remove", killed)
        curate_inline(settings, monkeypatch)
    root = settings["output"]
    age(root)
    found = reasons(root)
    prepared = {folder for folder, why in found.items() if why == {PREPARED}}
    names = {"keys", "edges", "merged", "batches", "candidates", "found"}
    assert {f"_work/group/{name}" for name in names} <= prepared
    assert {folder for folder in prepared if "group." not in folder and "_work/group/" not in folder} == set()
    assert {why for folder in found.keys() - prepared for why in found[folder]} == {FINISHED}
    measured = {path.name: path.stat().st_mtime for path in Path(root, "_commits", "measure").iterdir()}
    delete(root)
    assert not Path(root, "_work", "group").exists()
    assert {path.name: path.stat().st_mtime for path in Path(root, "_commits", "measure").iterdir()} == measured
    attributes = {path: path.stat().st_mtime for path in Path(root, "attributes").iterdir()}

    continued = curate_inline(settings, monkeypatch)
    assert continued.fresh and continued.manifest["digest"] == undisturbed.manifest["digest"]
    assert {path: path.stat().st_mtime for path in Path(root, "attributes").iterdir()} == attributes


def test_a_finished_run_is_the_same_after_it_and_nothing_is_left_to_do(settings, several_ranges, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "remove", lambda stage, root: None)
        run = curate_inline(settings, monkeypatch)
    before = content(run.uri)
    age(run.uri)
    assert {PREPARED, FINISHED} == {why for found in reasons(run.uri).values() for why in found}
    delete(run.uri)
    assert content(run.uri) == before and not Path(run.uri, "_work", "group").exists()
    again = curate_inline(settings, monkeypatch)
    assert not again.fresh and again.manifest == run.manifest
    assert reasons(run.uri) == {}


def test_artifacts_of_other_settings_below_work_go_when_the_run_is_finished(settings, monkeypatch):
    curate_inline(settings, monkeypatch)
    without = settings | {"dedup": None}
    run = curate_inline(without, monkeypatch, replace=True)
    before = content(run.uri)
    age(run.uri)
    stale = {folder for folder, why in reasons(run.uri).items() if why == {NOT_OF_RUN}}
    assert stale == {"_work/groups", "_work/duplicates", "_work/similarity"}
    delete(run.uri)
    kept = {name: data for name, data in before.items() if name.rpartition("/")[0] not in stale}
    assert content(run.uri) == kept != before
    assert not curate_inline(without, monkeypatch).fresh


def test_more_input_uses_the_measurements_that_were_kept(settings, monkeypatch, tmp_path):
    """And a run in a folder below is a run of its own, with a lease of its own."""
    run = curate_inline(settings, monkeypatch)
    inner = curate_inline(settings | {"output": f"{run.uri}/inner"}, monkeypatch)
    age(run.uri)
    delete(run.uri)
    attributes = {path: path.stat().st_mtime for path in Path(run.uri, "attributes").glob("*.parquet")}
    (tmp_path / "more.jsonl").write_text(json.dumps({"id": "more", "text": story(99)}) + "\n")
    settings["inputs"].append({"source": "more", "path": str(tmp_path / "more.jsonl"), "id": "id"})
    curate_inline(settings, monkeypatch, replace=True)
    after = {path: path.stat().st_mtime for path in Path(run.uri, "attributes").glob("*.parquet")}
    assert attributes.items() < after.items()
    assert inner.corpus.damage() == {}
    with held(Store(), inner.uri), pytest.raises(SystemExit) as left:
        cli.main(["gc", run.uri])
    assert left.value.code == 2
