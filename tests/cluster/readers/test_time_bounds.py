"""A document that its parser takes too long for is one row in quarantine; known worst cases are bounded in the code."""

import ast
import encodings.punycode
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.guard import Exceeded, Guard
from raymill.cluster.readers.formats import (
    READERS,
    delimited,
    docx,
    html_bounds,
    mail,
    pdf,
    transcripts,
    warc,
    web_pages,
)
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.reader import CONTENT_CHARACTERS
from raymill.cluster.readers.streams import RecordWork, in_charset
from raymill.cluster.store.store import Store
from tests.support import pdf as pdf_files
from tests.support.inline import curate_inline
from tests.support.input_rows import rows_of
from tests.support.sampled import sampled
from tests.support.word_files import p, word

TIGHT = Limits(document_s=1)
PARAGRAPH = "The mill grinds raw text into a corpus, and the corpus into a model; nothing is lost on the way. " * 5

# ending -> (module and name of its guard, a file with this text)
FORMATS: dict[str, tuple[ModuleType, str, Callable[[str], bytes]]] = {
    ".html": (
        web_pages,
        "_pages",
        lambda text: f"<html><body><article><p>{PARAGRAPH}{text}".encode(),
    ),
    ".docx": (docx, "_texts", lambda text: word(p(text))),
    ".pdf": (pdf, "_texts", lambda text: pdf_files.pdf([[text]])),
    ".vtt": (transcripts, "_texts", lambda text: f"WEBVTT\n\n00:01.000 --> 00:02.000\n{text}\n".encode()),
    ".eml": (mail, "_parser", lambda text: f"From: {text}@b.org\nMessage-ID: <{text}@b>\n\n{text}.\n".encode()),
}


def spins() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")


def grows() -> None:
    b"x" * (1 << 40)


@pytest.mark.parametrize(
    ("wrong", "problem", "seen"),
    [(spins, "too_slow", r"\(over 1 s\)"), (grows, "too_large", r"\(over 512 MiB of memory\)")],
    ids=["time", "memory"],
)
@pytest.mark.parametrize("ending", sampled(FORMATS, 2))
def test_a_document_beyond_its_bounds_is_one_row_and_its_neighbours_are_read(
    tmp_path, monkeypatch, ending, wrong, problem, seen
):
    module, name, content = FORMATS[ending]
    parse = getattr(module, name)._work

    def parse_or_fail(document: Any) -> Any:
        found = parse(document)
        if "hostile" in repr(found):
            wrong()
        return found

    monkeypatch.setattr(module, name, Guard(parse_or_fail))
    for file, text in (("1", "first"), ("2", "hostile"), ("3", "third")):
        (tmp_path / f"{file}{ending}").write_bytes(content(text))
    rows = rows_of(tmp_path, TIGHT)
    assert [row["problem"] for row in rows] == [None, problem, None]
    assert re.search(seen, rows[1]["where"]), rows[1]["where"]
    assert "first" in rows[0]["text"] and "third" in rows[2]["text"]


def test_a_message_beyond_its_bounds_costs_no_other_of_its_file(tmp_path, monkeypatch):
    def parse_or_spin(one: tuple[bytes, int]) -> Any:
        if b"hostile" in one[0]:
            spins()
        return parse(one)

    parse = mail._parsed
    monkeypatch.setattr(mail, "_parser", Guard(parse_or_spin))
    texts = ["first", "hostile", "third"]
    (tmp_path / "a.mbox").write_text(
        "".join(f"From a Mon Jan  1 00:00:00 2024\nFrom: a@b\nMessage-ID: <{text}@b>\n\n{text}\n\n" for text in texts)
    )
    slow, *rows = rows_of(tmp_path, TIGHT)
    assert (slow["problem"], slow["where"]) == ("too_slow", f"{tmp_path}/a.mbox message 2 (over 1 s)")
    assert [row["text"] for row in rows] == ["first", "third"]


def test_more_time_and_memory_is_given_to_larger_documents_and_when_they_are_read_again():
    limits = Limits()
    assert limits.of_parser("a", 0).seconds == 10
    assert limits.of_parser("a", 3_000_000).seconds == 40
    assert limits.of_parser("a", 1 << 20).memory == 544 << 20
    later = limits.again({"a": ("too_slow", "over 10 s")})
    assert later.of_parser("b", 3_000_000).seconds == 160
    with pytest.raises(Exceeded, match="too_slow"):
        later.of_parser("a", 0)


# ---- charsets that are codecs of Python, not charsets of a text


ENCODED = b"=?punycode?q?" + b"a-" * 20 + b"?="
MAILS = {
    "content": b"Content-Type: text/plain; charset=punycode\n\na-b",
    "content by RFC 2231": b"Content-Type: text/plain; charset*=punycode''a-b\n\na-b",
    "subject": b"Subject: " + ENCODED + b"\n\ntext",
    "attachment": b"Content-Disposition: attachment; filename*=punycode''a-b\n\ntext",
    "attachment by encoded words": b'Content-Disposition: attachment; filename="' + ENCODED + b'"\n\ntext',
}


@pytest.mark.parametrize("headers", MAILS.values(), ids=MAILS)
def test_no_header_of_a_mail_chooses_the_codec_of_punycode(monkeypatch, headers):
    def refuse(*_):
        raise AssertionError("decoded as punycode")

    monkeypatch.setattr(encodings.punycode, "punycode_decode", refuse)
    with pytest.raises(AssertionError):
        b"a-b".decode("punycode")
    assert mail._parsed((b"From: a@b.org\n" + headers, 1)).sender == "a@b.org"


def test_no_page_chooses_the_codec_of_punycode():
    page = '<meta charset="punycode">größe'.encode("latin-1")
    assert web_pages.decoded(page, "text/html; charset=idna").startswith('<meta charset="punycode">gr')


@pytest.mark.parametrize(
    "name", ["punycode", "idna", "unicode_escape", "raw-unicode-escape", "undefined", "rot13", "zip", "hex", "uu"]
)
def test_codecs_that_are_no_charset_are_unknown(name):
    with pytest.raises(LookupError):
        in_charset(b"abc-", name)


# ---- attributes of a tag: libxml2 compares each with all before it


def test_a_tag_with_thousands_of_attributes_is_not_parsed(tmp_path):
    attributes = " ".join(f"a{number}=1" for number in range(200_000))
    (tmp_path / "a.html").write_text(f"<html><body><p {attributes}>{PARAGRAPH}</p>")
    (row,) = rows_of(tmp_path)
    assert row["problem"] == "bounded_extraction"
    assert row["where"] == f"{tmp_path}/a.html (over 1,000 attributes of a tag)"


def test_long_texts_and_links_are_no_huge_tags():
    assert not html_bounds.has_huge_tag(b"<p title='a b'>" + b"word " * 50_000)
    assert not html_bounds.has_huge_tag(b'<img src="data:image/png;base64,' + b"A" * 1_000_000 + b'">')
    assert html_bounds.has_huge_tag(b"<p>text<b " + b"a " * 1001 + b">")


# ---- an attribute of 50 MB in a Word file: expat scans an unfinished tag from its beginning for each block


def scanned_bytes(monkeypatch, content: bytes, limits: Limits) -> tuple[int, str]:
    """(bytes that expat scans, as it scans again what has no end yet; the text or its problem)."""
    blocks: list[tuple[int, int]] = []

    class Counting(ElementTree.XMLParser):
        def feed(self, data: bytes) -> None:
            before = self.target.events
            super().feed(data)
            blocks.append((len(data), self.target.events - before))

    monkeypatch.setattr(docx.ElementTree, "XMLParser", Counting)
    try:
        text = docx._text((content, limits))
    except Exception as error:
        text = f"<{error}>"
    scanned = unfinished = 0
    for size, events in blocks:
        scanned += unfinished + size
        unfinished = size if events else unfinished + size
    return scanned, text


@pytest.mark.parametrize("megabytes", [1, 4])
def test_a_long_attribute_of_a_word_file_is_scanned_a_few_times(monkeypatch, megabytes):
    size = megabytes << 20
    content = word(f'<w:pict w:data="{"A" * size}"/>{p("text")}')
    scanned, text = scanned_bytes(monkeypatch, content, Limits())
    assert (scanned < 4 * size, text) == (True, "text")


def test_an_attribute_over_the_bound_of_a_text_is_too_large(monkeypatch):
    content = word(f'<w:pict w:data="{"A" * (8 << 20)}"/>{p("text")}')
    assert scanned_bytes(monkeypatch, content, Limits(max_document_bytes=1_000_000))[1] == "<too_large>"


# ---- documents are read twice, and the second reading finds what the first one found


def burn(seconds: float) -> None:
    began = time.process_time()
    while time.process_time() - began < seconds:
        pass


@pytest.mark.parametrize("first_s", [5.0, 0.0])
@pytest.mark.parametrize("ending", sampled([".html", ".eml"], 1))
def test_a_document_near_its_bound_is_the_same_in_both_readings(tmp_path, monkeypatch, ending, first_s):
    """One that takes 5 s and then none stays in quarantine; one that takes none and then 2 s stays a document."""
    module, name, content = FORMATS[ending]
    parse, was_read = getattr(module, name)._work, tmp_path / "was_read"

    def parse_near_the_bound(document: Any) -> Any:
        found = parse(document)
        if "hostile" in repr(found):
            seconds = 2.0 - min(first_s, 2.0) if was_read.exists() else first_s
            was_read.touch()
            burn(seconds)
        return found

    monkeypatch.setattr(module, name, Guard(parse_near_the_bound))
    (tmp_path / "in").mkdir()
    for file, text in (("1", "first"), ("2", "hostile"), ("3", "third")):
        (tmp_path / "in" / f"{file}{ending}").write_bytes(content(text))
    run = curate_inline(
        {
            "inputs": [{"path": str(tmp_path / "in")}],
            "output": str(tmp_path / "run"),
            "limits": {"document_s": 1},
            "execution": {"max_bad_documents": 0.5},
        },
        monkeypatch,
    )
    assert Artifact.load(Store(), f"{run.uri}/attributes").manifest.rows == (2 if first_s else 3)


# ---- files that were read again for each of their lines, marks or messages


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_a_file_in_which_every_line_opens_a_quote_is_read_a_few_times(tmp_path, monkeypatch, ending):
    read = 0

    class Counting(delimited._RecordLines):
        def __next__(self) -> str:
            nonlocal read
            read += 1
            return super().__next__()

    monkeypatch.setattr(delimited, "_RecordLines", Counting)
    line = '"' + "a" * 97
    lines = (1 << 20) // (len(line) + 1)
    (tmp_path / f"a{ending}").write_text("text\n" + f"{line}\n" * lines)
    rows = rows_of(tmp_path, unit_bytes=8 << 20)
    assert len(rows) == lines and {row["problem"] for row in rows} == {"broken_csv"}
    assert read < 10 * lines


@pytest.mark.parametrize("ending", [".warc", ".wet"])
def test_an_archive_of_marks_without_an_empty_line_is_searched_a_few_times(tmp_path, monkeypatch, ending):
    searched = 0

    class Counting:
        def search(self, data: bytearray, begin: int, end: int) -> re.Match[bytes] | None:
            nonlocal searched
            searched += max(min(end, len(data)) - begin, 0)
            return re.compile(rb"\n\r?\n").search(data, begin, end)

    monkeypatch.setattr(warc, "_BLANK_LINE", Counting())
    content = b"WARC/1.0\r\n" * 20_000
    (tmp_path / f"a{ending}").write_bytes(content)
    assert {row["problem"] for row in rows_of(tmp_path, unit_bytes=8 << 20)} == {"bad_warc_record"}
    assert searched < 4 * len(content)


def test_a_content_length_of_thousands_of_digits_is_a_bad_record(tmp_path):
    head = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: "
    (tmp_path / "a.wet").write_bytes(head + b"9" * 5000 + b"\r\n\r\nlost\r\n\r\n" + head + b"4\r\n\r\nkept\r\n\r\n")
    first, second = rows_of(tmp_path)
    assert (first["problem"], second["text"]) == ("bad_warc_record", "kept")


def test_of_a_message_over_the_bound_no_empty_lines_are_held(tmp_path):
    """All lines that are held were counted again at each line."""
    content = b"From a Mon Jan  1 00:00:00 2024\nFrom: a@b\n\n" + b"x" * 2000 + b"\n" * 50_000
    (piece,) = mail._pieces([content], 1000, RecordWork())
    assert not piece.is_whole and len(piece.held) <= CONTENT_CHARACTERS


# ---- the list of the readers

_TEXT = [
    "test_hostile_input.py::test_a_bomb_is_stopped_by_ratio_and_by_size",
    "test_bounds.py::test_a_document_of_exactly_the_largest_size_is_read",
]
_GUARDED = "test_time_bounds.py::test_a_document_beyond_its_bounds_is_one_row_and_its_neighbours_are_read"
_QUOTES = "test_time_bounds.py::test_a_file_in_which_every_line_opens_a_quote_is_read_a_few_times"
_MARKS = "test_time_bounds.py::test_an_archive_of_marks_without_an_empty_line_is_searched_a_few_times"
_JSON = [
    "test_hostile_input.py::test_a_line_is_read_or_refused_whatever_its_depth",
    "test_hostile_input.py::test_a_line_of_three_hundred_megabytes_takes_little_memory",
]
_PARQUET = [
    "test_hostile_parquet.py::test_a_parquet_bomb_of_repeated_values_is_stopped_while_it_is_read",
    "test_hostile_parquet.py::test_a_page_over_the_bound_is_refused_before_it_is_decompressed",
]
# Format -> the tests of its worst cases.
WORST_CASES = {
    "parquet": _PARQUET,
    "jsonl": _JSON,
    "json": [
        "test_stated_formats.py::test_a_json_value_or_line_over_the_bound_is_too_long_in_any_encoding",
        "test_records.py::test_a_broken_value_ends_the_reading_there_without_reading_on",
    ],
    "csv": [_QUOTES],
    "tsv": [_QUOTES],
    "text": _TEXT,
    "markdown": _TEXT,
    "html": [
        _GUARDED,
        "test_time_bounds.py::test_a_tag_with_thousands_of_attributes_is_not_parsed",
        "test_web_pages.py::test_a_page_with_many_words_in_elements_of_their_own_is_read_in_a_moment",
    ],
    "pdf": [_GUARDED],
    "docx": [
        _GUARDED,
        "test_time_bounds.py::test_a_long_attribute_of_a_word_file_is_scanned_a_few_times",
        "test_documents.py::test_a_word_file_that_expands_too_far_is_left_unread",
    ],
    "transcript": [_GUARDED],
    "mail": [
        _GUARDED,
        "test_time_bounds.py::test_no_header_of_a_mail_chooses_the_codec_of_punycode",
        "test_time_bounds.py::test_of_a_message_over_the_bound_no_empty_lines_are_held",
    ],
    "warc": [_MARKS],
    "arc": ["test_archives.py::test_damage_in_arc_costs_no_other_record"],
    "wet": [_MARKS, "test_time_bounds.py::test_a_content_length_of_thousands_of_digits_is_a_bad_record"],
    "hf": [
        "test_hostile_arrow.py::test_a_record_batch_over_the_bound_is_refused_before_it_is_decompressed",
        "test_hostile_arrow.py::test_values_that_repeat_are_decoded_a_few_at_a_time",
    ],
    "fetched": [*_PARQUET, *_JSON],  # Parquet of JSON objects
}


def test_every_reader_has_tests_of_its_worst_cases():
    assert WORST_CASES.keys() == READERS.keys()
    for test in {test for tests in WORST_CASES.values() for test in tests}:
        file, _, name = test.partition("::")
        functions = ast.parse((Path(__file__).parent / file).read_text()).body
        assert name in {one.name for one in functions if isinstance(one, ast.FunctionDef)}, test
