"""JSON files: one array of objects, or objects one after the other over any number of lines.

Read only if `format: json` says so, since files named .json usually hold settings. Memory: one object.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import pyarrow as pa

from cluster.read.compression import UnreadableRest
from cluster.read.decoding import utf8_stream
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.jsonl import add_object
from pipelines.readers.reader import Reader, ReaderCounts, Rows

_PEEK_VALUES = 100
_BETWEEN = re.compile(r"[\s,]*")
_LEAST_READ = 1 << 16  # characters before a value is tried again


class JsonValues(Reader):
    """A document is an object of the array. Objects may have different keys."""

    stated_endings = (".json",)
    columns = "open"

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects."""
        limits = Limits()
        names: dict[str, None] = {}
        try:
            with closing(utf8_stream(store, file.uri, limits, input.encoding)) as blocks:
                for value, _ in islice(_values(blocks, limits.max_line_bytes), _PEEK_VALUES):
                    if isinstance(value, dict):
                        names |= dict.fromkeys(value)
        except UnreadableRest:
            pass  # `read` reports the problem
        return tuple(names)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each value; what follows one that cannot be read is lost, and has one row."""
        rows = Rows(input, limits, counts)
        number = 0
        try:
            with closing(utf8_stream(store, span.uri, limits, input.encoding)) as blocks:
                for number, (value, content) in enumerate(_values(blocks, limits.max_line_bytes), 1):
                    where = f"{span.uri} value {number}"
                    if isinstance(value, dict):
                        add_object(rows, value, where, input, content)
                    else:
                        rows.refuse("not_an_object", where, content=content)
                    if rows.full:
                        yield rows.table()
        except _BrokenRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after value {number}", content=broken.rest)
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after value {number}")
        if len(rows):
            yield rows.table()


class _BrokenRest(UnreadableRest):
    """rest: the text that is no JSON value."""

    def __init__(self, problem: str, rest: str) -> None:
        super().__init__(problem)
        self.rest = rest


def _values(blocks: Iterable[bytes], max_chars: int) -> Iterator[tuple[Any, str]]:
    """(value, its text) of each value of the array, or of each value that is in no array.

    Raises:
        UnreadableRest: a text is no value (`broken_json`), a value is too large, or the file is damaged.
    """
    decoder, decode = codecs.getincrementaldecoder("utf-8")("surrogateescape"), json.JSONDecoder().raw_decode
    waiting = iter(blocks)
    held, at, is_last, in_array = "", 0, False, False

    def more(least: int) -> None:
        nonlocal held, at, is_last
        pieces, size = [held[at:]], len(held) - at
        while size < least and not is_last:
            block = next(waiting, None)
            is_last = block is None
            pieces.append(decoder.decode(block or b"", final=is_last))
            size += len(pieces[-1])
        held, at = "".join(pieces), 0

    more(_LEAST_READ)
    held = held.removeprefix("\ufeff").lstrip()
    if held.startswith("["):
        in_array, at = True, 1
    while True:
        at = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]  # it may be empty
        if at == len(held) and not is_last:
            more(_LEAST_READ)
            continue
        if at == len(held):
            if in_array:
                raise UnreadableRest("truncated")
            return
        if in_array and held[at] == "]":
            in_array, at = False, at + 1
            continue
        try:
            value, end = decode(held, at)
        except (ValueError, RecursionError) as error:
            size = len(held) - at
            if is_last or isinstance(error, RecursionError):
                raise _BrokenRest("broken_json", held[at:]) from error
            if size > max_chars:
                raise _BrokenRest("too_large", held[at : at + max_chars]) from error
            more(max(2 * size, _LEAST_READ))
            continue
        if end == len(held) and not is_last and held[end - 1] not in ']}"':  # a number may go on
            more(max(2 * (len(held) - at), _LEAST_READ))
            continue
        yield value, held[at:end]
        at = end
