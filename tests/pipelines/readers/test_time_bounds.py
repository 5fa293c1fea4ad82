"""A document that its parser takes too long for is one row in quarantine; known worst cases are bounded in the code."""

import encodings.punycode
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from cluster.artifact import Artifact
from cluster.guard import Exceeded, Guard
from cluster.read.decoding import in_charset
from cluster.read.limits import Limits
from cluster.store.store import Store
from pipelines.readers import docx, mail, pdf, text_files, transcripts
from tests.support import pdf as pdf_files
from tests.support.inline import curate_inline
from tests.support.input_rows import rows_of
from tests.support.word_files import p, word

TIGHT = Limits(document_s=0.3)
PARAGRAPH = "The mill grinds raw text into a corpus, and the corpus into a model; nothing is lost on the way. " * 5

# ending -> (module and name of its guard, a file with this text)
FORMATS: dict[str, tuple[ModuleType, str, Callable[[str], bytes]]] = {
    ".html": (
        text_files,
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
    [(spins, "too_slow", r"\(over 0\.3 s\)"), (grows, "too_large", r"\(over 512 MiB of memory\)")],
    ids=["time", "memory"],
)
@pytest.mark.parametrize("ending", FORMATS)
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
    assert (slow["problem"], slow["where"]) == ("too_slow", f"{tmp_path}/a.mbox message 2 (over 0.3 s)")
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
    assert text_files._decoded(page, "text/html; charset=idna") == page


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
    assert (row["problem"], row["where"]) == ("failed_extraction", f"{tmp_path}/a.html (ValueError)")


def test_long_texts_and_links_are_no_huge_tags():
    assert not text_files.has_huge_tag(b"<p title='a b'>" + b"word " * 50_000)
    assert not text_files.has_huge_tag(b'<img src="data:image/png;base64,' + b"A" * 1_000_000 + b'">')
    assert text_files.has_huge_tag(b"<p>text<b " + b"a " * 1001 + b">")


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
@pytest.mark.parametrize("ending", [".html", ".eml"])
def test_a_document_near_its_bound_is_the_same_in_both_readings(tmp_path, monkeypatch, ending, first_s):
    """One that takes 5 s and then none stays in quarantine; one that takes none and then 0.6 s stays a document."""
    module, name, content = FORMATS[ending]
    parse, was_read = getattr(module, name)._work, tmp_path / "was_read"

    def parse_near_the_bound(document: Any) -> Any:
        found = parse(document)
        if "hostile" in repr(found):
            seconds = 0.6 - min(first_s, 0.6) if was_read.exists() else first_s
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
            "limits": {"document_s": 0.3},
            "execution": {"max_bad_documents": 0.5},
        },
        monkeypatch,
    )
    assert Artifact.load(Store(), f"{run.uri}/attributes").manifest.rows == (2 if first_s else 3)
