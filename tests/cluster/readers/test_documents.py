"""PDF and Word files: paragraphs come out as they were written, and a file that cannot be read has its own problem."""

import io
from pathlib import Path

import docx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter

from raymill.cluster.readers.formats.pdf import as_paragraphs
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from tests.support.pdf import pdf
from tests.support.word_files import p, word

LINES = ["Restart the router, then wait until its", "lamp is green. A lamp that blinks", "means that it updates."]


def encrypted(content: bytes, password: str, algorithm: str) -> bytes:
    writer = PdfWriter(PdfReader(io.BytesIO(content)))
    writer.encrypt(password, "owner", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def written(document: docx.document.Document) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def read(path: Path, content: bytes, limits: Limits | None = None) -> str:
    """The text of the only document, or its problem in <>."""
    path.write_bytes(content)
    manifest = freeze(Store(), [Input(path=str(path), columns=("path",))], 1 << 20)
    tables = [table for unit in manifest.units for table in read_unit(unit, manifest.reading, limits or Limits())]
    (row,) = [row for table in tables for row in table.to_pylist()]
    assert row["path"] == str(path) and (row["where"] is None) == (row["problem"] is None)
    return row["text"] if row["problem"] is None else f"<{row['problem']}>"


# ---- PDF ----


def test_the_text_of_a_pdf_is_its_paragraphs(tmp_path):
    assert (
        read(tmp_path / "a.pdf", pdf([["Routers", *LINES], ["Next page"]])) == f"Routers\n{' '.join(LINES)}\nNext page"
    )


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_a_pdf_that_opens_without_a_password_is_read_and_another_is_not(tmp_path, algorithm):
    content = pdf([["A restricted manual"]])
    assert read(tmp_path / "a.pdf", encrypted(content, "", algorithm)) == "A restricted manual"
    assert read(tmp_path / "b.pdf", encrypted(content, "secret", algorithm)) == "<encrypted>"


def test_a_pdf_that_cannot_be_read_has_its_own_problem(tmp_path):
    good = pdf([LINES] * 3)
    cyclic = good.replace(b"/Kids[4 0 R 6 0 R 8 0 R]", b"/Kids[2 0 R 2 0 R 2 0 R]")
    assert cyclic != good
    cases = {
        "no text": (pdf([[], []]), "no_text"),
        "cut": (good[: len(good) // 2], "truncated"),
        "nothing of a PDF": ("Größe".encode("utf-16"), "damaged_file"),
        "no objects": (b"%PDF-1.4\n%%EOF\n", "damaged_file"),
        "pages that contain themselves": (cyclic, "damaged_file"),
        "a stream that expands": (pdf([LINES], b" " * 80_000_000), "expansion_bomb"),
        "an update that was cut": (good + b"7 0 obj" + b"x" * 3000, "truncated"),
    }
    found = {name: read(tmp_path / "a.pdf", content) for name, (content, _) in cases.items()}
    assert found == {name: f"<{problem}>" for name, (_, problem) in cases.items()}


@pytest.mark.parametrize("write", [lambda lines: pdf([lines]), lambda lines: word("".join(map(p, lines)))])
def test_a_text_or_file_over_the_bound_is_too_large(tmp_path, write):
    path = tmp_path / ("a.pdf" if write(["x"])[:1] == b"%" else "a.docx")
    lines = ["x" * 50] * 40
    assert read(path, write(lines), Limits(max_document_bytes=4_000)).split() == lines
    assert read(path, write(lines), Limits(max_document_bytes=1_500)) == "<too_large>"
    assert read(path, write(["x"]), Limits(max_document_bytes=len(write(["x"])) // 4 - 1)) == "<too_large>"


@pytest.mark.parametrize("write", [lambda line: pdf([[line]]), lambda line: word(p(line))])
def test_a_text_may_be_as_long_as_the_bound(tmp_path, write):
    path = tmp_path / ("a.pdf" if write("x")[:1] == b"%" else "a.docx")
    assert read(path, write("x" * 2000), Limits(max_document_bytes=2000)) == "x" * 2000
    assert read(path, write("x" * 2001), Limits(max_document_bytes=2000)) == "<too_large>"


PARAGRAPHS = {
    "lines that reach the width": (
        ["The first line of a paragraph of lines that\nreach the width, as all of these do, but\nthe last one\nNew."],
        "The first line of a paragraph of lines that reach the width, as all of these do, but the last one\nNew.",
    ),
    "a hyphen": (
        ["The first line of a paragraph of four identi-\nfiers, of X-\nrays and of a well-\nKnown one."],
        "The first line of a paragraph of four identifiers, of X-\nrays and of a well-\nKnown one.",
    ),
    "items": (
        ["A line that reaches the width of this text and\n• an item that is as long as the line above it\n2. another"],
        None,
    ),
    "a colon": (["All lines of this text reach the width of it:\nsudo apt-get install"], None),
    "an empty line": (["A line that is long, of this text\n\nits end"], "A line that is long, of this text\nits end"),
    "a page in a paragraph": (
        ["A line that is long, of this text\n", "\nits end"], "A line that is long, of this text its end"
    ),
    "a page between two": (["A line that reaches the width of this text at", "Its end"], None),
    "running heads": (
        [f"Chapter {n}\nManual\n\nWords of {page}.\n\n- {n} -" for n, page in enumerate(("one", "two", "three"), 9)],
        "Words of one.\nWords of two.\nWords of three.",
    ),
    "heads of three lines": (
        [f"Head\nManual\nPart\nWords of {page}.\nStreet\nTown\n{n}" for n, page in enumerate(("one", "two", "three"))],
        "Part\nWords of one.\nStreet\nPart\nWords of two.\nStreet\nPart\nWords of three.\nStreet",
    ),
    "lines of three quarters of the usual width": (
        [f"{'a' * 60}\n{'b' * 60}\n{'c' * 45}\n{'d' * 44}\n{'e' * 45}"],
        f"{'a' * 60} {'b' * 60} {'c' * 45} {'d' * 44}\n{'e' * 45}",
    ),
    "narrow lines, as those of tables": (["ten letters\nand twenty of them\nand ten more"], None),
    "hyphens that are no breaks of words": (
        [f"{'a' * 40} of a 5-\nyear plan {'b' * 30} that is well-\nKnown {'c' * 30} and long-\n2 {'d' * 40} and on"],
        f"{'a' * 40} of a 5- year plan {'b' * 30} that is well- Known {'c' * 30} and long- 2 {'d' * 40} and on",
    ),
    "other hyphens": ([f"{'a' * 40} soft\u00ad\nly or hard\u2010\nly"], f"{'a' * 40} softly or hard\u2010\nly"),
    "options": (["A line that reaches the width of this text\n--help shows all options that it has\n-v less"], None),
    "heads of two pages": (["Head\nOne.", "Head\nTwo."], "Head\nOne.\nHead\nTwo."),
    "nothing": (["", " \n "], ""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        (["Sign here."] * 4, "Sign here."),
        (["Head\nSign here.\nFoot"] * 3, "Head\nSign here.\nFoot"),
        (["Head\nPage 1", "Head\nPage 2", "", "Head\nPage 3"], "Head"),
        (["1", "2", "3"], ""),
        (["ABC 0001", "ABC 0002", "ABC 0003"], ""),
        (["", "", ""], ""),
        (["Head\nOne."] * 2 + ["Head\nTwo."], "One.\nOne.\nTwo."),
    ],
)
def test_what_all_pages_have_is_the_text_if_nothing_else_is_there(pages, text):
    assert as_paragraphs(pages) == text


@pytest.mark.parametrize("name", PARAGRAPHS)
def test_lines_are_joined_to_paragraphs(name):
    pages, wanted = PARAGRAPHS[name]
    assert as_paragraphs(pages) == ("\n".join(pages) if wanted is None else wanted)


@given(st.lists(st.text("ab A.\n-•1", max_size=200), max_size=2))
def test_joining_lines_loses_nothing_but_spaces_and_hyphens(pages):
    def letters(text: str) -> str:
        return "".join(text.split()).replace("-", "")

    assert letters(as_paragraphs(pages)) == letters("".join(pages))


# ---- Word ----


def test_a_file_that_another_program_wrote_is_read_whole(tmp_path):
    document = docx.Document()
    document.add_heading("Refunds", 1)
    document.add_paragraph("Within 14 days, ").add_run("without a reason").bold = True
    document.add_paragraph("Größe, 漢字, \U0001f600", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip(table._cells, ["Days", "Share", "14\nor fewer", "100%"], strict=True):
        cell.text = text
    document.add_paragraph("One\tand\nanother.")
    document.sections[0].header.paragraphs[0].text = "Head of each page"
    assert read(tmp_path / "a.docx", written(document)) == (
        "Refunds\nWithin 14 days, without a reason\nGröße, 漢字, \U0001f600\n"
        "Days\tShare\n14 or fewer\t100%\nOne\tand\nanother."
    )


BODIES = {
    "runs": ("<w:p><w:r><w:t>One </w:t></w:r><w:r><w:t>two</w:t></w:r></w:p>", "One two"),
    "a content control": (f"<w:sdt><w:sdtContent>{p('a')}</w:sdtContent></w:sdt>{p('b')}", "a\nb"),
    "an insertion": ("<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins></w:p>", "new"),
    "a deletion": ("<w:p><w:del><w:r><w:delText>old</w:delText></w:r></w:del><w:r><w:t>a</w:t></w:r></w:p>", "a"),
    "a field": ("<w:p><w:r><w:instrText>PAGE</w:instrText></w:r><w:r><w:t>7</w:t></w:r></w:p>", "7"),
    "a text box": (f"<w:p><w:r><w:t>out</w:t><w:txbxContent>{p('in')}</w:txbxContent></w:r></w:p>", "in\nout"),
    "a fallback": (f"{p('a')}<mc:Fallback>{p('a')}</mc:Fallback>", "a"),
    "text after fallbacks": (
        f"<mc:Fallback>{p('x')}<mc:Fallback>{p('x')}</mc:Fallback>{p('x')}</mc:Fallback>{p('a')}<mc:Fallback/>{p('b')}",
        "a\nb",
    ),
    "signs that are elements": (
        "<w:p><w:r><w:t>a</w:t><w:noBreakHyphen/><w:t>b</w:t><w:cr/><w:t>c</w:t><w:tab/><w:t>d</w:t></w:r></w:p>",
        "a-b\nc\td",
    ),
    "empty cells": (
        f"<w:tbl><w:tr><w:tc>{p('a')}</w:tc><w:tc/><w:tc>{p('b ')}</w:tc><w:tc/></w:tr>"
        f"<w:tr><w:tc/><w:tc>{p('c')}</w:tc></w:tr><w:tr><w:tc/></w:tr></w:tbl>",
        "a\t\tb\n\tc",
    ),
    "spaces between tags": ("<w:p>\n <w:r>\n  <w:t>a</w:t>\n </w:r> x </w:p>\n", "a"),
    "a table in a cell": (
        f"<w:tbl><w:tr><w:tc><w:tbl><w:tr><w:tc>{p('a')}</w:tc><w:tc>{p('b')}</w:tc></w:tr></w:tbl>{p('c')}</w:tc>"
        f"<w:tc>{p('d')}</w:tc></w:tr></w:tbl>",
        "a b c\td",
    ),
    "tags out of place": ("<w:tc><w:t>lost</w:t></w:tc><w:tr></w:tr>" + p("a"), "a"),
}  # fmt: skip


LOST = {
    "a content control": f"<w:sdt><w:sdtContent>{p('lost')}</w:sdtContent></w:sdt>",
    "a control in a line": "<w:p><w:sdt><w:sdtContent><w:r><w:t>lost</w:t></w:r></w:sdtContent></w:sdt></w:p>",
    "an insertion": "<w:p><w:ins><w:r><w:t>lost</w:t></w:r></w:ins></w:p>",
    "moved text": "<w:p><w:moveTo><w:r><w:t>lost</w:t></w:r></w:moveTo></w:p>",
}


@pytest.mark.parametrize("name", LOST)
def test_text_that_python_docx_leaves_out_is_read(tmp_path, name):
    """The reason why the reader is our own; if this fails for a newer python-docx, use that."""
    document = docx.Document()
    document.add_paragraph("kept")
    document.element.body.insert(1, docx.oxml.parse_xml(LOST[name].replace(">", f" {docx.oxml.ns.nsdecls('w')}>", 1)))
    content = written(document)
    theirs = [one.text for one in docx.Document(io.BytesIO(content)).iter_inner_content()]
    assert "kept" in theirs and "lost" not in theirs
    assert read(tmp_path / "a.docx", content) == "kept\nlost"


@pytest.mark.parametrize("name", BODIES)
def test_the_body_of_a_word_file_is_its_text(tmp_path, name):
    body, wanted = BODIES[name]
    assert read(tmp_path / "a.docx", word(body)) == wanted
    assert read(tmp_path / "a.docx", word(body, namespace="http://purl.oclc.org/ooxml/wordprocessingml/main")) == wanted


def test_a_word_file_that_cannot_be_read_has_its_own_problem(tmp_path):
    good = word(p("text"))
    laughs = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 100}">' for n in range(1, 7))
    with_password = bytearray(good)
    for at in (good.index(b"PK\x03\x04") + 6, good.index(b"PK\x01\x02") + 8):
        with_password[at] |= 1
    container = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
    cases = {
        "pictures alone": (word("<w:p><w:r><w:drawing/></w:r></w:p>"), "no_text"),
        "cut": (good[:-30], "truncated"),
        "no zip": (b"rubbish", "damaged_file"),
        "another zip": (word(p("text"), name="xl/workbook.xml"), "damaged_file"),
        "broken XML": (word("<w:p>"), "damaged_file"),
        "a codec that is no encoding": (word(p("a"), head='<?xml version="1.0" encoding="zip"?>'), "damaged_file"),
        "XML that was cut": (word(p("text"), end=""), "damaged_file"),
        "damaged data": (good.replace(good[50:60], bytes(10)), "damaged_file"),
        "with a password": (container + "EncryptedPackage".encode("utf-16-le"), "encrypted"),
        "a zip with a password": (bytes(with_password), "encrypted"),
        "of Word 97": (container, "old_word_file"),
        "entities of entities": (word(p("&e6;"), head=f'<!DOCTYPE x [<!ENTITY e0 "ha">{laughs}]>'), "damaged_file"),
    }
    found = {name: read(tmp_path / "a.docx", content) for name, (content, _) in cases.items()}
    assert found == {name: f"<{problem}>" for name, (_, problem) in cases.items()}


def test_a_word_file_that_expands_too_far_is_left_unread(tmp_path):
    limits = Limits(max_document_bytes=100_000, max_expansion_ratio=100)
    blanks = word(p("a") + " " * 3_000_000)
    assert read(tmp_path / "a.docx", blanks, limits) == "<expansion_bomb>"
    assert read(tmp_path / "a.docx", blanks) == "a"
