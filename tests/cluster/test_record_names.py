"""What a record names lies below its folder, whoever wrote the record; and what lies there leads nowhere else."""

import ast
import base64
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import cluster
import cluster.inspection
import cluster.lease
import cluster.run
import pipelines
import pipelines.readers.recorded
import training
import training.continuing
from cluster.artifact import Artifact, Manifest, discard_artifact, manifest_file
from cluster.errors import DataError, StorageError
from cluster.lease import held
from cluster.read import hub
from cluster.record import json_bytes, json_with, read_json_line
from cluster.run import RunFolder
from cluster.stage import Record
from cluster.store.paths import FileName, RecordedUri, RelativePath
from cluster.store.store import Store
from pipelines.prepare.fetch import snapshot
from pipelines.prepare.versions.registry import Version
from training.pack import packed_run
from training.pack.tokenizer import TokenizerRecord
from training.records import export_manifest, finished_fit
from training.records.checkpoint import CheckpointManifest
from training.repair import discard_damaged

HOSTILE: list[Any] = [
    "", ".", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "~", "~/x", "~root/x",
    "..\\x", "C:\\x", "a\x00", "a\nb", "\x1b]0;title\x07", "\u202etxt.exe", "\ud800", "x" * 256, "a/" * 600 + "b",
    "file:///etc/passwd", "s3://bucket/key", 7, None, True, ["a"], {"a": "b"},
]  # fmt: skip
HOSTILE_URIS: list[Any] = [
    "", ".", "..", "../x", "x", "~", "~/x", "file.json", "C:\\x", "http://host/x", "ftp://host/x", "gopher://x", "//",
    "javascript:x", "/a\x00", "/a\nb", "/a\x1b]0;title\x07", "/a\u202etxt", "/a\ud800", "s3:/x", 7, None, ["/a"],
]  # fmt: skip
HOSTILE_URIS.remove("//")  # the root of a disk, written oddly

FILE = {"path": "000000-000-abcdefabcdef.parquet", "unit": 0, "rows": 2, "bytes": 100, "sha256": "ab"}
SCHEMA = base64.b64encode(pa.schema([("a", pa.int64())]).serialize().to_pybytes()).decode()
URI = "/data/run"

# For each place of the product that makes a `RecordFile`: how it parses, a valid record, and its places (a key of a
# dictionary is written `{}`, an entry of a list `[]`) with names below the folder and with URIs. All other text in it
# is only compared and shown.
RECORDS: dict[str, tuple[Callable[[bytes], Any], Any, set[str], set[str]]] = {
    "cluster.artifact:manifest_file": (
        Manifest.from_json,
        {"kind": "corpus", "fingerprint": "f", "schema": [["a", "int64"]], "arrow_schema": SCHEMA, "files": [FILE],
         "counters": {"rows": 2}, "seconds": 1.0, "made": "2026", "version": "1", "digest": "d"},
        {"files.[].path"},
        set(),
    ),
    "cluster.stage:record_file": (
        Record.from_json,
        {"unit": 0, "attempt": "a", "files": {"_work/a": [FILE]}, "counters": {}, "seconds": 1.0},
        {"files.{}", "files.*.[].path"},
        set(),
    ),
    "cluster.record:read_json": (json_with("run"), {"run": {"config": {}}}, set(), set()),
    "cluster.run:manifest_file": (
        cluster.run._parse,
        {"kind": "train", "name": "n", "config": {"output": URI}, "inputs": "f", "artifacts": {"packed/a/train": "d"},
         "export": {"files": [{"path": "merged/a", "bytes": 1, "sha256": "a"}]}, "told": {"packed": URI}},
        {"artifacts.{}", "export.files.[].path"},
        {"told.packed"},
    ),
    "cluster.inspection:_read_run_manifest": (
        cluster.inspection._parse,
        {"kind": "train", "artifacts": {"packed/a/train": "d"}},
        {"artifacts.{}"},
        set(),
    ),
    "cluster.lease:_newest": (
        cluster.lease._parse,
        {"user": "u", "host": "h", "machine": "m", "process": 1, "process_started": "1", "since": "t",
         "refreshed": 1.0, "released": True},
        set(),
        set(),
    ),
    "cluster.read.hub:saved_splits": (hub._parse_splits, {"splits": ["train"]}, {"splits.[]"}, set()),
    "cluster.read.hub:saved_files": (
        hub._parse_state,
        {"_data_files": [{"filename": "data-00000.arrow"}]},
        {"_data_files.[].filename"},
        set(),
    ),
    "pipelines.prepare.fetch.snapshot:record_of": (
        snapshot.record_of(Store(), URI, "s").parse,
        {"source": "s", "fingerprint": "f", "asked": "a", "rows": 1},
        set(),
        set(),
    ),
    "pipelines.prepare.versions.registry:_file": (
        Version.parse,
        {"name": "n", "version": "v1", "output": URI, "digest": "d", "records": {}, "note": "", "tagged": "t"},
        {"name", "version"},
        {"output"},
    ),
    "pipelines.readers.recorded:inputs_file": (
        pipelines.readers.recorded._parse,
        {"fingerprint": "f", "inputs": [{"source": "s", "path": URI}], "carried_schema": "", "skipped": {},
         "notes": [], "storage": {}},
        set(),
        {"inputs.[].path"},
    ),
    "training.continuing:recorded_parent": (
        training.continuing._parse_parent,
        {"run": URI, "digest": "d", "fit": "f", "checkpoint": f"{URI}/checkpoints/step-1", "step": 1, "updates": 1,
         "steps_before": 0, "position": {"samples": 0, "taken": []}, "words": ["w"]},
        set(),
        {"run", "checkpoint"},
    ),
    "training.pack.packed_run:manifest_file": (
        packed_run._parse,
        {"artifacts": {"corpus-0": {"train": "d"}}, "classes": ["c"], "settings": {}, "tokenizer": "t",
         "sets": {"_evaluate-a": "test"},
         "prepared": {"corpus-0": {"name": "n", "output": URI, "digest": "d", "version": "1"}}},
        {"artifacts.{}", "artifacts.*.{}", "sets.{}", "sets.*"},
        {"prepared.*.output"},
    ),
    "training.pack.tokenizer:tokenizer_file": (
        TokenizerRecord.from_json,
        {"request": "r", "fingerprint": "f", "files": {"tokenizer.json": ["sha", 10]}},
        {"files.{}"},
        set(),
    ),
    "training.records.checkpoint:load": (
        CheckpointManifest.from_json,
        {"identity": {"model": "m"}, "course": {"best": None, "skipped": []}, "world": 1, "made": "t",
         "versions": {"torch": "2"},
         "shapes": {"w": [1]},
         "files": [{"path": "rank-0.safetensors", "bytes": 1, "pieces": [["w", "param", 0, 1, 8, "sha"]]}]},
        {"files.[].path"},
        set(),
    ),
    "training.records.evaluation:read_evaluation": (
        json_with("before", "after"),
        {"before": {}, "after": {}, "made_from": "f"},
        set(),
        set(),
    ),
    "training.records.export_manifest:manifest_file": (
        export_manifest._parse,
        {"made_from": "f", "folders": {"merged": "merged"}, "files": [{"path": "merged/a", "bytes": 1, "sha256": "s"}]},
        {"folders.{}", "folders.*", "files.[].path"},
        set(),
    ),
    "training.records.finished_fit:outcome_file": (
        finished_fit._parse,
        {"fingerprint": "f", "checkpoint": f"{URI}/checkpoints/step-1", "best_checkpoint": f"{URI}/checkpoints/step-1"},
        set(),
        {"checkpoint", "best_checkpoint"},
    ),
}  # fmt: skip


def _places_in_the_product() -> set[str]:
    """`module:function` of each call of `RecordFile`."""
    found = set()
    for package in (cluster, pipelines, training):
        root = Path(package.__path__[0])
        for file in root.rglob("*.py"):
            module = ".".join([package.__name__, *file.relative_to(root).with_suffix("").parts])
            for function in ast.walk(ast.parse(file.read_text())):
                if isinstance(function, ast.FunctionDef):
                    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                    if any(isinstance(one, ast.Name) and one.id == "RecordFile" for one in calls):
                        found.add(f"{module}:{function.name}")
    return found


def test_every_record_of_the_product_is_in_the_table() -> None:
    assert _places_in_the_product() == RECORDS.keys()


def _changed(record: Any, place: list[str], name: Any) -> Iterator[Any]:
    """The record with `name` at the place."""
    first, *rest = place
    if first in ("[]", "*"):
        keys = range(len(record)) if first == "[]" else list(record)
        for key in keys:
            for value in _changed(record[key], rest, name) if rest else [name]:
                found = copy.copy(record)
                found[key] = value
                yield found
    elif first == "{}":
        if isinstance(name, str):  # keys of JSON are text
            yield dict.fromkeys([name], *record.values())
    else:
        for value in _changed(record[first], rest, name) if rest else [name]:
            yield record | {first: value}


@pytest.mark.parametrize("place", RECORDS)
def test_a_record_with_a_hostile_name_cannot_be_read(place: str) -> None:
    parse, record, names, uris = RECORDS[place]
    parse(json.dumps(record).encode())
    for at, hostile in [(at, HOSTILE) for at in names] + [(at, HOSTILE_URIS) for at in uris]:
        for name in hostile:
            for changed in _changed(record, at.split("."), name):
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
    with pytest.raises(DataError, match="not the manifest of a run"):
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


def test_a_report_that_is_gone_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json: is gone"):
        RunFolder(Store(), str(tmp_path)).report()


def _artifact(folder: Path, path: str) -> None:
    manifest = RECORDS["cluster.artifact:manifest_file"][1] | {"files": [FILE | {"path": path}]}
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
    (run / "manifest.json").write_bytes(json_bytes(RECORDS["cluster.run:manifest_file"][1]))
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
    record = RECORDS["cluster.run:manifest_file"][1]
    record = record | {"export": {"made_from": "f", "files": [{"path": "../../diary.txt", "bytes": 1, "sha256": "s"}]}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_bytes(json_bytes(record))
    with pytest.raises(DataError, match="diary"):
        discard_damaged(RunFolder(Store(), str(tmp_path / "run")))
    assert (tmp_path / "diary.txt").read_text() == "mine"
