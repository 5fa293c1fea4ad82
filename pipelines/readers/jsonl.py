"""JSON Lines: one object a line. Uncompressed files are divided into byte ranges, compressed files are not.

Counting repeated keys adds nothing measurable to the time.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa

from cluster.read.compression import UnreadableRest, compression_ending
from cluster.read.decoding import utf8_stream
from cluster.read.file_problems import FileProblem, encoding_problem, json_array_problem, line_end_problem
from cluster.read.json_lines import BLANK, Decode, Unreadable, json_lines, json_value
from cluster.read.limits import Limits
from cluster.read.lines import lines
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.reader import FilePieces, Reader, ReaderCounts, Rows, as_json_text

_PEEK_LINES = 100
_MISSING = object()


class Jsonl(Reader):
    """A document is an object with its text, id and carried columns as values. Objects may have different keys."""

    endings = (".jsonl", ".ndjson", ".json-lines")
    compressed_endings = (".json",)  # as C4 and Dolma name their files; others named .json usually hold one value
    columns = "open"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """One piece, which may be divided between any two bytes unless the file is compressed."""
        return replace(super().cut(store, file, input), divisible=not (compression_ending(file.uri) or input.encoding))

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects."""
        limits = Limits()
        names: dict[str, None] = {}
        try:
            with closing(utf8_stream(store, file.uri, limits, input.encoding)) as blocks:
                for _, line in islice(lines(blocks, limits.max_line_bytes), _PEEK_LINES):
                    record = json_value(line or b"")
                    if isinstance(record, dict):
                        names |= dict.fromkeys(record)
        except UnreadableRest:
            pass  # `read` reports the problem
        return tuple(names)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each line that begins in the span; blank lines have none."""
        rows = Rows(input, limits, counts)
        file = FileProblem(store, span, limits, self.file_problem if input.encoding is None else lambda _: None)
        decode = _Parser(counts).decode
        kind = "line" if compression_ending(span.uri) or input.encoding else "byte"
        number = 0
        try:
            found = (
                json_lines(store, span, limits, decode)
                if input.encoding is None
                else _decoded(store, span, limits, input, decode)
            )
            for position, line, value in found:
                number += 1
                _add(rows, line, value, f"{span.uri} {kind} {position}", input, file)
                if rows.full:
                    yield rows.table()
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after line {number}")
        if len(rows):
            yield rows.table()

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding, other line ends, or one JSON array."""
        return encoding_problem(head) or line_end_problem(head) or json_array_problem(head)


def _decoded(
    store: Store, span: Span, limits: Limits, input: Input, decode: Decode
) -> Iterator[tuple[int, bytes | None, Any]]:
    """As of `json_lines`, of a file in another encoding than UTF-8; the position is the number of the line."""
    with closing(utf8_stream(store, span.uri, limits, input.encoding)) as blocks:
        for number, (_, line) in enumerate(lines(blocks, limits.max_line_bytes), 1):
            yield number, line, Unreadable("too_large") if line is None else json_value(line, decode)


def _add(rows: Rows, line: bytes | None, value: Any, where: str, input: Input, file: FileProblem) -> None:
    if line is None:
        rows.refuse(file.or_row_problem(value), where)
    elif isinstance(value, Unreadable):
        if value is not BLANK and not file.is_blank(line):
            rows.refuse(file.or_row_problem(value), where, content=line)
    elif isinstance(value, dict):
        add_object(rows, value, where, input, line)
    else:
        rows.refuse(file.or_row_problem("not_an_object"), where, content=line)


def add_object(rows: Rows, record: dict[str, Any], where: str, input: Input, content: str | bytes) -> None:
    """Add a JSON object as a document, or its problem. where: its place. content: the JSON that it was read from."""
    id = record.get(input.id) if input.id is not None else None
    try:
        carried = [as_json_text(record.get(name)) for name in input.columns]
    except RecursionError:
        rows.refuse("too_deep", where, None, (), content)
        return
    text = record.get(input.text, _MISSING)
    if (text is None or text is _MISSING) and (other := input.instead.get(input.text)):
        text = record.get(other, text)
    if input.nested_text and isinstance(text, list | dict):
        text = as_json_text(text)
    if not isinstance(text, str):
        problem = "missing_text" if text is _MISSING else "null_text" if text is None else "not_a_string"
        rows.refuse(problem, where, None, carried, content)
    elif id is None or isinstance(id, str):
        rows.add(text, where, id, carried, content)
    elif isinstance(id, int) and not isinstance(id, bool):
        rows.add(text, where, str(id), carried, content)
    else:
        rows.refuse("bad_id", where, None, carried, content)


class _Parser:
    """Parses lines; counts those in which an object has a repeated key."""

    def __init__(self, counts: ReaderCounts) -> None:
        self._counts = counts
        self._repeats = repeats = list[int]()  # one entry an object of the line; faster in a closure than an attribute

        def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                repeats.append(1)
            return found

        self._decode = json.JSONDecoder(object_pairs_hook=as_dict).decode

    def decode(self, text: str) -> Any:
        """The JSON value of a line; raises ValueError or RecursionError."""
        self._repeats.clear()
        value = self._decode(text)
        if self._repeats:
            self._counts.repeated_keys += 1
        return value
