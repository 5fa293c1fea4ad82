"""Web archives (ISO 28500): WARC, of which HTML responses with status 200 are documents, and WET, which contains text.

Other records (requests, metadata, images, redirects, error pages) are not documents. They are counted by kind, status
or content type. Columns that can be carried or used as id: url, date (ISO 8601), record_id.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pyarrow as pa

from cluster.read.compression import UnreadableRest, stream
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.reader import Reader, ReaderCounts, Rows
from pipelines.readers.text_files import add_page

_COLUMNS = {"url": "warc-target-uri", "date": "warc-date", "record_id": "warc-record-id"}
_MAX_HEADER_BYTES = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")

# Values that are counted by their own name. The kinds are those of ISO 28500.
_KIND = re.compile("warcinfo|response|resource|request|metadata|revisit|conversion|continuation")
_STATUS = re.compile("[1-5][0-9]{2}")
_CONTENT_TYPE = re.compile("(text|image|audio|video|font|application)/[a-z0-9.+-]{1,40}")

Header = dict[str, str]  # names in lower case


class WarcRecord(NamedTuple):
    """A record of an archive.

    offset: of its first byte in the decompressed file. header: None if there is no valid record at this place.
    content: None if it is too large.
    """

    offset: int
    header: Header | None
    content: bytes | None


class Archive(Reader):
    """Base of both formats. kind: the WARC-Type of documents."""

    columns = "fixed"
    own_id = "record_id"
    kind: str

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`url`, `date` and `record_id`, from the header of a record."""
        return tuple(_COLUMNS)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each record of the kind; other records, and those without a document, are counted."""
        rows = Rows(input, limits, counts)
        source = None
        try:
            with closing(stream(store, span.uri, limits)) as blocks:
                source = _ByteReader(blocks)
                for record in _records(source, self.kind, limits.max_document_bytes + _MAX_HEADER_BYTES, counts):
                    where = f"{span.uri} record at byte {record.offset}"
                    if record.header is None:
                        rows.refuse("bad_warc_record", where)
                        continue
                    id = record.header.get(_COLUMNS.get(input.id, _COLUMNS[self.own_id])) if input.id else None
                    carried = [
                        record.header.get(_COLUMNS[name]) if name in _COLUMNS else None for name in input.columns
                    ]
                    if record.content is None:
                        rows.refuse("too_large", where, id, carried)
                    else:
                        self.add(rows, record.content, limits, where, id, carried)
                    if rows.full:
                        yield rows.table()
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after byte {source.offset if source else 0}")
        if len(rows):
            yield rows.table()

    def add(
        self, rows: Rows, content: bytes, limits: Limits, where: str, id: str | None, carried: list[str | None]
    ) -> None:
        """Add the document of a record, or its problem, to the rows."""
        raise NotImplementedError


class Wet(Archive):
    """Common Crawl's text extracts."""

    endings = (".wet",)
    kind = "conversion"

    def add(
        self, rows: Rows, content: bytes, limits: Limits, where: str, id: str | None, carried: list[str | None]
    ) -> None:
        """Add the content of the record, which is UTF-8 text."""
        try:
            text = content.decode()
        except UnicodeDecodeError:
            rows.refuse("bad_utf8", where, id, carried)
        else:
            rows.add(text, where, id, carried)


class Warc(Archive):
    """Crawled pages: the main content of HTML responses."""

    endings = (".warc",)
    kind = "response"

    def add(
        self, rows: Rows, content: bytes, limits: Limits, where: str, id: str | None, carried: list[str | None]
    ) -> None:
        """Add the main content of an HTML response with status 200; count any other response as skipped."""
        head, _, body = content.partition(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        status_line = status.split(None, 2)
        if len(status_line) < 2 or not status_line[0].startswith(b"HTTP/"):
            rows.refuse("bad_http_response", where, id, carried)
            return
        header = _header(fields)
        if status_line[1] != b"200":
            rows.skip(f"response with status {_valid_or_other(status_line[1].decode('latin-1'), _STATUS)}")
            return
        content_type = header.get("content-type", "").lower()
        if not content_type.startswith(_HTML):
            rows.skip(f"response of type {_valid_or_other(content_type.partition(';')[0].strip(), _CONTENT_TYPE)}")
            return
        try:
            html = _decoded(body, header, limits.max_document_bytes)
        except (ValueError, zlib.error):
            rows.refuse("bad_http_response", where, id, carried)
            return
        if len(html) > limits.max_document_bytes:
            rows.refuse("too_large", where, id, carried)
        else:
            add_page(rows, html, where, id, carried, header["content-type"])


class _ByteReader:
    """Reads from an iterator of blocks. offset: bytes read so far."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._data = bytearray()
        self._at = 0
        self.offset = 0

    def _more(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        del self._data[: self._at]
        self._data += block
        self._at = 0
        return True

    def until(self, mark: bytes, bound: int) -> bytes | None:
        """Read up to and with the mark. Returns None and reads nothing if it is not within `bound` bytes."""
        while True:
            end = self._data.find(mark, self._at, self._at + bound)
            if end >= 0:
                return self._advance(end + len(mark) - self._at)
            if len(self._data) - self._at >= bound or not self._more():
                return None

    def take(self, size: int) -> bytes:
        """Read `size` bytes, fewer at the end."""
        while len(self._data) - self._at < size and self._more():
            pass
        return self._advance(min(size, len(self._data) - self._at))

    def skip(self, size: int) -> int:
        """Skip `size` bytes, fewer at the end. Returns their number."""
        left = size
        while left:
            piece = len(self.take(min(left, 1 << 16)))
            if not piece:
                break
            left -= piece
        return size - left

    def skip_blank_lines(self) -> bool:
        """Skip line ends. Returns whether anything follows."""
        while True:
            while self._at < len(self._data) and self._data[self._at] in b"\r\n":
                self._advance(1)
            if self._at < len(self._data):
                return True
            if not self._more():
                return False

    def skip_to(self, mark: bytes) -> None:
        """Skip everything before the mark, or to the end if there is none."""
        while True:
            found = self._data.find(mark, self._at)
            if found >= 0:
                self._advance(found - self._at)
                return
            self._advance(max(len(self._data) - self._at - len(mark) + 1, 0))
            if not self._more():
                self._advance(len(self._data) - self._at)
                return

    def _advance(self, size: int) -> bytes:
        """Return the next `size` bytes, which are in memory."""
        piece = bytes(self._data[self._at : self._at + size])
        self._at += size
        self.offset += size
        return piece


def _valid_or_other(value: str, pattern: re.Pattern[str]) -> str:
    """The value if it matches, else `(other)` or, if empty, `(none)`: bounds the number of different reasons."""
    return value if pattern.fullmatch(value) else "(none)" if not value else "(other)"


def _records(source: _ByteReader, kind: str, max_content_bytes: int, counts: ReaderCounts) -> Iterator[WarcRecord]:
    """Records of a kind, and one without header for each place without a valid record. Counts records of other kinds.

    Raises:
        UnreadableRest: the last record is truncated.
    """
    while source.skip_blank_lines():
        offset = source.offset
        head = source.until(b"\r\n\r\n", _MAX_HEADER_BYTES)
        header = _header(head.partition(b"\r\n")[2]) if head is not None and head.startswith(b"WARC/") else {}
        length = header.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            yield WarcRecord(offset, None, None)
            if head is None:
                source.take(1)
            source.skip_to(b"WARC/1.")
            continue
        size = int(length)
        found = header.get("warc-type", "").lower()
        wanted = found == kind
        if not wanted or size > max_content_bytes:
            got = source.skip(size)
            if wanted and got == size:
                yield WarcRecord(offset, header, None)
            elif not wanted:
                counts.skipped[f"record of kind {_valid_or_other(found, _KIND)}"] += 1
        else:
            content = source.take(size)
            got = len(content)
            if got == size:
                yield WarcRecord(offset, header, content)
        if got < size:
            raise UnreadableRest("truncated")


def _header(fields: bytes) -> Header:
    """Header from lines `Name: value`; a line that begins with a blank continues the last. The first of equal names."""
    header: Header = {}
    for line in fields.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            header.setdefault(name.decode("latin-1").strip().lower(), value.decode(errors="replace").strip())
    return header


def _decoded(body: bytes, header: Header, bound: int) -> bytes:
    """The page without its transfer and content encodings, at most `bound` + 1 bytes if it was compressed.

    A body that is not encoded is returned as it is: archives often keep the header of an encoding that they removed.

    Raises:
        ValueError, zlib.error: the encoding is unknown or the body damaged.
    """
    if "chunked" in header.get("transfer-encoding", "").lower():
        body = _dechunked(body)
    encoding = header.get("content-encoding", "identity").lower()
    if encoding in ("gzip", "x-gzip"):
        if not body.startswith(b"\x1f\x8b"):
            return body
        return zlib.decompressobj(wbits=31).decompress(body, bound + 1)
    if encoding == "deflate":
        wbits = 15 if body[:1] == b"\x78" else -15  # a raw stream, which browsers also accept
        return zlib.decompressobj(wbits=wbits).decompress(body, bound + 1)
    if encoding not in ("identity", ""):
        raise ValueError(f"content-encoding {encoding}")
    return body


def _dechunked(body: bytes) -> bytes:
    """The body without chunks.

    Raises:
        ValueError: a chunk has no size.
    """
    chunks: list[bytes] = []
    at = 0
    while True:
        line = body.find(b"\r\n", at)
        digits = body[at:line].split(b";")[0].strip() if line >= 0 else b""
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            if not chunks:
                return body  # not chunked
            raise ValueError("a chunk without its size")
        size = int(digits, 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
