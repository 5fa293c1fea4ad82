"""What strangers' files do to a reader: a bad row is one problem row at its place, and its neighbours are all there."""

import bz2
import gzip
import io
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import trafilatura.main_extractor
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree, html

from cluster.engine import _cause
from cluster.errors import DataError, StorageError
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.store import Store
from pipelines.curate.dry_run import first_look
from pipelines.readers import READERS, format_of
from pipelines.readers.freeze import freeze
from pipelines.readers.inputs import Input
from pipelines.readers.reader import PROBLEMS, ReaderCounts
from pipelines.readers.text_files import PlainText, strip_tags
from pipelines.readers.units import read_unit
from tests.support.inline import curate_inline
from tests.support.pdf import pdf

SMALL = Limits(max_document_bytes=1000)
DEFAULT = Limits()
COMPRESS = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}


@pytest.fixture(scope="module", autouse=True)
def short_lines() -> Iterator[None]:
    """Other keys of a line may have 64 KiB, in place of 64 MiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.read.limits.OTHER_BYTES", 65_536)
        yield


def rows_of(path: Path, limits: Limits = DEFAULT, unit_bytes: int = 1 << 20, **settings) -> list[dict]:
    manifest = freeze(Store(), [Input(path=str(path), **settings)], unit_bytes)
    return [
        row
        for unit in manifest.units
        for table in read_unit(unit, manifest.reading, limits)
        for row in table.to_pylist()
    ]


def peak_mib_reading(
    path: Path, limits: str = "Limits()", unit_bytes: int = 1 << 20, settings: str = ""
) -> tuple[int, list[str]]:
    """(growth of the largest memory while a process of its own reads, the problems it met)."""
    code = f"""
import resource
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from cluster.read.limits import Limits
from pipelines.readers.freeze import freeze
from pipelines.readers.units import read_unit
manifest = freeze(Store(), [Input(path={str(path)!r}, {settings})], {unit_bytes})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
problems = []
for unit in manifest.units:
    for table in read_unit(unit, manifest.reading, {limits}):
        problems += table["problem"].drop_null().to_pylist()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, *problems)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    peak, *problems = done.stdout.split()
    return int(peak), problems


def texts_and_problems(rows: list[dict]) -> list[str]:
    """Each row's text, or its problem in brackets."""
    for row in rows:
        assert (row["text"] is None) == (row["problem"] is not None) == (row["where"] is not None)
        assert row["problem"] is None or row["problem"] in PROBLEMS
    return [row["text"] if row["problem"] is None else f"<{row['problem']}>" for row in rows]


DEEP = b"[" * 3000 + b"]" * 3000

# Each entry stands between two good lines.
JSON_LINES = {
    "bad UTF-8": (b'{"text": "caf\xe9"}', "<bad_utf8>"),
    "an overlong encoding": (b'{"text": "\xc0\x80"}', "<bad_utf8>"),
    "an encoded surrogate": (b'{"text": "\xed\xa0\x80"}', "<bad_utf8>"),
    "an escaped half of a surrogate pair": (rb'{"text": "\ud83d"}', "<lone_surrogate>"),
    "an escaped surrogate pair": (rb'{"text": "\ud83d\ude00"}', "\U0001f600"),
    "half a surrogate pair as id": (rb'{"text": "a", "id": "\udc00"}', "<lone_surrogate>"),
    "a line cut short": (b'{"text": "half', "<broken_json>"),
    "two objects on a line": (b'{"text": "a"} {"text": "b"}', "<broken_json>"),
    "a raw control character": (b'{"text": "a\x01b"}', "<broken_json>"),
    "a trailing comma": (b'{"text": "a",}', "<broken_json>"),
    "ten thousand open brackets": (b'{"text": ' + b"[" * 10_000, "<broken_json>"),
    "a number of ten thousand digits": (b'{"text": "a", "n": ' + b"9" * 10_000 + b"}", "<broken_json>"),
    "an array": (b'["text"]', "<not_an_object>"),
    "a bare null": (b"null", "<not_an_object>"),
    "no text": (b'{"txt": "a"}', "<missing_text>"),
    "a null text": (b'{"text": null}', "<null_text>"),
    "a number for a text": (b'{"text": 5}', "<not_a_string>"),
    "not a number": (b'{"text": NaN}', "<not_a_string>"),
    "a list of texts": (b'{"text": ["a"]}', "<not_a_string>"),
    "a text over the bound": (b'{"text": "' + b"x" * 1001 + b'"}', "<too_large>"),
    "a text at the bound": (b'{"text": "' + b"x" * 1000 + b'"}', "x" * 1000),
    "a text over the bound only in UTF-8": (('{"text": "' + "é" * 501 + '"}').encode(), "<too_large>"),
    "another key over the bound": (b'{"text": "a", "junk": "' + b"x" * 50_000 + b'"}', "a"),
    "a line over the bound": (b'{"text": "a", "junk": "' + b"x" * 100_000 + b'"}', "<long_line>"),
    "an unread key that is nested deeply": (b'{"text": "a", "x": ' + DEEP.replace(b"]", b'"]}"]', 1) + b"}", "a"),
    "a key before the text that is nested deeply": (b'{"x": {"y":' + DEEP + b'}, "text": "a" } ', "a"),
    "a text that is nested deeply": (b'{"text": ' + DEEP + b"}", "<not_a_string>"),
    "an array that is nested deeply": (DEEP, "<broken_json>"),
    "more after what is nested deeply": (b'{"x": ' + DEEP + b"} {}", "<broken_json>"),
    "a value without key, nested deeply": (b"{" + DEEP + b"}", "<broken_json>"),
    "the same key twice": (b'{"text": "a", "text": "b"}', "b"),
    "a NUL": (rb'{"text": "a\u0000b"}', "a\0b"),
    "an empty text": (b'{"text": ""}', ""),
    "a carriage return at the end": (b'{"text": "a"}\r', "a"),
    "blanks around the object": (b'  {"text": "a"}\t', "a"),
}


@pytest.mark.parametrize("name", JSON_LINES)
@pytest.mark.parametrize("ending", ["", *COMPRESS])
def test_a_bad_json_line_keeps_its_place_between_its_neighbours(tmp_path, name, ending):
    line, expected = JSON_LINES[name]
    content = b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n'
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](content) if ending else content)
    rows = rows_of(path, SMALL, id="id", columns=["n"])
    assert texts_and_problems(rows) == ["before", expected, "after"]
    assert [row["row"] for row in rows] == [0, 1, 2]
    if rows[1]["problem"]:
        assert rows[1]["where"] == (f"{path} line 2" if ending else f"{path} byte 19")


def test_a_carried_value_that_is_nested_deeply_is_its_json(tmp_path):
    deep = DEEP.decode()
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a", "n": {deep} , "id": "x"}}\n')
    (row,) = rows_of(tmp_path, id="id", columns=["n"])
    assert (row["id"], row["text"], row["n"]) == ("x", "a", deep)


def test_a_line_is_read_or_refused_whatever_its_depth(tmp_path):
    lines = [f'{{"text": "{depth}", "n": {"[" * depth + "]" * depth}}}' for depth in range(850, 1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    for row in rows_of(tmp_path, columns=["n"]):
        assert row["problem"] == "too_deep" or row["n"] == "[" * int(row["text"]) + "]" * int(row["text"])


NOT_JSON_LINES = {
    "an array in one line": (b'[{"text": "a"}, {"text": "b"}]', ["<json_array>"]),
    "an array over lines": (b'[\n{"text": "a"},\n{"text": "b"}\n]\n', ["<json_array>"] * 2 + ["b", "<json_array>"]),
    "an array that begins with its first object": (b'[{"text": "a"},\n{"text": "b"}]\n', ["<json_array>"] * 2),
    "an array after a byte-order mark and blanks": (b'\xef\xbb\xbf \n [{"text": "a"}]\n', ["<json_array>"]),
    "an array above the bound": (b'[{"text": "a", "junk": "' + b"x" * 100_000 + b'"}]', ["<json_array>"]),
    "carriage returns alone": (b'{"text": "a"}\r{"text": "b"}\r', ["<carriage_returns>"]),
    "carriage returns alone, above the bound": (b'{"text": "a"}\r' * 10_000, ["<carriage_returns>"]),
    "UTF-16": ('{"text": "a"}\n{"text": "b"}\n'.encode("utf-16"), ["<utf16>"] * 2),
    "UTF-16 without mark": ('{"text": "a"}\r\n{"text": "b"}'.encode("utf-16-le"), ["<utf16>"] * 2),
    "UTF-16, the other order": ('{"text": "a"}\n{"text": "b"}'.encode("utf-16-be"), ["<utf16>"] * 2),
    "Windows-1252": (
        '{"text": "é à"}\n{"text": "plain"}\n{"text": "ü"}\n'.encode("cp1252"),
        ["<other_encoding>", "plain", "<other_encoding>"],
    ),
    "one bad line in UTF-8": (
        '{"text": "é à ü ö ß"}\n'.encode() + b'{"text": "\xe9 \xe9 \xe9"}\n',
        ["é à ü ö ß", "<bad_utf8>"],
    ),
    "an array among objects": (b'["a"]\n{"text": "b"}\n', ["<not_an_object>", "b"]),
    "a broken line in a file with line feeds": (b'{"text": "a"}\r{\n{"text": "b"}\n', ["<broken_json>", "b"]),
}


@pytest.mark.parametrize("name", NOT_JSON_LINES)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_file_that_is_no_json_lines_as_a_whole_says_what_it_is(tmp_path, name, ending):
    content, expected = NOT_JSON_LINES[name]
    path = tmp_path / f"x.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](content) if ending else content)
    assert texts_and_problems(rows_of(path, SMALL)) == expected


def test_every_part_of_a_cut_array_says_what_the_file_is(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"[\n" + b'{"text": "a"},\n' * 100 + b"{}]")
    found = texts_and_problems(rows_of(path, SMALL, unit_bytes=200))
    assert found == ["<json_array>"] * 102


TEXT_FILES = {
    "an empty file": (b"", []),
    "a byte-order mark": (b"\xef\xbb\xbfabc", ["abc"]),
    "bad UTF-8": (b"abc\xff", ["<bad_utf8>"]),
    "UTF-16": ("abc".encode("utf-16"), ["<utf16>"]),
    "UTF-16 without mark": ("plain words".encode("utf-16-be"), ["<utf16>"]),
    "UTF-32": ("abc".encode("utf-32"), ["<utf32>"]),
    "Windows-1252": ("cafés, crèmes, “thés”".encode("cp1252"), ["<other_encoding>"]),
    "KOI8-R": ("мельница мелет сырой текст".encode("koi8-r"), ["<other_encoding>"]),
    "UTF-8 with three bad bytes": (
        "größere Bäche, Flüße\xff a \xff b \xff".encode().replace(b"\xc3\xbf", b"\xff"),
        ["<bad_utf8>"],
    ),
    "three bad bytes and a control character": (b"\x89PNG \xfe \xff \x01", ["<bad_utf8>"]),
    "CRLF": (b"a\r\nb", ["a\r\nb"]),
    "a NUL": (b"a\0b", ["a\0b"]),
    "too much": (b"x" * 1001, ["<too_large>"]),
    "a text at the bound": (b"x" * 1000, ["x" * 1000]),
    "a byte-order mark before a text at the bound": (b"\xef\xbb\xbf" + b"x" * 1000, ["x" * 1000]),
    "a byte-order mark before a text over the bound": (b"\xef\xbb\xbf" + b"x" * 1001, ["<too_large>"]),
}


@pytest.mark.parametrize("name", TEXT_FILES)
def test_a_text_file_is_one_document_or_one_problem(tmp_path, name):
    content, expected = TEXT_FILES[name]
    (tmp_path / "a.txt").write_bytes(b"neighbour")
    (tmp_path / "b.txt").write_bytes(content)
    assert texts_and_problems(rows_of(tmp_path, SMALL)) == ["neighbour", *expected]


CSV_FILES = {
    "a quoted line end": (b'id,text\n1,"a\nb"\n2,c\n', ["a\nb", "c"]),
    "CRLF": (b"id,text\r\n1,a\r\n2,b\r\n", ["a", "b"]),
    "a byte-order mark before the header": (b"\xef\xbb\xbftext,id\na,1\n", ["a"]),
    "a missing field": (b"id,text\n1\n2,b\n", ["<broken_csv>", "b"]),
    "a field too many": (b"id,text\n1,a,x\n2,b\n", ["<broken_csv>", "b"]),
    "bad UTF-8": (b"id,text\n1,\xff\n2,b\n", ["<bad_utf8>", "b"]),
    "bad UTF-8 in a column that nobody reads": (b"junk,text\n\xff,a\n2,b\n", ["a", "b"]),
    "a quote that is never closed": (b'id,text\n1,"a\n2,b\n3,c\n', ["<broken_csv>", "b", "c"]),
    "letters after a closing quote": (b'id,text\n1,"a"x\n2,b\n', ["<broken_csv>", "b"]),
    "a text over the bound": (b"id,text\n1," + b"x" * 1001 + b"\n2,b\n", ["<too_large>", "b"]),
    "a line over the bound": (b"id,text\n1," + b"x" * 100_000 + b"\n2,b\n", ["<broken_csv>", "b"]),
    "an unclosed quote before more than the bound": (
        b'id,text\n1,"a\n' + b"2,b\n" * 30_000,
        ["<broken_csv>"] + ["b"] * 30_000,
    ),
    "no line end at the end": (b"id,text\n1,a", ["a"]),
    "empty lines": (b"id,text\n\n1,a\n\n\n2,b\n", ["a", "b"]),
    "a NUL": (b"id,text\n1,a\0b\n", ["a\0b"]),
    "a header and nothing else": (b"id,text\n", []),
    "the header twice": (b"id,text\n1,a\nid,text\n2,b\n", ["a", "<repeated_header>", "b"]),
    "the header twice, with byte-order marks": (
        b"\xef\xbb\xbfid,text\n1,a\n\xef\xbb\xbfid,text\n2,text\n",
        ["a", "<repeated_header>", "text"],
    ),
    "UTF-16": ("id,text\n1,a\n2,b\n".encode("utf-16"), ["<utf16>"] * 2),
    "UTF-16 without mark": ("id,text\n1,a\n2,b".encode("utf-16-le"), ["<utf16>"] * 2),
    "UTF-16 without a line end": ("id,text,and,more".encode("utf-16-le"), ["<utf16>"]),
    "Windows-1252": ("id,text\n1,é à ü\n2,b\n".encode("cp1252"), ["<other_encoding>", "b"]),
    "carriage returns alone": (b"id,text\r1,a\r2,b\r", ["<carriage_returns>"]),
    "a header that is broken": (b'id,"text"x\n1,a\n', ["<broken_csv>", "<broken_csv>"]),
}


@pytest.mark.parametrize("name", CSV_FILES)
def test_a_bad_csv_record_never_loses_its_neighbours(tmp_path, name):
    content, expected = CSV_FILES[name]
    (tmp_path / "a.csv").write_bytes(content)
    (tmp_path / "z.csv").write_bytes(b"id,text\n9,last file\n")
    assert texts_and_problems(rows_of(tmp_path, SMALL)) == [*expected, "last file"]


def test_a_bad_csv_record_is_found_by_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a\nb"\n2\n3,"x\n4,d\n')
    rows = rows_of(path)
    assert [row["where"] for row in rows] == [None, f"{path} line 4", f"{path} line 5", None]


def test_after_a_broken_quote_the_lines_are_counted_from_its_own(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a\n2,b\n3\n4,"c\n5,d\n6\n')
    broken = [row["where"] for row in rows_of(path) if row["problem"]]
    assert broken == [f"{path} line {number}" for number in (2, 4, 5, 7)]


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("seed", range(4))
def test_a_truncated_file_gives_what_came_before_the_cut_and_one_problem(tmp_path, ending, seed):
    draw = random.Random(seed)
    lines = [f'{{"text": "{draw.getrandbits(400):x}"}}' for _ in range(5000)]
    whole = COMPRESS[ending]("\n".join(lines).encode())
    kept = int(len(whole) * draw.uniform(0.6, 0.99))
    (tmp_path / f"a.jsonl{ending}").write_bytes(whole[:kept])
    (tmp_path / "b.jsonl").write_text('{"text": "next file"}')
    found = texts_and_problems(rows_of(tmp_path))
    good = found[:-2]
    assert found[-2:] == ["<truncated>", "next file"]
    assert good == [line[10:-2] for line in lines[: len(good)]]
    # bzip2 decodes in blocks of up to 900 kB, so nothing of the last one is there.
    assert ending == ".bz2" or len(good) > 0.5 * len(lines)


def test_a_truncated_gzip_loses_no_complete_line_before_the_cut(tmp_path):
    lines = b"".join(b'{"text": "%064d"}\n' % number for number in range(1000))
    stored = gzip.compress(lines, compresslevel=0)  # stored as it is: the position of each line is known
    (tmp_path / "a.jsonl.gz").write_bytes(stored[: len(stored) // 2])
    found = texts_and_problems(rows_of(tmp_path))
    assert len(found) - 1 == (len(stored) // 2 - 15) // 77
    assert found[-1] == "<truncated>"


@pytest.mark.parametrize(
    ("ending", "content", "problem"),
    [
        (".gz", b"\x1f\x8b\x08 this is no gzip", "corrupt_compression"),
        (".gz", b"plain text under a wrong name", "not_compressed"),
        (".zst", b"plain text under a wrong name", "not_compressed"),
        (".bz2", b"plain text under a wrong name", "not_compressed"),
        (".bz2", b"BZhang wrote this", "not_compressed"),
        (".gz", zstandard.compress(b'{"text": "a"}\n'), "not_compressed"),
        (".gz", gzip.compress(b'{"text": "a"}\n', mtime=0)[:-8] + b"\0" * 8, "corrupt_compression"),
    ],
)
def test_a_file_that_is_not_what_its_ending_says_is_one_problem(tmp_path, ending, content, problem):
    (tmp_path / f"a.jsonl{ending}").write_bytes(content)
    (tmp_path / "b.jsonl").write_text('{"text": "next file"}')
    assert texts_and_problems(rows_of(tmp_path))[-2:] == [f"<{problem}>", "next file"]


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".txt"])
def test_a_compressed_file_without_the_ending_is_named(tmp_path, compression, ending):
    (tmp_path / f"a{ending}").write_bytes(COMPRESS[compression](b'{"text": "a"}\n' * 100))
    assert set(texts_and_problems(rows_of(tmp_path))) == {"<compressed>"}
    (note,) = first_look(freeze(Store(), [Input(path=str(tmp_path))], 1 << 20), DEFAULT).notes
    assert note.startswith(f"Source input: a{ending}: the file is compressed with gzip, zstd or bzip2 and its name")


def test_a_dry_run_names_files_that_cannot_be_decompressed(tmp_path):
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"text": "a"}\n')
    (tmp_path / "short.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:-12])
    notes = first_look(freeze(Store(), [Input(path=str(tmp_path))], 1 << 20), DEFAULT).notes
    assert notes == [
        "Source input: plain.jsonl.gz: the file is not compressed as its ending .gz, .zst or .bz2 says; rename it, "
        "without that ending if it is plain text.",
        "Source input: short.jsonl.gz: the file ends too early; the rest is lost.",
    ]


@pytest.mark.parametrize("ending", COMPRESS)
def test_members_one_after_the_other_are_all_read_and_padding_is_not(tmp_path, ending):
    pack = COMPRESS[ending]
    (tmp_path / f"a.jsonl{ending}").write_bytes(
        pack(b'{"text": "a"}\n{"te') + pack(b"") + pack(b'xt": "b"}\n') + b"\0" * 512
    )
    assert texts_and_problems(rows_of(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("ending", COMPRESS)
def test_rubbish_after_the_last_member_is_reported_after_the_documents(tmp_path, ending):
    (tmp_path / f"a.jsonl{ending}").write_bytes(COMPRESS[ending](b'{"text": "a"}\n') + b"rubbish" * 100)
    assert texts_and_problems(rows_of(tmp_path)) == ["a", "<corrupt_compression>"]


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("limits", [{"max_expansion_ratio": 900}, {"max_expanded_gib": 0.001}])
def test_a_bomb_is_stopped_by_ratio_and_by_size(tmp_path, ending, limits):
    bomb = COMPRESS[ending](b'{"text": "a"}\n' + b" " * 30_000_000)
    (tmp_path / f"a.jsonl{ending}").write_bytes(bomb)
    (tmp_path / "b.jsonl").write_text('{"text": "next file"}')
    found = texts_and_problems(rows_of(tmp_path, Limits(max_document_bytes=100_000, **limits)))
    assert [one for one in found if one != "<long_line>"] == ["a", "<expansion_bomb>", "next file"]


def test_a_bomb_of_gigabytes_is_left_in_little_memory(tmp_path):
    frame = zstandard.ZstdCompressor(level=3)
    data = io.BytesIO()
    with frame.stream_writer(data, closefd=False) as writer:
        for _ in range(64):
            writer.write(b"\0" * (16 << 20))
    (tmp_path / "a.jsonl.zst").write_bytes(data.getvalue() * 64)  # 64 GiB
    peak_mib, problems = peak_mib_reading(tmp_path)
    assert problems[-1] == "expansion_bomb"
    assert peak_mib < 200


def test_an_ordinary_file_that_compresses_well_is_no_bomb(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "a"}\n' * 500_000))
    assert set(texts_and_problems(rows_of(tmp_path))) == {"a"}


def test_a_line_of_three_hundred_megabytes_takes_little_memory(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(300):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "after"}')
    for unit_bytes in (1 << 30, 100_000_000):
        found = texts_and_problems(rows_of(path, Limits(max_document_bytes=1_000_000), unit_bytes))
        assert found == ["before", "<long_line>", "after"]
    assert peak_mib_reading(path, "Limits(max_document_bytes=1_000_000)", 1 << 30)[0] < 100


@settings(max_examples=40)
@given(st.binary(max_size=300), st.integers(0, 400))
@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl",
        "a.csv",
        "a.txt",
        "a.html",
        "a.warc",
        "a.pdf",
        "a.docx",
        "a.srt",
        "a.mbox",
        "a.jsonl.gz",
        "a.csv.zst",
        "a.txt.bz2",
    ],
)
def test_no_bytes_at_any_place_can_stop_the_reading(tmp_path_factory, name, rubbish, at):
    whole = b'text,id\n"{""text"": ""a""}",1\n{"text": "b", "id": 2}\n' * 5
    ending = Path(name).suffix
    content = COMPRESS[ending](whole) if ending in COMPRESS else whole
    path = tmp_path_factory.mktemp("fuzz") / name
    path.write_bytes(content[:at] + rubbish + content[at:])
    span = Span(str(path), path.stat().st_size, "", format_of(name) or "", 0, path.stat().st_size)
    for table in READERS[span.format].read(Store(), span, Input(path=str(path)), DEFAULT, ReaderCounts()):
        table.validate(full=True)
        texts_and_problems(table.to_pylist())


# ---- Parquet ----


def parquet(path: Path, column: pa.Array, **options) -> Path:
    ids = pa.array([str(number) for number in range(len(column))])
    pq.write_table(pa.table({"id": ids, "text": column}), path, **options)
    return path


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


# ---- our own mistakes ----


def test_an_error_that_no_reader_expects_names_the_file_that_was_read(tmp_path, monkeypatch):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    manifest = freeze(Store(), [Input(path=str(tmp_path))], 1 << 20)

    class Mistaken(PlainText):
        def add(self, rows, content, uri, id, carried):
            if uri.endswith("b.txt"):
                raise KeyError("row")
            super().add(rows, content, uri, id, carried)

    monkeypatch.setitem(READERS, "text", Mistaken(".txt"))
    with pytest.raises(KeyError) as caught:
        list(read_unit(manifest.units[0], manifest.reading, SMALL))
    assert _cause(caught.value).startswith(f"KeyError: 'row' while reading {tmp_path}/b.txt (test_hostile_input.py, ")


# ---- the store ----


def test_a_file_that_changed_since_the_run_began_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    manifest = freeze(Store(), [Input(path=str(path))], 1 << 20)
    path.write_text('{"text": "another"}\n')
    with pytest.raises(DataError, match=r"a\.jsonl: changed since this run began.*another output"):
        list(read_unit(manifest.units[0], manifest.reading, SMALL))


def test_a_file_that_is_gone_is_an_error_of_the_store_and_no_bad_document(tmp_path):
    path = tmp_path / "a.parquet"
    parquet(path, pa.array(["a"]))
    manifest = freeze(Store(), [Input(path=str(path))], 1 << 20)
    path.unlink()
    with pytest.raises(StorageError, match="no such file"):
        list(read_unit(manifest.units[0], manifest.reading, SMALL))


class FailingFile(io.RawIOBase):
    """A network file whose connection breaks after a while."""

    def __init__(self, path: str, bytes_left: int) -> None:
        self.file = io.BytesIO(Path(path).read_bytes())
        self.bytes_left = bytes_left

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise StorageError("the network went away")
        return data


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.csv.zst"])
def test_a_broken_connection_is_raised_and_never_taken_for_bad_data(tmp_path, monkeypatch, name):
    draw = random.Random(0)
    texts = [f"{draw.getrandbits(40_000):x}" for _ in range(300)]
    path = tmp_path / name
    if name == "a.parquet":
        parquet(path, pa.array(texts), use_dictionary=False)
    elif name == "a.csv.zst":
        path.write_bytes(zstandard.compress(("text\n" + "\n".join(texts)).encode()))
    else:
        lines = "".join(f'{{"text": "{text}"}}\n' for text in texts).encode()
        path.write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    manifest = freeze(Store(), [Input(path=str(path))], 1 << 30)
    half = path.stat().st_size // 2
    failing = lambda self, uri, stop=None: pa.PythonFile(FailingFile(uri, half), mode="r")  # noqa: E731
    monkeypatch.setattr(Store, "open_parts" if name == "a.parquet" else "open_input", failing)
    with pytest.raises(StorageError, match="the network went away"):
        list(read_unit(manifest.units[0], manifest.reading, Limits()))


def test_texts_side_by_side_are_one_after_elements_are_stripped():
    """Queries of lxml walk back over each text node, so many of them in one paragraph take the square of the time."""
    for inner in ("<b>x</b> y ", "<a>x</a>", "x<i>y<b>z</b></i>"):
        theirs, ours = (html.fromstring(f"<div><p>{inner * 1000}</p>tail <u>z</u> end</div>") for _ in range(2))
        etree.strip_tags(theirs, "b", "i", "a", "u")
        strip_tags(ours, "b", "i", "a", "u")
        assert etree.tostring(ours) == etree.tostring(theirs)
        assert len(theirs.xpath(".//text()")) >= 1000 and len(ours.xpath(".//text()")) == 2


@pytest.mark.parametrize(
    ("module", "inner"),
    [("htmlprocessing", "<b>word</b> "), ("main_extractor", "<a href=x>word</a> and more text ")],
)
def test_a_page_with_many_words_in_elements_of_their_own_is_read_in_a_moment(tmp_path, module, inner):
    """It took 18 s to a minute; no time is measured here, but who breaks it will notice."""
    (tmp_path / "a.html").write_text(f"<html><body><p>{inner * 20_000}</p></body></html>")
    (row,) = rows_of(tmp_path)
    assert len(row["text"].split()) >= 20_000
    assert getattr(trafilatura, module).strip_tags is strip_tags


def test_what_readers_leave_out_of_pages_is_counted_in_the_run(tmp_path, monkeypatch):
    prose = "".join(f"<p>Harbour {n} was built in the twelfth century and is in use today.</p>" for n in range(9))
    menu = "<nav><a href=x>Home</a> <a href=y>About</a></nav><script>var x = 1</script>"
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.html").write_text(f"<html><title>T</title><body>{menu}{prose}</body></html>")
    words = ("Alpha", "Beta", "Gamma", "Delta")
    pages = [[f"Annual report {page}", f"{word} stands here.", str(page)] for page, word in enumerate(words)]
    (tmp_path / "in" / "c.pdf").write_bytes(pdf(pages))
    inputs = [{"source": "web", "path": str(tmp_path / "in")}]
    run = curate_inline({"inputs": inputs, "output": str(tmp_path / "run")}, monkeypatch)
    (source,) = run.report["sources"]
    html_note, pdf_note = sorted(source["notes"])
    assert "outside the main content" in html_note and source["notes"][html_note] == 2 * len("HomeAbout")
    assert "running heads" in pdf_note and source["notes"][pdf_note] == 4 * (len("Annualreport") + 1 + 1)
    assert f"Source web: 18 {html_note}." in run.report["warnings"]
