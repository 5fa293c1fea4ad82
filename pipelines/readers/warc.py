"""Web archives (ISO 28500): WARC, whose successful HTML responses become documents, and WET, which holds text already.

Other records (requests, metadata, images, redirects, error pages) are no documents and give no row; they are counted by
their kind, status or content type. Columns to carry or to use as id: url, date (ISO 8601), record_id.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

import pyarrow as pa

from cluster.read.compression import Broken, stream
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.pages import add_page
from pipelines.readers.reader import Reader, ReaderCounts, Rows

_COLUMNS = {"url": "warc-target-uri", "date": "warc-date", "record_id": "warc-record-id"}
_MAX_HEADER_BYTES = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")

# What is counted under its own name. The kinds are those of ISO 28500.
_KIND = re.compile("warcinfo|response|resource|request|metadata|revisit|conversion|continuation")
_STATUS = re.compile("[1-5][0-9]{2}")
_CONTENT_TYPE = re.compile("(text|image|audio|video|font|application)/[a-z0-9.+-]{1,40}")

Header = dict[str, str]  # names in lower case


class Record(NamedTuple):
    """`offset`: of its first byte in the decompressed file. `header` is None where no record could be made out.

    `content` is None where it was over the bound, or of no interest.
    """

    offset: int
    header: Header | None
    content: bytes | None


class Archive(Reader):
    """Base of both; `kind` is the WARC-Type that holds the documents."""

    columns = "fixed"
    own_id = "record_id"
    kind: str

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        return tuple(_COLUMNS)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        rows = Rows(input, limits, counts)
        source = None
        try:
            with closing(stream(store, span.uri, limits)) as blocks:
                source = _Source(blocks)
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
        except Broken as broken:
            rows.refuse(broken.problem, f"{span.uri} after byte {source.offset if source else 0}")
        if len(rows):
            yield rows.table()

    def add(
        self, rows: Rows, content: bytes, limits: Limits, where: str, id: str | None, carried: list[str | None]
    ) -> None:
        raise NotImplementedError


class Wet(Archive):
    """Common Crawl's text extracts."""

    endings = (".wet",)
    kind = "conversion"

    def add(
        self, rows: Rows, content: bytes, limits: Limits, where: str, id: str | None, carried: list[str | None]
    ) -> None:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            rows.refuse("bad_utf8", where, id, carried)
        else:
            rows.add(text, where, id, carried)


class Warc(Archive):
    endings = (".warc",)
    kind = "response"

    def add(
        self, rows: Rows, content: bytes, limits: Limits, where: str, id: str | None, carried: list[str | None]
    ) -> None:
        head, _, body = content.partition(b"\r\n\r\n")
        status, _, fields = head.partition(b"\r\n")
        answer = status.split(None, 2)
        if len(answer) < 2 or not answer[0].startswith(b"HTTP/"):
            rows.refuse("bad_http_response", where, id, carried)
            return
        header = _header(fields)
        if answer[1] != b"200":
            rows.skip(f"response with status {_known(answer[1].decode('latin-1'), _STATUS)}")
            return
        content_type = header.get("content-type", "").lower()
        if not content_type.startswith(_HTML):
            rows.skip(f"response of type {_known(content_type.partition(';')[0].strip(), _CONTENT_TYPE)}")
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


class _Source:
    """Blocks of bytes as something to read from by pieces."""

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
        """The bytes before and with the mark; None, and nothing taken, if it does not come within the bound."""
        while True:
            end = self._data.find(mark, self._at, self._at + bound)
            if end >= 0:
                return self._taken(end + len(mark) - self._at)
            if len(self._data) - self._at >= bound or not self._more():
                return None

    def take(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end."""
        while len(self._data) - self._at < size and self._more():
            pass
        return self._taken(min(size, len(self._data) - self._at))

    def skip(self, size: int) -> int:
        """How many bytes could be passed over: `size`, or fewer at the end."""
        left = size
        while left:
            piece = len(self.take(min(left, 1 << 16)))
            if not piece:
                break
            left -= piece
        return size - left

    def skip_blank_lines(self) -> bool:
        """Whether anything follows."""
        while True:
            while self._at < len(self._data) and self._data[self._at] in b"\r\n":
                self._taken(1)
            if self._at < len(self._data):
                return True
            if not self._more():
                return False

    def skip_to(self, mark: bytes) -> None:
        """To the mark, which is then next, or to the end."""
        while True:
            found = self._data.find(mark, self._at)
            if found >= 0:
                self._taken(found - self._at)
                return
            self._taken(max(len(self._data) - self._at - len(mark) + 1, 0))
            if not self._more():
                self._taken(len(self._data) - self._at)
                return

    def _taken(self, size: int) -> bytes:
        piece = bytes(self._data[self._at : self._at + size])
        self._at += size
        self.offset += size
        return piece


def _known(value: str, pattern: re.Pattern[str]) -> str:
    """The value if it looks like one; what servers invent must not make up reasons without end."""
    return value if pattern.fullmatch(value) else "(none)" if not value else "(other)"


def _records(source: _Source, kind: str, max_content_bytes: int, counts: ReaderCounts) -> Iterator[Record]:
    """Records of a kind, and every place where a record should be and is not. Others are counted."""
    while source.skip_blank_lines():
        offset = source.offset
        head = source.until(b"\r\n\r\n", _MAX_HEADER_BYTES)
        header = _header(head.partition(b"\r\n")[2]) if head is not None and head.startswith(b"WARC/") else {}
        length = header.get("content-length", "")
        if not (length.isascii() and length.isdigit()):
            yield Record(offset, None, None)
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
                yield Record(offset, header, None)
            elif not wanted:
                counts.skipped[f"record of kind {_known(found, _KIND)}"] += 1
        else:
            content = source.take(size)
            got = len(content)
            if got == size:
                yield Record(offset, header, content)
        if got < size:
            raise Broken("truncated")


def _header(fields: bytes) -> Header:
    """`Name: value` lines; a line that begins with a blank continues the one before. The first of a name holds."""
    header: Header = {}
    for line in fields.replace(b"\r\n ", b" ").replace(b"\r\n\t", b" ").split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            header.setdefault(name.decode("latin-1").strip().lower(), value.decode(errors="replace").strip())
    return header


def _decoded(body: bytes, header: Header, bound: int) -> bytes:
    """The page without its transfer and content encodings; a little more than `bound` at most.

    Archives often keep the header of an encoding that they have undone, so the body has to look encoded, too.

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
        wbits = 15 if body[:1] == b"\x78" else -15  # browsers take the bare stream as well
        return zlib.decompressobj(wbits=wbits).decompress(body, bound + 1)
    if encoding not in ("identity", ""):
        raise ValueError(f"content-encoding {encoding}")
    return body


def _dechunked(body: bytes) -> bytes:
    chunks: list[bytes] = []
    at = 0
    while True:
        line = body.find(b"\r\n", at)
        digits = body[at:line].split(b";")[0].strip() if line >= 0 else b""
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            if not chunks:
                return body  # undone already
            raise ValueError("a chunk without its size")
        size = int(digits, 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
