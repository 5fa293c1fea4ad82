"""From rows of a packed artifact to the micro-batches of a worker, which a thread prefetches.

Letters: B rows of the micro-batch, T its positions, S the capacity of its document boundaries, L its positions with
a target.

Padding is distinguished from text by its position in a row, not by a token id. It counts as a document of its own (its
position ids start at 0), so attention, which stays inside a document, needs no mask for it.

The starts of documents and the positions with a target are computed here, on the CPU and ahead of the step. Computed on
a GPU, each would need a count on the host first, which waits for all queued work.
"""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from raymill.training.data.order import rows_of_worker
from raymill.training.data.packed import NO_TARGET, token_weights

# The default of `documents_per_row`.
_DOCUMENTS_PER_ROW = 16.0
_CAPACITY_STEP = 8
# Columns of sampled answers, float32 per token, in the order of `Batch.policy`.
POLICY = ("advantages", "sampled_logp", "base_logp")


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one worker.

    input_ids, position_ids: int64[B, T]. targets: int64[B, T], the token that position t should predict, or NO_TARGET.
    classes: int64[B], the class of each row, or NO_TARGET. ends: int64[B], the last position of each row
    that is not padding. starts: int32[S + 1], see `document_starts`. target_positions: int64[L], see
    `target_positions`.
    tokens: number of tokens without padding. label_tokens: number of targets. documents: ids of each row's documents.
    row_digests: uint64[rows], a hash of each row's tokens. weights: float32[B, T], the weight of each target's loss, 0
    without a target; None if all are 1.

    Of answers that were compared or judged (objectives.py), A in all, in order; else empty: answer_tokens: int64[A],
    number of targets. answer_ends: int64[A], last position, in the rows laid end to end. judgements: float32[A], see
    JUDGED_PACKED. reference: float64[A], log-probability by the reference model, 0 without one. mismatched: the same
    rows with the answers in other places, see `with_answers_of_next`.

    policy: of sampled answers whose loss compares log-probabilities, float32[3, L], of each target: advantage,
    log-probability by the model that sampled it, and by the model without its adapter.
    """

    input_ids: np.ndarray
    position_ids: np.ndarray
    targets: np.ndarray
    classes: np.ndarray
    ends: np.ndarray
    starts: np.ndarray
    target_positions: np.ndarray
    tokens: int
    label_tokens: int
    documents: tuple[tuple[str, ...], ...]
    row_digests: np.ndarray
    weights: np.ndarray | None = None
    answer_tokens: np.ndarray = field(default_factory=partial(np.zeros, 0, np.int64))
    answer_ends: np.ndarray = field(default_factory=partial(np.zeros, 0, np.int64))
    judgements: np.ndarray = field(default_factory=partial(np.zeros, 0, np.float32))
    reference: np.ndarray = field(default_factory=partial(np.zeros, 0, np.float64))
    mismatched: "Batch | None" = None
    policy: np.ndarray | None = None

    def part(self, number: int, parts: int) -> "Batch":
        """One of equal parts of each row's positions, for one of `parts` workers that share the rows.

        `starts` stay those of the whole rows; the first part alone has the digests. `ends` may lie outside of the part.
        """
        width = self.input_ids.shape[1] // parts
        own = slice(number * width, (number + 1) * width)
        targets = self.targets[:, own].copy()
        found = replace(
            self,
            input_ids=self.input_ids[:, own].copy(),
            position_ids=self.position_ids[:, own].copy(),
            targets=targets,
            ends=self.ends - own.start,
            target_positions=target_positions(targets),
            label_tokens=int((targets != NO_TARGET).sum()),
            weights=None if self.weights is None else self.weights[:, own].copy(),
            row_digests=self.row_digests if number == 0 else self.row_digests[:0],
        )
        return replace(found, tokens=int(found.real.sum()))

    @property
    def digest(self) -> int:
        """The sum of the rows' hashes modulo 2**64, which does not depend on how rows are split over workers."""
        return int(self.row_digests.sum(dtype=np.uint64))

    @property
    def loss_weight(self) -> float:
        """The sum of the targets' weights."""
        return self.label_tokens if self.weights is None else float(self.weights.sum(dtype=np.float64))

    @property
    def real(self) -> np.ndarray:
        """Whether each position holds a token of a document, bool[B, T]; False at padding."""
        found = np.arange(self.position_ids.shape[1]) <= self.ends[:, None]
        found[len(self.documents) :] = False  # rows of padding
        return found


def collate(
    tables: Sequence[pa.Table], count: int, length: int, pad_id: int, documents_per_row: float = _DOCUMENTS_PER_ROW
) -> Batch:
    """A micro-batch of `count` rows and `length` positions.

    Missing rows and positions are padding without a target. With rows of padding alone, a worker without data takes
    part in a step.

    Args:
        tables: rows of schema PACKED, at most `count` in all. pad_id: any valid token id.
        documents_per_row: mean of the corpus; only the length of `starts` depends on it.
    """
    input_ids = np.full((count, length), pad_id, np.int64)
    has_target = np.zeros((count, length), np.bool_)
    position_ids = np.tile(np.arange(length, dtype=np.int64), (count, 1))
    classes = np.full(count, NO_TARGET, np.int64)
    ends = np.zeros(count, np.int64)
    weights = None
    documents: list[list[str]] = []
    digests = np.empty(0, np.uint64)
    tokens = 0
    answers: dict[str, Any] = {}  # the fields of Batch that only some objectives have
    if tables:
        table = pa.concat_tables(tables).combine_chunks()
        rows = table.num_rows
        assert rows <= count, f"{rows} rows for a micro-batch of {count}"
        ids, sizes = _flat(table, "ids")
        position = np.arange(length)
        real = position < sizes[:, None]
        input_ids[:rows][real] = ids
        has_target[:rows][real] = _flat(table, "labels")[0]
        # Position ids of padding restart at 0, as those of a document.
        position_ids[:rows] = position - np.where(real, 0, sizes[:, None])
        position_ids[:rows][real] = _positions(_flat(table, "lengths")[0])
        # Rows of earlier versions have no weights.
        lists = table["weights"].combine_chunks() if "weights" in table.column_names else None
        if lists is not None and (of_tokens := token_weights(lists, sizes)) is not None:
            weights = np.zeros((count, length), np.float32)
            weights[:rows][real] = of_tokens
        classes[:rows] = table["label"].fill_null(NO_TARGET).to_numpy()
        ends[:rows] = sizes - 1
        documents = table["documents"].to_pylist()
        tokens = len(ids)
        digests = _digests(ids, sizes)
        if "judgements" in table.column_names:
            answers = _answers(table, sizes, length)
        if "advantages" in table.column_names:
            trained = _flat(table, "labels")[0]
            answers = {"policy": np.stack([_flat(table, name)[0][trained] for name in POLICY])}
    targets = np.full((count, length), NO_TARGET, np.int64)
    targets[:, :-1][has_target[:, 1:]] = input_ids[:, 1:][has_target[:, 1:]]
    label_tokens = int(has_target[:, 1:].sum())
    if weights is not None:  # those of the tokens, now those of the positions that predict them
        weights[:, :-1] = weights[:, 1:]
        weights[targets == NO_TARGET] = 0
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids,
        targets=targets,
        classes=classes,
        ends=ends,
        starts=document_starts(position_ids, boundary_capacity(count, documents_per_row)),
        target_positions=target_positions(targets),
        tokens=tokens,
        label_tokens=label_tokens,
        documents=tuple(map(tuple, documents)),
        row_digests=digests,
        weights=weights,
        **answers,
    )


def _answers(table: pa.Table, sizes: np.ndarray, length: int) -> dict[str, Any]:
    """The arrays of answers of a batch. sizes: tokens of each row. length: positions of a row."""
    (lengths, counts), trained = _flat(table, "lengths"), _flat(table, "labels")[0]
    ends = np.cumsum(lengths, dtype=np.int64)
    rows = np.repeat(np.arange(len(sizes)), counts)
    before = np.cumsum(sizes) - sizes  # tokens of earlier rows
    reference = _flat(table, "reference")[0] if "reference" in table.column_names else np.zeros(len(ends))
    return {
        "answer_tokens": np.add.reduceat(trained, ends - lengths, dtype=np.int64),
        "answer_ends": ends - 1 + rows * length - before[rows],
        "judgements": _flat(table, "judgements")[0].astype(np.float32),
        "reference": reference,
    }


def with_answers_of_next(table: pa.Table) -> pa.Table:
    """The rows with each question followed by the answer of the next document of its row; the last one's is the first.

    So a row keeps its number of tokens. `judgements` are 1, or 0 where the next document has the same question, or
    there is none. `reference` is taken from the column `reference_mismatched`.

    table: rows of JUDGED_PACKED.
    """
    rows = []
    for row in table.to_pylist():
        ends = np.cumsum(row["lengths"]).tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        firsts = [row["labels"].index(True, start) for start, _ in spans]
        questions = [row["ids"][start:first] for (start, _), first in zip(spans, firsts, strict=True)]
        answers = [slice(first, end) for (_, end), first in zip(spans, firsts, strict=True)]
        after = [*answers[1:], answers[0]]
        others = [*questions[1:], questions[0]]
        ids = [question + row["ids"][answer] for question, answer in zip(questions, after, strict=True)]
        labels = [
            [False] * len(question) + row["labels"][answer] for question, answer in zip(questions, after, strict=True)
        ]
        made = {
            "ids": [token for document in ids for token in document],
            "labels": [label for document in labels for label in document],
            "lengths": [len(document) for document in ids],
            "judgements": [float(one != other) for one, other in zip(questions, others, strict=True)],
            "weights": None,
        }
        if "reference_mismatched" in row:
            made["reference"] = row["reference_mismatched"]
        rows.append(row | made)
    return pa.Table.from_pylist(rows, table.schema)


def boundary_capacity(rows: int, documents_per_row: float) -> int:
    """S, the capacity of a micro-batch's document boundaries: 1.5 times the expected documents plus one per row.

    A compiled model has one graph for each length of the boundaries, so the length must not vary with the batch. It
    should not be much larger than needed either: the attention kernel starts one thread block for each 128 positions of
    a row, head and entry of the boundaries, even if the entry's document is empty.
    """
    expected = math.ceil(1.5 * documents_per_row * rows) + rows
    return -(-expected // _CAPACITY_STEP) * _CAPACITY_STEP


def document_starts(position_ids: np.ndarray, capacity: int) -> np.ndarray:
    """First positions of the documents in the rows laid end to end, padded with B T: int32[S + 1].

    The kernel reads document i from starts[i] to starts[i + 1], so each entry of the padding is an empty document.

    Args:
        position_ids: int64[B, T], counting from 0 in each document, so 0 at the beginning of each row.
        capacity: S. Doubled until all documents fit.
    """
    begins = np.flatnonzero(position_ids == 0)
    while capacity < len(begins):
        capacity *= 2
    starts = np.full(capacity + 1, position_ids.size, np.int32)
    starts[: len(begins)] = begins
    return starts


def target_positions(targets: np.ndarray) -> np.ndarray:
    """Positions that have a target, ascending, in the rows laid end to end: int64[L]."""
    return np.flatnonzero(targets != NO_TARGET)


def _flat(table: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(values of all rows' lists, concatenated; length of each row's list)."""
    lists = table[column].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return lists.flatten().to_numpy(zero_copy_only=False), np.diff(offsets)


def _positions(lengths: np.ndarray) -> np.ndarray:
    """Position ids 0, 1, 2, ... that restart for each document."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _digests(ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Of each row the sum of hashes of (token, its position in the row), mod 2**64; the same on every machine.

    ids: of all rows, laid end to end. sizes: int64[rows], tokens of each row.
    """
    weights = (_positions(sizes) + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    weights ^= weights >> np.uint64(29)
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * (weights | np.uint64(1))
    mixed ^= mixed >> np.uint64(32)
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mixed * np.uint64(0xBF58476D1CE4E5B9), dtype=np.uint64)])
    ends = np.cumsum(sizes)
    return sums[ends] - sums[ends - sizes]


class RowsOfSteps(Protocol):
    """The rows of each step: `Order` in training, `HeldOut` in validation."""

    rows_per_step: int

    def step(self, step: int) -> list[tuple[int, int]]:
        """(corpus, row) of each row of a step, counted from 0."""


class ReadableRows(Protocol):
    """Rows that are read by their numbers: PackedRows, or such with more columns."""

    @property
    def documents_per_row(self) -> float: ...

    def read(self, indices: Sequence[int]) -> list[pa.Table]: ...

    def close(self) -> None: ...


class Loader:
    """The micro-batches of each step, for one worker.

    Args:
        rows_by_corpus: the rows of each corpus, in the order of the corpus numbers of `order`. Only the loader's thread
            may use them.
        micro_rows: rows of a micro-batch. length: positions of a row.
        pad_id: token id of padding: any valid id, since padding is never attended to.
        documents_per_row: mean of the rows; default: the largest mean of the corpora.
        steps: number of steps; nothing is prefetched beyond them. None: no limit.
        ahead: number of steps to prefetch.
        mismatched: whether batches have `mismatched` ones.
        context: number of workers that share each row: consecutive ranks, of which each gets a part of all its rows.

    waited_s: total seconds that callers of `micro_batches` have waited for data. measures: of rollouts; none here.
    """

    measures: Mapping[str, float] = {}

    def __init__(
        self,
        order: RowsOfSteps,
        rows_by_corpus: Sequence[ReadableRows],
        rank: int,
        world: int,
        micro_rows: int,
        length: int,
        pad_id: int,
        *,
        documents_per_row: float | None = None,
        steps: int | None = None,
        ahead: int = 2,
        mismatched: bool = False,
        context: int = 1,
    ) -> None:
        assert 0 <= rank < world and world % context == 0 and micro_rows > 0
        self.order = order
        self.rows_by_corpus = rows_by_corpus
        self.rank, self.world = rank // context, world // context
        self.part, self.parts = rank % context, context
        self.micro_rows, self.length, self.pad_id = micro_rows, length, pad_id
        self.steps, self.ahead, self.mismatched = steps, ahead, mismatched
        means = (rows.documents_per_row for rows in rows_by_corpus)
        self.documents_per_row = max(means, default=1.0) if documents_per_row is None else documents_per_row
        self.waited_s = 0.0
        self._thread = ThreadPoolExecutor(1, "rows")
        self._pending: dict[int, Future[list[Batch]]] = {}

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step, counted from 0. Steps may be requested in any order; the next one is prefetched.

        Raises:
            DataError, StorageError: a file cannot be read; with its URI.
        """
        started = time.perf_counter()
        wanted = range(step, step + 1 + self.ahead)
        for other in [other for other in self._pending if other not in wanted]:
            self._pending.pop(other).cancel()
        for number in wanted:
            if number not in self._pending and (self.steps is None or number < self.steps or number == step):
                self._pending[number] = self._thread.submit(self._make, number)
        try:
            return self._pending.pop(step).result()
        except BaseException:
            self._cancel()  # a prefetch that failed may succeed when it is requested
            raise
        finally:
            self.waited_s += time.perf_counter() - started

    def close(self) -> None:
        """Stop prefetching, wait for the thread to end, and close the files."""
        self._cancel()
        self._thread.shutdown(wait=True)
        for rows in self.rows_by_corpus:
            rows.close()

    def _cancel(self) -> None:
        for future in self._pending.values():
            future.cancel()
        self._pending.clear()

    def _make(self, step: int) -> list[Batch]:
        rows = self.order.step(step)
        own = rows_of_worker(rows, self.rank, self.world)
        tables = [self.rows_by_corpus[corpus].read([row])[0] for corpus, row in own]
        rows_per_rank = -(-len(rows) // self.world)
        found = []
        for first in range(0, rows_per_rank, self.micro_rows):
            some = tables[first : first + self.micro_rows]
            others = [with_answers_of_next(table) for table in some] if self.mismatched else None
            found.append(self._collated(some, None if others is None else self._collated(others)))
        return found

    def _collated(self, tables: Sequence[pa.Table], mismatched: Batch | None = None) -> Batch:
        batch = collate(tables, self.micro_rows, self.length, self.pad_id, self.documents_per_row)
        if self.parts > 1:
            batch = batch.part(self.part, self.parts)
        return batch if mismatched is None else replace(batch, mismatched=mismatched)
