"""The bounds of reading: each at its value, just below it and just above it."""

import bz2
import gzip

import pytest
import zstandard

from raymill.cluster.errors import DataError
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.text_files import OneDocument
from raymill.cluster.readers.inputs import OTHER_BYTES, Input, Limits
from raymill.cluster.readers.reader import ReaderCounts
from raymill.cluster.readers.streams import (
    Span,
    UnreadableRest,
    compression_ending,
    compression_of,
    encoding_problem,
    expanded_size,
    json_array_problem,
    line_end_problem,
    lines,
    refuse_changed,
    stream,
)
from raymill.cluster.store.store import Store
from tests.support.sampled import sampled
from tests.support.warc_records import COMPRESS, lz4_frame

LIMITS = Limits(max_document_bytes=1000, max_expansion_ratio=2000, max_expanded_gib=0.01)
HARMLESS = 4 * 1000 + 2**20
LARGEST = int(0.01 * 2**30)


@pytest.mark.parametrize(
    ("expanded", "compressed", "is_bomb"),
    [
        (HARMLESS, 1, False),
        (HARMLESS + 1, 1, True),
        (HARMLESS + 1, 0, True),
        (2_000_000, 1000, False),
        (2_000_001, 1000, True),
        (LARGEST, LARGEST, False),
        (LARGEST + 1, LARGEST, True),
    ],
)
def test_a_file_is_a_bomb_beyond_the_ratio_or_the_size_and_never_while_small(expanded, compressed, is_bomb):
    assert LIMITS.is_bomb(expanded, compressed) is is_bomb


@pytest.mark.parametrize(
    ("work", "compressed", "is_bomb"),
    [(64 << 20, 1, False), ((64 << 20) + 1, 1, True), (10**9 - 1, 10**6 // 2, False), (10**9, 10**6 // 2, True)],
)
def test_what_records_take_besides_their_bytes_counts_in_the_ratio_and_not_in_the_size(work, compressed, is_bomb):
    assert LIMITS.is_bomb(1, compressed, work) is is_bomb


# The least record, where what is no record costs less, and one that is read.
SMALLEST = {
    "jsonl": [b"\n", b"{}\n", b"1\n"],
    "json": [b"1 ", b"{},"],
    "csv": [b"\n", b"a\n", b'"\n'],
    "tsv": [b"\n", b"a\n"],
    "mail": [b"x\n", b"From x\nA:\n\n"],
    "warc": [b"WARC/1.\n\n", b"WARC/1.0\nContent-Length:0\n\n"],
    "wet": [b"WARC/1.\n\n", b"WARC/1.0\nContent-Length:0\n\n"],
    "arc": [b"x\nhttp://x/ 192.0.2.1 20090102030405 text/html 0\n"],
}


@pytest.mark.parametrize(
    ("format", "record", "ending"),
    sampled(
        [
            (name, one, ending)
            for name in SMALLEST
            for one in SMALLEST[name]
            for ending in (".gz", ".zst", ".bz2", ".lz4")
        ],
        20,
    ),
)
def test_empty_records_of_a_small_compressed_file_are_a_bomb_as_many_bytes_are(
    tmp_path, monkeypatch, format, record, ending
):
    monkeypatch.setattr("raymill.cluster.readers.inputs._FREE_WORK_BYTES", 1 << 20)
    start = b"[" if format == "json" and record.endswith(b",") else b""
    (tmp_path / f"a{ending}").write_bytes(COMPRESS[ending](start + record * (1_000_000 // len(record))))
    uri = str(tmp_path / f"a{ending}")
    rows = READERS[format].read(
        Store(), Span(uri, 1, "", format, 0, 1), Input(path=uri, format=format), LIMITS, ReaderCounts()
    )
    assert [row["problem"] for table in rows for row in table.to_pylist()][-1] == "expansion_bomb"


def test_every_format_with_records_that_may_be_compressed_has_its_least_record_above():
    others = {name for name, reader in READERS.items() if not reader.compressible or isinstance(reader, OneDocument)}
    assert set(READERS) == SMALLEST.keys() | others


def test_a_line_may_hold_the_longest_document_with_every_character_escaped():
    assert LIMITS.max_line_bytes == OTHER_BYTES + 3 * 1000 and len('{"text": ""}') < OTHER_BYTES < 100 << 20


@pytest.mark.parametrize(
    ("name", "ending", "size"),
    [("a.jsonl", "", 1000), ("a.jsonl.GZ", ".gz", 3000), ("s3://b/a.zst", ".zst", 3500), ("a.BZ2", ".bz2", 4000),
     ("a.warc.lz4", ".lz4", 2500),
     ("gz", "", 1000), ("a.gz/b.txt", "", 1000)],
)  # fmt: skip
def test_the_ending_tells_the_compression_and_with_it_the_estimated_size(name, ending, size):
    assert (compression_ending(name), expanded_size(1000, name)) == (ending, size)


@pytest.mark.parametrize(
    ("head", "ending"),
    [(b"\x1f\x8b", ".gz"), (b"\x1f", ""), (b"\x28\xb5\x2f\xfd", ".zst"), (b"\x28\xb5\x2f", ""), (b"", ""),
     (b"BZh91AY&SY", ".bz2"), (b"\x04\x22\x4d\x18", ".lz4"), (b"\x5d\x2a\x4d\x18", ".zst"), 
     (b"BZh91AY&S", ""), (b"BZh9 plain text", ""), (b" \x1f\x8b", "")],
)  # fmt: skip
def test_the_first_bytes_tell_the_compression(head, ending):
    assert compression_of(head) == ending
    assert encoding_problem(head) == ("compressed" if ending else None)


def spaced(nuls: int, length: int, at: int) -> bytes:
    """`length` bytes, of which the first `nuls` at even (0) or odd (1) places are NUL."""
    return bytes(0 if place % 2 == at and place // 2 < nuls else ord("a") for place in range(length))


def mixed(many: int, few: int, length: int = 200) -> bytes:
    return bytes(a & b for a, b in zip(spaced(many, length, 0), spaced(few, length, 1), strict=True))


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (spaced(4, 8, 0), "utf16"),
        (spaced(4, 8, 1), "utf16"),
        (spaced(3, 6, 0), None),  # three NULs are too few
        (spaced(30, 200, 1), None),
        (spaced(31, 200, 1), "utf16"),  # over 0.3 of these bytes
        (mixed(60, 5), "utf16"),
        (mixed(60, 6), None),  # over 0.05 of the others: binary
        (b"a" * 4096 + spaced(100, 200, 0), None),  # only the beginning counts
        (b"a" * 3896 + spaced(100, 200, 0), None),
        ("\ufeffab".encode("utf-16-le"), "utf16"),
        ("\ufeffab".encode("utf-16-be"), "utf16"),
        ("\ufeffab".encode("utf-32-le"), "utf32"),
        ("\ufeffab".encode("utf-32-be"), "utf32"),
    ],
)
def test_a_file_of_wide_characters_is_known_by_its_mark_or_its_nuls(head, problem):
    assert encoding_problem(head) == problem


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (b"\xe9 \xe9 \xe9", "other_encoding"),
        (b"\xe9 \xe9", None),  # two runs are too few
        (b"\xe9\xe9\xe9", None),
        (b"\xe9 \xe9 \xe9 \xe9 \xe9" + "é".encode(), "other_encoding"),
        (b"\xe9 \xe9 \xe9 \xe9" + "é".encode(), None),  # a quarter of them is UTF-8
        (b"\xe9 \xe9 \xe9\x00", None),
        (b"\xe9 \xe9 \xe9\x08", None),
        (b"\xe9 \xe9 \xe9\x0e", None),
        (b"\xe9\t\xe9\n\xe9\r\x0b\x0c", "other_encoding"),
        ("é é é".encode(), None),
        (b"a" * 65_534 + b"\xe9 \xe9 \xe9", None),  # only the beginning counts
        (b"a" * 65_531 + b"\xe9 \xe9 \xe9", "other_encoding"),
    ],
)
def test_an_encoding_of_one_byte_is_known_by_several_runs_that_are_not_utf_8(head, problem):
    assert encoding_problem(head) == problem


@pytest.mark.parametrize(
    ("head", "problem"),
    [(b"a\rb", "carriage_returns"), (b"a\r\nb", None), (b"a\nb\rc", None), (b"a", None), (b"a\r\n", None),
     (b"a\r", None), (b"\n a\rb \n", "carriage_returns")],
)  # fmt: skip
def test_carriage_returns_alone_between_lines_are_a_problem(head, problem):
    assert line_end_problem(head) == problem


@pytest.mark.parametrize(
    ("head", "problem"),
    [(b'[{"a": 1}]', "json_array"), (b"[1]\n[2]", None), (b"[\n1]", "json_array"), (b'{"a": [1]}', None),
     (b"\xef\xbb\xbf \n[1]\n", "json_array"), (b"[" * 100_000 + b"\n", "json_array"), (b"[1,\n[2]\n]", "json_array"),
     (b'[1]\n{"a": 1}', None), (b"", None)],
)  # fmt: skip
def test_a_file_of_one_array_is_distinguished_from_lines_of_arrays(head, problem):
    assert json_array_problem(head) == problem


@pytest.mark.parametrize(
    ("size", "version", "seen"),
    [
        (0, "as it is", None),
        (0, "", None),
        (7, "as it is", r"\(1,241 bytes then, 1,234 now\)"),
        (7, "", r"\(1,241 bytes then, 1,234 now\)"),
        (0, "older", r"\(version older then, .*-.* now; the size is equal\)"),
    ],
)
def test_a_file_is_refused_if_its_size_or_its_version_changed(tmp_path, size, version, seen):
    (tmp_path / "a.txt").write_bytes(b"x" * 1234)
    now = Store().info(str(tmp_path / "a.txt"))
    span = Span(now.uri, 1234 + size, now.version if version == "as it is" else version, "txt", 0, 1234)
    if seen is None:
        refuse_changed(Store(), span)
        return
    with pytest.raises(DataError, match=rf"a\.txt: changed since this run began {seen}\. Put the old file back"):
        refuse_changed(Store(), span)


@pytest.mark.parametrize(
    ("name", "least", "below", "most"),
    [
        ("max_document_bytes", 1, 0, 2_000_000_000),
        ("max_expansion_ratio", 1.001, 1.0, None),
        ("max_expanded_gib", 0.001, 0.0, None),
        ("max_block_mib", 1, 0, 1 << 20),
        ("document_s", 0.001, 0.0, 86_400),
    ],
)
def test_a_limit_is_taken_up_to_its_bounds(name, least, below, most):
    for value in (least, most or 1e12):
        assert getattr(Limits(**{name: value}), name) == value
    for value in (below, *([most + 1] if most else [])):
        with pytest.raises(ValueError, match=name):
            Limits(**{name: value})
    assert Limits().max_expansion_ratio < 10_000 and Limits().max_expanded_gib < 1000


def test_a_byte_order_mark_is_removed_at_the_start_of_a_file_and_stays_in_later_lines():
    marked = b"\xef\xbb\xbfa"
    assert list(lines([marked + b"\n" + marked + b"\n", marked], 100)) == [(0, b"a"), (5, marked), (10, marked)]
    assert list(lines([marked], 100, offset=5)) == [(5, marked)]


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.ZstdCompressor().compress),
        (".lz4", lz4_frame),
    ],
)
def test_members_without_content_have_a_bound_where_no_tool_writes_as_many(tmp_path, ending, compress):
    path = tmp_path / f"a{ending}"
    path.write_bytes((compress(b"a") + compress(b"") * 1000) * 2)
    assert b"".join(stream(Store(), str(path), Limits())) == b"aa"
    path.write_bytes(compress(b"a") + compress(b"") * 1001)
    with pytest.raises(UnreadableRest, match="empty_members"):
        list(stream(Store(), str(path), Limits()))
