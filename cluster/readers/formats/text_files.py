"""Formats in which a file is one document: text, Markdown and HTML, of which the main content is extracted."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa

from raymill.cluster.guard import Exceeded
from raymill.cluster.readers.formats.extractors import extractor_version
from raymill.cluster.readers.formats.page_columns import PAGE_COLUMNS
from raymill.cluster.readers.formats.web_pages import add_page
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import FilePieces, Reader, ReaderCounts, Rows, refused
from raymill.cluster.readers.streams import (
    BOM,
    Span,
    UnreadableRest,
    encoding_problem,
    stream,
    with_byte_order,
)
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store


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

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`path`, the URI of the file, and PAGE_COLUMNS."""
        return ("path", *PAGE_COLUMNS)

    def extraction(self, input: Input) -> list[Any]:
        """The extractor and its version."""
        return extractor_version(input.html_extractor)

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the main content."""
        encoding = rows.input.encoding
        add_page(rows, content.decode(encoding, "replace").encode() if encoding else content, uri, id, carried)
