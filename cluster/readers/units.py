"""The input manifest: the files of a run with their versions, and the units of work into which they are divided.

    InputManifest   result of `freeze`: files, units, carried columns, fingerprint
      Unit          is read (`read_unit`), retried and committed as a whole; contains spans of one source
        Span        part of one file: row groups, bytes, or the whole file

A document is identified by (index of its unit, row in the unit). freeze.py makes the manifest, recorded.py writes it.
"""

import dataclasses
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, read_tables
from raymill.cluster.errors import UserError
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.inputs import COLLECTED_AT, FILE, Input, Limits, Unwanted, input_stores
from raymill.cluster.readers.reader import (
    PLUGIN_ERROR,
    TABLE_BYTES,
    ReaderCounts,
    as_json_text,
    python_values,
    time_strings,
)
from raymill.cluster.readers.streams import Span, expanded_size, refuse_changed
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.paths import is_remote
from raymill.cluster.store.store import Store

_FILES_AHEAD = 16
_BYTES_AHEAD = 8 << 20  # decompressed bytes read ahead; a larger file is read ahead alone


@dataclass(frozen=True, slots=True)
class Unit:
    """Spans of one source that are read together. bytes: estimate of the uncompressed text."""

    index: int
    source: str
    spans: tuple[Span, ...]
    bytes: int

    @property
    def uris(self) -> list[str]:
        """The files of the unit, each once, in order."""
        return list(dict.fromkeys(span.uri for span in self.spans))


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input. rows: number of rows, if the file states it. problem: why it is not read."""

    uri: str
    size: int
    version: str
    source: str
    format: str
    rows: int | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The settings and stores with which a worker reads units.

    Attributes:
        store: store of the inputs without `storage`.
        inputs: settings of each source.
        carried: name and type of the carried columns of all sources.
        failed: unit -> rows of documents on which a plug-in raised an exception when the units were read first.
        exceeded: place of a document -> (problem, bound) of each document that exceeded `limits.document_s` or its
            memory when the units were read first. None when they are.
        extracted: in the sample of a plan, the sources whose texts were extracted from files of the input. The sample
            is of Parquet files, so its units do not show it.
    """

    store: Store
    inputs: tuple[Input, ...]
    carried: pa.Schema
    exceeded: Mapping[str, tuple[str, str]] | None = None
    failed: Mapping[int, frozenset[int]] = dataclasses.field(default_factory=dict)
    extracted: frozenset[str] = frozenset()

    def extracts(self, unit: Unit) -> bool:
        """Whether texts of the unit are extracted, as from HTML (`Reader.extracts`)."""
        return unit.source in self.extracted or any(READERS[span.format].extracts for span in unit.spans)

    def leaves_out(self, unit: Unit) -> bool:
        """Whether readers of the unit leave out what `read_unit` is given as `unwanted`."""
        return any(READERS[span.format].leaves_out for span in unit.spans)

    def extraction(self, unit: Unit) -> dict[str, list[Any]]:
        """Format -> `Reader.extraction`, for the formats of the unit that have one."""
        input = self.input_of(unit.source)
        found = ((format, READERS[format].extraction(input)) for format in sorted({one.format for one in unit.spans}))
        return {format: one for format, one in found if one is not None}

    def after(self, quarantine: Artifact) -> "Reading":
        """The same for reading units again. quarantine: `problem` and `where` of what could not be read."""
        found, failed, of_plugins = {}, defaultdict[int, list[int]](list), False
        for table in quarantine.tables():
            for problem, where in zip(table["problem"].to_pylist(), table["where"].to_pylist(), strict=True):
                place, bracket, seen = where.removesuffix(")").rpartition(" (")
                if problem in ("too_slow", "too_large") and bracket and seen.startswith("over "):
                    found[place] = (problem, seen)
                of_plugins |= problem == PLUGIN_ERROR
        if of_plugins:  # a file is of one unit
            for file in quarantine.manifest.files:
                for table in read_tables(quarantine.store, [quarantine.file_uri(file)]):
                    rows = zip(table["row"].to_pylist(), table["problem"].to_pylist(), strict=True)
                    failed[file.unit] += [row for row, problem in rows if problem == PLUGIN_ERROR]
        return replace(self, exceeded=found, failed={unit: frozenset(rows) for unit, rows in failed.items()})

    def input_of(self, source: str) -> Input:
        """The settings of a source's input."""
        return next(one for one in self.inputs if one.source == source)

    def store_of(self, source: str) -> Store:
        """The store of a source's input."""
        stores = zip(self.inputs, input_stores(self.store, self.inputs), strict=True)
        return next(store for one, store in stores if one.source == source)


@dataclass(frozen=True, slots=True)
class InputManifest:
    """The input of a run, as it was when the run began.

    Attributes:
        files: all files, also those that are not read.
        skipped: source -> ending or kind -> number of skipped files.
        fingerprint: fingerprint of the listing.
        notes: sentences for the user about columns and files.
    """

    reading: Reading
    files: tuple[InputFile, ...]
    units: tuple[Unit, ...]
    skipped: Mapping[str, Mapping[str, int]]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The settings of all inputs."""
        return self.reading.inputs

    @property
    def carried(self) -> pa.Schema:
        """Name and type of the carried columns of all sources."""
        return self.reading.carried

    def with_storage_of(self, inputs: Iterable[Input]) -> Self:
        """The manifest with the `storage` of these inputs, by source. A recorded manifest contains no secrets."""
        storage = {one.source: one.storage for one in inputs}
        read = (one.model_copy(update={"storage": storage.get(one.source, one.storage)}) for one in self.inputs)
        return replace(self, reading=replace(self.reading, inputs=tuple(read)))


def read_unit(
    unit: Unit,
    reading: Reading,
    limits: Limits,
    table_bytes: int = TABLE_BYTES,
    counts: ReaderCounts | None = None,
    unwanted: Unwanted | None = None,
) -> Iterator[pa.Table]:
    """Tables of at most about `table_bytes`, none of them empty; a larger document has a table of its own.

    Columns: row int64 (from 0, readable and unreadable rows), id string, text large_string, problem string, where
    string (see reader.py), then `reading.carried`. The rows and their numbers do not depend on `table_bytes`.

    Args:
        counts: the readers add their counts to it.
        unwanted: documents whose text is not extracted, by carried columns that are known before. Their text is null,
            and so is their problem.

    Raises:
        DataError: a file changed since the manifest was made.
        StorageError: the store failed.
    """
    if reading.exceeded is not None:
        limits = limits.again(reading.exceeded)
    row = 0
    for table in _sized(_tables(unit, reading, limits, counts, unwanted), table_bytes):
        if failed := reading.failed.get(unit.index):
            table = _with_failed(table, [one - row for one in failed if row <= one < row + table.num_rows])
        numbers = pa.array(np.arange(row, row + table.num_rows))
        yield table.add_column(0, pa.field("row", pa.int64()), numbers)
        row += table.num_rows


def _with_failed(table: pa.Table, rows: Sequence[int]) -> pa.Table:
    """The table with PLUGIN_ERROR as the problem of these rows, and an empty place."""
    mask = np.zeros(table.num_rows, bool)
    mask[rows] = True
    for name, value in (("problem", PLUGIN_ERROR), ("where", "")):
        column = pc.if_else(pa.array(mask), value, table[name])
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def _tables(
    unit: Unit, reading: Reading, limits: Limits, counts: ReaderCounts | None, unwanted: Unwanted | None
) -> Iterator[pa.Table]:
    store, input = reading.store_of(unit.source), reading.input_of(unit.source).leaving_out(unwanted)

    def of_span(span: Span) -> Iterator[pa.Table]:
        counted = ReaderCounts()  # one for each span, since spans are read at the same time
        file = refuse_changed(store, span)
        try:
            for table in READERS[span.format].read(store, span, input, limits, counted):
                found = conformed(table, reading.carried)
                yield _dated(found, file) if input.origins else found
        except UserError:
            raise  # its message names the file
        except Exception as error:
            error.add_note(f"while reading {span.uri}")
            raise
        if counts is not None:
            counts.add(counted)

    return read_ahead(unit.spans, of_span)


def conformed(table: pa.Table, carried: pa.Schema) -> pa.Table:
    """The table with the carried columns of all sources, in their types; null for those of other sources."""
    columns = [table.column(name) for name in ("id", "text", "problem", "where")]
    for field in carried:
        if field.name in table.column_names:
            columns.append(_cast(table.column(field.name), field.type))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
    return pa.table(columns, names=["id", "text", "problem", "where", *carried.names])


def _dated(table: pa.Table, file: FileInfo) -> pa.Table:
    """The table, with the file, and with its time in COLLECTED_AT where that is null."""
    of_file = table.schema.get_field_index(FILE)
    table = table.set_column(of_file, FILE, pa.repeat(file.uri, table.num_rows))
    if math.isinf(file.modified):
        return table
    try:
        time = datetime.fromtimestamp(file.modified, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a file system can hold years beyond 9999
        return table
    at = table.schema.get_field_index(COLLECTED_AT)
    return table.set_column(at, COLLECTED_AT, pc.fill_null(table[COLLECTED_AT], time))


def _cast(column: pa.ChunkedArray, type: pa.DataType) -> pa.ChunkedArray:
    """The column cast to the carried type. If that is string, nested values become compact JSON, and bytes UTF-8."""
    if column.type == type:
        return column
    if column.null_count == len(column):  # the rows of what could not be read, also where strings cannot become lists
        return pa.chunked_array([pa.nulls(len(column), type)])
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return pa.chunked_array([pa.array([as_json_text(value) for value in python_values(column)], type)])
    if pa.types.is_timestamp(column.type) and pa.types.is_string(type):
        return time_strings(column)
    return column.cast(type)


_MOST_PENDING = 256  # tables to be joined; each takes some kB, also of one row


def _sized(tables: Iterator[pa.Table], table_bytes: int) -> Iterator[pa.Table]:
    """The same rows in tables of at most about `table_bytes`, each column in one chunk."""
    pending: list[pa.Table] = []
    held = 0
    for table in tables:
        for piece, size in _slices(table, table_bytes):
            if pending and held + size > table_bytes:
                yield _joined(pending)
                pending, held = [], 0
            pending.append(piece)
            held += size
            if len(pending) == _MOST_PENDING:
                pending = [_joined(pending)]
    if pending:
        yield _joined(pending)


def _slices(table: pa.Table, table_bytes: int) -> Iterator[tuple[pa.Table, int]]:
    """(rows of at most `table_bytes`, their bytes), in order. A row has its text and an equal share of the rest."""
    sizes = pc.fill_null(pc.binary_length(table.column("text")), 0).to_numpy()
    others = max(table.nbytes - int(sizes.sum()), 0) // max(table.num_rows, 1)
    ends = np.cumsum(sizes + others)
    row = start = 0
    while row < table.num_rows:
        end = max(int(np.searchsorted(ends, start + table_bytes, side="right")), row + 1)
        yield table.slice(row, end - row), int(ends[end - 1]) - start
        row, start = end, int(ends[end - 1])


def _joined(tables: list[pa.Table]) -> pa.Table:
    return tables[0].combine_chunks() if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()


def read_ahead(spans: Sequence[Span], read: Callable[[Span], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """The tables of all spans, in order. Of the next spans on an object store the first table is already being read.

    A small file there costs two or three requests before its first byte arrives, which takes longer than the work on
    its text. Within a large file the store fetches ahead by itself (cluster/store/object_files.py).

    read: the tables of a span; different spans are read by different threads at the same time.

    Raises:
        what `read` raises, after the tables before it.
    """
    if len(spans) < 2 or not is_remote(spans[0].uri):
        for span in spans:
            yield from read(span)
        return
    pool = ThreadPoolExecutor(_FILES_AHEAD, "read")
    begun: deque[tuple[Iterator[pa.Table], Future[pa.Table | None], int]] = deque()
    following, held = deque(spans), 0
    try:
        while following or begun:
            while following and len(begun) < _FILES_AHEAD:
                size = expanded_size(following[0].size, following[0].uri)
                if len(begun) > 1 and held + size > _BYTES_AHEAD:
                    break
                tables = read(following.popleft())
                begun.append((tables, pool.submit(next, tables, None), size))
                held += size
            tables, first, size = begun.popleft()
            table = first.result()
            if table is not None:
                yield table
                yield from tables
            held -= size
    finally:
        pool.shutdown(cancel_futures=True)


def split_problems(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(readable, unreadable) rows of a table of read_unit."""
    if table["problem"].null_count == table.num_rows:
        return table, table.slice(0, 0)
    readable = pc.is_null(table["problem"])
    return table.filter(readable), table.filter(pc.invert(readable))
