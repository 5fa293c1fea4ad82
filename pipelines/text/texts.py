"""A column of documents as two flat arrays, the input of every kernel."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Texts:
    """D documents in UTF-8: document i is data[offsets[i]:offsets[i + 1]].

    data: uint8[B]. offsets: int64[D + 1], not decreasing, in 0..B; the first may be above 0 in a slice of a table.
    """

    data: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_arrow(cls, column: pa.Array | pa.ChunkedArray) -> Self:
        """From a column of any Arrow string type; nulls become empty documents.

        A large_string array (64-bit offsets) in one chunk and without nulls is not copied.

        Raises:
            TypeError: the column is not of a string type.
        """
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not pa.types.is_large_string(column.type):
            if not (pa.types.is_string(column.type) or pa.types.is_string_view(column.type)):
                raise TypeError(f"documents have to be strings, and this column is {column.type}")
            column = column.cast(pa.large_string())
        if column.null_count:
            column = column.fill_null("")
        if len(column) == 0:
            return cls(np.empty(0, np.uint8), np.zeros(1, np.int64))
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        values = np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)
        return cls(values, ends)

    @classmethod
    def from_strings(cls, strings: list[str]) -> Self:
        """From Python strings, which are copied."""
        return cls.from_arrow(pa.array(strings, pa.large_string()))

    def to_arrow(self) -> pa.LargeStringArray:
        """The documents as an Arrow array over the same buffers, without a copy."""
        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(self.offsets), pa.py_buffer(self.data))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes().decode()

    @property
    def byte_lengths(self) -> np.ndarray:
        """int64[D]: size of each document in bytes."""
        return np.diff(self.offsets)
