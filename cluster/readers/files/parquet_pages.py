"""Refuses Parquet files with pages that are too large to decompress: Arrow decompresses each page as a whole.

A page is preceded by a header in Thrift's compact protocol: type, uncompressed size, compressed size and more. The
sizes in the footer are those of all pages of a column chunk together, and need not be true.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.limits import Limits
from cluster.readers.files.parquet import chunk_range
from cluster.store.object_files import PartsFile

_HEADER_BYTES = 256
_LONGEST_HEADER = 16 << 20  # as in Arrow; statistics with long texts are in it

# Types of the compact protocol. A boolean is in its type; integers of 16 to 64 bits are written alike.
_STOP, _BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _STRUCT = 0, (1, 2), 3, (4, 5, 6), 7, 8, 12
_DEEPEST = 16


def refuse_large_pages(file: pa.NativeFile, chunks: Sequence[pq.ColumnChunkMetaData], limits: Limits) -> None:
    """Verify that no page of the column chunks takes more than `block_bytes`.

    On an object store, where looking at each header would be a request, a header is verified when Arrow reads it, and
    the read of `file` raises the error.

    Raises:
        UnreadableRest: a page does (`large_block`), or is damaged (`corrupt_page`).
    """
    ranges = map(chunk_range, chunks)
    if isinstance(file, PartsFile):
        passing = [_PassingPages(start, end, limits) for start, end in ranges]

        def inspect(start: int, data: bytes) -> None:
            for pages in passing:
                pages.verify(start, data)

        file.parts.inspect = inspect
    elif any(size > limits.block_bytes for start, end in ranges for size in _page_sizes(file, start, end)):
        raise UnreadableRest("large_block")


class _PassingPages:
    """The pages of the column chunk at the bytes [start, end), verified while these are read in order."""

    def __init__(self, start: int, end: int, limits: Limits) -> None:
        self._header_at, self._end, self._limits = start, end, limits
        self._begun = b""  # bytes of the header there, as far as they were read

    def verify(self, start: int, data: bytes) -> None:
        """Verify the pages whose headers end in `data`, the bytes from `start` on. Bytes may be read again.

        Raises:
            UnreadableRest: a page is too large (`large_block`) or damaged (`corrupt_page`).
        """
        if self._header_at < start <= self._header_at + len(self._begun):
            start, data = self._header_at, self._begun[: start - self._header_at] + data
        while start <= self._header_at < min(start + len(data), self._end):
            try:
                header_bytes, uncompressed, compressed = _parsed(memoryview(data)[self._header_at - start :])
            except IndexError:
                self._begun = data[self._header_at - start :]
                return
            if uncompressed > self._limits.block_bytes:
                raise UnreadableRest("large_block")
            self._header_at += header_bytes + compressed
            self._begun = b""


def _page_sizes(file: pa.NativeFile, at: int, end: int) -> Iterator[int]:
    """The uncompressed size of each page between two bytes of a file."""
    while at < end:
        length = _HEADER_BYTES
        while True:
            file.seek(at)
            header = file.read(min(length, end - at))
            try:
                header_bytes, uncompressed, compressed = _parsed(header)
                break
            except IndexError:
                if length > _LONGEST_HEADER or len(header) == end - at:
                    raise UnreadableRest("corrupt_page") from None
                length *= 8
        yield uncompressed
        at += header_bytes + compressed


def _parsed(header: bytes | memoryview) -> tuple[int, int, int]:
    """(bytes of a page's header, uncompressed and compressed size of its page).

    Raises:
        IndexError: the header goes on after these bytes.
        UnreadableRest: it is no header.
    """
    sizes: dict[int, int] = {}
    at = field = 0
    while header[at] != _STOP:
        kind, at, field = _field(header, at, field)
        if field in (2, 3) and kind in _INTEGERS:
            number, at = _number(header, at)
            sizes[field] = (number >> 1) ^ -(number & 1)
        else:
            at = _after(header, at, kind, 0)
    if not (sizes.get(2, -1) >= 0 and sizes.get(3, -1) >= 0):
        raise UnreadableRest("corrupt_page")
    return at + 1, sizes[2], sizes[3]


def _field(data: bytes | memoryview, at: int, before: int) -> tuple[int, int, int]:
    """(type of a field, byte after its beginning, its number). before: number of the field before it."""
    kind, step = data[at] & 15, data[at] >> 4
    if step:
        return kind, at + 1, before + step
    number, at = _number(data, at + 1)
    return kind, at, (number >> 1) ^ -(number & 1)


def _number(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """(an unsigned number of up to 10 bytes, the byte after it)"""
    value = 0
    for place in range(10):
        value |= (data[at + place] & 127) << 7 * place
        if data[at + place] < 128:
            return value, at + place + 1
    raise UnreadableRest("corrupt_page")


def _after(data: bytes | memoryview, at: int, kind: int, depth: int) -> int:
    """The byte after a value of a type."""
    if depth > _DEEPEST:
        raise UnreadableRest("corrupt_page")
    if kind in _BOOLEANS:
        return at
    if kind == _BYTE:
        return at + 1
    if kind == _DOUBLE:
        return at + 8
    if kind in _INTEGERS:
        return _number(data, at)[1]
    if kind == _BINARY:
        size, at = _number(data, at)
        if at + size > len(data):
            raise IndexError
        return at + size
    if kind == _STRUCT:
        field = 0
        while data[at] != _STOP:
            inner, at, field = _field(data, at, field)
            at = _after(data, at, inner, depth + 1)
        return at + 1
    raise UnreadableRest("corrupt_page")  # lists, sets and maps are in no header of a page
