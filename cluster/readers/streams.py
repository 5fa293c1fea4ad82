"""Input files as streams of bytes: spans, decompression, encodings, lines, and problems of a file as a whole.

Memory is bounded by a block of output however strongly a file is compressed. Everything before a defect is delivered.
gzip of many members, zstd and lz4 of many frames and bzip2 of many streams are read to the last one. A zstd file may
begin with the dictionary of its frames, as web archives do.
"""

import bz2
import codecs
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Protocol

import pyarrow as pa
import zstandard

from raymill.cluster.errors import DataError
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

# Bytes of text that take as long to read as the parsing of a line takes, even of an empty one: 1.5 microseconds.
LINE_WORK = 100
_PLAIN_BLOCK = 1 << 20
_INPUT_BLOCK = 1 << 16
_OUTPUT_BLOCK = 1 << 16
# A zstd block of 4 bytes can stand for 128 KiB, and zstd has no bound on output: 2 KiB at a time make 64 MiB at worst.
_ZSTD_SLICE = 1 << 11
# A megabyte holds 100,000 members without content, each of which costs a decoder. Tools write single ones, as an end.
_MOST_EMPTY_MEMBERS = 1000
_ZSTD = b"\x28\xb5\x2f\xfd"
_LZ4, _LZ4_BLOCK = b"\x04\x22\x4d\x18", 4 << 20
_STARTS = {b"\x1f\x8b": ".gz", _ZSTD: ".zst", b"BZh": ".bz2", _LZ4: ".lz4"}
# A frame with the dictionary of those behind it, itself compressed or not: http://iipc.github.io/warc-specifications/
# specifications/warc-zstd/
_ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
_MOST_OF_A_DICTIONARY = 64 << 20
_BZIP2_BLOCK = b"1AY&SY"  # after "BZh" and a digit: text may begin with these three letters, too

# Codecs of Python that are no charset of a text. The punycode codec takes time with the square of the length.
_NO_CHARSETS = ("punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined")

BOM = b"\xef\xbb\xbf"

# problem -> what it is, and what to do
PROBLEMS_OF_WHOLE_FILES = {
    "compressed": "the file is compressed with gzip, zstd, bzip2 or lz4 and its name lacks the ending; add .gz, .zst, "
    ".bz2 or .lz4 (`file NAME` prints which), as in x.jsonl.gz",
    "not_compressed": "the file is not compressed as its ending .gz, .zst, .bz2 or .lz4 says; rename it, without that "
    "ending if it is plain text",
    "utf16": "the file is UTF-16, and UTF-8 is wanted; convert it, as `iconv -f UTF-16 -t UTF-8` does",
    "utf32": "the file is UTF-32, and UTF-8 is wanted; convert it, as `iconv -f UTF-32 -t UTF-8` does",
    "other_encoding": "the file seems to be in an encoding of one byte a character, such as Windows-1252 or "
    "ISO-8859-1, and UTF-8 is wanted; convert it, as `iconv -f WINDOWS-1252 -t UTF-8` does",
    "binary": "the file is no text: it has many control characters, and bytes that are not UTF-8",
    "json_array": "the file is one JSON array; write one object a line, as `jq -c '.[]'` does",
    "pointer": "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository",
    "carriage_returns": "lines end in carriage returns alone; make them line feeds, as `tr '\\r' '\\n'` does",
}

_BLOCKS_DECOMPRESSED = 16  # 1 MiB
_WIDE_LOOKED_AT = 1 << 12
_ENCODING_LOOKED_AT = 1 << 16

# Byte-order marks. UTF-32 comes first because its little-endian mark begins with UTF-16's.
_MARKS = {b"\xff\xfe\0\0": "utf32", b"\0\0\xfe\xff": "utf32", b"\xff\xfe": "utf16", b"\xfe\xff": "utf16"}

_ESCAPED = re.compile("[\udc80-\udcff]+")  # how `surrogateescape` decodes bytes that are not UTF-8
_CONTROL = re.compile("[\0-\x08\x0e-\x1f]")
_CONTROL_BYTES = bytes([*range(9), *range(14, 32)])
_MIN_CONTROLS = 8
_MIN_RUNS = 3
_MIN_NULS = 4


@dataclass(frozen=True, slots=True)
class Span:
    """Part of a file as it was when the run began.

    size, version: size and version of the whole file (see FileInfo). An empty version is not compared.
    start, end: bytes of text formats, where a line belongs to the span in which it begins; for Parquet, row groups in
    curation and rows in packing. Compressed files have one span.
    """

    uri: str
    size: int
    version: str
    format: str
    start: int
    end: int
    rows: tuple[int, int] | None = None  # for Parquet in curation: rows [first, end) of the one row group; None: all


def refuse_changed(store: Store, span: Span) -> FileInfo:
    """Compare the file with the one that the run began with, and return it as it is now.

    Raises:
        DataError: its size or version is another one.
    """
    now = store.info(span.uri)
    if now.size == span.size and span.version in ("", now.version):
        return now
    seen = (
        f"{span.size:,} bytes then, {now.size:,} now"
        if now.size != span.size
        else f"version {span.version} then, {now.version} now; the size is equal"
    )
    raise DataError(
        f"{span.uri}: changed since this run began ({seen}). Put the old file back, or run the same command with "
        "another output or with --replace, to read it as it is now."
    )


class UnreadableRest(Exception):
    """The rest of a file cannot be read; what came before was delivered.

    problem: not_compressed, corrupt_compression, empty_members, expansion_bomb, large_block or truncated;
    readers have further ones.
    detail: a sentence about this file; empty if the problem says all.
    """

    def __init__(self, problem: str, detail: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.detail = detail


@dataclass(slots=True)
class RecordWork:
    """The time that the records of a file take besides their bytes, as the number of bytes that take as long.

    A compressed file can hold a thousand empty records in a byte, each of which costs a reader some microseconds. A
    reader of records adds to it, and `stream` counts it in the ratio of expansion.
    """

    bytes: int = 0


def compression_of(head: bytes) -> str:
    """.gz, .zst, .bz2 or .lz4 by the first bytes of a file; else nothing."""
    if head.startswith(b"BZh") and head[4:10] != _BZIP2_BLOCK:
        return ""
    if head.startswith(_ZSTD_DICTIONARY):
        return ".zst"
    return next((ending for start, ending in _STARTS.items() if head.startswith(start)), "")


def compression_ending(uri: str) -> str:
    """One of COMPRESSED, or nothing."""
    ending = PurePosixPath(uri).suffix.lower()
    return ending if ending in COMPRESSED else ""


def expanded_size(size: int, uri: str) -> int:
    """Estimate of the decompressed bytes: typical ratios of web text at each tool's default level."""
    return int(size * {".gz": 3, ".zst": 3.5, ".bz2": 4, ".lz4": 2.5}.get(compression_ending(uri), 1))


def stream(
    store: Store,
    uri: str,
    limits: Limits,
    start: int = 0,
    stop: int | None = None,
    members: deque[tuple[int, int]] | None = None,
    work: RecordWork | None = None,
) -> Generator[bytes, None, None]:
    """The decompressed content of the file from byte `start`, of a compressed file where a member or frame begins.

    Args:
        stop: about where reading ends, beyond which nothing is fetched ahead.
        members: receives (offset in the content from `start` on, offset in the file) of each member or frame of a
            compressed file, before its content.
        work: what the records read so far count besides their bytes.

    Raises:
        UnreadableRest: the file is damaged, ends too early or exceeds the limits on expansion.
        StorageError: the store failed.
    """
    ending = compression_ending(uri)
    work = work or RecordWork()
    with store.open_input(uri, None if ending and not start else stop) as file:
        if not ending:
            file.seek(start)
            while block := file.read(_PLAIN_BLOCK):
                yield block
            return
        decoders = _zstd_decoders(file, limits) if ending == ".zst" else _DECODERS.get(ending)
        if start:
            file.seek(start)
        if decoders is None:
            yield from _unpacked_lz4(file, limits, members, work)
            return
        decoder = decoders(limits)
        inside = False  # between the start and the end of a member
        expanded_bytes = before_member = empty_members = 0
        compressed_bytes = skipped = file.tell()
        while data := file.read(_INPUT_BLOCK):
            compressed_bytes += len(data)
            while data or (inside and not decoder.needs_input):
                if not inside and members is not None:
                    members.append((expanded_bytes, compressed_bytes - len(data)))
                try:
                    block = decoder.decompress(data, _OUTPUT_BLOCK)
                except (zlib.error, zstandard.ZstdError, OSError, EOFError, ValueError) as error:
                    if "too much memory" in str(error):  # the window of a zstd frame
                        raise UnreadableRest("large_block") from error
                    is_first = not expanded_bytes and not skipped and compressed_bytes == len(data)
                    is_other = is_first and compression_of(data) != ending
                    raise UnreadableRest("not_compressed" if is_other else "corrupt_compression") from error
                inside, data = True, b""
                expanded_bytes += len(block)
                if limits.is_bomb(expanded_bytes, compressed_bytes, work.bytes):
                    raise UnreadableRest("expansion_bomb")
                if block:
                    yield block
                if decoder.eof:
                    # Tape and disk tools pad files with zeros; anything else must be the next member.
                    data = decoder.unused_data.lstrip(b"\0")
                    decoder, inside = decoders(limits), False
                    empty_members = empty_members + 1 if expanded_bytes == before_member else 0
                    if empty_members > _MOST_EMPTY_MEMBERS:
                        raise UnreadableRest("empty_members")
                    before_member = expanded_bytes
        if inside:
            raise UnreadableRest("truncated")


def _unpacked_lz4(
    file: pa.NativeFile, limits: Limits, members: deque[tuple[int, int]] | None, work: RecordWork
) -> Iterator[bytes]:
    """The content of an LZ4 file with any number of frames. Memory: some blocks, of at most 4 MiB each.

    members, work: as of `stream`. Frames are decompressed by Arrow, each for itself, because Arrow drops what is before
    the start of a bad frame.
    """
    expanded_bytes = empty_frames = 0
    is_first = True
    while head := _after_padding(file):
        if head != _LZ4:
            raise UnreadableRest("not_compressed" if is_first else "corrupt_compression")
        is_first = False
        before_frame = expanded_bytes
        if members is not None:
            members.append((expanded_bytes, file.tell() - len(_LZ4)))
        try:
            with pa.CompressedInputStream(pa.PythonFile(_Pieces(_lz4_pieces(file)), "r"), "lz4") as frame:
                while block := frame.read(_OUTPUT_BLOCK):
                    expanded_bytes += len(block)
                    if limits.is_bomb(expanded_bytes, file.tell(), work.bytes):
                        raise UnreadableRest("expansion_bomb")
                    yield block
        except OSError as error:
            if "Truncated compressed stream" in str(error):
                raise UnreadableRest("truncated") from error
            if "LZ4" not in str(error):
                raise
            raise UnreadableRest("corrupt_compression") from error
        empty_frames = empty_frames + 1 if expanded_bytes == before_frame else 0
        if empty_frames > _MOST_EMPTY_MEMBERS:
            raise UnreadableRest("empty_members")


def _after_padding(file: pa.NativeFile) -> bytes:
    """The next four bytes of the file after zeros; fewer at the end, none if there are only zeros."""
    head = b""
    while len(head) < len(_LZ4) and (more := file.read(len(_LZ4) - len(head))):
        head = (head + more).lstrip(b"\0")
    return head


def _lz4_pieces(file: pa.NativeFile) -> Iterator[bytes]:
    """The bytes of a frame, of which the first four are read, and no byte behind it.

    Source: https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
    """
    flags = file.read(1)
    bits = flags[0] if flags else 0
    yield _LZ4 + flags + file.read(2 + 8 * bool(bits & 0x08) + 4 * bool(bits & 0x01))
    while len(size := file.read(4)) == 4 and size != bytes(4):
        block = int.from_bytes(size, "little") & 0x7FFF_FFFF
        yield size + file.read(min(block, _LZ4_BLOCK) + 4 * bool(bits & 0x10))
    yield size + file.read(4 * bool(bits & 0x04))


class _Pieces:
    """A file of the pieces, for pa.PythonFile."""

    closed = False

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._held = pieces, b""

    def read(self, size: int) -> bytes:
        while len(self._held) < size and (piece := next(self._pieces, b"")):
            self._held += piece
        found, self._held = self._held[:size], self._held[size:]
        return found

    def close(self) -> None: ...


def _zstd_decoders(file: pa.NativeFile, limits: Limits) -> "Callable[[Limits], Decoder]":
    """The decoder of each frame, with the dictionary with which the file begins; the file is then behind it.

    Raises:
        UnreadableRest: the dictionary is cut, damaged, or larger than a part of a file in memory may be.
    """
    head = file.read(8)
    if not head.startswith(_ZSTD_DICTIONARY) or len(head) < 8:
        file.seek(0)
        return _Zstd
    size, most = int.from_bytes(head[4:], "little"), min(_MOST_OF_A_DICTIONARY, limits.block_bytes)
    if size > most:
        raise UnreadableRest("large_block")
    content = file.read(size)
    if len(content) < size:
        raise UnreadableRest("truncated")
    try:
        if content.startswith(_ZSTD):
            content = zstandard.ZstdDecompressor(max_window_size=most).stream_reader(content).read(most + 1)
            if len(content) > most:
                raise UnreadableRest("large_block")
        decoders = partial(_Zstd, dictionary=zstandard.ZstdCompressionDict(content))
        decoders(limits)  # refuses a damaged dictionary
    except (zstandard.ZstdError, ValueError) as error:
        raise UnreadableRest("corrupt_compression") from error
    return decoders


class Decoder(Protocol):
    """As bz2.BZ2Decompressor: at most `max_length` bytes a call (zstd: a bounded number), the rest on the next."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self, limits: Limits) -> None:
        self._member = zlib.decompressobj(wbits=31)
        self.needs_input = True

    def decompress(self, data: bytes, max_length: int) -> bytes:
        block = self._member.decompress(self._member.unconsumed_tail + data, max_length)
        self.needs_input = not self._member.unconsumed_tail and len(block) < max_length
        return block

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data


class _Zstd:
    def __init__(self, limits: Limits, dictionary: zstandard.ZstdCompressionDict | None = None) -> None:
        # As large as a window may be that zstd can make; a file that needs less uses less.
        window = min(limits.block_bytes, 1 << 31)
        self._frame = zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=window).decompressobj()
        self._waiting = self._ready = memoryview(b"")

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._waiting = memoryview(bytes(self._waiting) + data)
        if not self._ready:
            piece, self._waiting = self._waiting[:_ZSTD_SLICE], self._waiting[_ZSTD_SLICE:]
            self._ready = memoryview(self._frame.decompress(piece))
        block, self._ready = bytes(self._ready[:max_length]), self._ready[max_length:]
        return block

    @property
    def needs_input(self) -> bool:
        return not self._waiting and not self._ready

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._ready

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data + bytes(self._waiting)


_DECODERS: dict[str, Callable[[Limits], Decoder]] = {
    ".gz": _Gzip,
    ".zst": _Zstd,
    ".bz2": lambda limits: bz2.BZ2Decompressor(),
}
COMPRESSED = (*_DECODERS, ".lz4")  # endings of compressed files


# ---- encodings and lines ----


def in_charset(content: bytes, charset: str) -> str:
    """The text of bytes in the charset that a page or a mail names.

    Raises:
        LookupError: there is no such charset. UnicodeError: the bytes are not of it.
    """
    if codecs.lookup(charset).name.replace("-", "_") in _NO_CHARSETS:
        raise LookupError(f"{charset} is no charset")
    return content.decode(charset)


def utf8_stream(
    store: Store, uri: str, limits: Limits, encoding: str | None, work: RecordWork
) -> Generator[bytes, None, None]:
    """The decompressed file in blocks of UTF-8. encoding: Python's name of the file's encoding; None: UTF-8.

    A byte that the encoding does not have stays as it is, so that its line is found to be no UTF-8.

    Raises:
        UnreadableRest: as `stream`; or the file ends within a character (`truncated`), or has bytes that no character
            of the encoding begins with (`wrong_encoding`).
        StorageError: the store failed.
    """
    with closing(stream(store, uri, limits, work=work)) as blocks:
        if encoding is None:
            yield from blocks
            return
        first = next(blocks, b"")
        encoding = with_byte_order(encoding, first)
        # Halves of surrogate pairs of UTF-16 and UTF-32 become bytes that are no UTF-8, too.
        errors = "surrogatepass" if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")) else "surrogateescape"
        decoder = codecs.getincrementaldecoder(encoding)(errors)
        try:
            for block in chain([first], blocks):
                yield decoder.decode(block).encode("utf-8", errors)
        except UnicodeError as error:
            raise UnreadableRest("wrong_encoding") from error
        try:
            yield decoder.decode(b"", final=True).encode("utf-8", errors)
        except UnicodeError as error:
            raise UnreadableRest("truncated") from error


def with_byte_order(encoding: str, head: bytes) -> str:
    """The encoding; of UTF-16 and UTF-32 without a byte-order mark with the order in which most text has it.

    head: the first bytes of the file.
    """
    name = codecs.lookup(encoding).name
    marks = tuple(mark for mark, problem in _MARKS.items() if problem == name.replace("-", ""))
    if not marks or head.startswith(marks):
        return encoding
    width = 2 if name == "utf-16" else 4
    first, last = head[0:1000:width].count(0), head[width - 1 : 1000 : width].count(0)
    return f"{name}-{'be' if first > last else 'le'}"


def lines(blocks: Iterable[bytes], max_line_bytes: int, offset: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """(offset of the line, its bytes without the line feed), in order; None in place of a line over `max_line_bytes`.

    Carriage returns remain. A byte-order mark at offset 0 is removed. A last line without a line feed is a line. If
    `blocks` raises, the line that it interrupts is lost.

    Args:
        offset: position of the first block in the file.
    """
    pending: list[bytes] = []
    held = 0
    too_long = False

    def whole(line: bytes) -> bytes | None:
        if len(line) > max_line_bytes:
            return None
        return line.removeprefix(BOM) if offset == 0 else line

    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            joined = b"".join([*pending, block[:end]])
            pending, held = [], 0
            for line in joined[:-1].split(b"\n"):
                size = len(line) + 1
                if too_long:
                    too_long = False
                else:
                    yield offset, whole(line)
                offset += size
        rest = block[end:]
        if too_long:
            offset += len(rest)
        elif rest:
            pending.append(rest)
            held += len(rest)
        if held > max_line_bytes:
            yield offset, None
            too_long = True
            offset += held
            pending, held = [], 0
    if held:
        yield offset, whole(b"".join(pending))


def span_lines(
    store: Store, span: Span, limits: Limits, encoding: str | None = None
) -> Iterator[tuple[str, bytes | None]]:
    """(its place, the line) of the lines that begin in a span of bytes; of a compressed or encoded file of all lines.

    The place is `byte` with the offset of the line, else `line` with its number from 1. None stands in place of a line
    over `limits.max_line_bytes`.

    Raises:
        UnreadableRest: as `utf8_stream`.
        StorageError: the store failed.
    """
    if encoding is not None or compression_ending(span.uri):
        work = RecordWork()
        with closing(utf8_stream(store, span.uri, limits, encoding, work)) as blocks:
            for number, (_, line) in enumerate(lines(blocks, limits.max_line_bytes), start=1):
                work.bytes += LINE_WORK
                yield f"line {number}", line
        return
    # Reading starts one byte before the span: what follows the first line feed is then a line that begins in the span.
    begin = max(span.start - 1, 0)
    with closing(stream(store, span.uri, limits, begin, span.end)) as blocks:
        found = lines(blocks, limits.max_line_bytes, begin)
        if span.start:
            next(found, None)
        for offset, line in found:
            if offset >= span.end:
                return
            yield f"byte {offset}", line


# ---- problems of a file as a whole ----
#
# Every row of such a file fails. Quarantine records the problem of the file for each row, in place of the row's own
# problem, because the file as a whole has to be converted.


class FileProblem:
    """The problem of a span's file as a whole. The first bytes are read when the first unreadable row is met.

    find: returns the problem that the first bytes of a file show, None if they show none.
    """

    def __init__(self, store: Store, span: Span, limits: Limits, find: Callable[[bytes], str | None]) -> None:
        self._find = lambda: find(first_bytes(store, span, limits))

    def or_row_problem(self, row_problem: str) -> str:
        """The problem of the file; `row_problem` if it has none."""
        return self._problem or row_problem

    def is_blank(self, line: bytes) -> bool:
        """Whether a line of a UTF-16 or UTF-32 file has no character: after the last line end a NUL is left over."""
        return not line.strip(b"\0 \t\r\n") and self._problem in ("utf16", "utf32")

    @cached_property
    def _problem(self) -> str | None:
        return self._find()


def first_bytes(store: Store, span: Span, limits: Limits) -> bytes:
    """The first block of the decompressed file, at most 1 MiB; empty if it cannot be decompressed."""
    try:
        with closing(stream(store, span.uri, limits)) as blocks:
            return next(blocks, b"")
    except UnreadableRest:
        return b""


def decompression_problem(store: Store, span: Span, limits: Limits) -> str | None:
    """The problem that ends the decompression of a file; only the beginning of a large file is read."""
    try:
        with closing(stream(store, span.uri, limits)) as blocks:
            for _ in islice(blocks, _BLOCKS_DECOMPRESSED):
                pass
    except UnreadableRest as error:
        return error.problem
    return None


def encoding_problem(head: bytes) -> str | None:
    """`compressed`, `utf16`, `utf32`, `binary` or `other_encoding`; None if the bytes may be UTF-8."""
    if compression_of(head):
        return "compressed"
    for mark, problem in _MARKS.items():
        if head.startswith(mark):
            return problem
    wide = head[:_WIDE_LOOKED_AT]
    nuls = sorted((wide[::2].count(0), wide[1::2].count(0)))
    if nuls[1] >= _MIN_NULS and nuls[1] > 0.3 * (len(wide) / 2) and nuls[0] <= 0.05 * (len(wide) / 2):
        return "utf16"  # without a mark: many even bytes and few odd bytes are NUL, or the reverse
    head = head[:_ENCODING_LOOKED_AT]
    if head.isascii():
        return None
    # Several runs of bytes that are not UTF-8, few that are, and no control characters, which text does not have.
    text = head.decode(errors="surrogateescape")
    runs = _ESCAPED.findall(text)
    controls = len(head) - len(head.translate(None, _CONTROL_BYTES))
    if runs and controls >= max(_MIN_CONTROLS, 0.02 * len(head)):  # random bytes have 0.1
        return "binary"
    if len(runs) < _MIN_RUNS or _CONTROL.search(text):
        return None
    escaped = sum(map(len, runs))
    valid = sum(not character.isascii() for character in text) - escaped
    return "other_encoding" if 4 * valid < escaped else None


def line_end_problem(head: bytes) -> str | None:
    """`carriage_returns` if lines end in carriage returns alone; else None."""
    head = head.strip()
    return "carriage_returns" if b"\n" not in head and b"\r" in head else None


def pointer_problem(head: bytes) -> str | None:
    """`pointer` if the file is the text that stands for a large file in a Git repository; else None."""
    return "pointer" if head.startswith(b"version https://git-lfs") else None


def json_array_problem(head: bytes) -> str | None:
    """`json_array` if the file is one array, on one line or several; None if its first line of several is an array."""
    head = head.removeprefix(BOM).strip()
    if not head.startswith(b"["):
        return None
    first = head.split(b"\n", 1)[0]
    if first != head:
        with suppress(ValueError, RecursionError):
            json.loads(first.decode())
            return None
    return "json_array"
