"""JSON Lines: one object a line. Uncompressed files are divided into byte ranges, compressed files are not.

Counting repeated keys adds nothing measurable to the time.
"""

import json
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from cluster.readers.files.compression import UnreadableRest, compression_ending
from cluster.readers.files.decoding import utf8_stream
from cluster.readers.files.file_problems import (
    encoding_problem,
    json_array_problem,
    line_end_problem,
    pointer_problem,
)
from cluster.readers.files.json_lines import Unreadable, json_lines, json_value
from cluster.readers.files.limits import Limits
from cluster.readers.files.lines import lines
from cluster.readers.files.span import Span
from cluster.readers.formats.records import FoundValue, RecordReader
from cluster.readers.inputs import Input
from cluster.readers.reader import FilePieces, ReaderCounts
from cluster.store.interface import FileInfo
from cluster.store.store import Store

_PEEK_VALUES = 100
_PARSER = json.JSONDecoder()


class JsonObjects(RecordReader):
    """Base of both JSON formats. Objects may have different keys. A subclass implements `json_values`."""

    columns = "open"

    def json_values(
        self, store: Store, span: Span, input: Input, limits: Limits, parser: json.JSONDecoder
    ) -> Generator[FoundValue, None, None]:
        """The JSON values of a span, and what is no JSON. Errors are those of `values`."""
        raise NotImplementedError

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None
    ) -> Generator[FoundValue, None, None]:
        """See RecordReader."""
        return self.json_values(store, span, input, limits, _PARSER if counts is None else _Parser(counts))

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects."""
        names: dict[str, None] = {}
        span = Span(file.uri, file.size, file.version, "", 0, file.size)
        with closing(self.values(store, span, input, Limits(), None)) as values, suppress(UnreadableRest):
            for _, _, value in islice(values, _PEEK_VALUES):  # `read` reports problems
                if isinstance(value, dict):
                    names |= dict.fromkeys(value)
        return tuple(names)

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

    def json_values(
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
