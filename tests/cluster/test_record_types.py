"""Records have the types of their fields when they are read, whoever wrote them; the error has the file and field."""

import json
from typing import Any

import pytest

from raymill.cluster.artifact import Manifest
from raymill.cluster.dataset_versions import _records
from raymill.cluster.errors import DataError
from raymill.cluster.record import json_with, read_json
from raymill.cluster.stage import CommitRecord
from raymill.cluster.store.store import Store
from raymill.training.records.finished import _parse_outcome
from raymill.training.records.schema import StartRecord
from tests.support.record_types import RECORDS

START = {"attempt": "a", "time": "t", "workers": 1, "step": 0, "trainable_parameters": 1, "all_parameters": 1,
         "attention": "sdpa", "attention_warning": None, "micro_rows": 1,
         "damaged": [{"step": 2, "resumed": 1, "problem": "p"}]}  # fmt: skip
LARGE = b"1" + b"0" * 39


def with_text(record: Any, number: bytes) -> bytes:
    """The record with one more number."""
    return json.dumps(record | {"added": "@"}).encode().replace(b'"@"', number)


@pytest.mark.parametrize("place", sorted(set(RECORDS) - {
    "raymill.cluster.lease:_newest", "raymill.cluster.readers.formats.hub:saved_splits",
    "raymill.cluster.readers.formats.hub:saved_files"}))  # fmt: skip
@pytest.mark.parametrize("number", [LARGE, b"-" + LARGE, b"1e400", b"9" * 5000])
def test_a_number_beyond_64_bits_is_in_no_record(place: str, number: bytes) -> None:
    parse, record, _, _ = RECORDS[place]
    with pytest.raises(ValueError, match=r"digits|too large"):
        parse(with_text(record, number))


@pytest.mark.parametrize("counter", [b"NaN", b"Infinity", b"true", b'"1"', b"null", b"[]", LARGE])
def test_a_counter_is_a_finite_number(counter: bytes) -> None:
    for parse, place in ((Manifest.from_json, "artifact:manifest_file"), (CommitRecord.from_json, "stage:record_file")):
        record = RECORDS[f"raymill.cluster.{place}"][1] | {"counters": {"rows": "@"}}
        with pytest.raises(ValueError, match=r"rows: is no number|digits"):
            parse(json.dumps(record).encode().replace(b'"@"', counter))


def changed(record: Any, path: tuple, value: Any) -> bytes:
    """The record with another value at a path."""
    record = json.loads(json.dumps(record))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(record).encode()


_PACK = RECORDS["raymill.training.pack.packed_run:manifest_file"]
_TOKENIZER = RECORDS["raymill.training.pack.packed_run:tokenizer_file"]
_OUTCOME = RECORDS["raymill.training.records.finished:outcome_file"]


@pytest.mark.parametrize(
    ("parse", "record", "path", "value"),
    [
        (json_with(kind=StartRecord), START, ("damaged",), -1),
        (json_with(kind=StartRecord), START, ("damaged", 0, "step"), "2"),
        (json_with(kind=StartRecord), START, ("step",), True),
        (json_with(kind=StartRecord), START, ("attention",), None),
        (_PACK[0], _PACK[1], ("read_from",), "text"),
        (_PACK[0], _PACK[1], ("settings", "tokenizer"), "x"),
        (_PACK[0], _PACK[1], ("settings", "corpora", "corpus-0"), {}),
        (_PACK[0], _PACK[1], ("listings",), {"corpus-0": [["a", "1", "v"]]}),
        (_PACK[0], _PACK[1], ("artifacts", "corpus-0", "train"), [1]),
        (_TOKENIZER[0], _TOKENIZER[1], ("files", "tokenizer.json", 1), []),
        (_TOKENIZER[0], _TOKENIZER[1], ("files", "tokenizer.json", 1), -1),
        (_TOKENIZER[0], _TOKENIZER[1], ("files", "tokenizer.json", 0), 1),
        (_parse_outcome, _OUTCOME[1], ("skipped",), 3),
        (_parse_outcome, _OUTCOME[1], ("steps",), 1.5),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_named(parse: Any, record: Any, path: tuple, value: Any) -> None:
    parse(json.dumps(record).encode())
    with pytest.raises(ValueError, match=rf"^{path[0]}"):
        parse(changed(record, path, value))


def test_the_error_has_the_file(tmp_path) -> None:
    (tmp_path / "a.json").write_bytes(changed(START, ("damaged",), -1))
    with pytest.raises(DataError, match=r"a\.json: not the record of a start \(damaged: input should be a valid list"):
        read_json(Store(), str(tmp_path / "a.json"), "the record of a start", kind=StartRecord)


def test_a_version_nested_too_deeply_is_passed_over(tmp_path) -> None:
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "v1.json").write_text("[" * 5000)
    assert _records(Store(), str(tmp_path), "d") == []
