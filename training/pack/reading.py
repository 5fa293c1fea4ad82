"""Reading a span of a file as rows: dicts, or the reason why a row cannot be read.

JSON Lines are read a hundred times as fast as a tokenizer takes them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.readers.files.arrow_streams import record_batches
from cluster.readers.files.compression import UnreadableRest, stream
from cluster.readers.files.file_problems import PROBLEMS_OF_WHOLE_FILES, encoding_problem, first_bytes
from cluster.readers.files.json_lines import BLANK, Unreadable, json_lines
from cluster.readers.files.json_values import BrokenRest, json_values
from cluster.readers.files.limits import Limits
from cluster.readers.files.parquet import StoredParquet
from cluster.readers.files.parquet_pages import refuse_large_pages
from cluster.readers.files.span import Span, refuse_changed
from cluster.store.store import Store
from training.data.packed import SPLITS

_PARQUET, _LINES, _VALUES = (".parquet", ".pq"), (".jsonl", ".ndjson"), (".json",)
_COMPRESSIONS = ("", ".gz", ".zst")
_FORMATS = {"parquet": _PARQUET, "arrow": (".arrow",)} | {
    format: tuple(f"{name}{compression}" for compression in _COMPRESSIONS for name in names)
    for format, names in (("jsonl", _LINES), ("json", _VALUES))
}
FORMATS = tuple(ending for format, endings in _FORMATS.items() for ending in endings if format != "arrow")

_BLOCK_BYTES = 1 << 20
_TABLE_BYTES = 4 << 20
_LIMITS = Limits(max_document_bytes=80_000_000)  # lines of up to 240 MB


@dataclass(frozen=True, slots=True)
class SplitSpan(Span):
    """A span of a file whose documents are all of one split. split: its name."""

    split: str = "train"


Row = dict[str, Any]
_PEEKED_ROWS = 100
# Other usual names of the splits.
_SPLIT_NAMES = {
    "training": "train",
    **dict.fromkeys(("valid", "val", "dev", "eval", "evaluation"), "validation"),
    "testing": "test",
}


def format_of(name: str) -> str | None:
    """`parquet`, `jsonl`, `json` (arrays, or objects one after the other), `arrow` (of Hugging Face `datasets`).

    None: a file that is not read.
    """
    return next((format for format, endings in _FORMATS.items() if name.lower().endswith(endings)), None)


def is_compressed(name: str) -> bool:
    """Whether a file's name ends with .gz or .zst."""
    return name.lower().endswith((".gz", ".zst"))


def read_rows(store: Store, span: Span, columns: Sequence[str]) -> Iterator[tuple[Row | Unreadable, str]]:
    """(row, its position in words). Rows of Parquet have the named columns, JSON objects all keys.

    Raises:
        DataError: the file changed since the run began, or is damaged Parquet, or JSON that cannot be read to its end.
    """
    refuse_changed(store, span)
    if span.format == "parquet":
        yield from _parquet_rows(store, span, columns)
    elif span.format == "arrow":
        yield from _arrow_rows(store, span)
    else:
        unit = "element" if span.format == "json" else "line" if is_compressed(span.uri) else "byte"
        for row, position in json_rows(store, span):
            yield row, f"{span.uri} {unit} {position}"


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
                refuse_large_pages(file.file, file.column_chunks(group, columns), _LIMITS)
                yield from _group_rows(file, group, columns, starts[group], span)
    except UnreadableRest as broken:
        raise DataError(
            f"{span.uri}: Parquet that cannot be read ({broken.problem.replace('_', ' ')}; a page may have "
            f"{_LIMITS.block_bytes >> 20} MiB). Write it again with smaller pages, or exclude it by a narrower path."
        ) from broken
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk or network, not of the data
        raise DataError(
            f"{span.uri}: damaged Parquet ({str(error).splitlines()[0]}). Write it again, or exclude it by a "
            "narrower path."
        ) from error


def _arrow_rows(store: Store, span: Span) -> Iterator[tuple[Row, str]]:
    number = 0
    try:
        with store.open_input(span.uri) as handle:
            for batch in record_batches(handle, _LIMITS):
                for row in batch.to_pylist():
                    yield row, f"{span.uri} row {number}"
                    number += 1
    except UnreadableRest as broken:
        raise DataError(
            f"{span.uri}: Arrow stream that cannot be read after row {number} ({broken.problem.replace('_', ' ')}). "
            "Save the data set again, with small record batches, or remove it from the cache of `datasets` (HF_HOME)."
        ) from broken


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
    """(object, its position). Blank lines are skipped.

    The position is the byte where a line starts, in compressed files its number from 1, and in arrays the index of the
    element, from 0.

    Raises:
        DataError: a file of format `json` cannot be read to its end.
    """
    if span.format == "json":
        yield from _json_elements(store, span)
        return
    position = 0
    try:
        for position, line, value in json_lines(store, span, _LIMITS):
            if value is not BLANK:
                yield _object(line, value), position
    except UnreadableRest as broken:
        problem = "large_block" if broken.problem == "large_block" else "broken_compression"
        yield Unreadable(problem), position + 1


def _json_elements(store: Store, span: Span) -> Iterator[tuple[Row | Unreadable, int]]:
    """(object, its index) of each element of the arrays, or of each value of a file without one."""
    index = -1
    try:
        with closing(stream(store, span.uri, _LIMITS)) as blocks:
            for index, (value, _) in enumerate(json_values(blocks, _LIMITS.max_line_bytes)):
                yield value if isinstance(value, dict | Unreadable) else Unreadable("not_an_object"), index
    except UnreadableRest as broken:
        raise DataError(_unreadable_json(store, span, index + 1, broken)) from broken


def _unreadable_json(store: Store, span: Span, index: int, broken: UnreadableRest) -> str:
    whole = encoding_problem(first_bytes(store, span, _LIMITS)) or broken.problem
    if whole in PROBLEMS_OF_WHOLE_FILES:
        return f"{span.uri}: {PROBLEMS_OF_WHOLE_FILES[whole]}."
    seen = {
        "broken_json": "is not JSON",
        "too_large": f"is larger than {_LIMITS.max_line_bytes:,} characters",
        "truncated": "is missing: the file ends within its array or its compressed data",
    }.get(whole, f"cannot be read ({whole.replace('_', ' ')})")
    text = f", which begins {broken.rest[:60]!r}," if isinstance(broken, BrokenRest) else ""
    if whole == "broken_json":
        seen += f" ({_defect(broken)})"
    return (
        f"{span.uri}: element {index}{text} {seen}, and nothing after it can be read. Wanted: one array of objects. "
        "Correct the file or write it again; if it has one object on each line, name it .jsonl, where a line that "
        "cannot be read is left out."
    )


def _defect(broken: UnreadableRest) -> str:
    """What the decoder of JSON found, with the text before the place."""
    error = broken.__cause__
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    before = error.doc[max(error.pos - 40, 0) : error.pos]
    return error.msg + (f" after {before!r}" if before else "")


def _object(line: bytes | None, value: Any) -> Row | Unreadable:
    if isinstance(value, dict):
        return value
    if line is None:
        return Unreadable("line_too_long")
    if line.strip() == b"[" or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return Unreadable("json_array")
    return value if isinstance(value, Unreadable) else Unreadable("not_an_object")


def splits_of_first_rows(store: Store, spans: Sequence[Span]) -> set[str]:
    """The splits that the first rows name in a column `split`; none unless each of these rows names one."""
    rows = islice((row for span in spans for row, _ in read_rows(store, span, ["split"])), _PEEKED_ROWS)
    names = [row.get("split") for row in rows if isinstance(row, dict)]
    found = {split_name(name) if isinstance(name, str) else None for name in names}
    return {name for name in found if name is not None} if None not in found else set()


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
