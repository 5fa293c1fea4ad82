"""Parquet: divided by row groups, large ones by rows. Reads only the columns that settings name, in small tables.

Arrow decompresses each page as a whole, so files with pages that are too large are refused (cluster/parquet_pages.py).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.parquet_pages import HEADER_BYTES, page_header, verify_pages
from raymill.cluster.readers.column_types import column_problem
from raymill.cluster.readers.formats.row_sizes import MIN_VALUE_BYTES, bounded_pieces, decoded_bytes
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import (
    TABLE_BYTES,
    FilePieces,
    Reader,
    ReaderCounts,
    Row,
    Unreadable,
    cast_rows,
    documents,
    one_problem,
    plain_nested,
    typed_rows,
)
from raymill.cluster.readers.streams import PROBLEMS_OF_WHOLE_FILES, Span, UnreadableRest, pointer_problem
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet

# Bound on one decoded batch, whatever the encoding of its columns.
_MAX_BATCH_BYTES = 256 << 20
_MAX_BATCH_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 20
# Ratio of decoded to stored bytes of a list column. Lists of equal numbers are stored in a few bits a value.
_MOST_OF_LISTS = 200
_MAX_POINTER_BYTES = 1024
# A row group takes 3 kB of memory and more while its file is read, however few rows it has.
_MOST_GROUPS, _LEAST_GROUP_BYTES = 50_000, 1 << 12
_REPEATING_TYPES = (pa.types.is_dictionary, pa.types.is_string_view, pa.types.is_binary_view)


class Parquet(Reader):
    """A large row group is divided by rows, into few parts. Of a damaged one, the rows before the damage are read."""

    endings = (".parquet", ".pq")
    compressible = False
    columns = "typed"

    def cut(self, store: Store, file: FileInfo, input: Input) -> FilePieces:
        """A piece for each row group with rows; its text bytes are the uncompressed size of the text column.

        Raises:
            DataError: the footer cannot be read.
        """
        footer, schema = footer_of(store, file)
        leaf = next((leaf for leaf in range(footer.num_columns) if footer.schema.column(leaf).path == input.text), None)
        return pieces_of_footer(footer, schema, None if leaf is None else [leaf])

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        """Tables of the span's row groups or rows. The rows lost to damage in a row group are one unreadable row.

        For a part of a row group, the rows before it are decoded, too: a page states its number of rows, but the places
        of the others are stated only if the writer left an index of pages.
        """
        expanded_bytes = 0
        with _opened(store, span.uri, input, page_checksum_verification=True) as file:
            names = input.columns_in(file.schema_arrow.names)
            if refusal := column_problem(file.schema_arrow, names):
                yield one_problem(input, "column_type", f"{span.uri}: {refusal}")
                return
            file.fetch_ahead(range(span.start, span.end), names)
            for group in range(span.start, span.end):
                chunks = file.column_chunks(group, names)
                rows = file.metadata.row_group(group).num_rows
                done, end = span.rows or (0, rows)
                try:
                    for chunk in chunks:
                        _refuse_bomb(chunk.total_uncompressed_size, chunk.total_compressed_size, limits)
                    _refuse_many_values(file, chunks, limits)
                    verify_pages(file.file, chunks, limits.block_bytes, UnreadableRest)
                    batches = _batches(file, group, names, _batch_rows(file.file, chunks, rows), done, end)
                    for batch in _bounded(_gathered(batches), file, limits):
                        table = documents(batch, input, limits, f"{span.uri} row group {group}", done)
                        expanded_bytes += table.nbytes
                        _refuse_bomb(expanded_bytes, span.size, limits)
                        yield table
                        done += batch.num_rows
                except UnreadableRest as broken:
                    last = span.end if broken.problem == "expansion_bomb" else group + 1
                    lost = end - done + sum(file.metadata.row_group(g).num_rows for g in range(group + 1, last))
                    where = f"{span.uri} row group {group} row {done}: {plural(lost, 'row')} lost"
                    counts.lost[broken.problem] += max(lost - 1, 0)
                    yield one_problem(input, broken.problem, where)
                    if broken.problem == "expansion_bomb":
                        return

    def rows(
        self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts | None = None
    ) -> Iterator[tuple[Row | Unreadable, str]]:
        """The rows of a span, with the columns that the settings name, as far as the file has them. See Reader."""
        with _opened(store, span.uri, input) as file:
            names = [input.text, *input.columns]
            if refusal := column_problem(file.schema_arrow, names):
                raise UnreadableRest("column_type", refusal)
            expanded_bytes = 0
            file.fetch_ahead(range(span.start, span.end), names)
            first = sum(file.metadata.row_group(group).num_rows for group in range(span.start))
            for group in range(span.start, span.end):
                chunks, rows = file.column_chunks(group, names), file.metadata.row_group(group).num_rows
                done, end = span.rows or (0, rows)
                _refuse_many_values(file, chunks, limits)
                verify_pages(file.file, chunks, limits.block_bytes, UnreadableRest)
                batches = _batches(file, group, names, _batch_rows(file.file, chunks, rows), done, end)
                for batch in _bounded(batches, file, limits):
                    expanded_bytes += decoded_bytes(batch)
                    _refuse_bomb(expanded_bytes, span.size, limits)
                    yield from typed_rows(batch, span.uri, first + done)
                    done += batch.num_rows
                first += rows


def footer_of(store: Store, file: FileInfo) -> tuple[pq.FileMetaData, pa.Schema]:
    """The footer and the schema of a file.

    Raises:
        DataError: the footer cannot be read.
    """
    try:
        with StoredParquet(store, file.uri) as opened:
            groups = opened.metadata.num_row_groups
            if groups > _MOST_GROUPS and file.size < groups * _LEAST_GROUP_BYTES:
                raise DataError(
                    f"{file.uri}: has {groups:,} row groups of {file.size // groups:,} bytes on average, whose list "
                    "alone takes the memory of a task. Write it again with larger row groups."
                )
            return opened.metadata, opened.schema_arrow
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if file.size < _MAX_POINTER_BYTES and (problem := pointer_problem(store.read_bytes(file.uri))):
            raise DataError(f"{file.uri}: {PROBLEMS_OF_WHOLE_FILES[problem]}.") from error
        raise DataError(
            f"{file.uri}: not a readable Parquet file ({str(error).splitlines()[0].rstrip('.')}). "
            "It may be incomplete: write it again, or choose a narrower path that leaves it out."
        ) from error


def pieces_of_footer(footer: pq.FileMetaData, schema: pa.Schema, leaves: Sequence[int] | None) -> FilePieces:
    """A piece for each row group with rows. leaves: leaf columns with the text, whose bytes count; None: all."""
    pieces, rows_of_pieces = [], []
    for group in range(footer.num_row_groups):
        rows = footer.row_group(group)
        if rows.num_rows:
            sizes = (rows.column(leaf).total_uncompressed_size for leaf in leaves or ())
            pieces.append((group, group + 1, rows.total_byte_size if leaves is None else sum(sizes)))
            rows_of_pieces.append(rows.num_rows)
    return FilePieces(tuple(pieces), footer.num_rows, schema, rows_of_pieces=tuple(rows_of_pieces))


def _opened(store: Store, uri: str, input: Input, **options: Any) -> StoredParquet:
    """The open file. Strings within lists, structs and maps are read as dictionaries, whatever its Arrow schema says.

    Their size is then known before they take it: a single row of a list can repeat a string without end.
    """
    file = StoredParquet(store, uri, buffer_size=_BUFFER_BYTES, **options)
    names = input.columns_in(file.schema_arrow.names)
    leaves = map(file.metadata.schema.column, range(file.metadata.num_columns))
    nested = [
        leaf.path
        for leaf in leaves
        if leaf.physical_type == "BYTE_ARRAY" and any(leaf.path.startswith(f"{name}.") for name in names)
    ]
    if not nested:
        return file
    footer = file.metadata
    file.close()
    return StoredParquet(store, uri, buffer_size=_BUFFER_BYTES, metadata=footer, read_dictionary=nested, **options)


def _refuse_many_values(file: StoredParquet, chunks: list[pq.ColumnChunkMetaData], limits: Limits) -> None:
    """Refuse lists whose values take far more memory than bytes in their pages, as one row can have all of them.

    Raises:
        UnreadableRest: a chunk has them (`large_block`).
    """
    for chunk in chunks:
        decoded = MIN_VALUE_BYTES * chunk.num_values
        if "." in chunk.path_in_schema and decoded > max(
            limits.block_bytes, _MOST_OF_LISTS * chunk.total_uncompressed_size
        ):
            raise UnreadableRest("large_block")


def _bounded(batches: Iterator[pa.RecordBatch], file: StoredParquet, limits: Limits) -> Iterator[pa.RecordBatch]:
    """The rows of the batches with the types that the file states, in smaller batches where nested values grow."""
    stated = file.metadata.schema.to_arrow_schema()
    for batch in batches:
        if any(pa.types.is_nested(field.type) for field in batch.schema):
            schema = pa.schema([(name, plain_nested(stated.field(name).type)) for name in batch.schema.names])
            for piece in bounded_pieces(batch, limits):
                yield pa.record_batch(list(map(cast_rows, piece.columns, schema.types)), schema)
        else:
            yield batch


def _refuse_bomb(expanded_bytes: int, compressed_bytes: int, limits: Limits) -> None:
    if limits.is_bomb(expanded_bytes, compressed_bytes):
        raise UnreadableRest("expansion_bomb")


def _batches(
    file: pq.ParquetFile, group: int, names: list[str], batch_rows: int, done: int, end: int
) -> Iterator[pa.RecordBatch]:
    """The rows [done, end) of the row group in batches.

    Arrow fails on a whole batch if one of its pages is damaged; the rows from there on are then read again in smaller
    batches, down to one row.

    Raises:
        UnreadableRest: the next row is in a damaged page; all rows before it were returned.
    """
    while True:
        passed = 0
        try:
            for batch in file.iter_batches(batch_rows, [group], names, use_threads=False):
                first, passed = passed, passed + batch.num_rows
                if done < passed:
                    skip, done = done - first, min(passed, end)
                    yield batch.slice(skip, done - first - skip)
                if done >= end:
                    return
            return
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the data
            if batch_rows == 1:
                raise UnreadableRest("corrupt_page") from error
            batch_rows = max(batch_rows // 16, 1)


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of the batches in batches of about TABLE_BYTES, since each batch costs 0.1 ms whatever its size.

    A batch has at most _MAX_BATCH_ROWS, as other readers' tables have: short rows take more as Python objects.
    """
    pending: list[pa.RecordBatch] = []
    held = rows = 0
    broken = None
    try:
        for batch in batches:
            # Dictionaries and views repeat values, so that the decoded column can be larger than `nbytes`.
            may_grow = any(check(field.type) for check in _REPEATING_TYPES for field in batch.schema)
            size = TABLE_BYTES if may_grow else batch.nbytes
            if pending and (held + size > TABLE_BYTES or rows + len(batch) > _MAX_BATCH_ROWS):
                yield pa.concat_batches(pending)
                pending, held, rows = [], 0, 0
            pending.append(batch)
            held, rows = held + size, rows + len(batch)
    except UnreadableRest as error:
        broken = error
    if pending:
        yield pa.concat_batches(pending)
    if broken:
        raise broken


def _batch_rows(handle: pa.NativeFile, chunks: list[pq.ColumnChunkMetaData], rows: int) -> int:
    """Rows to decode at once: about TABLE_BYTES by the mean row, and at most _MAX_BATCH_BYTES in the worst case."""
    row_bytes = sum(chunk.total_uncompressed_size for chunk in chunks) / rows
    wanted = min(TABLE_BYTES / max(row_bytes, 1), _MAX_BATCH_ROWS)
    repeatable = 0  # upper bound in bytes of the values of a row that their encodings can repeat at almost no cost
    for chunk in chunks:
        if "DELTA_BYTE_ARRAY" in chunk.encodings:
            repeatable += chunk.total_uncompressed_size
        elif chunk.dictionary_page_offset:
            handle.seek(chunk.dictionary_page_offset)
            try:
                repeatable += page_header(handle.read(HEADER_BYTES)).uncompressed
            except (IndexError, ValueError):
                repeatable += chunk.total_uncompressed_size
    return max(int(min(wanted, _MAX_BATCH_BYTES / max(repeatable, 1))), 1)
