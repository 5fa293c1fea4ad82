"""Reading a span of a file as rows: dicts, or the reason why a row cannot be read.

JSON Lines are read a hundred times as fast as a tokenizer takes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.read.compression import UnreadableRest
from cluster.read.json_lines import BLANK, Unreadable, json_lines
from cluster.read.limits import Limits
from cluster.read.parquet import StoredParquet
from cluster.read.span import Span, refuse_changed
from cluster.store.store import Store
from training.data.packed import SPLITS

FORMATS = (".parquet", ".pq", ".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")

_BLOCK_BYTES = 1 << 20
_TABLE_BYTES = 4 << 20
_LIMITS = Limits(max_document_bytes=80_000_000)  # lines of up to 240 MB


Row = dict[str, Any]
_PEEKED_ROWS = 100
# Other usual names of the splits.
_SPLIT_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}


def format_of(name: str) -> str | None:
    """`parquet`, `jsonl`, or None for a file that is not read."""
    ending = next((ending for ending in FORMATS if name.lower().endswith(ending)), None)
    return None if ending is None else "parquet" if ending in (".parquet", ".pq") else "jsonl"


def is_compressed(name: str) -> bool:
    """Whether a file's name ends with .gz or .zst."""
    return name.lower().endswith((".gz", ".zst"))


def read_rows(store: Store, span: Span, columns: Sequence[str]) -> Iterator[tuple[Row | Unreadable, str]]:
    """(row, its position in words). Rows of Parquet have the named columns, JSON objects all keys.

    Raises:
        DataError: the file changed since the run began, or is damaged Parquet.
    """
    refuse_changed(store, span)
    if span.format == "parquet":
        yield from _parquet_rows(store, span, columns)
    else:
        for row, offset in json_rows(store, span):
            yield row, f"{span.uri} {'line' if is_compressed(span.uri) else 'byte'} {offset}"


def _parquet_rows(store: Store, span: Span, columns: Sequence[str]) -> Iterator[tuple[Row, str]]:
    try:
        with StoredParquet(store, span.uri, buffer_size=_BLOCK_BYTES) as file:
            rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            starts = [0, *accumulate(rows)]
            groups = [
                group for group, (first, end) in enumerate(pairwise(starts)) if first < span.end and end > span.start
            ]
            file.fetch_ahead(groups, columns)
            for group in groups:
                yield from _group_rows(file, group, columns, starts[group], span)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk or network, not of the data
        raise DataError(
            f"{span.uri}: damaged Parquet ({str(error).splitlines()[0]}). Write it again, or exclude it by a "
            "narrower path."
        ) from error


def _group_rows(
    file: pq.ParquetFile, group: int, columns: Sequence[str], first: int, span: Span
) -> Iterator[tuple[Row, str]]:
    """The rows of one row group that belong to the span, decoded in tables of about _TABLE_BYTES."""
    about = file.metadata.row_group(group)
    rows_at_once = max(1, min(4096, _TABLE_BYTES * about.num_rows // max(1, about.total_byte_size)))
    for batch in file.iter_batches(rows_at_once, [group], list(columns), use_threads=False):
        if first >= span.end:
            return
        if first + batch.num_rows > span.start:
            start = max(span.start - first, 0)
            for number, row in enumerate(batch.slice(start, span.end - first - start).to_pylist(), first + start):
                yield row, f"{span.uri} row {number}"
        first += batch.num_rows


def json_rows(store: Store, span: Span) -> Iterator[tuple[Row | Unreadable, int]]:
    """(object, the byte where it starts, or in compressed files its line number from 1). Blank lines are skipped."""
    position = 0
    try:
        for position, line, value in json_lines(store, span, _LIMITS):
            if value is not BLANK:
                yield _object(line, value), position
    except UnreadableRest:
        yield Unreadable("broken_compression"), position + 1


def _object(line: bytes | None, value: Any) -> Row | Unreadable:
    if isinstance(value, dict):
        return value
    if line is None:
        return Unreadable("line_too_long")
    if line.strip() == b"[" or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return Unreadable("json_array")
    return value if isinstance(value, Unreadable) else Unreadable("not_an_object")


def names_splits(store: Store, spans: Sequence[Span]) -> bool:
    """Whether the first rows have a column `split`, and each of them the name of a split in it."""
    rows = islice((row for span in spans for row, _ in read_rows(store, span, ["split"])), _PEEKED_ROWS)
    names = [row.get("split") for row in rows if isinstance(row, dict)]
    return bool(names) and all(isinstance(name, str) and split_name(name) is not None for name in names)


def split_name(value: str) -> str | None:
    """The split that a value of a column names, also by another usual name; None if it names none."""
    found = _SPLIT_NAMES.get(value.lower(), value.lower())
    return found if found in SPLITS else None


def without_nulls(value: Any) -> Any:
    """The value without keys whose value is null: in a struct column every row has all keys."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [without_nulls(inner) for inner in value]
    return value
