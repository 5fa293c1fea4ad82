"""What a record names lies below its folder, whoever wrote the record; and what lies there leads nowhere else."""

import json
from pathlib import Path

import pytest

import raymill
from raymill.cluster.artifact import Artifact, discard_artifact, manifest_file
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.lease import held
from raymill.cluster.record import json_bytes, read_json_line
from raymill.cluster.run import RunFolder
from raymill.cluster.store.paths import FileName, RecordedUri, RelativePath
from raymill.cluster.store.store import Store
from raymill.training.job import discard_damaged
from raymill.training.records.finished import exported_checkpoint
from tests.support.record_types import FILE, HOSTILE, HOSTILE_URIS, RECORDS, changed_record, places_in_the_product


def test_every_record_of_the_product_is_in_the_table() -> None:
    assert places_in_the_product().keys() == RECORDS.keys()


def test_the_product_parses_each_record_with_names_as_the_table_does() -> None:
    used = places_in_the_product()
    for place, (parse, _, names, uris) in RECORDS.items():
        if names or uris:
            assert used[place] in (parse.__name__, "parse"), place  # a local variable of mypy


@pytest.mark.parametrize("place", RECORDS)
def test_a_record_with_a_hostile_name_cannot_be_read(place: str) -> None:
    parse, record, names, uris = RECORDS[place]
    parse(json.dumps(record).encode())
    for at, hostile in [(at, HOSTILE) for at in names] + [(at, HOSTILE_URIS) for at in uris]:
        for name in hostile:
            for changed in changed_record(record, at.split("."), name):
                if at in ("inputs.[].path", "best_checkpoint") and not name:
                    continue  # an input without a path, a run without validation
                with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
                    parse(json.dumps(changed).encode())
                    pytest.fail(f"{at} = {name!r}")


def test_ordinary_names_are_kept_as_they_are() -> None:
    for name in (
        "a",
        "_work/groups",
        "corpus-0/train/000000-000-a.parquet",
        "späße 1.json",
        "日本",
        "a:b",
        "...",
        "x~",
    ):
        assert RelativePath(name) == name
    for uri in ("/a/../b", "s3://bucket/a b", "az://c/x", "gs://b", "hf://org/name@abc"):
        assert RecordedUri(uri) == uri
    with pytest.raises(ValueError, match="not the name of a file"):
        FileName("a/b")


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"", b"null", b"[]"])
def test_a_record_that_is_no_record_is_a_data_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    said = r"not the manifest of a run .* delete it and start that run again: what it finished is kept"
    with pytest.raises(DataError, match=said):
        RunFolder(Store(), str(tmp_path)).manifest_file.read()


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xfe", b"", b"null", b"[]", b"7"]
)
def test_what_a_run_wrote_beside_its_record_is_a_data_error_if_it_is_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "report.json").write_bytes(data)
    with pytest.raises(DataError, match="not the report of a run"):
        RunFolder(Store(), str(tmp_path)).report()
    with pytest.raises(DataError, match="a line that Raymill did not write"):
        read_json_line(data, "steps.jsonl")


def test_the_checkpoint_of_a_fit_is_one_of_its_run_whatever_folder_its_record_names() -> None:
    parse, record, _, _ = RECORDS["raymill.training.records.finished:outcome_file"]
    moved = parse(json.dumps(record | {"best_checkpoint": "/elsewhere/checkpoints/step-7"}).encode())
    assert exported_checkpoint("/run", moved) == "/run/checkpoints/step-7"
    for uri in ("/", "/run/checkpoints/", "/run/checkpoints/.."):
        with pytest.raises(ValueError, match="is not a path below this folder"):
            parse(json.dumps(record | {"checkpoint": uri}).encode())


def test_a_report_that_is_gone_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json: is gone"):
        RunFolder(Store(), str(tmp_path)).report()
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(DataError, match="not the report of a run \\(has no run"):
        RunFolder(Store(), str(tmp_path)).report("run")


def _artifact(folder: Path, path: str) -> None:
    manifest = RECORDS["raymill.cluster.artifact:manifest_file"][1] | {"files": [FILE | {"path": path}]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_manifest.json").write_bytes(json_bytes(manifest))


def test_a_manifest_that_names_a_file_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    _artifact(tmp_path / "run" / "corpus", "../../diary.txt")
    with pytest.raises(DataError, match=r"diary\.txt' is not a path below this folder"):
        Artifact.find(Store(), str(tmp_path / "run" / "corpus"))


@pytest.mark.parametrize("link", ["run/corpus/x", "run/corpus", "run/_work/deep/x", "run/checkpoints/step-1"])
def test_a_link_that_leaves_the_run_is_refused_before_anything_is_read_or_written(tmp_path: Path, link: str) -> None:
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "000000-000-abcdefabcdef.parquet").write_text("mine")
    at = tmp_path / link
    at.parent.mkdir(parents=True)
    at.symlink_to(tmp_path / "documents")
    run = tmp_path / "run"
    (run / "manifest.json").write_bytes(json_bytes(RECORDS["raymill.cluster.run:manifest_file"][1]))
    with pytest.raises(StorageError, match=r"a link to .*documents, outside of"):
        RunFolder(Store(), str(run)).manifest_file.read()
    with pytest.raises(StorageError, match="outside of"), held(Store(), str(run)):
        pytest.fail("the lease was given")
    assert not (run / "_lease").exists()
    assert [file.name for file in (tmp_path / "documents").iterdir()] == ["000000-000-abcdefabcdef.parquet"]


def test_links_inside_a_run_and_to_a_run_are_followed(tmp_path: Path) -> None:
    _artifact(tmp_path / "disk" / "run" / "corpus", FILE["path"])
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    (tmp_path / "run" / "latest").symlink_to("corpus")
    with held(Store(), str(tmp_path / "run")):
        assert Artifact.find(Store(), str(tmp_path / "run" / "latest")) is not None


def test_only_files_that_were_listed_below_the_folder_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    _artifact(tmp_path / "corpus", FILE["path"])
    (tmp_path / "corpus" / FILE["path"]).write_text("x")
    uris = [str(tmp_path / "corpus" / FILE["path"]), str(tmp_path / "diary.txt"), f"{tmp_path}/corpus/../diary.txt"]
    discard_artifact(Store(), str(tmp_path / "corpus"), uris)
    assert (tmp_path / "diary.txt").read_text() == "mine"
    assert list((tmp_path / "corpus").iterdir()) == []
    assert manifest_file(Store(), str(tmp_path / "corpus")).read() is None


def test_a_finished_training_that_names_files_outside_deletes_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    record = RECORDS["raymill.cluster.run:manifest_file"][1]
    record = record | {"export": {"made_from": "f", "files": [{"path": "../../diary.txt", "bytes": 1, "sha256": "s"}]}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(json_bytes(record))
    with pytest.raises(DataError, match="diary"):
        discard_damaged(RunFolder(Store(), str(tmp_path / "run")))
    assert (tmp_path / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("folder", ["../../private", "/home/user/model", "", 7])
def test_an_exported_folder_outside_of_a_training_is_not_opened(tmp_path: Path, folder: object) -> None:
    record = RECORDS["raymill.cluster.run:manifest_file"][1] | {"kind": "train", "artifacts": {}}
    record["export"] = {"made_from": "f", "files": [], "folders": {"full": folder}}
    (tmp_path / "manifest.json").write_bytes(json_bytes(record))
    with pytest.raises(DataError):
        RunFolder(Store(), str(tmp_path)).require("train")
    with pytest.raises(DataError):
        raymill.open(tmp_path)
