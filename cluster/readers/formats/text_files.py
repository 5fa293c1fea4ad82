"""Formats in which a file is one document: text, Markdown and HTML, of which the main content is extracted."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import pyarrow as pa
from lxml import etree

from raymill.cluster.guard import Exceeded, Guard
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import FilePieces, Reader, ReaderCounts, Rows, refused
from raymill.cluster.readers.streams import (
    BOM,
    Span,
    UnreadableRest,
    encoding_problem,
    in_charset,
    stream,
    with_byte_order,
)
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
_MAX_ATTRIBUTES = 1000
_LEFT_OUT = "characters of HTML pages are not in the texts: outside the main content, or repeated"
_NOT_SHOWN = frozenset(("script", "style", "title", "noscript", "template", "textarea", "option"))
# Browsers decode these as Windows-1252.
_BROWSER_CHARSETS = dict.fromkeys(("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"), "cp1252")


class OneDocument(Reader):
    """Base of readers for which a file is one document, or no document if it is empty. The only column is `path`.

    A subclass implements `add`.

    bytes_per_text: how much larger than a document a file may be.
    crashed: the problem of a file on which the parser itself ends.
    """

    columns = "fixed"
    own_id = "path"
    bytes_per_text: int = 1
    crashed: str = "damaged_file"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """One piece, with one row."""
        return replace(super().cut(store, file, input), rows=1)

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`path`, the URI of the file."""
        return ("path",)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """One table with the document; without rows if the file is empty, which is counted."""
        rows = Rows(input, limits, counts)
        id = span.uri if input.id else None
        carried = [span.uri if name == "path" else None for name in input.columns]
        try:
            content = whole_file(store, span, limits, self.bytes_per_text * limits.max_document_bytes)
            if content:
                self.add(rows, content, span.uri, id, carried)
            else:
                rows.skip("empty file")
        except UnreadableRest as broken:
            rows.refuse(broken.problem, span.uri, id, carried)
        except Exceeded as exceeded:
            rows.refuse(refused(exceeded, self.crashed), f"{span.uri} ({exceeded.seen})", id, carried)
        yield rows.table()

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the document, or its problem, to the rows. content: the whole file, decompressed, never empty.

        Raises:
            UnreadableRest, Exceeded: nothing was added, and this is the problem.
        """
        raise NotImplementedError


class PlainText(OneDocument):
    """UTF-8 text without changes: prose, Markdown, reStructuredText."""

    def __init__(self, *endings: str) -> None:
        self.endings = endings

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the text without its byte order mark."""
        if encoding := rows.input.encoding:
            try:
                text = content.decode(with_byte_order(encoding, content)).removeprefix("\ufeff")
            except UnicodeDecodeError as error:
                rows.refuse("wrong_encoding", f"{uri} byte {error.start}", id, carried, content)
            else:
                self.add_text(rows, text, uri, id, carried)
            return
        try:
            text = content.removeprefix(BOM).decode()
        except UnicodeDecodeError as error:
            where = f"{uri} byte {error.start}"
            rows.refuse(self.file_problem(content) or "bad_utf8", where, id, carried, content)
            return
        if "\0" in text and (problem := self.file_problem(content)):  # ASCII text in UTF-16 is valid UTF-8 too
            rows.refuse(problem, uri, id, carried, content)
        else:
            self.add_text(rows, text, uri, id, carried)

    def add_text(self, rows: Rows, text: str, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the document. text: text of the whole file."""
        rows.add(text, uri, id, carried)

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding."""
        return encoding_problem(head)


def whole_file(store: Store, span: Span, limits: Limits, max_bytes: int) -> bytes:
    """The decompressed file.

    Raises:
        UnreadableRest: it is larger than `max_bytes`, or damaged.
    """
    blocks = []
    size = 0
    with closing(stream(store, span.uri, limits)) as content:
        for block in content:
            blocks.append(block)
            size += len(block)
            if size > max_bytes + len(BOM):
                raise UnreadableRest("too_large")
    return b"".join(blocks)


class Html(OneDocument):
    """HTML pages: their main content, without navigation, comments and advertisements."""

    endings = (".html", ".htm", ".xhtml")
    extracts = True

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the main content."""
        encoding = rows.input.encoding
        add_page(rows, content.decode(encoding, "replace").encode() if encoding else content, uri, id, carried)


def add_page(
    rows: Rows, html: bytes, where: str, id: str | None, carried: Sequence[str | None], content_type: str = ""
) -> None:
    """Add the page's main content as a document, or its problem.

    content_type: the HTTP header of the response, if there is one; its charset is tried.
    """
    _extraction()  # loaded before the child process begins, which then has it
    try:
        text, before = _pages((html, content_type), rows.limits.of_parser(where, len(html)))
    except Exceeded as exceeded:
        rows.refuse(refused(exceeded, "failed_extraction"), f"{where} ({exceeded.seen})", id, carried)
        return
    except Exception as error:
        # Parsers raise many kinds of exceptions on damaged pages, and one page must not stop the run.
        rows.refuse("failed_extraction", f"{where} ({type(error).__name__})", id, carried)
        return
    if text:
        rows.notes[_LEFT_OUT] += max(before - count_characters(text), 0)
        rows.add(text, where, id, carried)
    else:
        rows.refuse("empty_extraction", where, id, carried)


def _main_content(page: tuple[bytes, str]) -> tuple[str | None, int]:
    """(the main content, the characters that the page shows). page: its HTML, and the HTTP header of its type."""
    html, content_type = page
    if has_huge_tag(html):
        raise ValueError("a tag has too many attributes")
    load, extract = _extraction()
    tree = load(_decoded(html, content_type))
    before = (
        0
        if tree is None
        else sum(  # the characters besides white space that a page shows, its title apart
            count_characters(element.text) * (element.tag not in _NOT_SHOWN) + count_characters(element.tail)
            for element in tree.iter(etree.Element)
        )
    )
    return extract(tree, fast=True, include_comments=False), before


_pages = Guard(_main_content)


def has_huge_tag(html: bytes) -> bool:
    """Whether a tag has more than _MAX_ATTRIBUTES. libxml2 compares each attribute of a tag with all before it."""
    pieces = (piece for piece in html.split(b"<") if len(piece) > 2 * _MAX_ATTRIBUTES)
    return any(len(piece.partition(b">")[0].split()) > _MAX_ATTRIBUTES for piece in pieces)


@cache
def _extraction() -> tuple[Callable[..., Any], Callable[..., str | None]]:
    """(from a page to its tree, from a tree to its main content) of trafilatura."""
    import trafilatura.main_extractor  # imported here: it takes 0.4 s, and most runs read no HTML

    # It logs an error for every page without content, which has a row in quarantine.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    trafilatura.htmlprocessing.strip_tags = trafilatura.main_extractor.strip_tags = strip_tags
    return trafilatura.load_html, trafilatura.extract


def count_characters(text: str | None) -> int:
    """The characters besides white space."""
    return sum(map(len, text.split())) if text else 0


def strip_tags(tree: etree._Element, *names: str) -> None:
    """Replace the elements of these names by what they contain, as lxml does, and join the texts side by side.

    lxml leaves a text node for each piece. For every one, trafilatura's queries walk back over those before it, so its
    time grew with the square of the number of words in bold, of spans or links of a paragraph: a minute for 50,000.
    """
    etree.strip_tags(tree, *names)
    for element in tree.iter():
        # Reading joins the nodes side by side, writing makes them one.
        if element.text:
            element.text = element.text
        if element.tail:
            element.tail = element.tail


def _decoded(html: bytes, content_type: str) -> bytes | str:
    """The page decoded by the first charset that fits; its bytes if none does, and trafilatura then detects one.

    Tried in order: UTF-8, the charset of the HTTP header, the one that the page's first 1,024 bytes name. UTF-8 comes
    first since many servers declare ISO-8859-1 by default, and text in another charset is rarely valid UTF-8. Source:
    https://html.spec.whatwg.org/#prescan-a-byte-stream-to-determine-its-encoding
    """
    declarations = [content_type, html[:1024].decode("latin-1")]
    for charset in ["utf-8", *(match[1].lower() for match in map(_CHARSET.search, declarations) if match)]:
        try:
            return in_charset(html, _BROWSER_CHARSETS.get(charset, charset))
        except (LookupError, ValueError):
            continue
    return html
