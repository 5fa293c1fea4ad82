"""Parquet files of very many row groups of a row, which others can write in few bytes."""

import gc
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster import stored_parquet
from raymill.cluster.errors import DataError
from raymill.cluster.readers.formats import parquet
from raymill.cluster.readers.units import _sized
from raymill.cluster.store.store import Store


def write(path, groups: int):
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as file:
        for _ in range(groups):
            file.write_table(pa.table({"text": ["a"]}))
    return Store().info(str(path))


def test_a_file_of_far_too_many_row_groups_is_refused_with_a_remedy(tmp_path, monkeypatch):
    file = write(tmp_path / "a.parquet", 60)
    assert parquet.footer_of(Store(), file)[0].num_row_groups == 60
    monkeypatch.setattr(parquet, "_MOST_GROUPS", 50)
    with pytest.raises(DataError, match=r"has 60 row groups of \d+ bytes on average.*larger row groups"):
        parquet.footer_of(Store(), file)
    monkeypatch.setattr(parquet, "_LEAST_GROUP_BYTES", 1)
    assert parquet.footer_of(Store(), file)[0].num_row_groups == 60, "of row groups with bytes there may be more"


def test_tables_of_a_row_are_joined_before_they_take_memory():
    names = ("id", "text", "problem", "where", *(f"c{n}" for n in range(6)))

    def tables():
        for number in range(4_000):
            yield pa.table({name: pa.array([str(number)]) for name in names})

    tracemalloc.start()
    (found,) = _sized(tables(), 256 << 20)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["id"].to_pylist() == [str(number) for number in range(4_000)]
    assert all(column.num_chunks == 1 for column in found.columns)
    assert most < 1 << 20


def test_a_large_footer_is_freed_when_its_file_is_closed(tmp_path, monkeypatch):
    """A unit opens its file again: 33 units of one file held 33 footers of 50 MB."""
    monkeypatch.setattr(stored_parquet, "_COLLECTED_FOOTER", 0)
    gc.disable()
    try:
        write(tmp_path / "a.parquet", 2)
        with stored_parquet.StoredParquet(Store(), str(tmp_path / "a.parquet")) as file:
            assert file.column_chunks(0, ["text"])
            footers = [one for one in gc.get_objects() if isinstance(one, pq.FileMetaData)]
            assert footers
            del footers
        file.close()  # once more is no error
        assert not [one for one in gc.get_objects() if isinstance(one, pq.FileMetaData)]
    finally:
        gc.enable()
