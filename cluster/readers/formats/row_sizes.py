"""Rows of Arrow batches in pieces of a bounded size, since a few bytes of a file can stand for gigabytes of values."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.streams import UnreadableRest

_PIECE_BYTES = 8 << 20
_PIECE_ROWS = 1 << 16
# Nulls and empty structs take no bytes in the file, but in memory once they are values.
MIN_VALUE_BYTES = 8
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_map)
_WITH_LENGTHS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def bounded_pieces(batch: pa.RecordBatch, limits: Limits) -> Iterator[pa.RecordBatch]:
    """The rows of a batch in pieces of about 8 MiB of decoded values.

    Raises:
        UnreadableRest: a row is too large; those before it were returned.
    """
    for start in range(0, batch.num_rows, _PIECE_ROWS):
        rows = batch.slice(start, _PIECE_ROWS)
        ends = np.cumsum(row_bytes(rows))
        first = done = 0
        while first < rows.num_rows:
            if ends[first] - done > limits.block_bytes:
                raise UnreadableRest("large_block")
            end = max(int(np.searchsorted(ends, done + _PIECE_BYTES, "right")), first + 1)
            yield rows.slice(first, end - first)
            first, done = end, int(ends[end - 1])


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """Bytes of the values of a batch once they are decoded."""
    return int(row_bytes(batch).sum())


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Bytes of the values of each row once they are decoded: int64[rows]."""
    return sum((_value_bytes(column) for column in batch.columns), np.zeros(batch.num_rows, np.int64))


def _value_bytes(array: pa.Array) -> np.ndarray:
    """Bytes of each value once it is decoded: int64[length]. Dictionaries and views can repeat large values at no cost.

    array: of a type that is read (column_types.py). Each level of it has fewer values than a batch has bytes, and a
    value of a dictionary or view is no larger than the batch, so that no sum is beyond 64 bits.
    """
    type = array.type
    sizes = np.full(len(array), MIN_VALUE_BYTES, np.int64)
    if isinstance(type, pa.BaseExtensionType):
        return _value_bytes(array.storage)
    if pa.types.is_dictionary(type):
        values = _value_bytes(array.dictionary)
        return values[array.indices.fill_null(0).to_numpy().astype(np.int64)] if len(values) else sizes
    if pa.types.is_string_view(type) or pa.types.is_binary_view(type):
        lengths = np.frombuffer(array.buffers()[1], np.int32)[::4][array.offset : array.offset + len(array)]
        return sizes + np.where(array.is_valid().to_numpy(False), lengths, 0)
    if any(check(type) for check in _WITH_LENGTHS):
        return sizes + pc.binary_length(array).fill_null(0).to_numpy()
    if pa.types.is_struct(type):
        return sum((_value_bytes(field) for field in array.flatten()), sizes)
    if any(check(type) for check in _LISTS):
        if pa.types.is_fixed_size_list(type):
            starts = (array.offset + np.arange(len(array), dtype=np.int64)) * type.list_size
            ends = starts + type.list_size
        else:
            offsets = array.offsets.to_numpy().astype(np.int64)
            starts, ends = offsets[:-1], offsets[1:]
        of_values = (
            _value_bytes(array.keys) + _value_bytes(array.items)
            if pa.types.is_map(type)
            else _value_bytes(array.values)
        )
        before = np.concatenate([[0], np.cumsum(of_values)])
        return sizes + np.where(array.is_valid().to_numpy(False), before[ends] - before[starts], 0)
    return sizes if pa.types.is_null(type) else np.maximum(sizes, type.bit_width // 8)
