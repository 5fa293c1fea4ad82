"""What strangers' files do to a reader: a bad row is one problem row at its place, and its neighbours are all there."""

import bz2
import gzip
import io
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.engine import _cause
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.frame.first_look import first_look
from raymill.cluster.readers.formats import READERS, format_of
from raymill.cluster.readers.formats.text_files import PlainText
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from tests.support.input_rows import parquet, peak_mib_reading, rows_of, texts_and_problems
from tests.support.warc_records import lz4_frame

SMALL = Limits(max_document_bytes=1000)
DEFAULT = Limits()
COMPRESS = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".lz4": lz4_frame}


@pytest.fixture(scope="module", autouse=True)
def short_lines() -> Iterator[None]:
    """Other keys of a line may have 64 KiB, in place of 64 MiB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raymill.cluster.readers.inputs.OTHER_BYTES", 65_536)
        yield


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
    "no text": (random.Random(1).randbytes(500), ["<binary>"]),
    "control characters in UTF-8": (b"\x01" * 500 + "é".encode(), ["\x01" * 500 + "é"]),
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
    "no text": (random.Random(1).randbytes(500).replace(b"\n", b"") + b"\n", ["<binary>"]),
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
        (".lz4", b"plain text under a wrong name", "not_compressed"),
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
    assert note.startswith(
        f"Source input: a{ending}: the file is compressed with gzip, zstd, bzip2 or lz4 and its name"
    )


def test_a_dry_run_names_files_that_cannot_be_decompressed(tmp_path):
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"text": "a"}\n')
    (tmp_path / "short.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:-12])
    notes = first_look(freeze(Store(), [Input(path=str(tmp_path))], 1 << 20), DEFAULT).notes
    assert notes == [
        "Source input: plain.jsonl.gz: the file is not compressed as its ending .gz, .zst, .bz2 or .lz4 says; rename "
        "it, without that ending if it is plain text.",
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
@pytest.mark.parametrize("limits", [{"max_expansion_ratio": 200}, {"max_expanded_gib": 0.001}])
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


def test_a_zstd_file_with_a_large_window_is_refused_unless_the_bound_is_raised(tmp_path):
    """`zstd --long=31`, as for dumps of forums: decompressing it takes 2 GiB."""
    parameters = zstandard.ZstdCompressionParameters(window_log=22, compression_level=1)
    pack = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(1000))
    plain = zstandard.compress(b'{"text": "small window"}\n')
    (tmp_path / "a.jsonl.zst").write_bytes(plain + pack.compress(lines) + pack.flush())
    (tmp_path / "b.jsonl").write_text('{"text": "next file"}')
    refused = rows_of(tmp_path, Limits(max_document_bytes=1000, max_block_mib=3))
    assert texts_and_problems(refused) == ["small window", "<large_block>", "next file"]
    assert len(rows_of(tmp_path, Limits(max_document_bytes=1000, max_block_mib=4))) == 1002
    assert Limits().block_bytes == 256 << 20


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
