"""Artifacts: a digest names content, and whatever is not a finished artifact says so."""

import base64
import dataclasses
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster import artifact as artifacts
from raymill.cluster import stored_parquet
from raymill.cluster.artifact import (
    MANIFEST,
    Artifact,
    DataFile,
    Manifest,
    canonical_json,
    describe_schema,
    fingerprint,
    read_tables,
)
from raymill.cluster.errors import DataError
from raymill.cluster.store.store import Store
from tests.support.stages import NUMBERS, counting_stage, run_inline

SCHEMA = pa.schema([("x", pa.int64()), ("s", pa.large_string())], metadata={"note": "kept"})


def manifest(**changes) -> Manifest:
    files = [DataFile("000000-000-abc.parquet", 0, 2, 100, "ab" * 32)]
    plain = {
        "kind": "numbers",
        "fingerprint": "f" * 32,
        **describe_schema(SCHEMA),
        "files": files,
        "counters": {"documents": 2},
        "seconds": 1.5,
        "made": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
    }
    return Manifest(**plain | changes)


def renamed(**changes) -> list[DataFile]:
    return [dataclasses.replace(file, **changes) for file in manifest().files]


@pytest.mark.parametrize(
    "same",
    [{"seconds": 9.0}, {"made": "2027"}, {"version": "2"}, {"fingerprint": "0" * 32}, {"files": renamed(path="other")}],
)
def test_times_attempts_and_origin_are_no_part_of_the_digest(same):
    assert manifest(**same).digest == manifest().digest


@pytest.mark.parametrize(
    "different",
    [
        {"files": []},
        {"files": renamed(sha256="cd" * 32)},
        {"files": renamed(rows=3)},
        {"files": renamed(unit=1)},
        {"counters": {"documents": 3}},
        describe_schema(SCHEMA.remove(0)),
    ],
)
def test_content_is_the_digest(different):
    assert manifest(**different).digest != manifest().digest


def test_a_manifest_comes_back_from_its_json_with_schema_and_metadata(tmp_path):
    again = Manifest.from_json(manifest().to_json())
    assert again == manifest()
    schema = Artifact(Store(), "x", again).schema
    assert schema.equals(SCHEMA, check_metadata=True)
    assert (again.rows, again.bytes) == (2, 100)


@pytest.mark.parametrize("key", ["unit", "rows", "bytes"])
@pytest.mark.parametrize("number", [-1, 1.5, "2", None, True])
def test_a_manifest_with_a_file_of_a_senseless_number_cannot_be_read(key, number):
    plain = json.loads(manifest().to_json())
    plain["files"][0][key] = number
    with pytest.raises(ValueError, match="are numbers from 0 on"):
        Manifest.from_json(json.dumps(plain).encode())


def test_a_manifest_with_a_damaged_schema_cannot_be_read():
    whole = json.loads(manifest().to_json())
    schema = bytearray(base64.b64decode(whole["arrow_schema"]))
    refused = 0
    for place in range(len(schema)):
        changed = schema[:place] + bytes([schema[place] ^ 0x40]) + schema[place + 1 :]
        plain = whole | {"arrow_schema": base64.b64encode(changed).decode()}
        try:
            Manifest.from_json(json.dumps(plain).encode())
        except ValueError:  # any other exception would be taken for a defect
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("digest", ["../../../../victim/", "0" * 64, 5])
def test_a_manifest_with_another_digest_than_of_its_content_cannot_be_read(digest):
    """Folders were written and deleted at the place that a digest with `..` named."""
    plain = json.loads(manifest().to_json())
    assert Manifest.from_json(json.dumps(plain).encode()).digest == manifest().digest
    with pytest.raises(ValueError, match="digest is another one"):
        Manifest.from_json(json.dumps(plain | {"digest": digest}).encode())


@pytest.mark.parametrize(
    "wrong",
    [{"counters": {"a": "1"}}, {"schema": [[None, "int64"]]}, {"schema": [["a"]]}, {"kind": 5}, {"fingerprint": ["f"]},
     {"made": None}, {"version": {}}, {"seconds": "1"}, {"seconds": float("nan")}],
)  # fmt: skip
def test_a_manifest_with_values_of_another_type_cannot_be_read(wrong):
    plain = json.loads(manifest().to_json()) | wrong
    with pytest.raises(ValueError, match=r"is no number|names and types|input should be"):
        Manifest.from_json(json.dumps(plain).encode())


def test_canonical_json_does_not_depend_on_order():
    assert canonical_json({"b": 1, "a": {"d": "ü", "c": 2}}) == '{"a":{"c":2,"d":"ü"},"b":1}'.encode()
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_a_file_is_no_artifact(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("{}")
    with pytest.raises(DataError, match="no finished artifact here"):
        Artifact.load(Store(), str(tmp_path / "corpus.jsonl"))


def test_a_folder_without_a_manifest_is_unfinished(tmp_path):
    (tmp_path / "part.parquet").touch()
    with pytest.raises(DataError, match=r"no finished artifact here.*make the same call again and it continues"):
        Artifact.load(Store(), str(tmp_path))


@pytest.mark.parametrize("name", ["", "nowhere"], ids=["an empty folder", "no folder"])
def test_a_path_with_nothing_below_it_is_no_run(tmp_path, name):
    with pytest.raises(DataError, match=r"there is no run and no artifact here: .*Check the path"):
        Artifact.load(Store(), str(tmp_path / name))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', json.dumps({"kind": "x", "files": []}), "\x00"])
def test_what_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"manifest.json: not a Raymill manifest"):
        Artifact.load(Store(), str(tmp_path))


@pytest.fixture
def numbers(tmp_path) -> Artifact:
    return run_inline(counting_stage(4), str(tmp_path))["numbers"]


def test_rows_come_in_the_order_of_units(numbers):
    assert numbers.table().to_pylist() == [{"unit": u, "number": n} for u in range(4) for n in range(u)]
    assert numbers.table(["number"]).column_names == ["number"]
    assert sum(table.num_rows for table in numbers.tables()) == numbers.manifest.rows == 6


def test_an_empty_artifact_has_the_columns_that_are_asked_for(tmp_path):
    empty = run_inline(counting_stage(0), str(tmp_path))["numbers"]
    assert empty.table().column_names == ["unit", "number"]
    assert empty.table(["number"]).column_names == ["number"]


def test_files_are_found_by_unit_and_some_units_have_none(numbers):
    files = numbers.files_by_unit(4)
    assert [len(listed) for listed in files] == [0, 1, 2, 3]
    assert all(numbers.store.exists(uri) for listed in files for uri in listed)


def test_readers_trust_the_manifest_and_not_the_listing(numbers, tmp_path):
    (tmp_path / "numbers" / "000009-000-zombie.parquet").write_bytes(b"half a file")
    assert Artifact.load(Store(), numbers.uri).table() == numbers.table()


def test_a_damaged_file_is_named(numbers):
    uri = numbers.file_uris[-1]
    numbers.store.write_bytes(uri, b"PAR1 no longer")
    with pytest.raises(DataError, match=r"000003-.*parquet: cannot be read as Parquet \(.*[^.]\)\. .*Run the command"):
        numbers.table()


def test_a_file_whose_values_cannot_be_decoded_is_named(numbers):
    uri = numbers.file_uris[-1]
    data = bytearray(numbers.store.read_bytes(uri))
    chunk = pq.read_metadata(uri).row_group(0).column(0)
    start = data.index(b"\x28\xb5\x2f\xfd", chunk.dictionary_page_offset or chunk.data_page_offset)  # a zstd frame
    data[start + 4 : start + 12] = b"\xff" * 8
    numbers.store.write_bytes(uri, bytes(data))
    with pytest.raises(DataError, match=r"000003-.*parquet: row group 0.* damaged.*Run the command"):
        list(read_tables(numbers.store, [uri]))


def test_a_file_that_vanished_is_named(numbers):
    numbers.store.delete([numbers.file_uris[0]])
    with pytest.raises(DataError, match=r"000001-000-.*parquet: is gone\. It was removed .*Run the command"):
        numbers.table()


DAMAGES = {
    "gone": ([pa.field("unit", pa.int64())], "has no column number"),
    "other type": (
        [pa.field("unit", pa.int64()), pa.field("number", pa.string())],
        "has the type string in",
    ),
    "one more": ([*NUMBERS, pa.field("z", pa.int64())], "has other columns than were wri"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_with_other_columns_than_its_manifest_states_is_named(numbers, damage):
    columns, said = DAMAGES[damage]
    file = numbers.manifest.files[-1]
    uri = numbers.file_uri(file)
    pq.write_table(pa.table({one.name: pa.nulls(file.rows, one.type) for one in columns}), uri)
    listed = replace(file, bytes=os.path.getsize(uri))
    forged = Artifact(numbers.store, numbers.uri, replace(numbers.manifest, files=[listed]))
    (of_unit,) = forged.files_by_unit(4)[file.unit]
    for read in (forged.table, lambda: list(read_tables(forged.store, [pickle.loads(pickle.dumps(of_unit))]))):
        with pytest.raises(DataError, match=rf"000003-.*parquet: {said}.*damaged after it was written.*Run the comm"):
            read()


def test_a_file_of_another_size_or_number_of_rows_is_named(numbers):
    file = numbers.manifest.files[-1]
    for change, said in (({"bytes": 7}, r"has \d+ bytes, and 7 were written"), ({"rows": 7}, "has 1 row, and 7 were")):
        forged = Artifact(numbers.store, numbers.uri, replace(numbers.manifest, files=[replace(file, **change)]))
        with pytest.raises(DataError, match=said):
            forged.table()


def repeated_by(kind: str, path) -> int:
    """Write a Parquet file of one row group with few bytes, of 8 MB when it is decoded; returns its number of rows."""
    text, rows = "x" * 10_000, 800
    column, options = pa.array([text] * rows), {}
    match kind:
        case "binary":
            column = column.cast(pa.large_binary())
        case "list":
            column = pa.array([[text] * 100] * 8)
        case "struct":
            column = pa.array([{"a": {"b": text}}] * rows)
        case "map":
            column = pa.array([[("a", text)]] * rows, pa.map_(pa.string(), pa.string()))
        case "prefixes":
            options = {"use_dictionary": False, "column_encoding": {"c": "DELTA_BYTE_ARRAY"}}
        case "compressed":
            options = {"use_dictionary": False}
        case "numbers":
            column = pa.array(np.zeros(1_000_000, np.int64))
        case "lists of nothing":
            column = pa.array([[None] * 125_000] * 8, pa.list_(pa.int8()))
    options = {"compression": "zstd", "write_statistics": False} | options
    pq.write_table(pa.table({"n": np.arange(len(column)) % 5, "c": column}), path, **options)
    assert path.stat().st_size < 40_000 * (1 + (kind == "lists of nothing"))
    return len(column)


KINDS = ("string", "binary", "list", "struct", "map", "prefixes", "compressed", "numbers", "lists of nothing")


@pytest.fixture
def small_bounds(monkeypatch):
    """Bounds for files of kilobytes."""
    monkeypatch.setattr(stored_parquet, "_LARGEST_GROUP", 1 << 20)
    for module in (artifacts, stored_parquet):
        monkeypatch.setattr(module, "LARGEST_RATIO", 20)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_group_that_takes_far_more_memory_than_its_bytes_is_refused_before_it_takes_it(
    tmp_path, kind, small_bounds
):
    rows = repeated_by(kind, tmp_path / "a.parquet")
    before = pa.total_allocated_bytes()
    with pytest.raises(DataError, match=r"a\.parquet: row group 0 takes far more memory.*Run the command"):
        list(read_tables(Store(), [str(tmp_path / "a.parquet")]))
    assert pa.total_allocated_bytes() - before < 1 << 20
    if kind != "numbers":
        (table,) = read_tables(Store(), [str(tmp_path / "a.parquet")], {"n"}.__contains__)
        assert table.num_rows == rows, "only the columns that are read count"


@pytest.mark.parametrize("texts", ["distinct", "few", "one is long"])
def test_a_row_group_of_texts_in_a_dictionary_is_read_where_its_bounds_seem_to_be_exceeded(
    tmp_path, texts, small_bounds
):
    column = {
        "distinct": [f"text {number} " * 20 for number in range(1000)],
        "few": ["a" * (number % 7) for number in range(1000)],
        "one is long": ["y" * 100_000] + [str(number % 9) for number in range(999)],
    }[texts]
    table = pa.table({"n": range(1000), "c": column, "l": [[one] * (at % 3) for at, one in enumerate(column)]})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", row_group_size=400)
    assert pa.concat_tables(read_tables(Store(), [str(tmp_path / "a.parquet")])).equals(table)
    (first, *_) = read_tables(Store(), [str(tmp_path / "a.parquet")], {"l"}.__contains__)
    assert first.equals(table.select(["l"]).slice(0, 400))


def test_files_that_take_far_more_memory_together_than_their_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "_LARGEST_GROUPS", 20 << 20)
    repeated_by("string", tmp_path / "a.parquet")
    read, tables = 0, read_tables(Store(), [str(tmp_path / "a.parquet")] * 5)
    with pytest.raises(DataError, match="takes far more memory"):
        for table in tables:
            read += table.nbytes
    assert 16_000_000 <= read <= 20 << 20
