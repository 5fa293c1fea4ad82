"""Parquet: divided by row groups, large ones by rows. Reads only the columns that settings name, in small tables."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.formats import plural
from cluster.python_values import python_rows
from cluster.readers.files.compression import UnreadableRest
from cluster.readers.files.file_problems import PROBLEMS_OF_WHOLE_FILES, pointer_problem
from cluster.readers.files.json_lines import Unreadable
from cluster.readers.files.limits import Limits
from cluster.readers.files.parquet import StoredParquet
from cluster.readers.files.parquet_pages import refuse_large_pages
from cluster.readers.files.span import Span
from cluster.readers.inputs import Input
from cluster.readers.reader import TABLE_BYTES, FilePieces, Reader, ReaderCounts, Row, documents, one_problem
from cluster.store.interface import FileInfo
from cluster.store.store import Store

# Bound on one decoded batch, whatever the encoding of its columns.
_MAX_BATCH_BYTES = 256 << 20
_MAX_BATCH_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 20
_ROWS_AT_ONCE = 4096  # as Python objects
_MAX_POINTER_BYTES = 1024


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
        with StoredParquet(store, span.uri, buffer_size=_BUFFER_BYTES, page_checksum_verification=True) as file:
            names = input.columns_in(file.schema_arrow.names)
            file.fetch_ahead(range(span.start, span.end), names)
            for group in range(span.start, span.end):
                chunks = file.column_chunks(group, names)
                rows = file.metadata.row_group(group).num_rows
                done, end = span.rows or (0, rows)
                try:
                    for chunk in chunks:
                        _refuse_bomb(chunk.total_uncompressed_size, chunk.total_compressed_size, limits)
                    refuse_large_pages(file.file, chunks, limits)
                    for batch in _gathered(
                        _batches(file, group, names, _batch_rows(file.file, chunks, rows), done, end)
                    ):
                        table = documents(batch, input, limits, f"{span.uri} row group {group}", done)
                        expanded_bytes += table.nbytes
                        _refuse_bomb(expanded_bytes, span.size, limits)
                        yield table
                        done += batch.num_rows
                except UnreadableRest as broken:
                    last = span.end if broken.problem == "expansion_bomb" else group + 1
                    lost = end - done + sum(file.metadata.row_group(g).num_rows for g in range(group + 1, last))
                    where = f"{span.uri} row group {group} row {done}: {plural(lost, 'row')} lost"
                    yield one_problem(input, broken.problem, where)
                    if broken.problem == "expansion_bomb":
                        return

    def rows(self, store: Store, span: Span, input: Input, limits: Limits) -> Iterator[tuple[Row | Unreadable, str]]:
        """The rows of a span, with the columns that the settings name, as far as the file has them. See Reader."""
        with StoredParquet(store, span.uri, buffer_size=_BUFFER_BYTES) as file:
            names = [input.text, *input.columns]
            file.fetch_ahead(range(span.start, span.end), names)
            first = sum(file.metadata.row_group(group).num_rows for group in range(span.start))
            for group in range(span.start, span.end):
                chunks, rows = file.column_chunks(group, names), file.metadata.row_group(group).num_rows
                done, end = span.rows or (0, rows)
                refuse_large_pages(file.file, chunks, limits)
                for batch in _batches(file, group, names, _batch_rows(file.file, chunks, rows), done, end):
                    for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                        for row in python_rows(batch.slice(start, _ROWS_AT_ONCE)):
                            yield row, f"{span.uri} row {first + done}"
                            done += 1
                first += rows


def footer_of(store: Store, file: FileInfo) -> tuple[pq.FileMetaData, pa.Schema]:
    """The footer and the schema of a file.

    Raises:
        DataError: the footer cannot be read.
    """
    try:
        with StoredParquet(store, file.uri) as opened:
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
    """The rows of the batches in batches of about TABLE_BYTES, since each batch costs 0.1 ms whatever its size."""
    pending: list[pa.RecordBatch] = []
    held = 0
    broken = None
    try:
        for batch in batches:
            size = TABLE_BYTES if any(_grows_when_decoded(field.type) for field in batch.schema) else batch.nbytes
            if pending and held + size > TABLE_BYTES:
                yield pa.concat_batches(pending)
                pending, held = [], 0
            pending.append(batch)
            held += size
    except UnreadableRest as error:
        broken = error
    if pending:
        yield pa.concat_batches(pending)
    if broken:
        raise broken


def _grows_when_decoded(type: pa.DataType) -> bool:
    """Whether the decoded column can be larger than `nbytes` of the batch: dictionaries and views repeat values."""
    return pa.types.is_dictionary(type) or pa.types.is_string_view(type) or pa.types.is_binary_view(type)


def _batch_rows(handle: pa.NativeFile, chunks: list[pq.ColumnChunkMetaData], rows: int) -> int:
    """Rows to decode at once: about TABLE_BYTES by the mean row, and at most _MAX_BATCH_BYTES in the worst case."""
    row_bytes = sum(chunk.total_uncompressed_size for chunk in chunks) / rows
    wanted = min(TABLE_BYTES / max(row_bytes, 1), _MAX_BATCH_ROWS)
    repeatable = sum(_longest_repeatable(handle, chunk) for chunk in chunks)
    return max(int(min(wanted, _MAX_BATCH_BYTES / max(repeatable, 1))), 1)


def _longest_repeatable(handle: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> int:
    """Upper bound in bytes of a value that the column chunk's encoding can repeat at almost no cost."""
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return chunk.total_uncompressed_size
    if not chunk.dictionary_page_offset:
        return 0
    handle.seek(chunk.dictionary_page_offset)
    return min(_page_bytes(handle.read(16)), chunk.total_uncompressed_size)


def _page_bytes(header: bytes) -> int:
    """Uncompressed size of a page by the beginning of its header; 2 GiB if the header is not as expected.

    Thrift's compact protocol: the fields `type` and `uncompressed_page_size` come first, each a byte 0x15 (next field,
    int32) and a zigzag varint. https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
    """
    if len(header) < 16 or header[0] != 0x15 or header[1] > 0x7F or header[2] != 0x15:
        return 1 << 31
    value = shift = 0
    for byte in header[3:8]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return value >> 1
