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
    wanted = np.zeros((count, length), np.bool_)
    position_ids = np.tile(np.arange(length, dtype=np.int64), (count, 1))
    classes = np.full(count, NO_TARGET, np.int64)
    ends = np.zeros(count, np.int64)
    documents: list[list[str]] = []
    digest = tokens = 0
    if tables:
        table = pa.concat_tables(tables).combine_chunks()
        rows = table.num_rows
        assert rows <= count, f"{rows} rows for a micro-batch of {count}"
        ids, sizes = _flat(table, "ids")
        place = np.arange(length)
        real = place < sizes[:, None]
        input_ids[:rows][real] = ids
        wanted[:rows][real] = _flat(table, "labels")[0]
        # Padding starts anew at 0, as a document does.
        position_ids[:rows] = place - np.where(real, 0, sizes[:, None])
        position_ids[:rows][real] = _positions(_flat(table, "lengths")[0])
        classes[:rows] = table["label"].fill_null(NO_TARGET).to_numpy()
        ends[:rows] = sizes - 1
        documents = table["documents"].to_pylist()
        tokens = len(ids)
        digest = _digest(ids, sizes)
    targets = np.full((count, length), NO_TARGET, np.int64)
    targets[:, :-1][wanted[:, 1:]] = input_ids[:, 1:][wanted[:, 1:]]
    label_tokens = int(wanted[:, 1:].sum())
    names = tuple(map(tuple, documents))
    return Batch(input_ids, position_ids, targets, classes, ends, tokens, label_tokens, names, digest)


def _flat(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The values of all rows' lists one after the other, and how many each row has."""
    lists = table[column].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.flatten().to_numpy(zero_copy_only=False), np.diff(offsets)


def _positions(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... anew for each document."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _digest(ids: np.ndarray, sizes: np.ndarray) -> int:
    """A sum of hashes of (token, its place in the row): tells rows apart, and is the same on every machine."""
    weights = (_positions(sizes) + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    weights ^= weights >> np.uint64(29)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * (weights | np.uint64(1))
    mixed ^= mixed >> np.uint64(32)
    return int((mixed * np.uint64(0xBF58476D1CE4E5B9)).sum(dtype=np.uint64))
