"""Every kind of record that the product reads, and hostile names and URIs to put into one."""

import ast
import base64
import copy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

import raymill.cluster.inspection
import raymill.cluster.lease
import raymill.cluster.readers.recorded
import raymill.cluster.run
import raymill.training.continuing
from raymill import cluster, pipelines, training
from raymill.cluster.artifact import Manifest
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.readers.formats import hub
from raymill.cluster.record import json_with
from raymill.cluster.stage import CommitRecord
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.fetch import (
    snapshot,
)
from raymill.pipelines.prepare.versions.registry import Version
from raymill.training.pack import packed_run
from raymill.training.pack.packed_run import TokenizerRecord
from raymill.training.promote.alias import AliasVersion
from raymill.training.records import finished
from raymill.training.records.checkpoint import CheckpointManifest

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
    "raymill.cluster.artifact:manifest_file": (
        Manifest.from_json,
        {"kind": "corpus", "fingerprint": "f", "schema": [["a", "int64"]], "arrow_schema": SCHEMA, "files": [FILE],
         "counters": {"rows": 2}, "seconds": 1.0, "made": "2026", "version": "1", "digest": ""},
        {"files.[].path"},
        set(),
    ),
    "raymill.cluster.stage:record_file": (
        CommitRecord.from_json,
        {"unit": 0, "attempt": "a", "files": {"_work/a": [FILE]}, "counters": {}, "seconds": 1.0},
        {"files.{}", "files.*.[].path"},
        set(),
    ),
    "raymill.cluster.record:read_json": (json_with("run"), {"run": {"config": {}}}, set(), set()),
    "raymill.cluster.run:manifest_file": (
        raymill.cluster.run._parse,
        {"kind": "train", "name": "n", "version": "1", "digest": "d",
         "config": {"output": URI}, "inputs": "f", "artifacts": {"packed/a/train": "d"},
         "export": {"files": [{"path": "merged/a", "bytes": 1, "sha256": "a"}]}, "told": {"packed": URI}},
        {"artifacts.{}", "export.files.[].path"},
        {"told.packed"},
    ),
    "raymill.cluster.inspection:read_run_manifest": (
        raymill.cluster.inspection._parse,
        {"kind": "train", "artifacts": {"packed/a/train": "d"}},
        {"artifacts.{}"},
        set(),
    ),
    "raymill.cluster.lease:_newest": (
        raymill.cluster.lease._parse,
        {"user": "u", "host": "h", "machine": "m", "process": 1, "process_started": "1", "since": "t",
         "refreshed": 1.0, "released": True},
        set(),
        set(),
    ),
    "raymill.cluster.readers.formats.hub:saved_splits": (
        hub._parse_splits, {"splits": ["train"]}, {"splits.[]"}, set()
    ),
    "raymill.cluster.readers.formats.hub:saved_files": (
        hub._parse_state,
        {"_data_files": [{"filename": "data-00000.arrow"}]},
        {"_data_files.[].filename"},
        set(),
    ),
    "raymill.pipelines.prepare.fetch.snapshot:record_of": (
        snapshot.record_of(Store(), URI, "s").parse,
        {"source": "s", "fingerprint": "f", "asked": "a", "rows": 1},
        set(),
        set(),
    ),
    "raymill.pipelines.prepare.versions.registry:_file": (
        Version.parse,
        {"name": "n", "version": "v1", "output": URI, "digest": "d", "note": "", "tagged": "t",
         "records": dict.fromkeys(SPLITS, 0)},
        {"name", "version"},
        {"output"},
    ),
    "raymill.training.promote.alias:read": (
        AliasVersion.parse,
        {"version": 2, "promoted": 1, "model": URI, "digest": "d", "moved": "2026-11-28T00:00:00+00:00",
         "evidence": {"run": URI, "digest": "d", "passed": True}},
        set(),
        {"model", "evidence.run"},
    ),
    "raymill.cluster.readers.recorded:inputs_file": (
        raymill.cluster.readers.recorded._parse,
        {"fingerprint": "f", "inputs": [{"source": "s", "path": URI}], "carried_schema": "", "skipped": {},
         "notes": [], "storage": {}},
        set(),
        {"inputs.[].path"},
    ),
    "raymill.training.continuing:recorded_parent": (
        raymill.training.continuing._parse_parent,
        {"run": URI, "digest": "d", "fit": "f", "checkpoint": f"{URI}/checkpoints/step-1", "step": 1, "updates": 1,
         "steps_before": 0, "position": {"samples": 0, "taken": []}, "words": ["w"]},
        set(),
        {"run", "checkpoint"},
    ),
    "raymill.training.pack.packed_run:manifest_file": (
        packed_run._parse,
        {"artifacts": {"corpus-0": {"train": "d"}}, "classes": ["c"], "tokenizer": "t",
         "settings": {"tokenizer": {}, "corpora": {"corpus-0": {"files": "f"}}},
         "sets": {"_evaluate-a": "test"},
         "prepared": {"corpus-0": {"name": "n", "output": URI, "digest": "d", "version": "1"}}},
        {"artifacts.{}", "artifacts.*.{}", "sets.{}", "sets.*"},
        {"prepared.*.output"},
    ),
    "raymill.training.pack.packed_run:tokenizer_file": (
        TokenizerRecord.from_json,
        {"request": "r", "fingerprint": "f", "files": {"tokenizer.json": ["sha", 10]}},
        {"files.{}"},
        set(),
    ),
    "raymill.training.records.checkpoint:load": (
        CheckpointManifest.from_json,
        {"identity": {"model": "m"}, "course": {"best": None, "skipped": []}, "world": 1, "made": "t",
         "versions": {"torch": "2"},
         "shapes": {"w": [1]},
         "files": [{"path": "rank-0.safetensors", "bytes": 12, "pieces": [["w", "param", 0, 1, 8, "sha"]]}]},
        {"files.[].path"},
        set(),
    ),
    "raymill.training.records.finished:read_evaluation": (
        finished.parse_evaluation,
        {"before": {}, "after": {}, "made_from": "f"},
        set(),
        set(),
    ),
    "raymill.training.records.finished:export_file": (
        finished._parse_export,
        {"made_from": "f", "folders": {"merged": "merged"}, "files": [{"path": "merged/a", "bytes": 1, "sha256": "s"}]},
        {"folders.{}", "folders.*", "files.[].path"},
        set(),
    ),
    "raymill.training.records.finished:outcome_file": (
        finished._parse_outcome,
        {"fingerprint": "f", "checkpoint": f"{URI}/checkpoints/step-1", "best_checkpoint": f"{URI}/checkpoints/step-1",
         "ended": "steps", "steps": 1, "best_step": None, "trainable_parameters": 1, "all_parameters": 1, "unmoved": [],
         "skipped": [], "restarts": 0, "seconds": 1},
        set(),
        {"checkpoint", "best_checkpoint"},
    ),
}  # fmt: skip


@cache
def places_in_the_product() -> dict[str, str]:
    """`module:function` of each call of `RecordFile` -> the name of what parses the record there."""
    found = dict[str, str]()
    for package in (cluster, pipelines, training):
        root = Path(package.__path__[0])
        for file in root.rglob("*.py"):
            module = ".".join([package.__name__, *file.relative_to(root).with_suffix("").parts])
            if "RecordFile" not in (source := file.read_text()):
                continue
            tree = ast.parse(source)
            functions = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
            names = {id(node): function.name for function in functions for node in ast.walk(function)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "RecordFile":
                    parse = ast.unparse(node.args[3]).partition("(")[0]
                    found[f"{module}:{names.get(id(node), '')}"] = parse.rpartition(".")[2]
    return found


def changed_record(record: Any, place: list[str], name: Any) -> Iterator[Any]:
    """The record with `name` at the place."""
    first, *rest = place
    if first in ("[]", "*"):
        keys = range(len(record)) if first == "[]" else list(record)
        for key in keys:
            for value in changed_record(record[key], rest, name) if rest else [name]:
                found = copy.copy(record)
                found[key] = value
                yield found
    elif first == "{}":
        if isinstance(name, str):  # keys of JSON are text
            yield dict.fromkeys([name], *record.values())
    else:
        for value in changed_record(record[first], rest, name) if rest else [name]:
            yield record | {first: value}
