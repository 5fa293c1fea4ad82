"""The outputs of a stage: their names and columns, the writer of their Parquet files, and sliced files.

In a sliced file, a unit of one stage writes a slice of bytes for each unit of the next stage:

    uint64 offsets[S + 1], little-endian, from the start of the file; then S slices

A reader needs two requests for a slice: its two offsets, then its bytes. Of a Parquet file it would also read the
footer, which grows with the number of row groups.

The files of an unfinished run may have been changed since, so whatever is read is verified: offsets before they are
used, and the content of a slice by the function that parses it (`array_of`, `table_of`, `json.loads`, or `bytes`).
"""

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.errors import DataError
from raymill.cluster.readers.formats.arrow_streams import whole_table
from raymill.cluster.readers.streams import UnreadableRest
from raymill.cluster.store.interface import EndsTooEarly
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import LARGEST_RATIO

T = TypeVar("T")
_OFFSET = np.dtype("<u8")
_THREADS = 16
# A file with more bytes of content has at least one byte for each _MOST_COMPRESSED of them.
_LARGE, _MOST_COMPRESSED = 64 << 20, LARGEST_RATIO // 2
_MOST_PADDING = 64 << 20


def write_slices(path: Path, slices: Sequence[Any]) -> None:
    """Write a file with these slices. slices: contiguous objects with the buffer protocol, of any lengths."""
    buffers = [pa.py_buffer(one) for one in slices]
    write_in_pieces(path, np.array([buffer.size for buffer in buffers], np.int64), buffers)


def write_in_pieces(path: Path, sizes: np.ndarray, pieces: Iterable[Any]) -> None:
    """Write a file with slices of these sizes. sizes: bytes of each. pieces: the bytes of all, one after the other."""
    first = _OFFSET.itemsize * (len(sizes) + 1)
    with path.open("wb") as file:
        file.write(np.cumsum([first, *sizes], dtype=_OFFSET).tobytes())
        for piece in pieces:
            file.write(piece)
        assert file.tell() == first + sizes.sum(), f"{path}: the pieces are as long as the slices"


def table_slice(table: pa.Table) -> pa.Buffer:
    """A table as a slice."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def table_slices(table: pa.Table, ends: Iterable[int]) -> list[pa.Buffer | bytes]:
    """A slice for each end, with the rows from the end before it (0 for the first) to this end; empty without rows."""
    return [table_slice(table.slice(start, end - start)) if end > start else b"" for start, end in pairwise([0, *ends])]


def table_of(data: bytes) -> pa.Table | None:
    """The table of a slice, None of an empty slice. Its columns refer to `data`, which is not copied.

    Raises:
        UnreadableRest: it is no table, or has values outside of `data`.
    """
    return whole_table(data) if data else None


def array_of(dtype: Any, *shape: int) -> Callable[[bytes], np.ndarray]:
    """The function that parses a slice of numbers. shape: of its array, -1 for what follows from the length.

    The function raises ValueError for another length.
    """
    return lambda data: np.frombuffer(data, dtype).reshape(shape or -1)


def read_slice(store: Store, uri: str, number: int, parse: Callable[[bytes], T]) -> T:
    """One slice of a file.

    Raises:
        StorageError: the file is missing, or cannot be read.
        DataError: it was changed after it was written.
    """
    return parsed(uri, read_between(store, uri, read_offsets(store, uri, number, 1)), parse)


def read_slices(store: Store, uris: Iterable[str], number: int, parse: Callable[[bytes], T]) -> list[T]:
    """Slice `number` of each file, in the order of the files. Reads 16 files at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda uri: read_slice(store, uri, number, parse), uris))


def read_offsets(store: Store, uri: str, first: int, count: int) -> np.ndarray:
    """int64[count + 1]: where slices `first` to `first + count - 1` begin in the file, and where the last one ends.

    Raises:
        StorageError, DataError: as of `read_slice`.
    """
    end = _OFFSET.itemsize * (first + count + 1)
    offsets = np.frombuffer(_read_range(store, uri, _OFFSET.itemsize * first, end), _OFFSET).astype(np.int64)
    if offsets[0] < end or (np.diff(offsets) < 0).any():
        raise changed(uri)
    return offsets


def read_between(store: Store, uri: str, offsets: np.ndarray) -> bytes:
    """The bytes of neighbouring slices. offsets: as of `read_offsets`."""
    start, end = int(offsets[0]), int(offsets[-1])
    return _read_range(store, uri, start, end) if end > start else b""


def parsed(uri: str, data: Any, parse: Callable[[Any], T]) -> T:
    """A slice of the file `uri`, parsed. data: its bytes, or a view of them.

    Raises:
        DataError: it has another form than was written.
    """
    try:
        return parse(data)
    except (ValueError, UnreadableRest) as error:
        raise changed(uri) from error


def changed(uri: str) -> DataError:
    """The error of a file with another content than was written."""
    made = re.match(r".*/_work/[^/]+(?=/)", uri)  # of the stages that read each other's files
    folder = made[0] if made else uri.rpartition("/")[0]
    return DataError(
        f"{uri}: was changed after it was written. Delete the folder {folder} and run the same command again: it makes "
        "the files there again."
    )


def changed_run(root: str, *folders: str) -> DataError:
    """The error of an unfinished run whose files do not fit together. folders: to delete, below `root`."""
    return DataError(
        f"{root}: files of this unfinished run were changed after they were written. Delete the folders "
        f"{' and '.join(f'{root}/{one}' for one in folders)} and run the same command again; answers are kept."
    )


def _read_range(store: Store, uri: str, start: int, end: int) -> bytes:
    try:
        return store.read_range(uri, start, end)
    except EndsTooEarly as error:
        raise changed(uri) from error


@dataclass(frozen=True)
class Output:
    """One artifact that a stage makes: its folder below the run, and the columns of its Parquet files.

    schema: without columns if its units write sliced files instead of Parquet.
    file_bytes: Arrow data per file; a unit that writes more writes several files.
    row_group_bytes: Arrow data per row group.
    """

    name: str
    schema: pa.Schema
    file_bytes: int = 1 << 40
    row_group_bytes: int = 16 << 20


class OutputFiles:
    """Writer of one output of one unit. Row groups and files are cut by size only, so equal rows give equal bytes."""

    def __init__(self, output: Output, folder: Path) -> None:
        self.output = output
        self.folder = folder
        self.closed: list[tuple[Path, int]] = []
        self.writer: pq.ParquetWriter | None = None
        self.waiting: list[pa.Table] = []
        self.waiting_bytes = self.written_bytes = self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows. Holds at most one row group in memory.

        Raises:
            ArrowInvalid: a column cannot be cast to the output's type.
        """
        table = table.select(self.output.schema.names).cast(self.output.schema)
        for start, end in _cuts(table, self.output.row_group_bytes - self.waiting_bytes, self.output.row_group_bytes):
            piece = table.slice(start, end - start)
            self.waiting.append(piece)
            self.waiting_bytes += piece.nbytes
            if self.waiting_bytes >= self.output.row_group_bytes:
                self._flush()

    def write_slices(self, slices: Iterable[Any], sizes: np.ndarray | None = None) -> None:
        """Write the one file of a sliced output. See `Scratch.write_slices`."""
        path = self.folder / f"{self.output.name.replace('/', '-')}.slices"
        if sizes is None:
            whole = list(slices)
            write_slices(path, whole)
        else:
            write_in_pieces(path, sizes, slices)
        self.closed.append((path, len(whole if sizes is None else sizes)))

    def finish(self) -> list[tuple[Path, int]]:
        """Close the last file. Returns (path, rows or slices) of each file in order."""
        self._flush()
        self._close()
        return self.closed

    def _flush(self) -> None:
        if not self.waiting:
            return
        if self.writer is None:
            self.path = self.folder / f"{self.output.name.replace('/', '-')}-{len(self.closed)}.parquet"
            self.writer = pq.ParquetWriter(self.path, self.output.schema, compression="zstd", write_page_index=True)
        group = pa.concat_tables(self.waiting).combine_chunks()
        self.writer.write_table(group, row_group_size=max(1, group.num_rows))
        self.rows += group.num_rows
        self.written_bytes += self.waiting_bytes
        self.waiting, self.waiting_bytes = [], 0
        if self.written_bytes >= self.output.file_bytes:
            self._close()

    def _close(self) -> None:
        if self.writer is not None:
            # Readers refuse a small file with far larger content, and values that repeat themselves compress without
            # bound. So such a file is made larger.
            wanted = self.written_bytes // _MOST_COMPRESSED if self.written_bytes > _LARGE else 0
            if (more := min(wanted - self.path.stat().st_size, _MOST_PADDING)) > 0:
                self.writer.add_key_value_metadata({"padding": "-" * more})
            self.writer.close()
            self.closed.append((self.path, self.rows))
            self.writer, self.rows, self.written_bytes = None, 0, 0


def empty_file(schema: pa.Schema) -> bytes:
    """A Parquet file with the schema and no rows."""
    written = pa.BufferOutputStream()
    with pq.ParquetWriter(written, schema, compression="zstd"):
        pass
    return written.getvalue().to_pybytes()


def _cuts(table: pa.Table, first: int, size: int) -> list[tuple[int, int]]:
    """Ranges of rows of about `size` bytes each, the first of about `first` bytes; each has at least one row."""
    if table.num_rows == 0:
        return []
    per_row = max(1, table.nbytes // table.num_rows)
    cuts, start, room = [], 0, first
    while start < table.num_rows:
        end = min(table.num_rows, start + max(1, room // per_row))
        cuts.append((start, end))
        start, room = end, size
    return cuts
