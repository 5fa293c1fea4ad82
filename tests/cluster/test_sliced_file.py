"""Sliced files: what was written is read, slice by slice, from local files and object stores alike."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.errors import DataError
from raymill.cluster.output import (
    array_of,
    read_offsets,
    read_slice,
    read_slices,
    table_of,
    table_slice,
    table_slices,
    write_slices,
)
from raymill.cluster.store.store import Store


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_every_slice_is_read_as_it_was_written(tmp_path_factory, slices):
    path = tmp_path_factory.getbasetemp() / "some.slices"
    write_slices(path, slices)
    assert [read_slice(Store(), str(path), number, bytes) for number in range(len(slices))] == slices


def test_numbers_and_arrow_buffers_are_slices(tmp_path):
    pairs, none = np.arange(6, dtype=np.int64).reshape(3, 2), np.empty((0, 2), np.int64)
    for name in "ab":
        write_slices(tmp_path / name, [pairs, none, pa.py_buffer(name.encode())])
    uris = [str(tmp_path / name) for name in "ba"]
    assert read_slices(Store(), uris, 0, array_of(np.int64, -1, 2))[1].tolist() == pairs.tolist()
    assert read_slices(Store(), uris, 1, bytes) == [b"", b""]
    assert read_slices(Store(), uris, 2, bytes) == [b"b", b"a"]


def test_a_table_is_cut_into_slices_at_ends_and_a_part_without_rows_is_empty(tmp_path):
    table = pa.table({"name": ["a", "b", "c", "d"], "flags": [[True], [], [False, True], [True]]})
    write_slices(tmp_path / "t", table_slices(table, [0, 3, 3, 4]))
    found = [read_slice(Store(), str(tmp_path / "t"), number, table_of) for number in range(4)]
    assert found == [None, table.slice(0, 3), None, table.slice(3)]


def changed_table(kind: str) -> bytes:
    """A slice with a table that is not as it was written."""
    ids = pa.array([f"document {number}" for number in range(1000)])
    offsets = np.frombuffer(ids.buffers()[1], np.int32).copy()
    table, options = pa.table({"id": ids}), None
    match kind:
        case "far":
            offsets[500] = 1 << 28
        case "decreasing":
            offsets[1:-1] = offsets[-2:0:-1].copy()
        case "negative":
            offsets[500] = -4096
        case "compressed":
            table = pa.table({"n": np.zeros(1 << 22, np.int64)})
            options = pa.ipc.IpcWriteOptions(compression="zstd")
        case "nulls":
            table = pa.table({"n": pa.nulls(1 << 20)})
        case "dictionary":
            one = pa.array(["x" * 10_000])
            table = pa.table({"id": pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int8), one)})
        case "cut":
            return table_slice(table).to_pybytes()[:-100]
        case "nonsense":
            return b"nonsense" * 10
    if kind in ("far", "decreasing", "negative"):
        table = pa.table({"id": pa.Array.from_buffers(ids.type, 1000, [None, pa.py_buffer(offsets), ids.buffers()[2]])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "kind", ["far", "decreasing", "negative", "compressed", "nulls", "dictionary", "cut", "nonsense"]
)
def test_a_table_of_a_changed_file_is_refused_before_a_value_is_read_from_elsewhere(tmp_path, kind):
    at = tmp_path / "_work" / "group" / "members"
    at.mkdir(parents=True)
    write_slices(at / "0.slices", [b"", changed_table(kind)])
    with pytest.raises(DataError) as refused:
        read_slice(Store(), str(at / "0.slices"), 1, table_of)
    assert str(refused.value) == (
        f"{at}/0.slices: was changed after it was written. Delete the folder {tmp_path}/_work/group and make the same "
        "call again: it makes the files there again."
    )


@pytest.mark.parametrize(
    "offsets", [[24, 40, 32], [0, 24, 48], [24, 24, 1 << 62], [24, 1 << 62, 1 << 62], [1 << 63, 24, 48], [24, 24, 49]]
)
def test_offsets_of_a_changed_file_are_refused_before_they_are_used(tmp_path, offsets):
    (tmp_path / "f.slices").write_bytes(np.array(offsets, "<u8").tobytes() + bytes(24))
    with pytest.raises(DataError, match="slices: was changed"):
        for number in range(2):
            read_slice(Store(), str(tmp_path / "f.slices"), number, bytes)


def test_numbers_of_another_length_are_refused(tmp_path):
    write_slices(tmp_path / "n", [bytes(8 * 3)])
    assert read_slice(Store(), str(tmp_path / "n"), 0, array_of(np.int64)).tolist() == [0, 0, 0]
    for parse in (array_of(np.int64, -1, 2), array_of(np.dtype([("key", "<u8"), ("check", "<u4")]), -1, 4)):
        with pytest.raises(DataError, match="n: was changed"):
            read_slice(Store(), str(tmp_path / "n"), 0, parse)


def test_a_file_with_fewer_slices_or_bytes_is_refused(tmp_path):
    write_slices(tmp_path / "short", [b"abcdef"])
    with pytest.raises(DataError, match="short: was changed"):
        read_offsets(Store(), str(tmp_path / "short"), 0, 5)
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:-2])
    with pytest.raises(DataError, match="short: was changed"):
        read_slice(Store(), str(tmp_path / "short"), 0, bytes)
