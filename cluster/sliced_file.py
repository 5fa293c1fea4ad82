"""Sliced files: a unit of one stage writes one file with a slice of bytes for each unit of the next stage.

    uint64 offsets[S + 1], little-endian, from the start of the file; then S slices

A reader needs two requests for a slice: its two offsets, then its bytes. Of a Parquet file it would also read the
footer, which grows with the number of row groups.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.store.store import Store

_OFFSET = np.dtype("<u8")
_THREADS = 16


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


def read_table(data: bytes) -> pa.Table:
    """The table of a slice that is not empty. Its columns refer to `data`, which is not copied."""
    return pa.ipc.open_stream(data).read_all()


def read_slice(store: Store, uri: str, number: int) -> bytes:
    """One slice of a file.

    Raises:
        StorageError: the file is missing, or cannot be read.
    """
    return read_between(store, uri, read_offsets(store, uri, number, 1))


def read_slices(store: Store, uris: Iterable[str], number: int) -> list[bytes]:
    """Slice `number` of each file, in the order of the files. Reads 16 files at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda uri: read_slice(store, uri, number), uris))


def read_offsets(store: Store, uri: str, first: int, count: int) -> np.ndarray:
    """int64[count + 1]: where slices `first` to `first + count - 1` begin in the file, and where the last one ends.

    Raises:
        StorageError: as of `read_slice`.
    """
    data = store.read_range(uri, _OFFSET.itemsize * first, _OFFSET.itemsize * (first + count + 1))
    return np.frombuffer(data, _OFFSET).astype(np.int64)


def read_between(store: Store, uri: str, offsets: np.ndarray) -> bytes:
    """The bytes of neighbouring slices. offsets: as of `read_offsets`."""
    start, end = int(offsets[0]), int(offsets[-1])
    return store.read_range(uri, start, end) if end > start else b""
