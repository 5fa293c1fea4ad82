"""The writer of a unit's files: no row is lost or moved, and groups and files are cut where their sizes say."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.artifact import read_tables
from raymill.cluster.output import Output, OutputFiles, _cuts, empty_file
from raymill.cluster.store.store import Store

NUMBERS = pa.schema([("x", pa.int64())])  # 8 bytes a row


def written(folder, parts, **sizes) -> list[tuple[int, list[list[int]]]]:
    """(rows as reported, rows of each row group) of each file, after writing the parts one by one."""
    files = OutputFiles(Output("a/b", NUMBERS, **sizes), folder)
    for part in parts:
        files.write(pa.table({"x": pa.array(part, pa.int64())}))
    found = []
    for path, rows in files.finish():
        parquet = pq.ParquetFile(path)
        groups = [parquet.read_row_group(group)["x"].to_pylist() for group in range(parquet.num_row_groups)]
        found.append((rows, groups))
    return found


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 40), max_size=8),
    st.sampled_from([8, 16, 80, 10_000]),
    st.sampled_from([8, 100, 160, 10_000]),
)
def test_every_row_is_in_order_in_groups_and_files_that_end_as_soon_as_they_are_full(
    tmp_path_factory, sizes, group_bytes, file_bytes
):
    parts, begin = [], 0
    for size in sizes:
        parts.append(list(range(begin, begin + size)))
        begin += size
    found = written(tmp_path_factory.mktemp("o"), parts, row_group_bytes=group_bytes, file_bytes=file_bytes)
    files, group = [[]], []
    for row in range(begin):
        group.append(row)
        if 8 * len(group) >= group_bytes:
            files[-1].append(group)
            group = []
            if 8 * sum(map(len, files[-1])) >= file_bytes:
                files.append([])
    files[-1] += [group] if group else []
    assert found == [(sum(map(len, groups)), groups) for groups in files if groups]


@pytest.mark.parametrize("name", ["plain", "with/slash"])
def test_files_are_numbered_below_the_folder_and_compressed_with_their_page_index(tmp_path, name):
    files = OutputFiles(Output(name, NUMBERS, file_bytes=8, row_group_bytes=8), tmp_path)
    files.write(pa.table({"y": ["left out"] * 3, "x": pa.array([1, 2, 3], pa.int32())}))
    made = [path for path, _ in files.finish()]
    assert made == [tmp_path / f"{name.replace('/', '-')}-{number}.parquet" for number in range(3)]
    for path in made:
        column = pq.ParquetFile(path).metadata.row_group(0).column(0)
        assert (column.compression, column.has_column_index, column.has_offset_index) == ("ZSTD", True, True)
        assert pq.read_schema(path).equals(NUMBERS)


def test_nothing_written_is_no_file_and_an_empty_file_has_the_schema_alone(tmp_path):
    assert written(tmp_path, []) == written(tmp_path, [[], []]) == []
    (tmp_path / "empty.parquet").write_bytes(empty_file(NUMBERS))
    found = pq.ParquetFile(tmp_path / "empty.parquet")
    assert (found.schema_arrow, found.metadata.num_rows) == (NUMBERS, 0)


@pytest.mark.parametrize(
    ("rows", "first", "size", "cuts"),
    [
        (0, 80, 160, []),
        (10, 80, 160, [(0, 10)]),
        (55, 80, 160, [(0, 10), (10, 30), (30, 50), (50, 55)]),
        (5, 15, 16, [(0, 1), (1, 3), (3, 5)]),
        (3, 0, 1, [(0, 1), (1, 2), (2, 3)]),
        (3, -8, 160, [(0, 1), (1, 3)]),
    ],
)
def test_a_table_is_cut_into_as_many_rows_as_fit_and_one_at_least(rows, first, size, cuts):
    assert _cuts(pa.table({"x": pa.array(range(rows), pa.int64())}), first, size) == cuts


def test_a_file_whose_content_repeats_itself_is_read_as_any_other(tmp_path, monkeypatch):
    """Readers refuse a small file with far larger content, which somebody else may have made."""
    monkeypatch.setattr("raymill.cluster.output._LARGE", 1 << 20)
    monkeypatch.setattr("raymill.cluster.artifact._LARGEST_GROUPS", 1 << 20)
    schema = pa.schema([("text", pa.large_string())])
    files = OutputFiles(Output("a", schema, row_group_bytes=1 << 20), tmp_path)
    for number in range(40):
        files.write(pa.table({"text": ["x" * 500_000 + str(number)]}, schema=schema))
    [(path, rows)] = files.finish()
    tables = list(read_tables(Store(), [str(path)]))
    assert sum(table.num_rows for table in tables) == rows == 40
    assert path.stat().st_size < 100_000
