"""Parquet: cut by row groups, read in tables of bounded size, only the columns that are named."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import storage
from cluster.errors import DataError
from cluster.storage import FileInfo
from pipelines.inputs import Input, Limits
from pipelines.readers.compression import Broken
from pipelines.readers.reader import TABLE_BYTES, Cut, Reader, documents, one_problem
from pipelines.units import Span

# One decoded batch may not pass this, however the column is encoded.
_MAX_BATCH_BYTES = 256 << 20
_MAX_BATCH_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 20


class Parquet(Reader):
    endings = (".parquet", ".pq")
    compressible = False
    columns = "typed"

    def cut(self, file: FileInfo, input: Input, unit_bytes: int) -> Cut:
        try:
            with storage.open_input(file.uri) as handle:
                opened = pq.ParquetFile(handle, pre_buffer=False)
                footer, schema = opened.metadata, opened.schema_arrow
        except (pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(
                f"{file.uri}: not a readable Parquet file ({str(error).splitlines()[0]}). "
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

    def read(self, span: Span, input: Input, limits: Limits) -> Iterator[pa.Table]:
        names = list(dict.fromkeys([input.text, *([input.id] if input.id else []), *input.columns]))
        expanded_bytes = 0
        with storage.open_input(span.uri) as handle:
            file = pq.ParquetFile(handle, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
            leaf = _leaves(file.metadata)[input.text]
            for group in range(span.start, span.end):
                footer = file.metadata.row_group(group)
                chunk = footer.column(leaf)
                done = 0
                try:
                    _refuse_bomb(chunk.total_uncompressed_size, chunk.total_compressed_size, limits)
                    for batch in _batches(file, group, names, _batch_rows(chunk, footer.num_rows)):
                        read_bytes = batch.column(input.text).nbytes
                        expanded_bytes += read_bytes
                        _refuse_bomb(expanded_bytes, span.size, limits)
                        yield documents(batch, input, limits, f"{span.uri} row group {group}", done)
                        done += batch.num_rows
                except Broken as broken:
                    last = span.end if broken.problem == "expansion_bomb" else group + 1
                    lost = sum(file.metadata.row_group(g).num_rows for g in range(group, last)) - done
                    where = f"{span.uri} row group {group} row {done}: {lost} rows lost"
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


def _batch_rows(chunk: pq.ColumnChunkMetaData, rows: int) -> int:
    """Rows to decode at once: about a table, and never more than _MAX_BATCH_BYTES though an encoding repeats values."""
    mean_bytes = chunk.total_uncompressed_size / rows
    wanted = min(TABLE_BYTES / max(mean_bytes, 1), _MAX_BATCH_ROWS)
    return max(int(min(wanted, _MAX_BATCH_BYTES / max(_longest_repeatable(chunk), 1))), 1)


def _longest_repeatable(chunk: pq.ColumnChunkMetaData) -> float:
    """Bytes that one value may have though it costs next to nothing to repeat."""
    if "DELTA_BYTE_ARRAY" in chunk.encodings:
        return chunk.total_uncompressed_size
    if chunk.dictionary_page_offset is None:
        return 0
    dictionary = max(chunk.data_page_offset - chunk.dictionary_page_offset, 0)
    return dictionary * chunk.total_uncompressed_size / max(chunk.total_compressed_size, 1)


def _leaves(footer: pq.FileMetaData) -> dict[str, int]:
    """Top-level columns without structure -> their number among the leaves."""
    return {footer.schema.column(leaf).path: leaf for leaf in range(footer.num_columns)}
