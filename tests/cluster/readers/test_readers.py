"""Every format gives the same documents, however files, units and tables are cut."""

import csv
import gzip
import io
import json
from datetime import datetime
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.readers.formats import READERS, format_of
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Format, Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import Span, lines
from raymill.cluster.readers.units import InputManifest, read_unit
from raymill.cluster.store.store import Store
from tests.support.input_rows import read, rows_of
from tests.support.warc_records import COMPRESS

LIMITS = Limits()
TEXTS = ["plain words", "two\nlines", 'ünï, "quoted" 漢字 \U0001f600', "tab\tand, comma", ""]


def json_lines(records: list[dict]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def test_every_format_of_the_config_has_a_reader_and_every_reader_a_format():
    assert set(READERS) == set(get_args(Format))


def test_no_ending_is_claimed_twice():
    endings = [ending for reader in READERS.values() for ending in reader.endings]
    assert len(endings) == len(set(endings))
    assert all(ending == ending.lower() and ending[0] == "." for ending in endings)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.parquet", "parquet"),
        ("a.parquet.gz", None),
        ("A.JSONL.GZ", "jsonl"),
        ("a.ndjson.zst", "jsonl"),
        ("c4-train.00000-of-01024.json.gz", "jsonl"),
        ("a.JSON.zst", "jsonl"),
        ("a.json", None),
        ("a.warc.gz", "warc"),
        ("a.warc.wet.gz", "wet"),
        ("a.tar.gz", None),
        ("a.gz", None),
        ("a.rst", "markdown"),
        ("a.htm.bz2", "html"),
        ("README", None),
    ],
)
def test_the_format_is_read_from_the_ending_behind_the_compression(name, format):
    assert format_of(f"s3://bucket/x.txt/{name}") == format


# ---- the same documents from every format ----


def write_csv(path: Path, ending: str, delimiter: str) -> Path:
    content = io.StringIO()
    writer = csv.writer(content, delimiter=delimiter, lineterminator="\n")
    writer.writerows([["id", "text"], *enumerate(TEXTS)])
    target = path / f"a.{'csv' if delimiter == ',' else 'tsv'}{ending}"
    target.write_bytes(COMPRESS[ending](content.getvalue().encode()))
    return target


def write_jsonl(path: Path, ending: str, escaped: bool) -> Path:
    records = [json.dumps({"text": text, "id": id}, ensure_ascii=escaped) for id, text in enumerate(TEXTS)]
    target = path / f"a.jsonl{ending}"
    target.write_bytes(COMPRESS[ending]("\r\n".join(records).encode()))
    return target


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize(
    "write",
    [
        lambda path, ending: write_csv(path, ending, ","),
        lambda path, ending: write_csv(path, ending, "\t"),
        lambda path, ending: write_jsonl(path, ending, escaped=True),
        lambda path, ending: write_jsonl(path, ending, escaped=False),
    ],
    ids=["csv", "tsv", "jsonl", "jsonl unescaped"],
)
def test_row_formats_give_the_same_documents(tmp_path, write, ending):
    rows = rows_of(write(tmp_path, ending), id="id")
    assert [row["text"] for row in rows] == TEXTS
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]


def test_parquet_gives_the_same_documents(tmp_path):
    pq.write_table(pa.table({"text": TEXTS, "id": range(5)}), tmp_path / "a.parquet", row_group_size=2)
    rows = rows_of(tmp_path, id="id")
    assert [(row["row"], row["id"], row["text"]) for row in rows] == [(n, str(n), TEXTS[n]) for n in range(5)]


@pytest.mark.parametrize("ending", COMPRESS)
def test_trees_of_texts_give_one_document_a_file(tmp_path, ending):
    for number, text in enumerate(TEXTS[:-1]):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        (folder / f"a.{'md' if number % 2 else 'txt'}{ending}").write_bytes(COMPRESS[ending](text.encode()))
    rows = rows_of(tmp_path, id="path", columns=["path"])
    assert [row["text"] for row in rows] == TEXTS[:-1]
    assert [row["row"] for row in rows] == [0, 1, 2, 3]  # all of one unit
    assert rows[1]["id"] == rows[1]["path"] == str(tmp_path / "1" / f"a.md{ending}")


def test_saved_datasets_give_the_same_documents(tmp_path):
    disable_progress_bars()
    saved = Dataset.from_dict({"text": TEXTS, "id": range(5)})
    saved.save_to_disk(tmp_path / "plain", num_shards=2)
    DatasetDict(train=saved.select([0]), test=saved).save_to_disk(tmp_path / "splits")
    for rows in (rows_of(tmp_path / "plain", id="id"), rows_of(tmp_path / "splits", id="id", split="test")):
        assert [row["text"] for row in rows] == TEXTS
        assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row["text"] for row in rows_of(tmp_path / "splits")] == TEXTS[:1]


def test_a_saved_dataset_cut_short_gives_what_is_there(tmp_path):
    disable_progress_bars()
    Dataset.from_dict({"text": [f"{n}" * 100 for n in range(5000)]}).save_to_disk(tmp_path / "d")
    file = tmp_path / "d" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    rows = rows_of(tmp_path / "d")
    assert [row["problem"] for row in rows if row["problem"]] == ["truncated"]
    assert [row["text"] for row in rows[:-1]] == [f"{n}" * 100 for n in range(len(rows) - 1)]
    assert len(rows) > 1000


# ---- cutting ----

LINE_SETS = st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=30)


@settings(max_examples=60)
@given(LINE_SETS, st.integers(1, 400), st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]), st.booleans(), st.booleans())
def test_byte_ranges_never_lose_or_double_a_line(tmp_path_factory, texts, unit_bytes, line_end, last, bom):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    content = line_end.join(json.dumps({"text": text}, ensure_ascii=False) for text in texts) + line_end * last
    path.write_bytes(b"\xef\xbb\xbf" * bom + content.encode() + b" ")  # never of size 0, which would be refused
    manifest = freeze(Store(), [Input(path=str(path))], unit_bytes)
    assert [row["text"] for _, row in read(manifest)] == texts
    assert len(manifest.units) == -(-path.stat().st_size // unit_bytes)


@settings(max_examples=100)
@given(st.binary(max_size=200), st.lists(st.integers(1, 50), max_size=20), st.integers(1, 60))
def test_lines_do_not_depend_on_the_blocks_they_come_in(data, sizes, max_line_bytes):
    blocks = []
    at = 0
    for size in [*sizes, len(data)]:
        blocks.append(data[at : at + size])
        at += size
    expected = []
    at = 0
    for line in data.split(b"\n"):
        text = line.removeprefix(b"\xef\xbb\xbf") if at == 0 else line
        expected.append((at, None if len(line) > max_line_bytes else text))
        at += len(line) + 1
    if data.endswith(b"\n") or not data:
        expected.pop()  # nothing follows the last line end
    assert list(lines(iter(blocks), max_line_bytes)) == expected


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory) -> Path:
    """Good and bad rows of several formats."""
    folder = tmp_path_factory.mktemp("mixed")
    texts = [f"{number} " * (number % 50) for number in range(500)]
    pq.write_table(pa.table({"text": [*texts, None]}), folder / "a.parquet", row_group_size=60)
    good = json_lines([{"text": text} for text in texts])
    (folder / "b.jsonl").write_bytes(b"broken\n" + good)
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(good)[:-100])
    (folder / "d.csv").write_bytes(b"text,id\nfine,1\nbroken\n")
    (folder / "e.txt").write_bytes(b"\xff")
    return folder


@pytest.mark.parametrize("table_bytes", [1, 100, 5000, 1 << 30])
def test_positions_and_rows_do_not_depend_on_the_size_of_tables(mixed_folder, table_bytes):
    manifest = freeze(Store(), [Input(path=str(mixed_folder))], 20_000)
    assert len(manifest.units) > 5
    found = read(manifest, table_bytes=table_bytes)
    assert found == read(manifest)
    for index in range(len(manifest.units)):
        rows = [row["row"] for unit, row in found if unit == index]
        assert rows == list(range(len(rows)))


@pytest.mark.parametrize("unit_bytes", [100, 5000, 1 << 30])
def test_documents_and_problems_do_not_depend_on_the_size_of_units(mixed_folder, unit_bytes):
    def content(manifest: InputManifest) -> list[tuple]:
        return [(row["text"], row["problem"], row["where"]) for _, row in read(manifest)]

    manifest = freeze(Store(), [Input(path=str(mixed_folder))], unit_bytes)
    assert content(manifest) == content(freeze(Store(), [Input(path=str(mixed_folder))], 20_000))


@pytest.mark.parametrize("table_bytes", [1000, 20_000])
def test_tables_hold_no_more_text_than_asked_and_have_the_agreed_columns(mixed_folder, table_bytes):
    manifest = freeze(Store(), [Input(path=str(mixed_folder))], 1 << 30)
    for table in read_unit(manifest.units[0], manifest.reading, LIMITS, table_bytes):
        assert table.num_rows > 0
        assert pc.sum(pc.binary_length(table["text"])).as_py() or table_bytes >= 0
        assert table.schema == pa.schema(
            [
                ("row", pa.int64()),
                ("id", pa.string()),
                ("text", pa.large_string()),
                ("problem", pa.string()),
                ("where", pa.string()),
            ]
        )
        assert all(column.num_chunks == 1 for column in table.columns)


@pytest.mark.parametrize("format", ["jsonl", "json", "csv"])
def test_a_reader_holds_one_table_at_a_time(tmp_path, monkeypatch, format):
    monkeypatch.setattr("raymill.cluster.readers.reader.TABLE_BYTES", 100)
    row = f"{'x' * 60}\n"
    content = "text\n" + row * 6 if format == "csv" else (json.dumps({"text": row}) + "\n") * 6
    (tmp_path / "a").write_text(content)
    span = Span(str(tmp_path / "a"), len(content), "", format, 0, len(content))
    tables = READERS[format].read(Store(), span, Input(path=span.uri), LIMITS, ReaderCounts())
    assert [table.num_rows for table in tables] == [2, 2, 2]


def test_a_document_over_the_size_of_a_table_has_one_to_itself(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"text": "a"}, {"text": "b" * 5000}, {"text": "c"}]))
    manifest = freeze(Store(), [Input(path=str(tmp_path))], 1 << 20)
    tables = list(read_unit(manifest.units[0], manifest.reading, LIMITS, 1000))
    assert [table["row"].to_pylist() for table in tables] == [[0], [1], [2]]


# ---- carried columns ----


def test_values_of_json_are_carried_as_strings_and_nested_ones_as_compact_json(tmp_path):
    record = {"text": "a", "s": "x", "n": 5, "f": 1.5, "b": True, "z": None, "l": [1, "é"], "o": {"k": [1, 2]}}
    (tmp_path / "a.jsonl").write_bytes(json_lines([record, {"text": "b"}]))
    names = ["s", "n", "f", "b", "z", "l", "o", "absent"]
    rows = rows_of(tmp_path, columns=names)
    assert [rows[0][name] for name in names] == ["x", "5", "1.5", "true", None, '[1,"é"]', '{"k":[1,2]}', None]
    assert [rows[1][name] for name in names] == [None] * 8


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("a", "a"),
        (" ", " "),
        (7, "7"),
        (2**70, str(2**70)),
        (None, None),
        ("", None),
        (True, "<bad_id>"),
        (1.0, "<bad_id>"),
        ([1], "<bad_id>"),
        ({"a": 1}, "<bad_id>"),
    ],
)
def test_ids_are_strings_and_whole_numbers(tmp_path, id, expected):
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"text": "a", "id": id}]))
    (row,) = rows_of(tmp_path, id="id")
    assert (f"<{row['problem']}>" if row["problem"] else row["id"]) == expected


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["a", "", None]), ["a", None, None]),
        (pa.array(["a", "", None]).dictionary_encode(), ["a", None, None]),
        (pa.array([b"a", b"", None]), ["a", None, None]),
        (pa.array([7, None, -1]), ["7", None, "-1"]),
        (pa.nulls(3), [None, None, None]),
    ],
    ids=["string", "dictionary", "binary", "int64", "null"],
)
def test_an_empty_id_is_none_in_tables_too(tmp_path, ids, expected):
    pq.write_table(pa.table({"text": ["a", "b", "c"], "id": ids}), tmp_path / "a.parquet")
    assert [row["id"] for row in rows_of(tmp_path, id="id")] == expected


def test_an_empty_id_is_none_in_csv_too(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n,a\n"",b\n1.5,c\n')
    assert [row["id"] for row in rows_of(tmp_path, id="id")] == [None, None, "1.5"]


def test_columns_of_parquet_keep_their_type(tmp_path):
    when = datetime(2026, 1, 2, 3)
    table = pa.table(
        {
            "text": ["a", None],
            "score": pa.array([0.5, None], pa.float32()),
            "when": pa.array([when, when], pa.timestamp("us")),
            "tags": [["x"], ["y", "z"]],
            "site": pa.array(["s", "s"]).dictionary_encode(),
            "url": pa.array(["u", None], pa.large_string()),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    manifest = freeze(
        Store(),
        [Input(path=str(tmp_path), columns=["score", "when", "tags", "site", "url"])],
        1 << 20,
    )
    assert {field.name: str(field.type) for field in manifest.carried} == {
        "score": "float",
        "when": "timestamp[us]",
        "tags": "list<element: string>",
        "site": "string",
        "url": "string",
    }
    (_, first), (_, second) = read(manifest)
    assert first["score"] == 0.5
    assert first["when"] == when
    assert first["site"] == "s"
    assert second["tags"] == ["y", "z"]  # carried though the text is missing
    assert second["problem"] == "null_text"


def test_types_on_which_files_disagree_become_strings(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "n": [1], "l": [[1, 2]], "same": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "n": ["x"], "l": ["y"], "same": [2]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_bytes(json_lines([{"text": "c", "n": 2, "l": {"k": 1}}]))
    inputs = [
        Input(source="tables", path=str(tmp_path / "*.parquet"), columns=["n", "l", "same"]),
        Input(source="lines", path=str(tmp_path / "c.jsonl"), columns=["n", "l"]),
    ]
    manifest = freeze(Store(), inputs, 1 << 20)
    assert [(row["n"], row["l"], row["same"]) for _, row in read(manifest)] == [
        ("1", "[1,2]", 1),
        ("x", "y", 2),
        ("2", '{"k":1}', None),
    ]


def test_csv_takes_another_delimiter(tmp_path):
    (tmp_path / "a.csv").write_text("text;n\na,b;1\n")
    assert (
        rows_of(tmp_path, delimiter=";", columns=["n"])[0] | {"text": "a,b", "n": "1"}
        == rows_of(tmp_path, delimiter=";", columns=["n"])[0]
    )


# ---- real data ----


def test_real_parquet_is_read_as_pyarrow_reads_it(shared_data):
    for name in ("peps", "udhr"):
        path = shared_data / f"{name}.parquet"
        manifest = freeze(Store(), [Input(path=str(path), id="id")], 16 << 20)
        tables = [t for unit in manifest.units for t in read_unit(unit, manifest.reading, LIMITS)]
        whole = pq.read_table(path)
        for column in ("id", "text"):
            found = pa.chunked_array([chunk for table in tables for chunk in table[column].chunks])
            assert found.cast(pa.large_string()).equals(whole[column].cast(pa.large_string()))


def test_real_json_lines_are_read_as_json_reads_them(shared_data):
    path = shared_data / "gsm8k_test.jsonl"
    expected = [json.loads(line)["answer"] for line in path.read_text().splitlines()]
    for unit_bytes in (10_000, 1 << 20):
        assert [row["text"] for row in rows_of(path, unit_bytes=unit_bytes, text="answer")] == expected
