"""JSON files: one array of objects, or objects one after the other over any number of lines.

Read only if `format: json` says so, since files named .json usually hold settings. Memory: one object.
"""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import pyarrow as pa

from cluster.read.compression import UnreadableRest
from cluster.read.decoding import utf8_stream
from cluster.read.json_values import BrokenRest, json_values
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.jsonl import add_object
from pipelines.readers.reader import Reader, ReaderCounts, Rows

_PEEK_VALUES = 100


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
                for value, _ in islice(json_values(blocks, limits.max_line_bytes), _PEEK_VALUES):
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
                for number, (value, content) in enumerate(json_values(blocks, limits.max_line_bytes), 1):
                    where = f"{span.uri} value {number}"
                    if isinstance(value, dict):
                        add_object(rows, value, where, input, content)
                    else:
                        rows.refuse("not_an_object", where, content=content)
                    if rows.full:
                        yield rows.table()
        except BrokenRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after value {number}", content=broken.rest)
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after value {number}")
        if len(rows):
            yield rows.table()
