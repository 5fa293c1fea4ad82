"""Problems of a file as a whole, found in its first bytes: another encoding, other line ends, one JSON array.

Such a file fails row by row, each with the problem of a row. The problem of the file takes their place in quarantine,
because it has one mend.
"""

import json
import re
from collections.abc import Callable
from contextlib import closing
from functools import cached_property

from cluster.read.compression import Broken, stream
from cluster.read.limits import Limits
from cluster.read.lines import BOM
from cluster.read.span import Span
from cluster.store.store import Store

_WIDE_LOOKED_AT = 1 << 12
_ENCODING_LOOKED_AT = 1 << 16

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_MARKS = {b"\xff\xfe\0\0": "utf32", b"\0\0\xfe\xff": "utf32", b"\xff\xfe": "utf16", b"\xfe\xff": "utf16"}

_ESCAPED = re.compile("[\udc80-\udcff]+")  # how `surrogateescape` decodes bytes that are not UTF-8
_CONTROL = re.compile("[\0-\x08\x0e-\x1f]")
_LEAST_PLACES = 3
_LEAST_NULS = 4


class WholeFile:
    """The problem of a span's file, looked up when its first bad row is met.

    find: the problem that the first bytes show, None where there is none.
    """

    def __init__(self, store: Store, span: Span, limits: Limits, find: Callable[[bytes], str | None]) -> None:
        self._store = store
        self._span = span
        self._limits = limits
        self._find = find

    def problem(self, of_row: str) -> str:
        """The file's problem, if it has one, else the row's."""
        return self._of_file or of_row

    @cached_property
    def _of_file(self) -> str | None:
        return self._find(first_bytes(self._store, self._span, self._limits))


def first_bytes(store: Store, span: Span, limits: Limits) -> bytes:
    """The first block of the decompressed file; nothing where it cannot be decompressed."""
    try:
        with closing(stream(store, span.uri, limits)) as blocks:
            return next(blocks, b"")
    except Broken:
        return b""


def encoding_problem(head: bytes) -> str | None:
    """`utf16`, `utf32` or `other_encoding` of bytes that were to be UTF-8."""
    for mark, problem in _MARKS.items():
        if head.startswith(mark):
            return problem
    return _wide_without_mark(head[:_WIDE_LOOKED_AT]) or _other_encoding(head[:_ENCODING_LOOKED_AT])


def _wide_without_mark(head: bytes) -> str | None:
    """Most characters of most texts have a NUL as one of their two bytes, always the same one."""
    nuls = sorted((head[::2].count(0), head[1::2].count(0)))
    is_wide = nuls[1] >= _LEAST_NULS and nuls[1] > 0.3 * (len(head) / 2) and nuls[0] <= 0.05 * (len(head) / 2)
    return "utf16" if is_wide else None


def _other_encoding(head: bytes) -> str | None:
    """Bytes above 127 in several places, hardly any of which are UTF-8, and none that no text has."""
    if head.isascii():
        return None
    text = head.decode(errors="surrogateescape")
    places = _ESCAPED.findall(text)
    if len(places) < _LEAST_PLACES or _CONTROL.search(text):
        return None
    escaped = sum(map(len, places))
    valid = sum(not character.isascii() for character in text) - escaped
    return "other_encoding" if 4 * valid < escaped else None


def line_end_problem(head: bytes) -> str | None:
    """`carriage_returns` where no line feed ends any line."""
    head = head.strip()
    return "carriage_returns" if b"\n" not in head and b"\r" in head else None


def json_array_problem(head: bytes) -> str | None:
    """`json_array` of an array in one line or over several; not of a line that is an array, among others."""
    head = head.removeprefix(BOM).strip()
    if not head.startswith(b"["):
        return None
    first = head.split(b"\n", 1)[0]
    return "json_array" if first == head or not _is_json(first) else None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True
