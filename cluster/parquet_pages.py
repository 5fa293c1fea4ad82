"""The headers of pages in Parquet files: their sizes, which decide how much memory Arrow takes for them.

A page is preceded by a header in Thrift's compact protocol: type, uncompressed size, compressed size and more. The
sizes in the footer are those of all pages of a column chunk together, and need not be true.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.store.object_files import PartsFile

HEADER_BYTES = 256  # of most headers; statistics with long texts make one longer
_LONGEST_HEADER = 16 << 20  # as in Arrow; statistics with long texts are in it
_DICTIONARY_PAGE = 2
# Type of a page -> the field of its header with its own structure, whose first field is the number of values: of data
# pages in versions 1 and 2.
_DATA_PAGE_HEADERS = {0: 5, 3: 8}

# Types of the compact protocol. A boolean is in its type; integers of 16 to 64 bits are written alike.
_STOP, _BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _STRUCT = 0, (1, 2), 3, (4, 5, 6), 7, 8, 12
_DEEPEST = 16


class PageHeader(NamedTuple):
    """The header of a page.

    length: its own bytes. uncompressed, compressed: bytes of its page. values: number of values of a data page, nulls
    included; 0 for a dictionary.
    """

    length: int
    uncompressed: int
    compressed: int
    is_dictionary: bool
    values: int


def page_header(header: bytes | memoryview) -> PageHeader:
    """The header that begins here. Fields are in the order of their numbers, as all programs write them.

    Raises:
        IndexError: the header goes on after these bytes.
        ValueError: it is no header.
    """
    sizes: dict[int, int] = {}
    values: dict[int, int] = {}  # by the field
    at = field = 0
    while header[at] != _STOP:
        kind, at, field = _field(header, at, field)
        if field in (1, 2, 3) and kind in _INTEGERS:
            number, at = _number(header, at)
            sizes[field] = (number >> 1) ^ -(number & 1)
        elif field in _DATA_PAGE_HEADERS.values() and kind == _STRUCT:
            first, after, inner = _field(header, at, 0)
            if inner == 1 and first in _INTEGERS:
                values[field] = _number(header, after)[0] >> 1
            at = _after(header, at, kind, 0)
        else:
            at = _after(header, at, kind, 0)
    if not (sizes.get(2, -1) >= 0 and sizes.get(3, -1) >= 0):
        raise ValueError("no header of a page")
    kind_of_page = sizes.get(1, -1)
    of_page = values.get(_DATA_PAGE_HEADERS[kind_of_page]) if kind_of_page in _DATA_PAGE_HEADERS else 0
    if of_page is None:
        raise ValueError("a data page without a number of values")
    return PageHeader(at + 1, sizes[2], sizes[3], kind_of_page == _DICTIONARY_PAGE, of_page)


def _field(data: bytes | memoryview, at: int, before: int) -> tuple[int, int, int]:
    """(type of a field, byte after its beginning, its number). before: number of the field before it.

    Raises:
        ValueError: the number is not above the one before: of two fields with one number Arrow takes the last.
    """
    kind, step = data[at] & 15, data[at] >> 4
    if step:
        return kind, at + 1, before + step
    number, at = _number(data, at + 1)
    if (field := (number >> 1) ^ -(number & 1)) <= before:
        raise ValueError("no header of a page")
    return kind, at, field


def _number(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """(an unsigned number of up to 10 bytes, the byte after it)"""
    value = 0
    for place in range(10):
        value |= (data[at + place] & 127) << 7 * place
        if data[at + place] < 128:
            return value, at + place + 1
    raise ValueError("no header of a page")


def _after(data: bytes | memoryview, at: int, kind: int, depth: int) -> int:
    """The byte after a value of a type."""
    if depth > _DEEPEST:
        raise ValueError("no header of a page")
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
    raise ValueError("no header of a page")  # lists, sets and maps are in no header of a page


def chunk_range(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """The bytes [start, end) of a column chunk in its file."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size


def verify_pages(
    file: pa.NativeFile, chunks: Sequence[pq.ColumnChunkMetaData], most: int, error: Callable[[str], Exception]
) -> None:
    """Compare the pages of column chunks with the footer, which Arrow does not do: it reads what the pages have.

    On an object store, where looking at each header would be a request, a header is compared when Arrow reads it, and
    the read of `file` raises the error.

    Args:
        most: maximum bytes of a page.
        error: makes the exception: of `large_block`, a page has more bytes; or of `corrupt_page`, it is damaged, or the
            pages have more values or bytes than the footer states.
    """
    passing = [_PassingPages(chunk, most, error) for chunk in chunks]
    if isinstance(file, PartsFile):

        def inspect(start: int, data: bytes) -> None:
            for pages in passing:
                pages.verify(start, data)

        file.parts.inspect = inspect
        return
    for pages in passing:
        length = HEADER_BYTES
        while (at := pages.at) < pages.end:
            file.seek(at)
            pages.verify(at, data := file.read(min(length, pages.end - at)))
            if pages.at == at and (length > _LONGEST_HEADER or len(data) == pages.end - at):
                raise error("corrupt_page")
            length = 8 * length if pages.at == at else HEADER_BYTES


class _PassingPages:
    """The pages of a column chunk, verified while its bytes are read in order.

    at: offset of the next header in the file. end: offset of the end of the chunk.
    """

    def __init__(self, chunk: pq.ColumnChunkMetaData, most: int, error: Callable[[str], Exception]) -> None:
        self.at, self.end = chunk_range(chunk)
        self._values, self._bytes = chunk.num_values, chunk.total_uncompressed_size  # of the pages not yet verified
        self._most, self._error = most, error
        self._begun = b""  # bytes of the header there, as far as they were read

    def verify(self, start: int, data: bytes) -> None:
        """Verify the pages whose headers end in `data`, the bytes from `start` on. Bytes may be read again."""
        if self.at < start <= self.at + len(self._begun):
            start, data = self.at, self._begun[: start - self.at] + data
        while start <= self.at < min(start + len(data), self.end):
            try:
                page = page_header(memoryview(data)[self.at - start :])
            except IndexError:
                self._begun = data[self.at - start :]
                return
            except ValueError as damage:
                raise self._error("corrupt_page") from damage
            if page.uncompressed > self._most:
                raise self._error("large_block")
            self._values -= page.values
            self._bytes -= page.uncompressed
            if self._values < 0 or self._bytes < 0:
                raise self._error("corrupt_page")
            self.at += page.length + page.compressed
            self._begun = b""
