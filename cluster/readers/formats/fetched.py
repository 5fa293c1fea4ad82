"""What `prepare` fetched of a database, an API or web pages: Parquet with a JSON object a row."""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from cluster.artifact import open_parquet
from cluster.errors import DataError
from cluster.readers.files.limits import Limits
from cluster.readers.files.span import Span
from cluster.readers.formats.records import add_object
from cluster.readers.inputs import COLLECTED_AT, Input
from cluster.readers.reader import FilePieces, Reader, ReaderCounts, Rows
from cluster.store.interface import FileInfo
from cluster.store.store import Store

FETCHED_SCHEMA = pa.schema(
    [
        ("record", pa.large_string()),  # a JSON object; where there is a problem what was received, or null
        ("problem", pa.string()),  # a key of reader.PROBLEMS
        ("where", pa.string()),  # the request
        ("collected_at", pa.string()),  # when the answer was received, UTC in ISO 8601
    ]
)

_PEEK_ROWS = 100


class Fetched(Reader):
    """A document is an object with its text, id and carried columns as values. A row group is the smallest piece."""

    endings = ()
    compressible = False
    columns = "open"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """A piece for each row group with rows.

        Raises:
            DataError: the file was damaged, or is of another program.
        """
        with open_parquet(store, file.uri) as opened:
            footer = opened.metadata
            _refuse_others(opened.schema_arrow, file)
        groups = (footer.row_group(number) for number in range(footer.num_row_groups))
        pieces = [(number, number + 1, one.total_byte_size) for number, one in enumerate(groups) if one.num_rows]
        return FilePieces(tuple(pieces), footer.num_rows)

    def columns_of(self, store: Store, file: FileInfo, input: Input) -> tuple[str, ...]:
        """Every key of the first 100 objects.

        Raises:
            DataError: the file is of another program.
        """
        with open_parquet(store, file.uri) as opened:
            _refuse_others(opened.schema_arrow, file)
            if not opened.num_row_groups:
                return ()
            rows = opened.read_row_group(0, columns=["record", "problem"], use_threads=False).to_pylist()
        records = (row["record"] for row in rows if row["problem"] is None)
        names = (name for record in islice(records, _PEEK_ROWS) for name in json.loads(record))
        return tuple(dict.fromkeys(names))

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables of the span's row groups, with the column `COLLECTED_AT` of inputs.py besides the usual ones."""
        with open_parquet(store, span.uri) as opened:
            opened.fetch_ahead(range(span.start, span.end), FETCHED_SCHEMA.names)
            for group in range(span.start, span.end):
                found = opened.read_row_group(group, columns=FETCHED_SCHEMA.names, use_threads=False)
                rows = Rows(input, limits, counts)
                for row in found.to_pylist():
                    _add(rows, row, input)
                yield rows.table().append_column(COLLECTED_AT, found["collected_at"])


def _refuse_others(schema: pa.Schema, file: FileInfo) -> None:
    if schema.names != FETCHED_SCHEMA.names:
        raise DataError(f"{file.uri}: not a file that `raymill prepare` fetched. Leave `format` out.")


def _add(rows: Rows, row: dict[str, Any], input: Input) -> None:
    if row["problem"] is not None:
        rows.refuse(row["problem"], row["where"], content=row["record"])
    else:
        add_object(rows, json.loads(row["record"]), row["where"], input, row["record"])
