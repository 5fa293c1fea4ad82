"""Rows of a packed artifact as the arrays a model takes.

Letters: B rows of the micro-batch, T its positions.

Padding is known by its place and never by a token id. It is a document of its own (position ids restart), so attention,
which stays inside a document, needs no mask: nothing before the padding sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from training.data.schema import NO_TARGET

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one worker.

    input_ids, position_ids: int64[B, T]. targets: int64[B, T], the token that position t has to predict, or NO_TARGET.
    labels: int64[B], the class of a row (method probe), NO_TARGET where there is none. ends: int64[B], the last real
    position of each row. tokens: real tokens. label_tokens: targets that count. documents: ids, by row. digest: sum
    over rows of a hash of their tokens, mod 2**64: equal for equal rows, however they are spread over workers.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    ends: np.ndarray
    tokens: int
    label_tokens: int
    documents: tuple[tuple[str, ...], ...]
    digest: int


def collate(tables: Sequence[pa.Table], count: int, length: int, pad_id: int) -> Batch:
    """`count` rows of `length` positions from one-row-or-more tables; what is missing is padding without a target.

    A row of nothing but padding lets a worker without work of its own take part in a step.
    """
    input_ids = np.full((count, length), pad_id, np.int64)
    position_ids = np.tile(np.arange(length, dtype=np.int64), (count, 1))
    targets = np.full((count, length), NO_TARGET, np.int64)
    labels = np.full(count, NO_TARGET, np.int64)
    ends = np.zeros(count, np.int64)
    documents: list[tuple[str, ...]] = []
    digest = tokens = 0
    for table in tables:
        for row in range(table.num_rows):
            at = len(documents)
            ids = _values(table["ids"][row])
            wanted = _values(table["labels"][row])
            size = len(ids)
            input_ids[at, :size] = ids
            position_ids[at, :size] = _positions(_values(table["lengths"][row]))
            position_ids[at, size:] = np.arange(length - size)
            targets[at, : size - 1] = np.where(wanted[1:], ids[1:], NO_TARGET)
            if table["label"][row].is_valid:
                labels[at] = table["label"][row].as_py()
            ends[at] = size - 1
            documents.append(tuple(table["documents"][row].as_py()))
            digest = (digest + _hash(ids)) & _MASK64
            tokens += size
    assert len(documents) <= count, f"{len(documents)} rows for a micro-batch of {count}"
    label_tokens = int((targets != NO_TARGET).sum())
    return Batch(input_ids, position_ids, targets, labels, ends, tokens, label_tokens, tuple(documents), digest)


def _values(scalar: pa.ListScalar) -> np.ndarray:
    return scalar.values.to_numpy(zero_copy_only=False)


def _positions(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... anew for each document."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _hash(ids: np.ndarray) -> int:
    """Of the tokens and their order; good enough to tell rows apart, and the same on every machine."""
    weights = np.arange(1, len(ids) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    weights ^= weights >> np.uint64(29)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * (weights | np.uint64(1))
    mixed ^= mixed >> np.uint64(32)
    return int((mixed * np.uint64(0xBF58476D1CE4E5B9)).sum(dtype=np.uint64))
