"""The headers of pages in Parquet files: their sizes, which decide how much memory Arrow takes for them.

A page is preceded by a header in Thrift's compact protocol: type, uncompressed size, compressed size and more. The
sizes in the footer are those of all pages of a column chunk together, and need not be true.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from typing import NamedTuple

HEADER_BYTES = 256  # of most headers; statistics with long texts make one longer
_DICTIONARY_PAGE = 2

# Types of the compact protocol. A boolean is in its type; integers of 16 to 64 bits are written alike.
_STOP, _BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _STRUCT = 0, (1, 2), 3, (4, 5, 6), 7, 8, 12
_DEEPEST = 16


class PageHeader(NamedTuple):
    """The header of a page. length: its own bytes. uncompressed, compressed: bytes of its page."""

    length: int
    uncompressed: int
    compressed: int
    is_dictionary: bool


def page_header(header: bytes | memoryview) -> PageHeader:
    """The header that begins here.

    Raises:
        IndexError: the header goes on after these bytes.
        ValueError: it is no header.
    """
    sizes: dict[int, int] = {}
    at = field = 0
    while header[at] != _STOP:
        kind, at, field = _field(header, at, field)
        if field in (1, 2, 3) and kind in _INTEGERS:
            number, at = _number(header, at)
            sizes[field] = (number >> 1) ^ -(number & 1)
        else:
            at = _after(header, at, kind, 0)
    if not (sizes.get(2, -1) >= 0 and sizes.get(3, -1) >= 0):
        raise ValueError("no header of a page")
    return PageHeader(at + 1, sizes[2], sizes[3], sizes.get(1) == _DICTIONARY_PAGE)


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
