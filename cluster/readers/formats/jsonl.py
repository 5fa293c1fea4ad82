"""JSON Lines: one object a line. Uncompressed files are divided into byte ranges, compressed files are not.

Counting repeated keys adds nothing measurable to the time.
"""

import json
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa

from cluster.readers.files.compression import UnreadableRest, compression_ending
from cluster.readers.files.decoding import utf8_stream
from cluster.readers.files.file_problems import (
    FileProblem,
    encoding_problem,
    json_array_problem,
    line_end_problem,
    pointer_problem,
)
from cluster.readers.files.json_lines import BLANK, Unreadable, json_lines, json_value
from cluster.readers.files.json_values import BrokenRest
from cluster.readers.files.limits import Limits
from cluster.readers.files.lines import lines
from cluster.readers.files.span import Span
from cluster.readers.inputs import Input
from cluster.readers.reader import FilePieces, Reader, ReaderCounts, Row, Rows, as_json_text
from cluster.store.interface import FileInfo
from cluster.store.store import Store

_PEEK_VALUES = 100
_MISSING = object()
_PARSER = json.JSONDecoder()

FoundValue = tuple[str, bytes | None, Any]  # (place in the file, JSON in UTF-8, its value or an Unreadable)


class JsonObjects(Reader):
    """Base of both JSON formats: a document is an object with its text, id and carried columns as values.

    Objects may have different keys. A subclass implements `values`. unit: what has a value, in places of rows.
    """

    columns = "open"
    unit: str

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, parser: json.JSONDecoder
    ) -> Generator[FoundValue, None, None]:
        """The JSON values of a span, and what is no JSON.

        Raises:
            UnreadableRest: the rest of the file cannot be read.
        """
        raise NotImplementedError

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects."""
        names: dict[str, None] = {}
        span = Span(file.uri, file.size, file.version, "", 0, file.size)
        with closing(self.values(store, span, input, Limits(), _PARSER)) as values, suppress(UnreadableRest):
            for _, _, value in islice(values, _PEEK_VALUES):  # `read` reports problems
                if isinstance(value, dict):
                    names |= dict.fromkeys(value)
        return tuple(names)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each value that begins in the span; blank lines have none."""
        rows = Rows(input, limits, counts)
        file = self._file(store, span, input, limits)
        number = 0
        try:
            with closing(self.values(store, span, input, limits, _Parser(counts))) as values:
                for place, content, value in values:
                    number += 1
                    _add(rows, content, value, f"{span.uri} {place}", input, file)
                    if rows.full:
                        yield rows.table()
        except BrokenRest as broken:
            problem = Unreadable("long_line" if broken.problem == "too_large" else broken.problem)
            rest = broken.rest.encode("utf-8", "surrogateescape")
            _add(rows, rest, problem, f"{span.uri} after {self.unit} {number}", input, file)
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after {self.unit} {number}")
        if len(rows):
            yield rows.table()

    def rows(self, store: Store, span: Span, input: Input, limits: Limits) -> Iterator[tuple[Row | Unreadable, str]]:
        """The objects of a span, with all keys. See Reader."""
        file = self._file(store, span, input, limits)
        with closing(self.values(store, span, input, limits, _PARSER)) as values:
            for place, content, value in values:
                if isinstance(value, dict):
                    yield value, f"{span.uri} {place}"
                elif value is not BLANK and not (content is not None and file.is_blank(content)):
                    problem = value if isinstance(value, Unreadable) else "not_an_object"
                    yield Unreadable(file.or_row_problem(problem)), f"{span.uri} {place}"

    def _file(self, store: Store, span: Span, input: Input, limits: Limits) -> FileProblem:
        return FileProblem(store, span, limits, self.file_problem if input.encoding is None else lambda _: None)

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding, or a Git LFS pointer."""
        return encoding_problem(head) or pointer_problem(head)


class Jsonl(JsonObjects):
    """A document is a line."""

    endings = (".jsonl", ".ndjson", ".json-lines")
    compressed_endings = (".json",)  # as C4 and Dolma name their files; others named .json usually hold one value
    unit = "line"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """One piece, which may be divided between any two bytes unless the file is compressed."""
        return replace(super().cut(store, file, input), divisible=not (compression_ending(file.uri) or input.encoding))

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, parser: json.JSONDecoder
    ) -> Generator[FoundValue, None, None]:
        """The value of each line that begins in the span."""
        if input.encoding is None:
            unit = "line" if compression_ending(span.uri) else "byte"
            for position, line, value in json_lines(store, span, limits, parser.decode):
                yield f"{unit} {position}", line, value
            return
        with closing(utf8_stream(store, span.uri, limits, input.encoding)) as blocks:
            for number, (_, line) in enumerate(lines(blocks, limits.max_line_bytes), 1):
                value = Unreadable("long_line") if line is None else json_value(line, parser.decode)
                yield f"line {number}", line, value

    def file_problem(self, head: bytes) -> str | None:
        """Another encoding, other line ends, one JSON array, or a Git LFS pointer."""
        return super().file_problem(head) or line_end_problem(head) or json_array_problem(head)


def _add(rows: Rows, content: bytes | None, value: Any, where: str, input: Input, file: FileProblem) -> None:
    if isinstance(value, Unreadable):
        if value is not BLANK and not (content is not None and file.is_blank(content)):
            rows.refuse(file.or_row_problem(value), where, content=content)
    elif isinstance(value, dict):
        add_object(rows, value, where, input, content)
    else:
        rows.refuse(file.or_row_problem("not_an_object"), where, content=content)


def add_object(rows: Rows, record: dict[str, Any], where: str, input: Input, content: str | bytes | None) -> None:
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


class _Parser(json.JSONDecoder):
    """Counts JSON texts in which an object has a repeated key."""

    def __init__(self, counts: ReaderCounts) -> None:
        self._counts = counts
        self._repeats = repeats = list[int]()  # one entry for each such object; faster in a closure than an attribute

        def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            found = dict(pairs)
            if len(found) != len(pairs):
                repeats.append(1)
            return found

        super().__init__(object_pairs_hook=as_dict)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        """(value, its end), as in JSONDecoder, whose `decode` calls it."""
        self._repeats.clear()
        found = super().raw_decode(s, idx)
        if self._repeats:
            self._counts.repeated_keys += 1
        return found
