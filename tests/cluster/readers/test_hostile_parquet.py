"""Damaged, odd and large Parquet files: what can be read is read, and the rest is a problem row."""

import os
import random
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.parquet_pages import PageHeader, _PassingPages, chunk_range, page_header
from raymill.cluster.readers.formats.parquet import Parquet
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import Span, UnreadableRest
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet
from tests.support.counted_disk import counted_disk
from tests.support.input_rows import parquet, peak_mib_reading, rows_of, texts_and_problems
from tests.support.sampled import sampled

SMALL = Limits(max_document_bytes=1000)
STRINGS = ["a", "", None, "ünï", "\0", "x" * 1001]
EXPECTED = ["a", "", "<null_text>", "ünï", "\0", "<too_large>"]


@pytest.mark.parametrize(
    "type",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
        pa.binary(),
        pa.large_binary(),
    ],
    ids=str,
)
def test_text_is_read_from_every_arrow_type_that_can_hold_it(tmp_path, type):
    plain = pa.array(STRINGS)
    if pa.types.is_dictionary(type):
        column = plain.dictionary_encode().cast(type)
    else:
        column = plain.cast(type)
    path = parquet(tmp_path / "a.parquet", column, row_group_size=4)
    rows = rows_of(path, SMALL, id="id")
    assert texts_and_problems(rows) == EXPECTED
    assert [row["id"] for row in rows] == list("012345")
    assert rows[2]["where"] == f"{path} row group 0 row 2"
    assert rows[5]["where"] == f"{path} row group 1 row 1"


def test_a_column_of_nothing_but_nulls_is_a_table_of_problems(tmp_path):
    path = parquet(tmp_path / "a.parquet", pa.nulls(3))
    assert texts_and_problems(rows_of(path)) == ["<null_text>"] * 3


@pytest.mark.parametrize("type", [pa.string(), pa.large_string(), pa.binary()], ids=str)
def test_bad_utf8_in_parquet_is_one_problem_row(tmp_path, type):
    binary = pa.large_binary() if type == pa.large_string() else pa.binary()
    column = pa.array([b"a", b"\xff\xfe", b"b", None], binary).view(type)
    path = parquet(tmp_path / "a.parquet", column)
    assert texts_and_problems(rows_of(path, id="id")) == ["a", "<bad_utf8>", "b", "<null_text>"]


def test_bad_utf8_in_a_carried_column_does_not_pass(tmp_path):
    url = pa.array([b"good", b"\xff", None]).view(pa.string())
    pq.write_table(pa.table({"text": ["a", "b", "c"], "url": url}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path, columns=["url"])
    assert texts_and_problems(rows) == ["a", "<bad_utf8>", "c"]
    assert [row["url"] for row in rows] == ["good", None, None]


@pytest.mark.parametrize(
    ("column", "carried", "problem"),
    [
        (pa.array([0], pa.timestamp("s", "No/Where")), "1970-01-01 00:00:00.000Z", None),
        (pa.array([0], pa.timestamp("s", "../../etc/passwd")), "1970-01-01 00:00:00.000Z", None),
        (pa.array([0], pa.timestamp("s", "Europe/Berlin")), "1970-01-01 01:00:00.000+0100", None),
        (pa.ListArray.from_arrays([0, 1], pa.array([b"\xff"]).view(pa.string())), None, "bad_utf8"),
        (pa.array([[1 << 62]], pa.list_(pa.timestamp("us"))), None, "bad_value"),
        (pa.array([[0]], pa.list_(pa.timestamp("s", "No/Where"))), '["1970-01-01 00:00:00+00:00"]', None),
    ],
)
def test_a_value_that_has_no_text_ends_no_run(tmp_path, column, carried, problem):
    for name, day in (("a", column), ("b", pa.array([7]))):  # of two types, so that the column becomes a string
        pq.write_table(pa.table({"text": [name], "day": day}), tmp_path / f"{name}.parquet")
    rows = rows_of(tmp_path, columns=["day"])
    assert [(row["day"], row["problem"]) for row in rows] == [(carried, problem), ("7", None)]


@pytest.mark.parametrize("name", ["arrow.opaque", "arrow.fixed_shape_tensor", "arrow.json"])
def test_a_column_with_a_damaged_extension_is_a_bad_file_and_the_others_are_read(tmp_path, name):
    field = pa.field("text", pa.string(), metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": "{}"})
    pq.write_table(pa.table({"text": ["c"]}, pa.schema([field])), tmp_path / "c.parquet")
    for other in "ab":
        pq.write_table(pa.table({"text": [other]}), tmp_path / f"{other}.parquet")
    manifest = freeze(Store(), [Input(path=str(tmp_path))], max_bad_files=0.5)
    texts = [text for unit in manifest.units for table in read_unit(unit, manifest.reading, SMALL)
             for text in table["text"].to_pylist()]  # fmt: skip
    assert texts[:2] == ["a", "b"]


@pytest.mark.parametrize("on_a_store", [False, True], ids=["on a disk", "on an object store"])
def test_a_sparse_file_that_states_an_endless_footer_is_refused_before_it_is_read(tmp_path, on_a_store):
    path = tmp_path / "a.parquet"
    with path.open("wb") as file:
        file.write(b"PAR1")
        file.truncate((1 << 40) - 8)
        file.seek(0, os.SEEK_END)
        file.write(((1 << 31) - 1).to_bytes(4, "little") + b"PAR1")
    with counted_disk() if on_a_store else nullcontext() as disk:
        with pytest.raises(DataError, match="its footer states 2,147,483,647 bytes"):
            freeze(Store(), [Input(path=str(path))])
        assert disk is None or sum(disk.requests.values()) <= 3


def test_zero_rows_and_empty_row_groups_are_no_documents(tmp_path):
    table = pa.table({"text": pa.array([], pa.string())})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        writer.write_table(table)
        writer.write_table(pa.table({"text": ["a"]}))
        writer.write_table(table)
    pq.write_table(table, tmp_path / "b.parquet")
    assert texts_and_problems(rows_of(tmp_path)) == ["a"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_corrupt_page_loses_only_the_rest_of_its_row_group(tmp_path, seed, compression):
    draw = random.Random(seed)
    words = [f"{number}:{draw.getrandbits(4000):x}" for number in range(300)]
    path = parquet(
        tmp_path / "a.parquet",
        pa.array(words),
        row_group_size=100,
        data_page_size=5000,
        write_batch_size=1,
        use_dictionary=False,
        write_statistics=False,  # damage in them harms nobody
        write_page_checksum=True,
        compression=compression,
    )
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    damaged = bytearray(path.read_bytes())
    # In the middle of the row group's texts, so that pages before it are whole.
    at = chunk.data_page_offset + int(chunk.total_compressed_size * draw.uniform(0.4, 0.6))
    for offset in range(at, at + 40):
        damaged[offset] ^= 0xA5
    path.write_bytes(damaged)

    rows = rows_of(path, id="id")
    bad = [row for row in rows if row["problem"]]
    assert [row["problem"] for row in bad] == ["corrupt_page"]
    good = [row["text"] for row in rows if not row["problem"]]
    lost = int(bad[0]["where"].split(": ")[1].split()[0])
    assert len(good) + lost == 300
    assert 30 <= lost <= 70
    first_lost = 200 - lost
    assert good == words[:first_lost] + words[200:]
    assert bad[0]["where"].startswith(f"{path} row group 1 row {first_lost - 100}: ")

    # Of a row group in parts, the part with the damage loses its rest, and those after it all their rows.
    in_parts = rows_of(path, unit_bytes=30_000, id="id")
    assert [row["text"] for row in in_parts if not row["problem"]] == good
    where = [row["where"] for row in in_parts if row["problem"]]
    assert len(where) > 1 and where[0].startswith(f"{path} row group 1 row {first_lost - 100}: ")
    assert sum(int(one.split(": ")[1].split()[0]) for one in where) == lost


def test_random_damage_to_parquet_never_stops_the_run_and_never_changes_a_good_row(tmp_path):
    words = [f"{number}:" + "word " * 50 for number in range(200)]
    path = parquet(tmp_path / "a.parquet", pa.array(words), row_group_size=50, write_page_checksum=True)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    manifest = freeze(Store(), [Input(path=str(path))], 1 << 20)
    stat = path.stat()
    for seed in range(60):
        draw = random.Random(seed)
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 10])):
            damaged[draw.randrange(4, len(whole) - footer)] = draw.randrange(256)
        path.write_bytes(damaged)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the same version: as if the disk had done it
        rows = [r for unit in manifest.units for t in read_unit(unit, manifest.reading, SMALL) for r in t.to_pylist()]
        good = [row["text"] for row in rows if not row["problem"]]
        assert set(good) <= set(words)
        lost = sum(int(row["where"].split(": ")[1].split()[0]) for row in rows if row["problem"] == "corrupt_page")
        assert len(good) + lost + sum(row["problem"] not in (None, "corrupt_page") for row in rows) == 200


def test_a_parquet_bomb_is_stopped_by_its_footer(tmp_path):
    limits = Limits(max_document_bytes=1_000_000)
    texts = pa.array([("\0" * 900_000) + str(number) for number in range(40)])
    parquet(tmp_path / "a.parquet", texts, compression="zstd", use_dictionary=False)
    parquet(tmp_path / "b.parquet", pa.array(["next file"]))
    rows = rows_of(tmp_path, limits, unit_bytes=1 << 30)
    assert texts_and_problems(rows) == ["<expansion_bomb>", "next file"]
    in_parts = [row for row in rows_of(tmp_path, limits) if row["problem"]]
    assert {row["problem"] for row in in_parts} == {"expansion_bomb"} and len(in_parts) == 8
    assert sum(int(row["where"].split(": ")[1].split()[0]) for row in in_parts) == 40
    assert "40 rows lost" in rows[0]["where"]


def test_a_parquet_bomb_of_repeated_values_is_stopped_while_it_is_read(tmp_path):
    indices = pa.array([0] * 200_000, pa.int32())
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["z" * 500_000]))  # 100 GB
    parquet(tmp_path / "a.parquet", column, compression="zstd")
    rows = rows_of(tmp_path)
    assert texts_and_problems(rows)[-1] == "<expansion_bomb>"
    assert f"{200_001 - len(rows):,} rows lost" in rows[-1]["where"]
    assert peak_mib_reading(tmp_path)[0] < 1000


def lists_of(values: pa.Array, lengths: list[int]) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


@pytest.mark.parametrize("store_schema", sampled([True, False], 1), ids=["dictionary", "strings"])
@pytest.mark.parametrize(
    ("lengths", "problem"), [([3000], "large_block"), ([10] * 300, "expansion_bomb")], ids=["one row", "many rows"]
)
def test_lists_that_repeat_a_long_string_take_little_memory(tmp_path, lengths, problem, store_schema):
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["z" * 2_000_000]))  # 6 GB
    table = pa.table({"text": ["a"] * len(lengths), "tags": lists_of(repeated, lengths)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=store_schema)
    peak_mib, problems = peak_mib_reading(tmp_path, settings="columns=('tags',)")
    assert problems == [problem] and peak_mib < 500


def test_a_list_of_equal_numbers_without_end_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("raymill.cluster.readers.formats.parquet._batches", lambda *_: pytest.fail("decoded"))
    table = pa.table({"text": ["a"], "mask": lists_of(pa.array(np.zeros(40_000_000, np.int8)), [40_000_000])})
    pq.write_table(table, tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path, columns=["mask"])
    assert (row["problem"], row["where"]) == ("large_block", f"{tmp_path}/a.parquet row group 0 row 0: 1 row lost")


@pytest.mark.parametrize(
    "type",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.struct([("a", pa.large_string()), ("b", pa.list_(pa.binary()))]),
        pa.map_(pa.string(), pa.list_(pa.string())),
    ],
    ids=str,
)
def test_nested_columns_keep_their_values_and_their_type_without_dictionaries(tmp_path, type):
    values = {"s": {"a": "x", "b": [b"y", b"x"]}, "m": [("x", ["y", "z"])], "l": ["x", "y", "x"]}
    value = values["s" if pa.types.is_struct(type) else "m" if pa.types.is_map(type) else "l"]
    column = pa.array([value, None, value] * 100, type)
    pq.write_table(pa.table({"text": ["a"] * 300, "nested": column}), tmp_path / "a.parquet", row_group_size=70)
    manifest = freeze(Store(), [Input(path=str(tmp_path), columns=["nested"])], 1 << 20)
    read = pa.concat_tables(table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits()))
    expected = pa.list_(pa.string()) if "dictionary" in str(type) else type
    assert read["nested"].type == expected and read["nested"].to_pylist() == column.to_pylist()


def test_a_lost_row_beside_a_list_column_has_none(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["word " * 200] * 1000, "tags": [["x", "y"]] * 1000})
    pq.write_table(table, path, row_group_size=500, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[3000] ^= 255  # in a page of the first row group
    path.write_bytes(data)
    rows = rows_of(tmp_path, columns=["tags"])
    assert (rows[0]["problem"], rows[0]["tags"]) == ("corrupt_page", None)
    assert [row["tags"] for row in rows[1:]] == [["x", "y"]] * 500


def test_large_columns_beside_small_texts_take_little_memory(tmp_path):
    with (tmp_path / "a.jsonl").open("w") as file:
        for _ in range(200):
            file.write('{"text": "a", "junk": "' + "x" * 1_000_000 + '"}\n')
    peak_mib, _ = peak_mib_reading(tmp_path, settings="columns=('junk',)", unit_bytes=1 << 30)
    assert peak_mib < 100


def test_a_large_row_group_is_read_in_little_memory(tmp_path):
    draw = random.Random(0)
    blocks = [f"{draw.getrandbits(80_000):x}" for _ in range(500)]
    texts = pa.array(["".join(draw.choices(blocks, k=2)) for _ in range(5000)])  # 200 MB
    for use_dictionary in (True, False):
        path = parquet(tmp_path / f"{use_dictionary}.parquet", texts, use_dictionary=use_dictionary)
        assert pq.ParquetFile(path).metadata.num_row_groups == 1
        assert peak_mib_reading(path) < (100, [])


def test_short_repeated_values_are_no_bomb(tmp_path):
    parquet(tmp_path / "a.parquet", pa.array(["ok"] * 1_000_000))
    assert len(rows_of(tmp_path)) == 1_000_000


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_the_sizes_of_pages_add_up_to_the_one_of_their_column(tmp_path, compression, version):
    texts = [f"{number}:" + "long statistics " * 400 for number in range(300)]
    table = pa.table({"text": texts, "number": range(300), "list": [["x"] * (number % 7) for number in range(300)]})
    path = tmp_path / "a.parquet"
    options = {"row_group_size": 100, "data_page_size": 5000, "write_batch_size": 1, "write_page_checksum": True}
    pq.write_table(table, path, compression=compression, data_page_version=version, **options)
    with StoredParquet(Store(), str(path)) as file:
        for chunk in (file.metadata.row_group(group).column(leaf) for group in range(3) for leaf in range(3)):
            (at, end), pages = chunk_range(chunk), list[PageHeader]()
            while at < end:
                pages.append(page_header(path.read_bytes()[at:end]))
                at += pages[-1].length + pages[-1].compressed
            headers = sum(one.length for one in pages)  # the footer counts them, too
            assert sum(one.uncompressed for one in pages) + headers == chunk.total_uncompressed_size
            assert sum(one.values for one in pages) == chunk.num_values
    with counted_disk():
        rows = rows_of(path, id="number", columns=["list"])
    assert texts_and_problems(rows) == texts, "on an object store none is refused either"


def test_a_page_over_the_bound_is_refused_before_it_is_decompressed(tmp_path):
    limits = Limits(max_document_bytes=1000, max_block_mib=1, max_expansion_ratio=1e9)
    texts = ["before", "x" * (3 << 20), "after"]
    path = parquet(tmp_path / "a.parquet", pa.array(texts), row_group_size=1, compression="gzip", use_dictionary=False)
    rows = rows_of(path, limits, id="id")
    assert texts_and_problems(rows) == ["before", "<large_block>", "after"]
    assert rows[1]["where"] == f"{path} row group 1 row 0: 1 row lost"
    raised = limits.model_copy(update={"max_block_mib": 4})
    assert texts_and_problems(rows_of(path, raised, id="id")) == ["before", "<too_large>", "after"]


def zigzag_varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it."""
    value, found = 2 * number, bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes(found) + bytes([value])


@pytest.mark.parametrize("rows", [3, 300], ids=["in the tail that opening reads", "in parts"])
def test_a_page_over_the_bound_is_refused_on_an_object_store_although_the_footer_states_less(tmp_path, rows):
    limits = Limits(max_document_bytes=1000, max_block_mib=1, max_expansion_ratio=1e9)
    draw = random.Random(0)
    texts = ["x" * (3 << 20) if row == rows // 3 else f"{draw.getrandbits(8000):x}"[:1000] for row in range(rows)]
    options = {"row_group_size": rows // 3, "write_batch_size": 1, "data_page_size": 5000, "use_dictionary": False}
    path = parquet(tmp_path / "a.parquet", pa.array(texts), compression="zstd", **options)
    stated = zigzag_varint(pq.ParquetFile(path).metadata.row_group(1).column(1).total_uncompressed_size)
    content = path.read_bytes()
    assert content.count(stated) >= 1 and len(zigzag_varint(1 << 20)) == len(stated)
    path.write_bytes(content.replace(stated, zigzag_varint(1 << 20)))
    with counted_disk() as disk:
        rows_read = texts_and_problems(rows_of(path, limits, unit_bytes=1 << 30, id="id"))
    assert rows_read == [*texts[: rows // 3], "<large_block>", *texts[2 * rows // 3 :]]
    assert disk.requests["GET"] < 12


def padded_varint(number: int, length: int) -> bytes:
    """As `zigzag_varint`, in more bytes than it needs."""
    found = zigzag_varint(number)
    return (
        bytes([*(one | 128 for one in found), *[128] * (length - len(found) - 1), 0]) if len(found) < length else found
    )


def understate(path: Path, column: int, values: int | None = None, size: int | None = None) -> None:
    """Have the footer state fewer values or bytes of a column than its pages have."""
    content, one = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0).column(column)
    there = [one.num_values, one.total_uncompressed_size, one.total_compressed_size]
    stated = [one.num_values if values is None else values, size or one.total_uncompressed_size, there[2]]
    old = b"".join(b"\x16" + zigzag_varint(number) for number in there)
    numbers = zip(stated, there, strict=True)
    new = b"".join(b"\x16" + padded_varint(now, len(zigzag_varint(before))) for now, before in numbers)
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def repeated(text: str, rows: int) -> pa.DictionaryArray:
    """A text in each of some rows, without the memory of them all. Written with `store_schema=False` it is a string."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])


@pytest.mark.parametrize("stated", sampled([{"values": 10}, {"size": 1000}, {"values": 10, "size": 1000}], 1), ids=str)
def test_a_text_that_rows_repeat_more_often_than_the_footer_states_takes_little_memory(tmp_path, stated):
    """In a batch of 5,000 rows a text of 1 MB would take 5 GB."""
    path = parquet(
        tmp_path / "a.parquet",
        repeated("x" * 1_000_000, 5000),
        compression="zstd",
        write_statistics=False,
        store_schema=False,
    )
    understate(path, 1, **stated)
    peak, rows = peak_mib_reading(path)
    assert peak < 400 and rows == ["corrupt_page"]
    with StoredParquet(Store(), str(path)) as file, pytest.raises(DataError, match="than the footer states"):
        file.read_row_group(0)


def test_a_whole_file_is_read_within_the_bounds_of_its_row_groups(tmp_path):
    texts = repeated("x" * 1_000_000, 5000)
    path = parquet(tmp_path / "a.parquet", texts, compression="zstd", store_schema=False)
    with StoredParquet(Store(), str(path)) as file, pytest.raises(DataError, match="far more memory than its part"):
        file.read(["text"])
    path = parquet(tmp_path / "b.parquet", pa.array(["x" * 100_000] * 4000), compression="zstd", row_group_size=2000)
    with StoredParquet(Store(), str(path)) as file, pytest.raises(DataError, match="row group 1 takes far more memory"):
        file.read()
    for rows in (0, 5):
        path = parquet(tmp_path / "c.parquet", pa.array(["x"] * rows, pa.string()), row_group_size=2)
        with StoredParquet(Store(), str(path)) as file:
            assert file.read(["text"]).to_pydict() == {"text": ["x"] * rows}


@pytest.mark.parametrize("on_a_store", [False, True], ids=["on a disk", "on an object store"])
def test_values_of_a_list_beyond_those_that_the_footer_states_are_not_read(tmp_path, on_a_store):
    table = pa.table({"id": ["a"], "text": ["text"], "more": [[0] * 1_000_000]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="zstd", write_statistics=False)
    understate(path, 2, values=1000)
    with counted_disk() if on_a_store else nullcontext():
        assert texts_and_problems(rows_of(path, id="id", columns=["more"])) == ["<corrupt_page>"]
        with StoredParquet(Store(), str(path)) as file, pytest.raises(DataError, match="than the footer states"):
            file.read_row_group(0)


@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_a_page_over_the_bound_is_refused_however_the_reads_cut_its_header(tmp_path, size):
    limits = Limits(max_document_bytes=1000, max_block_mib=1)
    texts = [*map(str, range(50)), "x" * (3 << 20), *map(str, range(50))]
    options = {"write_batch_size": 1, "data_page_size": 10, "use_dictionary": False, "compression": "zstd"}
    path = parquet(tmp_path / "a.parquet", pa.array(texts), **options)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    (start, end), content = chunk_range(chunk), path.read_bytes()
    pages = _PassingPages(chunk, limits.block_bytes, UnreadableRest)
    for at in range(start, start + 100, size):  # read again from the beginning, as after an error
        pages.verify(at, content[at : min(at + size, start + 100)])
    with pytest.raises(UnreadableRest, match="large_block"):
        for at in range(start, end, size):
            pages.verify(at, content[at : at + size])


@pytest.mark.parametrize("header", [b"\xff" * 300, b"\x15" * 300, bytes(300), b"\x2c" + b"\x1c" * 299])
def test_a_header_of_a_page_that_is_none_is_damage(tmp_path, header):
    path = parquet(tmp_path / "a.parquet", pa.array([f"{n} " * 300 for n in range(9)]), use_dictionary=False)
    start = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset
    damaged = bytearray(path.read_bytes())
    damaged[start : start + len(header)] = header
    path.write_bytes(damaged)
    assert texts_and_problems(rows_of(path, id="id")) == ["<corrupt_page>"]


def test_tables_of_short_rows_have_as_few_rows_as_those_of_other_formats(tmp_path):
    """Rows become Python objects of about a kB: 1.6 million of them in a table of 8 MB."""
    pq.write_table(pa.table({"text": pa.array(["a"] * 400_000)}), tmp_path / "a.parquet", compression="none")
    input = Input(path=str(tmp_path / "a.parquet"))
    span = Span(input.path, (tmp_path / "a.parquet").stat().st_size, "", "parquet", 0, 1)
    limits = Limits(max_expansion_ratio=1e9)
    rows = [len(table) for table in Parquet().read(Store(), span, input, limits, ReaderCounts())]
    assert sum(rows) == 400_000 and max(rows) <= 1 << 16
