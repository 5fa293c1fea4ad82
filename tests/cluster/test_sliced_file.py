"""Sliced files: what was written is read, slice by slice, from local files and object stores alike."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import StorageError
from cluster.output import read_slice, read_slices, read_table, table_slices, write_slices
from cluster.store.store import Store


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_every_slice_is_read_as_it_was_written(tmp_path_factory, slices):
    path = tmp_path_factory.getbasetemp() / "some.slices"
    write_slices(path, slices)
    assert [read_slice(Store(), str(path), number) for number in range(len(slices))] == slices


def test_numbers_and_arrow_buffers_are_slices(tmp_path):
    pairs, none = np.arange(6, dtype=np.int64).reshape(3, 2), np.empty((0, 2), np.int64)
    for name in "ab":
        write_slices(tmp_path / name, [pairs, none, pa.py_buffer(name.encode())])
    uris = [str(tmp_path / name) for name in "ba"]
    assert np.frombuffer(read_slices(Store(), uris, 0)[1], np.int64).reshape(-1, 2).tolist() == pairs.tolist()
    assert read_slices(Store(), uris, 1) == [b"", b""]
    assert read_slices(Store(), uris, 2) == [b"b", b"a"]


def test_a_table_is_cut_into_slices_at_ends_and_a_part_without_rows_is_empty(tmp_path):
    table = pa.table({"name": ["a", "b", "c", "d"], "flags": [[True], [], [False, True], [True]]})
    write_slices(tmp_path / "t", table_slices(table, [0, 3, 3, 4]))
    found = [read_slice(Store(), str(tmp_path / "t"), number) for number in range(4)]
    assert (found[0], found[2]) == (b"", b"")
    assert (read_table(found[1]), read_table(found[3])) == (table.slice(0, 3), table.slice(3))


def test_a_shortened_file_is_an_error_and_no_shorter_slice(tmp_path):
    write_slices(tmp_path / "short", [b"abcdef"])
    (tmp_path / "short").write_bytes((tmp_path / "short").read_bytes()[:-2])
    with pytest.raises(StorageError, match="short: ends 2 bytes too early"):
        read_slice(Store(), str(tmp_path / "short"), 0)
