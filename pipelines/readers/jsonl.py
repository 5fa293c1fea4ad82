"""JSON Lines: one object a line. Plain files are cut by byte range, compressed ones are read whole.

json.loads on each line reads 200 to 400 MB/s, decoded and checked; pyarrow's block reader is up to three times as fast
but gives up a whole block for one bad line, and is stricter than JSON about what may follow what.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa

from cluster.store.storage import FileInfo
from pipelines.readers.compression import Broken, compression_ending, stream
from pipelines.readers.inputs import Input, Limits
from pipelines.readers.lines import BOM, lines
from pipelines.readers.reader import Cut, Reader, Rows, Skipped, as_json_text
from pipelines.readers.units import Span

_PEEK_LINES = 100


class Jsonl(Reader):
    endings = (".jsonl", ".ndjson", ".json-lines")
    columns = "open"

    def cut(self, file: FileInfo, input: Input, unit_bytes: int) -> Cut:
        if compression_ending(file.uri):
            return super().cut(file, input, unit_bytes)
        ranges = -(-file.size // unit_bytes)
        ends = [file.size * part // ranges for part in range(ranges + 1)] if ranges else []
        return Cut(tuple((start, end, end - start) for start, end in pairwise(ends)))

    def columns_of(self, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first objects."""
        limits = Limits()
        span = Span(file.uri, file.size, file.version, "jsonl", 0, file.size)
        names: dict[str, None] = {}
        try:
            with closing(stream(span, limits)) as blocks:
                for _, line in islice(lines(blocks, limits.max_line_bytes), _PEEK_LINES):
                    record = _parsed(line or b"")
                    if isinstance(record, dict):
                        names |= dict.fromkeys(record)
        except Broken:
            pass  # `read` says so, at its place
        return tuple(names)

    def read(self, span: Span, input: Input, limits: Limits, skipped: Skipped) -> Iterator[pa.Table]:
        rows = Rows(input, limits, skipped)
        shape = _Shape(span, limits)
        compressed = bool(compression_ending(span.uri))
        # From the byte before the range, so that what follows the first line feed is a line that begins in it.
        begin = max(span.start - 1, 0)
        number = 0
        try:
            with closing(stream(span, limits, begin)) as blocks:
                found = lines(blocks, limits.max_line_bytes, begin)
                if span.start:
                    next(found, None)
                for number, (offset, line) in enumerate(found, start=1):
                    if offset >= span.end and not compressed:
                        break
                    where = f"{span.uri} line {number}" if compressed else f"{span.uri} byte {offset}"
                    _add(rows, line, where, input, shape)
                    if rows.full:
                        yield rows.table()
        except Broken as broken:
            rows.refuse(broken.problem, f"{span.uri} after line {number}")
        if len(rows):
            yield rows.table()


class _Shape:
    """Whether a file as a whole is something else than JSON Lines; looked at when its first bad line is met."""

    def __init__(self, span: Span, limits: Limits) -> None:
        self._span = span
        self._limits = limits

    def problem(self, of_line: str) -> str:
        """The file's problem, if it has one, else the line's."""
        return self._of_file or of_line

    @cached_property
    def _of_file(self) -> str | None:
        try:
            with closing(stream(self._span, self._limits)) as blocks:
                head = next(blocks, b"").removeprefix(BOM).strip()
        except Broken:
            return None
        if b"\n" not in head and b"\r" in head:
            return "carriage_returns"
        first = head.split(b"\n", 1)[0]
        # An array in one line, or one that goes on over lines; not a single line that is an array, among others.
        if head.startswith(b"[") and (first == head or isinstance(_parsed(first), _Unreadable)):
            return "json_array"
        return None


def _add(rows: Rows, line: bytes | None, where: str, input: Input, shape: _Shape) -> None:
    if line is None:
        rows.refuse(shape.problem("too_large"), where)
        return
    if not line or line.isspace():
        return
    record = _parsed(line)
    if isinstance(record, _Unreadable):
        rows.refuse(shape.problem(record.problem), where)
        return
    if not isinstance(record, dict):
        rows.refuse(shape.problem("not_an_object"), where)
        return
    id = as_json_text(record.get(input.id)) if input.id is not None else None
    carried = [as_json_text(record.get(name)) for name in input.columns]
    text = record.get(input.text, _MISSING)
    if isinstance(text, str):
        rows.add(text, where, id, carried)
    else:
        problem = "missing_text" if text is _MISSING else "null_text" if text is None else "not_a_string"
        rows.refuse(problem, where, id, carried)


class _Unreadable:
    def __init__(self, problem: str) -> None:
        self.problem = problem


_MISSING = object()
_BAD_UTF8 = _Unreadable("bad_utf8")
_BROKEN_JSON = _Unreadable("broken_json")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        return _BAD_UTF8
    except (ValueError, RecursionError):
        return _BROKEN_JSON
