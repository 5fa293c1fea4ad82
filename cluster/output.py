"""An output of a stage: its name and columns, and the writer of its files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.sliced_file import write_in_pieces, write_slices


@dataclass(frozen=True)
class Output:
    """One artifact that a stage makes: its folder below the run, and the columns of its Parquet files.

    schema: without columns if its units write sliced files (sliced_file.py) instead of Parquet.
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
