"""Web archives: WARC (ISO 28500), of which HTML pages are documents, and WET, which contains text. ARC: arc.py.

A page is an HTML response with status 200, or an HTML resource. Other records (requests, metadata, images, redirects,
error pages) are not documents. They are counted by kind, status or content type, so that each record of an archive is a
document, a problem or counted. Columns that can be carried or used as id: url, date (ISO 8601), record_id. Columns that
can only be carried: truncated (why the crawler cut the record: length, time, disconnect, unspecified; null of a whole
one), payload_digest (hash of the body, as the archive states it) and PAGE_COLUMNS (page_columns.py).
"""

import re
import zlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import brotli
import pyarrow as pa
import zstandard

from raymill.cluster.readers.formats.extractors import extractor_version
from raymill.cluster.readers.formats.page_columns import PAGE_COLUMNS, USED_HEADERS
from raymill.cluster.readers.formats.page_start import page_start
from raymill.cluster.readers.formats.web_pages import add_page
from raymill.cluster.readers.inputs import PAGE_START, Input, Limits, Unwanted
from raymill.cluster.readers.reader import Reader, ReaderCounts, Rows
from raymill.cluster.readers.streams import RecordWork, Span, UnreadableRest, compression_ending, stream
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

_IDS = {"url": "warc-target-uri", "date": "warc-date", "record_id": "warc-record-id"}
_COLUMNS = _IDS | {"truncated": "warc-truncated", "payload_digest": "warc-payload-digest"}
_RECORD_WORK = 4000  # bytes of text that take as long as a record without content (see RecordWork)
_MAX_HEADER_BYTES = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")
# How a page begins, for records that do not state their type: after blanks, comments and an XML declaration.
_HTML_START = re.compile(
    rb"(?is)(?:\xef\xbb\xbf)?(?>\s+|<!--.*?-->|<\?xml.*?\?>)*+<(?:!doctype\s+html|html|head|body)\b"
)
_HTML_START_BYTES = 4096
RECORD_AT = " record at byte "  # in the place of a record, between the URI and a number
_BLOCK_OF_ONE = 1 << 20  # bytes that are fetched for one record
# Records whose URLs are judged at a time, up to about these bytes of content.
_JUDGED, _JUDGED_BYTES = 256, 4 << 20
_MOST_DIGITS = 18  # of a Content-Length; Python refuses numbers of more than 4,300
_MAX_ZSTD_WINDOW = 1 << 27
_GZIP = b"\x1f\x8b"
# Bound on the gzip members or zstd frames of a body. Each copies the rest of it, and a megabyte can hold 100,000.
_MOST_MEMBERS = 1000
_MOST_ENCODINGS = 5  # of a body; each is decoded in turn, and servers use one or two

# A line end and an empty line. Some programs end lines with a line feed alone.
_BLANK_LINE = re.compile(rb"\n\r?\n")
_LINE_ENDS = re.compile(rb"[\r\n]++")
_CONTINUED = re.compile(rb"\r?\n[ \t]+")

# Values that are counted by their own name. The kinds are those of ISO 28500.
_KIND = re.compile("warcinfo|response|resource|request|metadata|revisit|conversion|continuation")
_STATUS = re.compile("[1-5][0-9]{2}")
_CONTENT_TYPE = re.compile("(text|image|audio|video|font|application)/[a-z0-9.+-]{1,40}")

Header = dict[str, str]  # names in lower case


class WarcRecord(NamedTuple):
    """A record of an archive.

    Attributes:
        where: its place, for the column `where`.
        header: None if there is no valid record at this place.
        content: its beginning if the record is not `whole`, because it is too large.
    """

    where: str
    header: Header | None
    content: bytes = b""
    whole: bool = True


class Archive(Reader):
    """Base of the formats. kinds: WARC-Type of records that may be documents. ids: columns that may be the id."""

    columns = "fixed"
    own_id = "record_id"
    kinds: tuple[str, ...]
    ids: Collection[str] = tuple(_IDS)

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """`url`, `date`, `record_id`, `truncated` and `payload_digest`, from the header of a record."""
        return tuple(_COLUMNS)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each record of the kinds; other records, and those without a document, are counted."""
        return self._read(store, span, input, limits, counts, 0, None)

    def record_at(
        self, store: Store, span: Span, start: int, input: Input, limits: Limits, counts: ReaderCounts | None = None
    ) -> pa.Table | None:
        """The row of the record that begins at this byte of the file, as `read` has it; None if it is no document.

        Reads little of the file. counts: the first of its `skipped` is why the record is no document.
        """
        return next(self._read(store, span, input, limits, counts or ReaderCounts(), start, 1), None)

    def _read(
        self,
        store: Store,
        span: Span,
        input: Input,
        limits: Limits,
        counts: ReaderCounts,
        start: int,
        most: int | None,
    ) -> Iterator[pa.Table]:
        """Tables of the records from byte `start` of the file on. most: number of records; None: all."""
        rows = Rows(input, limits, counts, places=self.leaves_out)
        source = None
        members = deque[tuple[int, int]]()
        try:
            stop = start + _BLOCK_OF_ONE if most else None
            work = RecordWork()
            with closing(stream(store, span.uri, limits, start, stop, members, work)) as blocks:
                source = ByteReader(blocks, span.uri, start, members, work)
                records = self.records(source, limits.max_document_bytes + _MAX_HEADER_BYTES, counts)
                unwanted = input.unwanted if self.leaves_out else None
                for record, is_unwanted in _judged(records, input.columns, unwanted):
                    if most and counts.records > most:
                        break
                    if rows.full:
                        yield rows.table()
                    where = record.where
                    if record.header is None:
                        rows.refuse("bad_warc_record", where)
                        continue
                    id = _value(record.header, input.id if input.id in self.ids else self.own_id) if input.id else None
                    carried = [_value(record.header, name) for name in input.columns]
                    self.add(rows, record, record.header, where, id, carried, is_unwanted)
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after byte {source.offset if source else 0}")
        if len(rows):
            yield rows.table()

    def records(self, source: "ByteReader", max_content_bytes: int, counts: ReaderCounts) -> Iterator[WarcRecord]:
        """Records of the kinds, and one without header for each place without a valid record. Counts those of others.

        max_content_bytes: of a larger record the content is cut.

        Raises:
            UnreadableRest: the last record is truncated.
        """
        return _records(source, self.kinds, max_content_bytes, counts)

    def add(
        self,
        rows: Rows,
        record: WarcRecord,
        header: Header,
        where: str,
        id: str | None,
        carried: list[str | None],
        is_unwanted: bool,
    ) -> None:
        """Add the document of a record, or its problem, to the rows. header: header of the record.

        is_unwanted: whether the text is not needed; False where the reader has not `leaves_out`.
        """
        raise NotImplementedError


class Wet(Archive):
    """Common Crawl's text extracts."""

    endings = (".wet",)
    kinds = ("conversion",)

    def add(
        self,
        rows: Rows,
        record: WarcRecord,
        header: Header,
        where: str,
        id: str | None,
        carried: list[str | None],
        is_unwanted: bool,
    ) -> None:
        """Add the content of the record, which is UTF-8 text."""
        if not record.whole:
            rows.refuse("too_large", where, id, carried)
            return
        try:
            text = record.content.decode()
        except UnicodeDecodeError:
            rows.refuse("bad_utf8", where, id, carried)
        else:
            rows.add(text, where, id, carried)


class Warc(Archive):
    """Crawled pages: the main content of HTML responses and resources."""

    endings = (".warc",)
    extracts = True
    leaves_out = True
    kinds = ("response", "resource")

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Those from the header of a record, as of Archive, and PAGE_COLUMNS."""
        return (*_COLUMNS, *PAGE_COLUMNS)

    def extraction(self, input: Input) -> list[Any]:
        """The extractor and its version."""
        return extractor_version(input.html_extractor)

    def add(
        self,
        rows: Rows,
        record: WarcRecord,
        header: Header,
        where: str,
        id: str | None,
        carried: list[str | None],
        is_unwanted: bool,
    ) -> None:
        """Add a page with its main content, or without if it is unwanted. Other records are counted as skipped."""
        kind, body = header["warc-type"].lower(), record.content
        declared = header.get("content-type", "")
        http: Header = {}
        if kind == "response" and (body.startswith(b"HTTP/") or declared.lower().startswith("application/http")):
            status, http, body = _http_response(body)
            if not status:
                rows.refuse("bad_http_response", where, id, carried)
                return
            if status != "200":
                rows.skip(f"response with status {_valid_or_other(status, _STATUS)}")
                return
            declared = http.get("content-type", "")
        elif kind == "response" and not declared:
            rows.refuse("bad_http_response", where, id, carried)
            return
        type = (declared or header.get("warc-identified-payload-type", "")).partition(";")[0].strip().lower()
        if is_unwanted and type.startswith(_HTML):
            rows.leave_out(where, id or _value(header, "url"), carried)
            return
        problem, max_bytes = None, rows.limits.max_document_bytes
        if type.startswith(_HTML) or not type:
            try:
                body = _decoded(body, http, max_bytes, cut="warc-truncated" in header)
            except _UnknownEncoding as error:
                problem, where = "unknown_encoding", f"{where} (Content-Encoding: {error})"
            except (_Cut, zlib.error, brotli.error, zstandard.ZstdError):
                problem = "bad_http_response"
            if not record.whole or len(body) > max_bytes:
                problem = "too_large"
        if not (type.startswith(_HTML) or (not type and _HTML_START.match(body[:_HTML_START_BYTES]))):
            rows.skip(f"{kind} of type {_valid_or_other(type, _CONTENT_TYPE)}")
        elif is_unwanted:
            rows.leave_out(where, id or _value(header, "url"), carried)
        elif problem:
            rows.refuse(problem, where, id, carried)
        else:
            if "warc-truncated" in header:
                rows.notes["pages end where the crawler cut them (WARC-Truncated)"] += 1
            add_page(rows, body, where, id, carried, declared, http)


class ByteReader:
    """Reads from an iterator of blocks. offset: in the content of the file.

    start, members, work: where the blocks begin, the members of a compressed file, and what its records count besides
    their bytes, as of `stream`.
    """

    def __init__(
        self,
        blocks: Iterator[bytes],
        uri: str = "",
        start: int = 0,
        members: deque[tuple[int, int]] | None = None,
        work: RecordWork | None = None,
    ) -> None:
        self._uri = uri
        self._members = deque[tuple[int, int]]() if members is None else members
        self._is_compressed = bool(compression_ending(uri))
        self._blocks = blocks
        self._work = work or RecordWork()
        self._data = bytearray()
        self._at = 0
        self.offset = 0 if self._is_compressed else start
        self._no_blank_line_before = 0  # an offset

    def place(self, offset: int) -> str:
        """The place of a record: its byte in the file, if it is the first of a member of a compressed file.

        Else the byte in the content. offset: not below those of earlier calls.
        """
        members = self._members
        while len(members) > 1 and members[1][0] <= offset:
            members.popleft()
        if not self._is_compressed:
            return f"{self._uri}{RECORD_AT}{offset}"
        if members and members[0][0] == offset:
            return f"{self._uri}{RECORD_AT}{members[0][1]}"
        return f"{self._uri}{RECORD_AT}{offset} of its content"

    def _more(self) -> bool:
        block = next(self._blocks, None)
        if block is None:
            return False
        del self._data[: self._at]
        self._data += block
        self._at = 0
        return True

    def until_blank_line(self, bound: int) -> bytes | None:
        """Read up to and with an empty line. Returns None and reads nothing if it is not within `bound` bytes."""
        while True:
            # What an earlier call has searched is not searched again, or a file of marks would be read once a mark.
            searched = max(self._no_blank_line_before - self.offset, 0)
            found = _BLANK_LINE.search(self._data, self._at + searched, self._at + bound)
            if found:
                return self._advance(found.end() - self._at)
            held = min(len(self._data) - self._at, bound)
            self._no_blank_line_before = max(self._no_blank_line_before, self.offset + held - len(b"\n\r"))
            if held == bound or not self._more():
                return None

    def until_line_end(self, bound: int) -> bytes | None:
        """Read up to and with a line feed, or to the end. Returns None and reads nothing if `bound` bytes have none."""
        while True:
            found = self._data.find(b"\n", self._at, self._at + bound)
            if found >= 0:
                return self._advance(found + 1 - self._at)
            if len(self._data) - self._at >= bound:
                return None
            if not self._more():
                return self._advance(len(self._data) - self._at)

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
        """Skip line ends. Returns whether a record follows, or anything else, which counts as one."""
        self._work.bytes += _RECORD_WORK
        while True:
            found = _LINE_ENDS.match(self._data, self._at)
            self._advance(found.end() - self._at if found else 0)
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

    def skip_to_line_with(self, pattern: "re.Pattern[bytes]", bound: int) -> None:
        """Skip whole lines, up to the first with a match of the pattern, or to the end. Called where a line begins.

        bound: bytes of a line from which on it is skipped as a whole.
        """
        while True:
            found = pattern.search(self._data, self._at)
            start = self._data.rfind(b"\n", self._at, found.start() if found else None) + 1
            self._advance(max(start - self._at, 0))
            if found:
                return
            if len(self._data) - self._at > bound:
                self.skip_to(b"\n")
            elif not self._more():
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


def _value(header: Header, column: str) -> str | None:
    """The value of a column of _COLUMNS; None for another one.

    The grammar of WARC 1.0 has <> around the URL, and some programs write them; elsewhere they are part of the value.
    """
    value = header.get(_COLUMNS.get(column, ""))
    if value and column == "url" and value[0] == "<" and value[-1] == ">":
        return value[1:-1].strip()
    return value


def _start_of(record: WarcRecord) -> str | None:
    """The beginning of the text of a page; None of a record that is no page, and of a body that is encoded."""
    if record.header is None:
        return None
    declared, body = record.header.get("content-type", ""), record.content
    if body.startswith(b"HTTP/"):
        status, http, body = _http_response(body)
        if status != "200" or "content-encoding" in http or "transfer-encoding" in http:
            return None
        declared = http.get("content-type", "")
    return page_start(body) if declared.strip().lower().startswith(_HTML) else None


def _judged(
    records: Iterator[WarcRecord], columns: Sequence[str], unwanted: Unwanted | None
) -> Iterator[tuple[WarcRecord, bool]]:
    """The records, with whether they are unwanted: judged many at a time, since a judgement of one takes as long.

    columns: the carried columns. What the iterator raises comes after the records before it.
    """
    if unwanted is None:
        yield from ((record, False) for record in records)
        return
    known = [name for name in columns if name in _COLUMNS]
    waiting: list[WarcRecord] = []

    def judged() -> Iterator[tuple[WarcRecord, bool]]:
        headers = [record.header or {} for record in waiting]
        table = {name: pa.array([_value(one, name) for one in headers], pa.string()) for name in known}
        table["where"] = pa.array([record.where for record in waiting], pa.string())
        if getattr(unwanted, "reads_page_start", False):
            table[PAGE_START] = pa.array(map(_start_of, waiting), pa.string())
        found = unwanted(pa.table(table)).tolist() if waiting else []
        yield from zip(waiting, found, strict=True)
        waiting.clear()

    held = 0
    try:
        for record in records:
            waiting.append(record)
            held += len(record.content)
            if held > _JUDGED_BYTES or len(waiting) == _JUDGED:
                yield from judged()
                held = 0
    except UnreadableRest:
        yield from judged()
        raise
    yield from judged()


def _records(
    source: ByteReader, kinds: Collection[str], max_content_bytes: int, counts: ReaderCounts
) -> Iterator[WarcRecord]:
    """Records of the kinds, and one without header for each place without a valid record. Counts those of other kinds.

    Raises:
        UnreadableRest: the last record is truncated.
    """
    while source.skip_blank_lines():
        offset = source.offset
        head = source.until_blank_line(_MAX_HEADER_BYTES)
        header = _header(head.partition(b"\n")[2]) if head is not None and head.startswith(b"WARC/") else {}
        length = header.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) <= _MOST_DIGITS):
            yield WarcRecord(source.place(offset), None)
            if head is None:
                source.take(1)
            source.skip_to(b"WARC/1.")
            continue
        size = int(length)
        found = header.get("warc-type", "").lower()
        where = source.place(offset)
        counts.records += 1
        if found in kinds:
            whole = size <= max_content_bytes
            content = source.take(size if whole else _MAX_HEADER_BYTES)
            got = len(content) if whole else len(content) + source.skip(size - len(content))
            if got == size:
                yield WarcRecord(where, header, content, whole)
        else:
            got = source.skip(size)
            if got == size:  # else it is the problem `truncated`
                counts.skipped[f"record of kind {_valid_or_other(found, _KIND)}"] += 1
        if got < size:
            raise UnreadableRest("truncated")


def _header(fields: bytes) -> Header:
    """Header from lines `Name: value`; a line that begins with a blank continues the last.

    Of equal names the first counts, but for USED_HEADERS, whose values are joined by commas, as HTTP has it.
    """
    header: Header = {}
    for line in _CONTINUED.sub(b" ", fields).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            key, text = name.decode("latin-1").strip().lower(), value.decode(errors="replace").strip()
            header[key] = f"{header[key]}, {text}" if key in USED_HEADERS and key in header else header.get(key, text)
    return header


def _http_response(content: bytes) -> tuple[str, Header, bytes]:
    """(status, header, body) of a response. The status is empty if the response cannot be parsed."""
    end = _BLANK_LINE.search(content, 0, 4 * _MAX_HEADER_BYTES)
    head, body = (content[: end.start()], content[end.end() :]) if end else (content, b"")
    line, _, fields = head.partition(b"\n")
    version, _, rest = line.partition(b" ")
    status = rest.strip().partition(b" ")[0]
    if not version.startswith(b"HTTP/") or not status.isdigit() or (end is None and status == b"200"):
        return "", {}, b""
    return status.decode(), _header(fields), body


class _UnknownEncoding(Exception):
    """A content encoding that is not supported; its message is the name."""


class _Cut(Exception):
    """A body ends before its encoding does. page: what it has."""

    def __init__(self, page: bytes) -> None:
        super().__init__("the body is cut")
        self.page = page


def _decoded(body: bytes, header: Header, bound: int, cut: bool) -> bytes:
    """The page without its transfer and content encodings, about `bound` + 1 bytes of it if it is larger.

    A body that is not encoded is returned as it is: archives often keep the header of an encoding that they removed,
    and some servers give a charset as the encoding.

    cut: whether the crawler recorded that it cut the body; the part that is there is then returned.

    Raises:
        _Cut: the body is not whole. _UnknownEncoding, zlib.error, brotli.error, zstandard.ZstdError: it is damaged.
    """
    encodings = header.get("content-encoding", "").lower().split(",")
    if len(encodings) > _MOST_ENCODINGS:
        if _HTML_START.match(body[:_HTML_START_BYTES]):
            return body
        raise _UnknownEncoding(f"{len(encodings):,} encodings")
    if "chunked" in header.get("transfer-encoding", "").lower():
        encodings.append("chunked")
    for encoding in reversed(encodings):
        try:
            body = _decompressed(body, encoding.strip(), bound)
        except _Cut as error:
            if not cut:
                raise
            body = error.page
        except (_UnknownEncoding, zlib.error, brotli.error, zstandard.ZstdError):
            if not _HTML_START.match(body[:_HTML_START_BYTES]):
                raise
    return body


def _decompressed(body: bytes, encoding: str, bound: int) -> bytes:
    """The body without one encoding."""
    match encoding:
        case "" | "identity" | "none":
            return body
        case "chunked":
            return _dechunked(body)
        case "gzip" | "x-gzip":
            return _inflated(body, 31, bound) if body.startswith(_GZIP) else body
        case "deflate":
            return _inflated(
                body, 15 if body[:1] == b"\x78" else -15, bound
            )  # a raw stream, which browsers also accept
        case "br":
            brotli_stream = brotli.Decompressor()
            page = brotli_stream.process(body, output_buffer_limit=bound + 1)
            if len(page) <= bound and not brotli_stream.is_finished():
                raise _Cut(page)
            return page
        case "zstd":
            if not body.startswith(b"\x28\xb5\x2f\xfd"):
                return body
            return _unpacked_zstd(body, bound)
        case _:
            raise _UnknownEncoding(encoding)


def _inflated(body: bytes, wbits: int, bound: int) -> bytes:
    """A gzip or deflate stream without its compression, of gzip all members; `bound` + 1 bytes if they are larger.

    Raises:
        _Cut: the stream is not whole, or has over 1,000 members. zlib.error: it is damaged.
    """
    page = b""
    for _ in range(_MOST_MEMBERS):
        stream = zlib.decompressobj(wbits)
        page += stream.decompress(body, bound + 1 - len(page))
        if len(page) > bound:
            return page
        if not stream.eof:
            raise _Cut(page)
        body = stream.unused_data
        if not body.startswith(_GZIP):
            return page
    raise _Cut(page)


def _unpacked_zstd(body: bytes, bound: int) -> bytes:
    """All frames of a zstd stream, `bound` + 1 bytes of them if they are larger.

    Raises:
        _Cut: the stream is not whole, or has over 1,000 frames. zstandard.ZstdError: it is damaged.
    """
    context = zstandard.ZstdDecompressor(max_window_size=_MAX_ZSTD_WINDOW)
    page = context.stream_reader(body, read_across_frames=True).read(bound + 1)
    frames = 0
    while len(page) <= bound and body:  # the reader ends at a cut without an error
        frame, frames = context.decompressobj(), frames + 1
        frame.decompress(body)
        if not frame.eof or frames > _MOST_MEMBERS:
            raise _Cut(page)
        body = frame.unused_data
    return page


def _dechunked(body: bytes) -> bytes:
    """The body without chunks.

    Raises:
        _Cut: the last chunk is missing.
    """
    chunks: list[bytes] = []
    at = 0
    while True:
        line = body.find(b"\r\n", at)
        digits = body[at:line].split(b";")[0].strip() if line >= 0 else b""
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            if not chunks:
                return body  # not chunked
            raise _Cut(b"".join(chunks))
        size = int(digits, 16)
        if size == 0:
            return b"".join(chunks)
        chunks.append(body[line + 2 : line + 2 + size])
        at = line + 2 + size + 2
