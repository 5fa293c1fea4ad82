"""Rows of a packed artifact as the arrays a model takes.

Letters: B rows of the micro-batch, T its positions, S documents that its boundaries have room for, L its labelled
positions.

Padding is known by its place and never by a token id. It is a document of its own (position ids restart), so attention,
which stays inside a document, needs no mask: nothing before the padding sees it.

Where documents begin and which positions have a target is found here, on the CPU and ahead of the step. On a GPU the
same question needs the count on the host before it can go on: one wait of the whole queue for each of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from training.data.schema import NO_TARGET

# Where no corpus says how many documents its rows hold.
_DOCUMENTS_PER_ROW = 16.0
_ROOM_STEP = 8


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one worker.

    input_ids, position_ids: int64[B, T]. targets: int64[B, T], the token that position t has to predict, or NO_TARGET.
    labels: int64[B], the class of a row (method probe), NO_TARGET where there is none. ends: int64[B], the last real
    position of each row. starts: int32[S + 1], see `document_starts`. labelled: int64[L], see `labelled_positions`.
    tokens: real tokens. label_tokens: targets that count. documents: ids, by row. digest: sum over rows of a hash of
    their tokens, mod 2**64: equal for equal rows, however they are spread over workers.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    labelled: np.ndarray
    tokens: int
    label_tokens: int
    documents: tuple[tuple[str, ...], ...]
    digest: int


def collate(
    tables: Sequence[pa.Table], count: int, length: int, pad_id: int, documents_per_row: float = _DOCUMENTS_PER_ROW
) -> Batch:
    """`count` rows of `length` positions from one-row-or-more tables; what is missing is padding without a target.

    A row of nothing but padding lets a worker without work of its own take part in a step.

    documents_per_row: the mean over the rows of a corpus; decides the room of `starts`, and nothing else.
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
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids,
        targets=targets,
        labels=classes,
        ends=ends,
        starts=document_starts(position_ids, room_for_documents(count, documents_per_row)),
        labelled=labelled_positions(targets),
        tokens=tokens,
        label_tokens=label_tokens,
        documents=tuple(map(tuple, documents)),
        digest=digest,
    )


def room_for_documents(rows: int, documents_per_row: float) -> int:
    """Documents that the boundaries of a micro-batch have room for: half as many again as are expected, and padding.

    A compiled model has one graph for one length of boundaries, so the length must not follow the batch. It must not be
    much larger than needed either: the attention kernel starts one thread block for each 128 positions of a row, each
    head and each place of the boundaries, also where the document has no token.
    """
    expected = math.ceil(1.5 * documents_per_row * rows) + rows
    return -(-expected // _ROOM_STEP) * _ROOM_STEP


def document_starts(position_ids: np.ndarray, room: int) -> np.ndarray:
    """Where documents begin in the rows laid end to end, filled up with the end of the rows: int32[S + 1].

    The kernel reads a document from starts[i] to starts[i + 1], so what fills the room are documents without a token.

    Args:
        position_ids: int64[B, T], counting from 0 in each document, so 0 at the beginning of each row.
        room: S. Twice as large, or four times, and so on, where there are more documents.
    """
    begins = np.flatnonzero(position_ids == 0)
    while room < len(begins):
        room *= 2
    starts = np.full(room + 1, position_ids.size, np.int32)
    starts[: len(begins)] = begins
    return starts


def labelled_positions(targets: np.ndarray) -> np.ndarray:
    """Positions that have a target, in ascending order, numbered through all rows: int64[L]."""
    return np.flatnonzero(targets != NO_TARGET)


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
