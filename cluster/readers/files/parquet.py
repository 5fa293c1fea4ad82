"""Parquet files on a store, read with few and large requests."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.store.object_files import PartsFile
from cluster.store.store import Store

# The footer of 10,000 row groups with 100 columns has some 100 MB.
_LARGEST_FOOTER = 512 << 20
_TAIL_BYTES = 8  # the footer's size and PAR1


class StoredParquet(pq.ParquetFile):
    """A Parquet file on a store. Use it in a `with`.

    Raises:
        ArrowInvalid: it is not a Parquet file.
    """

    def __init__(self, store: Store, uri: str, **options: Any) -> None:
        self.file = store.open_parts(uri)
        try:
            self._refuse_large_footer()
            super().__init__(self.file, pre_buffer=False, **options)
        except BaseException:
            self.file.close()
            raise

    def _refuse_large_footer(self) -> None:
        """Check the size that a local file states for its footer: Arrow reads it whole, and a sparse file is cheap."""
        if isinstance(self.file, PartsFile) or (size := self.file.size()) < _TAIL_BYTES:
            return
        self.file.seek(size - _TAIL_BYTES)
        tail = self.file.read(_TAIL_BYTES)
        self.file.seek(0)
        footer = int.from_bytes(tail[:4], "little")
        if footer > _LARGEST_FOOTER and tail.endswith(b"PAR1"):
            raise pa.ArrowInvalid(f"its footer states {footer:,} bytes, and at most {_LARGEST_FOOTER:,} are read")

    def close(self, force: bool = False) -> None:
        super().close(force)
        self.file.close()

    def fetch_ahead(self, groups: Iterable[int], columns: Iterable[str] | None = None) -> None:
        """Announce the row groups that will be read, in this order, with the columns of these names (default: all).

        Their bytes are then fetched in few requests and before they are used. Nothing happens if the file is local.
        """
        if isinstance(self.file, PartsFile):
            names = self.schema_arrow.names if columns is None else list(columns)
            self.file.parts.will_read(
                [[chunk_range(chunk) for chunk in self.column_chunks(group, names)] for group in groups]
            )

    def column_chunks(self, group: int, columns: Iterable[str]) -> list[pq.ColumnChunkMetaData]:
        """The column chunks of the named top-level columns in a row group, nested ones included."""
        footer, names = self.metadata, set(columns)
        row_group = footer.row_group(group)
        paths = [footer.schema.column(leaf).path for leaf in range(footer.num_columns)]
        return [
            row_group.column(leaf)
            for leaf, path in enumerate(paths)
            if path in names or any(path.startswith(f"{name}.") for name in names)
        ]


def chunk_range(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """The bytes [start, end) of a column chunk in its file."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size
