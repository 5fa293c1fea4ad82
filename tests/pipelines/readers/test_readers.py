"""Every format gives the same documents, however files, units and tables are cut."""

import csv
import gzip
import io
import json
import random
import zlib
from datetime import datetime
from pathlib import Path
from typing import get_args

import brotli
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import Dataset, DatasetDict, disable_progress_bars
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.errors import DataError
from cluster.read.limits import Limits
from cluster.read.lines import lines
from cluster.store.store import Store
from pipelines.readers import READERS, format_of
from pipelines.readers.find import find_files
from pipelines.readers.freeze import freeze
from pipelines.readers.inputs import Format, Input
from pipelines.readers.reader import ReaderCounts
from pipelines.readers.units import InputManifest, read_unit
from tests.support.warc_records import COMPRESS, record, response

LIMITS = Limits()
TEXTS = ["plain words", "two\nlines", 'ünï, "quoted" 漢字 \U0001f600', "tab\tand, comma", ""]


def read(manifest: InputManifest, limits: Limits = LIMITS, table_bytes: int = 8 << 20) -> list[tuple[int, dict]]:
    """(unit, row as a dict) of everything."""
    return [
        (unit.index, row)
        for unit in manifest.units
        for table in read_unit(unit, manifest.reading, limits, table_bytes)
        for row in table.to_pylist()
    ]


def rows_of(path: Path, unit_bytes: int = 1 << 20, limits: Limits = LIMITS, **settings) -> list[dict]:
    return [row for _, row in read(freeze(Store(), [Input(path=str(path), **settings)], unit_bytes), limits)]


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


# ---- HTML and web archives ----

PARAGRAPH = "The mill grinds raw text into a corpus, and the corpus into a model; nothing is lost on the way. " * 10
PARAGRAPH = PARAGRAPH.strip()
GREATER = PARAGRAPH.replace("raw", "größere")
PAGE = (
    "<html><head><title>T</title></head><body><nav><a href='/'>Home</a><a href='/x'>More</a></nav>"
    f"<article><p>{PARAGRAPH}</p></article><footer>Copyright, all rights reserved</footer></body></html>"
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PAGE.encode(), PARAGRAPH),
        (PAGE.replace("<head>", "<head><meta charset=latin-1>").replace("raw", "größere").encode("latin-1"), GREATER),
        (PAGE.replace("<head>", "<head><meta charset=latin-1>").replace("raw", "größere").encode(), GREATER),
        (('<?xml version="1.0" encoding="utf-8"?>' + PAGE.replace("raw", "größere")).encode(), GREATER),
        (PAGE.replace("raw", "größere").encode("utf-16"), GREATER),
        (b"<html><body></body></html>", "<empty_extraction>"),
        (b"\x00\x01\x02", "<empty_extraction>"),
        (b"<div>" * 100_000, "<empty_extraction>"),
    ],
    ids=["page", "latin-1", "UTF-8 that says latin-1", "XHTML", "UTF-16", "no content", "no HTML", "deeply nested"],
)
def test_html_is_its_main_content(tmp_path, content, expected):
    (tmp_path / "a.html").write_bytes(content)
    (row,) = rows_of(tmp_path, columns=["path"])
    assert (row["text"] or f"<{row['problem']}>") == expected
    assert row["path"] == str(tmp_path / "a.html")


def test_a_page_that_breaks_the_extraction_is_a_problem_with_the_error_by_name(tmp_path, monkeypatch):
    def fail(page, **options):
        raise RecursionError("too deep")

    monkeypatch.setattr("pipelines.readers.text_files._extraction", lambda: (lambda page: None, fail))
    (tmp_path / "a.html").write_bytes(PAGE.encode())
    (row,) = rows_of(tmp_path)
    assert (row["problem"], row["where"]) == ("failed_extraction", f"{tmp_path}/a.html (RecursionError)")


def test_html_over_the_bound_is_not_parsed(tmp_path):
    (tmp_path / "a.html").write_bytes(PAGE.encode())
    (row,) = rows_of(tmp_path, limits=Limits(max_document_bytes=100))
    assert row["problem"] == "too_large"


def chunked(body: bytes) -> bytes:
    pieces = [body[at : at + 100] for at in range(0, len(body), 100)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"


BODY = PAGE.encode()
# Random numbers, so that the end of the compressed page has its text.
LONG = BODY.replace(b"</body>", b"<p>%s</p></body>" % random.Random(0).randbytes(3000).hex().encode())
CUT = {
    "gzip": response(gzip.compress(LONG)[:-2000], extra="Content-Encoding: gzip\r\n"),
    "deflate": response(zlib.compress(LONG)[:-2000], extra="Content-Encoding: deflate\r\n"),
    "brotli": response(brotli.compress(LONG)[:-2000], extra="Content-Encoding: br\r\n"),
    "a page in chunks": response(chunked(LONG)[:-2000], extra="Transfer-Encoding: chunked\r\n"),
    "gzip in chunks": response(
        chunked(gzip.compress(LONG))[:-2000], extra="Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"
    ),
}
RESPONSES = {
    "a page": (response(BODY), PARAGRAPH),
    "XHTML": (response(BODY, type="application/xhtml+xml; charset=utf-8"), PARAGRAPH),
    "gzip": (response(gzip.compress(BODY), extra="Content-Encoding: gzip\r\n"), PARAGRAPH),
    "gzip undone by the crawler": (response(BODY, extra="Content-Encoding: gzip\r\n"), PARAGRAPH),
    "deflate": (response(zlib.compress(BODY), extra="Content-Encoding: deflate\r\n"), PARAGRAPH),
    "deflate without header": (response(zlib.compress(BODY)[2:-4], extra="Content-Encoding: deflate\r\n"), PARAGRAPH),
    "chunks": (response(chunked(BODY), extra="Transfer-Encoding: chunked\r\n"), PARAGRAPH),
    "chunks undone by the crawler": (response(BODY, extra="Transfer-Encoding: chunked\r\n"), PARAGRAPH),
    "chunks of gzip": (
        response(chunked(gzip.compress(BODY)), extra="Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"),
        PARAGRAPH,
    ),
    "the server's charset": (
        response(PAGE.replace("raw", "сырой").encode("koi8-r"), type="text/html; charset=KOI8-R"),
        PARAGRAPH.replace("raw", "сырой"),
    ),
    "a charset that nobody knows": (response(BODY, type="text/html; charset=klingon"), PARAGRAPH),
    "an image": (response(b"\x89PNG", type="image/png"), None),
    "a page that is not there": (response(BODY, status="404 Not Found"), None),
    "brotli": (response(brotli.compress(BODY), extra="Content-Encoding: br\r\n"), PARAGRAPH),
    "brotli undone by the crawler": (response(BODY, extra="Content-Encoding: br\r\n"), PARAGRAPH),
    "damaged brotli": (response(b"\xff" * 50, extra="Content-Encoding: br\r\n"), "<bad_http_response>"),
    "zstd": (response(zstandard.compress(BODY), extra="Content-Encoding: zstd\r\n"), PARAGRAPH),
    "zstd undone by the crawler": (response(BODY, extra="Content-Encoding: zstd\r\n"), PARAGRAPH),
    "damaged zstd": (
        response(zstandard.compress(BODY)[:9] + b"\xff" * 50, extra="Content-Encoding: zstd\r\n"),
        "<bad_http_response>",
    ),
    "two encodings": (
        response(gzip.compress(brotli.compress(BODY)), extra="Content-Encoding: br, GZip\r\n"),
        PARAGRAPH,
    ),
    "a charset given as encoding": (response(BODY, extra="Content-Encoding: UTF-8\r\n"), PARAGRAPH),
    "an unknown encoding": (response(b"\x01" * 50, extra="Content-Encoding: dcb\r\n"), "<unknown_encoding>"),
    "damaged gzip": (
        response(b"\x1f\x8b\x08\0\0\0\0\0" + b"\xff" * 50, extra="Content-Encoding: gzip\r\n"),
        "<bad_http_response>",
    ),
    "gzip of two members": (
        response(gzip.compress(BODY[:40]) + gzip.compress(BODY[40:]), extra="Content-Encoding: gzip\r\n"),
        PARAGRAPH,
    ),
    "zstd of two frames": (
        response(zstandard.compress(BODY[:40]) + zstandard.compress(BODY[40:]), extra="Content-Encoding: zstd\r\n"),
        PARAGRAPH,
    ),
    "gzip and a line end": (response(gzip.compress(BODY) + b"\r\n", extra="Content-Encoding: gzip\r\n"), PARAGRAPH),
    **{f"{name} that is cut": (content, "<bad_http_response>") for name, content in CUT.items()},
    "no HTTP": (b"nonsense", "<bad_http_response>"),
    "lines that end in LF alone": (response(BODY).replace(b"\r\n", b"\n", 4), PARAGRAPH),
    "a continued line": (response(BODY, extra="X: a\n b\n\tc\n").replace(b"\r\n", b"\n", 4), PARAGRAPH),
    "a status without its end": (b"HTTP/1.1 200 OK", "<bad_http_response>"),
    "a status that is no number": (response(BODY, status="OK"), "<bad_http_response>"),
    "HTTP/2": (response(BODY, status="200").replace(b"HTTP/1.1", b"HTTP/2"), PARAGRAPH),
    "HTML without its type": (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n<!-- a -->\n" + BODY, PARAGRAPH),
    "no header lines": (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, PARAGRAPH),
    "bytes without their type": (b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n\x89PNG", None),
    "a film over the bound": (response(b"x" * 200_000, type="video/mp4"), None),
    "an error page over the bound": (response(b"x" * 200_000, status="500 No"), None),
    "no content": (response(b"<html></html>"), "<empty_extraction>"),
    "a page over the bound": (response(b"x" * 20_000), "<too_large>"),
    **{
        f"a page of {name} that unfolds over the bound": (
            response(compress(b"x" * 20_000_000), extra=f"Content-Encoding: {name}\r\n"),
            "<too_large>",
        )
        for name, compress in {"gzip": gzip.compress, "br": brotli.compress, "zstd": zstandard.compress}.items()
    },
    "a record over the bound": (response(b"x" * 200_000), "<too_large>"),
}


@pytest.mark.parametrize("name", CUT)
def test_of_a_page_that_the_crawler_says_it_cut_the_beginning_is_read_and_counted(tmp_path, name):
    cut = record("response", CUT[name]).replace(b"Content-Length", b"WARC-Truncated: length\r\nContent-Length", 1)
    (tmp_path / "a.warc").write_bytes(cut)
    manifest, counts = freeze(Store(), [Input(path=str(tmp_path))], 1 << 20), ReaderCounts()
    (table,) = read_unit(manifest.units[0], manifest.reading, Limits(), counts=counts)
    (text,) = table["text"].to_pylist()
    assert text.startswith(PARAGRAPH)
    assert counts.notes["pages end where the crawler cut them (WARC-Truncated)"] == 1


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_response_in_a_web_archive_is_a_document_a_problem_or_neither(tmp_path, name, ending):
    content, expected = RESPONSES[name]
    records = [
        record("warcinfo", b"software: x"),
        record("response", response(BODY), 1),
        record("request", b"GET / HTTP/1.1\r\n\r\n", 2),
        record("response", content, 3),
        record("response", response(BODY), 4),
    ]
    (tmp_path / f"a.warc{ending}").write_bytes(b"".join(COMPRESS[ending](one) for one in records))
    rows = rows_of(tmp_path, limits=Limits(max_document_bytes=10_000), id="record_id", columns=["url", "date"])
    found = [(row["url"], row["text"] or f"<{row['problem']}>") for row in rows]
    middle = [] if expected is None else [("http://x/3", expected)]
    assert found == [("http://x/1", PARAGRAPH), *middle, ("http://x/4", PARAGRAPH)]
    assert rows[0]["id"] == "<urn:uuid:1>"
    assert rows[0]["date"] == "2026-01-02T03:04:05Z"


RESOURCES = {
    "a page": (b"Content-Type: text/html; charset=utf-8\r\n", BODY, PARAGRAPH),
    "a page whose type was detected": (b"WARC-Identified-Payload-Type: text/html\r\n", BODY, PARAGRAPH),
    "a page without type": (b"", BODY, PARAGRAPH),
    "a picture": (b"Content-Type: image/png\r\n", b"\x89PNG", None),
    "a page over the bound": (b"Content-Type: text/html\r\n", b"x" * 200_000, "<too_large>"),
}


@pytest.mark.parametrize("kind", ["resource", "response"])
@pytest.mark.parametrize("name", RESOURCES)
def test_a_record_without_http_is_a_page_by_the_type_of_the_record(tmp_path, name, kind):
    type, content, expected = RESOURCES[name]
    if kind == "response" and b"Content-Type" not in type:
        expected = "<bad_http_response>"
    (tmp_path / "a.warc").write_bytes(record(kind, content, 7).replace(b"WARC-Date", type + b"WARC-Date"))
    rows = rows_of(tmp_path, limits=Limits(max_document_bytes=10_000))
    assert [row["text"] or f"<{row['problem']}>" for row in rows] == ([] if expected is None else [expected])


def test_a_response_of_another_protocol_is_no_page(tmp_path):
    lookup = record("response", b"20260102\nx.example. 300 IN A 192.0.2.1\n")
    (tmp_path / "a.warc").write_bytes(lookup.replace(b"WARC-Date", b"Content-Type: text/dns\r\nWARC-Date"))
    assert rows_of(tmp_path) == []


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_url_in_angle_brackets_is_the_url_and_records_may_end_lines_in_lf(tmp_path, end):
    whole = record("conversion", b"a").replace(b"http://x/0", b"<http://x/0>").replace(b"\r\n", end)
    (tmp_path / "a.wet").write_bytes(whole + whole)
    rows = rows_of(tmp_path, id="url", columns=["record_id"])
    assert [(row["id"], row["record_id"], row["text"]) for row in rows] == [("http://x/0", "<urn:uuid:0>", "a")] * 2


def wet(*contents: bytes) -> list[bytes]:
    return [record("warcinfo", b"x"), *(record("conversion", text, n) for n, text in enumerate(contents))]


DAMAGED_ARCHIVES = {
    "bytes between records": ([0, b"rubbish\r\n\r\nmore", 1], ["a", "<bad_warc_record>", "b"]),
    "a length that is no number": (
        [0, record("conversion", b"x").replace(b"Length: 1", b"Length: -1"), 1],
        ["a", "<bad_warc_record>", "b"],
    ),
    "no length": ([0, b"WARC/1.0\r\nWARC-Type: conversion\r\n\r\nx\r\n\r\n", 1], ["a", "<bad_warc_record>", "b"]),
    "a length that is too short": (
        [0, record("conversion", b"long text", length=4), 1],
        ["a", "long", "<bad_warc_record>", "b"],
    ),
    "bad UTF-8": ([0, record("conversion", b"\xff"), 1], ["a", "<bad_utf8>", "b"]),
    "an end too early": ([0, 1, record("conversion", b"x" * 100)[:-50]], ["a", "b", "<truncated>"]),
    "a header without end": ([0, b"WARC/1.0\r\n" + b"A: b\r\n" * 50_000, 1], ["a", "<bad_warc_record>", "b"]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", DAMAGED_ARCHIVES)
def test_damage_in_an_archive_of_texts_costs_no_other_record(tmp_path, name):
    parts, expected = DAMAGED_ARCHIVES[name]
    whole = [record("conversion", b"a", 0), record("conversion", b"b", 1)]
    (tmp_path / "a.warc.wet").write_bytes(b"".join(whole[part] if isinstance(part, int) else part for part in parts))
    (tmp_path / "b.warc.wet.gz").write_bytes(b"".join(map(gzip.compress, wet(b"next file"))))
    rows = rows_of(tmp_path)
    assert [row["text"] or f"<{row['problem']}>" for row in rows] == [*expected, "next file"]


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, 250))
def test_no_bytes_can_stop_the_reading_of_an_archive(tmp_path_factory, rubbish, at):
    path = tmp_path_factory.mktemp("warc") / "a.warc.wet"
    whole = b"".join(wet(b"text"))
    path.write_bytes(whole[:at] + rubbish + whole[at:])
    for row in rows_of(path):
        assert (row["text"] is None) == (row["problem"] is not None)


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
        assert [row["text"] for row in rows_of(path, unit_bytes, text="answer")] == expected


CHATS = [
    {"text": "Gr\u00fc\u00dfe \u201eA\u201c", "id": "a", "more": {"x": [1]}},
    {"text": "\u20ac 5, bitte", "id": "b"},
]


def read_texts(path, content: bytes, **settings) -> list[str | None]:
    path.write_bytes(content)
    manifest = freeze(Store(), [Input(path=str(path), **settings)], 1 << 20)
    tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, Limits())]
    return [row["text"] or row["problem"] for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize("encoding", ["windows-1252", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("mark", [True, False])
def test_files_of_a_stated_encoding_are_read(tmp_path, encoding, mark):
    def encoded(text: str) -> bytes:
        return text.encode(encoding if mark or "utf" not in encoding else f"{encoding.removesuffix('-le')}-be")

    if encoding == "utf-16-le" and not mark:
        return
    texts = [one["text"] for one in CHATS]
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in CHATS)
    table = "id;text\n" + "".join(f'{one["id"]};"{one["text"]}"\n' for one in CHATS)
    assert read_texts(tmp_path / "a.jsonl", encoded(lines), encoding=encoding) == texts
    for path, delimiter in (("a.csv", ";"), ("b.csv", None)):
        content = table if delimiter else f"sep=;\n{table}"
        found = read_texts(tmp_path / path, encoded(content), encoding=encoding, delimiter=delimiter, id="id")
        assert found == texts
    assert read_texts(tmp_path / "a.txt", encoded(texts[0]), encoding=encoding) == texts[:1]
    array = json.dumps(CHATS, ensure_ascii=False, indent=1)
    assert read_texts(tmp_path / "a.json", encoded(array), encoding=encoding, format="json") == texts


def test_what_is_not_of_the_stated_encoding_is_no_text(tmp_path):
    line = b'{"text": "ok"}\n{"text": "\x81"}\n{"text": "too"}\n'
    assert read_texts(tmp_path / "a.jsonl", line, encoding="windows-1252") == ["ok", "bad_utf8", "too"]
    cut = 'id,text\na,b\nc,"d'.encode("utf-16")[:-1]
    assert "truncated" in read_texts(tmp_path / "a.csv", cut, encoding="utf-16", id="id")
    with pytest.raises(ValidationError, match="nope: is no encoding"):
        Input(path="x", encoding="nope")


def test_a_declared_delimiter_of_excel_is_no_record(tmp_path):
    content = b"\xef\xbb\xbfsep=;\r\nid;text\r\na;one, two\r\n"
    assert read_texts(tmp_path / "a.csv", content, id="id") == ["one, two"]
    assert read_texts(tmp_path / "b.csv", content, id="id", delimiter=";") == ["one, two"]
    assert read_texts(tmp_path / "c.csv", b"text\nsep=;\n") == ["sep=;"]


JSON_FILES = {
    "an array": (json.dumps(CHATS), ["Gr\u00fc\u00dfe \u201eA\u201c", "\u20ac 5, bitte"]),
    "objects over several lines": ("\n".join(json.dumps(one, indent=2) for one in CHATS), 2),
    "an array of other things": ('[{"text": "a"}, 7, "b", null, [{"text": "c"}]]', ["a", *["not_an_object"] * 4]),
    "an empty array": ("[ ]", []),
    "one that is cut off": ('[{"text": "a"}, {"text": "b', ["a", "broken_json"]),
    "one that ends after a value": ('[{"text": "a"},', ["a", "truncated"]),
    "one broken value": ('[{"text": "a"}, {"text" "b"}, {"text": "c"}]', ["a", "broken_json"]),
    "a long one": (json.dumps([{"text": "x" * 50_000}] * 5), 5),
    "a key that is nested deeply": (f'[{{"x": {"[" * 3000 + "]" * 3000}, "text": "a"}}, {{"text": "b"}}]', ["a", "b"]),
    "a deep value without an end": (f'[{{"text": "a"}}, {{"x": {"[" * 3000}', ["a", "broken_json"]),
}


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_json_file_is_read_if_the_config_says_so(tmp_path, name):
    content, wanted = JSON_FILES[name]
    found = read_texts(tmp_path / "a.json", content.encode(), format="json")
    assert len(found) == wanted if isinstance(wanted, int) else found == wanted


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (json.dumps(CHATS, ensure_ascii=False).encode("utf-16"), ["utf16"]),
        (
            '[{"text": "äöü"}, {"text": "a"}, {"text": "é à"}, {"text": "a"}]'.encode("latin-1"),
            ["other_encoding", "a", "other_encoding", "a"],
        ),
        (b'[{"text": "\xfc"}, {"text": "a"}]', ["bad_utf8", "a"]),
        (rb'[{"text": "\ud800"}, {"text": "a"}]', ["lone_surrogate", "a"]),
    ],
)
def test_a_json_file_of_another_encoding_is_named_as_such(tmp_path, content, problems):
    assert read_texts(tmp_path / "a.json", content, format="json") == problems


def test_a_json_value_or_line_over_the_bound_is_too_long_in_any_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.read.limits.OTHER_BYTES", -30_000_000)  # with the default limits no byte is left
    array = json.dumps([{"text": "a"}, {"text": "x" * 3_000_000}])
    assert read_texts(tmp_path / "a.json", array.encode(), format="json") == ["a", "long_line"]
    assert read_texts(tmp_path / "a.jsonl", b'{"text": "a"}\n', encoding="windows-1252") == ["long_line"]


def test_a_folder_gives_its_json_files_to_the_stated_format_alone(tmp_path):
    for name in ("a.json", "b.jsonl", "c.json.gz"):
        content = json.dumps(CHATS[:1]).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = find_files(Store(), Input(path=str(tmp_path), format="json")).files
    assert [file.uri.rpartition("/")[2] for file, _ in found] == ["a.json", "c.json.gz"]
    with pytest.raises(DataError, match="set `format: json`"):
        find_files(Store(), Input(path=str(tmp_path / "a.json")))
