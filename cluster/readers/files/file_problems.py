"""Problems of a whole file, found in its first bytes: compression, another encoding, line ends, one JSON array.

Every row of such a file fails. Quarantine records the problem of the file for each row, in place of the row's own
problem, because the file as a whole has to be converted.
"""

import json
import re
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from itertools import islice

from cluster.readers.files.compression import UnreadableRest, compression_of, stream
from cluster.readers.files.limits import Limits
from cluster.readers.files.lines import BOM
from cluster.readers.files.span import Span
from cluster.store.store import Store

# problem -> what it is, and what to do
PROBLEMS_OF_WHOLE_FILES = {
    "compressed": "the file is compressed with gzip, zstd or bzip2 and its name lacks the ending; add .gz, .zst or "
    ".bz2 (`file NAME` prints which), as in x.jsonl.gz",
    "not_compressed": "the file is not compressed as its ending .gz, .zst or .bz2 says; rename it, without that ending "
    "if it is plain text",
    "utf16": "the file is UTF-16, and UTF-8 is wanted; convert it, as `iconv -f UTF-16 -t UTF-8` does",
    "utf32": "the file is UTF-32, and UTF-8 is wanted; convert it, as `iconv -f UTF-32 -t UTF-8` does",
    "other_encoding": "the file seems to be in an encoding of one byte a character, such as Windows-1252 or "
    "ISO-8859-1, and UTF-8 is wanted; convert it, as `iconv -f WINDOWS-1252 -t UTF-8` does",
    "json_array": "the file is one JSON array; write one object a line, as `jq -c '.[]'` does",
    "pointer": "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository",
    "carriage_returns": "lines end in carriage returns alone; make them line feeds, as `tr '\\r' '\\n'` does",
}

_BLOCKS_DECOMPRESSED = 16  # 1 MiB
_WIDE_LOOKED_AT = 1 << 12
_ENCODING_LOOKED_AT = 1 << 16

# Byte-order marks. UTF-32 comes first because its little-endian mark begins with that of UTF-16.
_MARKS = {b"\xff\xfe\0\0": "utf32", b"\0\0\xfe\xff": "utf32", b"\xff\xfe": "utf16", b"\xfe\xff": "utf16"}

_ESCAPED = re.compile("[\udc80-\udcff]+")  # how `surrogateescape` decodes bytes that are not UTF-8
_CONTROL = re.compile("[\0-\x08\x0e-\x1f]")
_MIN_RUNS = 3
_MIN_NULS = 4


class FileProblem:
    """The problem of a span's file as a whole. The first bytes are read when the first unreadable row is met.

    find: returns the problem that the first bytes of a file show, None if they show none.
    """

    def __init__(self, store: Store, span: Span, limits: Limits, find: Callable[[bytes], str | None]) -> None:
        self._store = store
        self._span = span
        self._limits = limits
        self._find = find

    def or_row_problem(self, row_problem: str) -> str:
        """The problem of the file; `row_problem` if it has none."""
        return self._problem or row_problem

    def is_blank(self, line: bytes) -> bool:
        """Whether a line of a UTF-16 or UTF-32 file has no character: after the last line end a NUL is left over."""
        return not line.strip(b"\0 \t\r\n") and self._problem in ("utf16", "utf32")

    @cached_property
    def _problem(self) -> str | None:
        return self._find(first_bytes(self._store, self._span, self._limits))


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
    """`compressed`, `utf16`, `utf32` or `other_encoding`; None if the bytes may be UTF-8."""
    if compression_of(head):
        return "compressed"
    for mark, problem in _MARKS.items():
        if head.startswith(mark):
            return problem
    return _wide_without_mark(head[:_WIDE_LOOKED_AT]) or _other_encoding(head[:_ENCODING_LOOKED_AT])


def _wide_without_mark(head: bytes) -> str | None:
    """`utf16` if many even bytes and few odd bytes are NUL, or the reverse; else None."""
    nuls = sorted((head[::2].count(0), head[1::2].count(0)))
    is_wide = nuls[1] >= _MIN_NULS and nuls[1] > 0.3 * (len(head) / 2) and nuls[0] <= 0.05 * (len(head) / 2)
    return "utf16" if is_wide else None


def _other_encoding(head: bytes) -> str | None:
    """`other_encoding` if there are several runs of bytes that are not UTF-8 and few that are; else None.

    None also if there are control characters, which text does not have.
    """
    if head.isascii():
        return None
    text = head.decode(errors="surrogateescape")
    runs = _ESCAPED.findall(text)
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
    return "json_array" if first == head or not _is_json(first) else None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line.decode())
    except (ValueError, RecursionError):
        return False
    return True
