"""Parquet: cut by row groups, read in tables of bounded size, only the columns that are named."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import DataError
from cluster.page.formats import plural
from cluster.read.compression import Broken
from cluster.read.limits import Limits
from cluster.read.span import Span
from cluster.store.interface import FileInfo
from cluster.store.store import Store
from pipelines.readers.inputs import Input
from pipelines.readers.reader import TABLE_BYTES, Cut, Reader, ReaderCounts, documents, one_problem

# One decoded batch may not pass this, however the column is encoded.
_MAX_BATCH_BYTES = 256 << 20
_MAX_BATCH_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 20


class Parquet(Reader):
    endings = (".parquet", ".pq")
    compressible = False
    columns = "typed"

    def cut(self, store: Store, file: FileInfo, input: Input, unit_bytes: int) -> Cut:
        try:
            with store.open_input(file.uri) as handle:
                opened = pq.ParquetFile(handle, pre_buffer=False)
                footer, schema = opened.metadata, opened.schema_arrow
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"{file.uri}: not a readable Parquet file ({str(error).splitlines()[0].rstrip('.')}). "
                "Was its writing cut short? Write it again, or leave it out by a narrower path."
            ) from error
        leaf = _leaves(footer).get(input.text)
        pieces = []
        for group in range(footer.num_row_groups):
            rows = footer.row_group(group)
            if rows.num_rows:
                size = rows.total_byte_size if leaf is None else rows.column(leaf).total_uncompressed_size
                pieces.append((group, group + 1, size))
        return Cut(tuple(pieces), footer.num_rows, schema)

    def read(self, store: Store, span: Span, input: Input, limits: Limits, counts: ReaderCounts) -> Iterator[pa.Table]:
        names = list(dict.fromkeys([input.text, *([input.id] if input.id else []), *input.columns]))
        expanded_bytes = 0
        with store.open_input(span.uri) as handle:
            file = pq.ParquetFile(handle, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
            for group in range(span.start, span.end):
                chunks = _chunks(file.metadata, group, names)
                rows = file.metadata.row_group(group).num_rows
                done = 0
                try:
                    for chunk in chunks:
                        _refuse_bomb(chunk.total_uncompressed_size, chunk.total_compressed_size, limits)
                    for batch in _gathered(_batches(file, group, names, _batch_rows(handle, chunks, rows))):
                        table = documents(batch, input, limits, f"{span.uri} row group {group}", done)
                        expanded_bytes += table.nbytes
                        _refuse_bomb(expanded_bytes, span.size, limits)
                        yield table
                        done += batch.num_rows
                except Broken as broken:
                    last = span.end if broken.problem == "expansion_bomb" else group + 1
                    lost = sum(file.metadata.row_group(g).num_rows for g in range(group, last)) - done
                    where = f"{span.uri} row group {group} row {done}: {plural(lost, 'row')} lost"
                    yield one_problem(input, broken.problem, where)
                    if broken.problem == "expansion_bomb":
                        return


def _refuse_bomb(expanded_bytes: int, compressed_bytes: int, limits: Limits) -> None:
    if limits.is_bomb(expanded_bytes, compressed_bytes):
        raise Broken("expansion_bomb")


def _batches(file: pq.ParquetFile, group: int, names: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """The row group in batches; when a page is damaged, every row before it, then Broken.

    Arrow loses the whole batch that touches a damaged page, so what is left is read again in ever smaller batches.
    """
    done = 0
    while True:
        passed = 0
        try:
            for batch in file.iter_batches(batch_rows, [group], names, use_threads=False):
                skip = min(max(done - passed, 0), batch.num_rows)
                passed += batch.num_rows
                if skip < batch.num_rows:
                    done = passed
                    yield batch.slice(skip)
            return
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk or the network, not the data
            if batch_rows == 1:
                raise Broken("corrupt_page") from error
            batch_rows = max(batch_rows // 16, 1)


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches that caution made tiny, put together: a table costs 0.1 ms however small it is."""
    pending: list[pa.RecordBatch] = []
    held = 0
    broken = None
    try:
        for batch in batches:
            size = TABLE_BYTES if any(_may_unfold(field.type) for field in batch.schema) else batch.nbytes
            if pending and held + size > TABLE_BYTES:
                yield pa.concat_batches(pending)
                pending, held = [], 0
            pending.append(batch)
            held += size
    except Broken as error:
        broken = error
    if pending:
        yield pa.concat_batches(pending)
    if broken:
        raise broken


def _may_unfold(type: pa.DataType) -> bool:
    """Does a batch of this type say less than it will weigh?"""
    return pa.types.is_dictionary(type) or pa.types.is_string_view(type) or pa.types.is_binary_view(type)


def _batch_rows(handle: pa.NativeFile, chunks: list[pq.ColumnChunkMetaData], rows: int) -> int:
    """Rows to decode at once: about a table, and never more than _MAX_BATCH_BYTES though an encoding repeats values."""
    row_bytes = sum(chunk.total_uncompressed_size for chunk in chunks) / rows
    wanted = min(TABLE_BYTES / max(row_bytes, 1), _MAX_BATCH_ROWS)
    repeatable = sum(_longest_repeatable(handle, chunk) for chunk in chunks)
    return max(int(min(wanted, _MAX_BATCH_BYTES / max(repeatable, 1))), 1)


def _longest_repeatable(handle: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> int:
    """Bytes that one value may have though it costs next to nothing to repeat."""
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return chunk.total_uncompressed_size
    if not chunk.dictionary_page_offset:
        return 0
    handle.seek(chunk.dictionary_page_offset)
    return min(_page_bytes(handle.read(16)), chunk.total_uncompressed_size)


def _page_bytes(header: bytes) -> int:
    """Uncompressed size of a page, from the beginning of its header; a huge number if that is not to be found.

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


def _chunks(footer: pq.FileMetaData, group: int, names: list[str]) -> list[pq.ColumnChunkMetaData]:
    """The column chunks of a row group that hold the named columns, with all that is nested in them."""
    row_group = footer.row_group(group)
    wanted = [
        leaf
        for leaf in range(footer.num_columns)
        if any((footer.schema.column(leaf).path + ".").startswith(name + ".") for name in names)
    ]
    return [row_group.column(leaf) for leaf in wanted]


def _leaves(footer: pq.FileMetaData) -> dict[str, int]:
    """Top-level columns without structure -> their number among the leaves."""
    return {footer.schema.column(leaf).path: leaf for leaf in range(footer.num_columns)}
