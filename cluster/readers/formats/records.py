"""Base of formats whose files have records with named fields: JSON, CSV and TSV."""

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

import pyarrow as pa

from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.file_problems import FileProblem
from cluster.readers.files.json_lines import BLANK, Unreadable
from cluster.readers.files.json_values import BrokenRest
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.readers.inputs import Input
from cluster.readers.reader import Reader, ReaderCounts, Row, Rows, as_json_text
from cluster.store.store import Store

_MISSING = object()

# (place in the file, the record in UTF-8, its value: a dict of its fields, or something else that is no record)
FoundValue = tuple[str, bytes | None, Any]


class RecordReader(Reader):
    """A document is a record with its text, id and carried columns as fields. A subclass implements `values`.

    unit: what has a value, in places. unencodable: the problem of a record with surrogates.
    """

    unit: str
    unencodable: str = "lone_surrogate"

    def values(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None
    ) -> Generator[FoundValue, None, None]:
        """The records that begin in a span, and what is none: an Unreadable, BLANK for what is passed over.

        counts: repeated keys are counted; None: they are not.

        Raises:
            UnreadableRest: the rest of the file cannot be read.
        """
        raise NotImplementedError

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """A document for each record that begins in the span."""
        file = self.file(store, span, input, limits)
        rows = Rows(input, limits, counts, unencodable=lambda: file.or_row_problem(self.unencodable))
        place = f"{self.unit} 0"
        try:
            with closing(self.values(store, span, input, limits, counts)) as values:
                for place, content, value in values:
                    if isinstance(value, dict):
                        add_object(rows, value, f"{span.uri} {place}", input, content)
                    elif problem := _problem(file, content, value):
                        rows.refuse(problem, f"{span.uri} {place}", content=content)
                    if rows.full:
                        yield rows.table()
        except BrokenRest as broken:
            rest = broken.rest.encode("utf-8", "surrogateescape")
            value = Unreadable("long_line" if broken.problem == "too_large" else broken.problem)
            if problem := _problem(file, rest, value):
                rows.refuse(problem, f"{span.uri} after {place}", content=rest)
        except UnreadableRest as broken:
            rows.refuse(broken.problem, f"{span.uri} after {place}")
        if len(rows):
            yield rows.table()

    def rows(self, store: Store, span: Span, input: Input, limits: Limits) -> Iterator[tuple[Row | Unreadable, str]]:
        """The records of a span, with all fields. See Reader."""
        file = self.file(store, span, input, limits)
        with closing(self.values(store, span, input, limits, None)) as values:
            for place, content, value in values:
                if isinstance(value, dict):
                    yield value, f"{span.uri} {place}"
                elif problem := _problem(file, content, value):
                    yield Unreadable(problem), f"{span.uri} {place}"

    def file(self, store: Store, span: Span, input: Input, limits: Limits) -> FileProblem:
        """The problem of a span's file as a whole; none if the input states an encoding."""
        return FileProblem(store, span, limits, self.file_problem if input.encoding is None else lambda _: None)


def _problem(file: FileProblem, content: bytes | None, value: Any) -> str | None:
    """Why a value is no record; None if it is passed over."""
    if value is BLANK or (content is not None and file.is_blank(content)):
        return None
    return file.or_row_problem(value if isinstance(value, Unreadable) else "not_an_object")


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
