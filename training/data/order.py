"""The rows of each training step: a pure function of the packed corpora, the seed and the step.

    sample   one entry of the endless sequence of rows that training takes; a row is a sample again in every epoch
    epoch    of one corpus: every row once
    pass     of all corpora: as many samples of each as the config's shares give; without shares, every row once
    period   of a mixture: the number of samples after which the sequence of corpora repeats
    stage    of a curriculum: the rows of one difficulty, which are neighbours

There is no state, so step n has the same rows after a resume and for any number of workers (loader.py divides a step's
rows among the workers). In an epoch, the rows of a block (neighbours, about a row group) stay close to each other, so
that few row groups are read at a time: blocks are permuted, then the rows within each window of `_WINDOW_BLOCKS` blocks
(2 million tokens). The packed rows are already in random order; this order differs from epoch to epoch. Epochs follow
one another without a gap, and a step may contain rows of two.

A mixture of corpora is a sequence of corpus numbers with a period of at most 2^20 samples, in which each corpus has
its share, rounded to a sample and evenly spread. The samples of one corpus run through its own epochs.

With `order: curriculum` or `reverse` an epoch has the rows of one curriculum stage after those of another. With `mixed`
the rows of all stages are spread evenly over the epoch. In both cases the rows of a stage are ordered as above.

Memory: 8 bytes per block in each of the last two epochs, 0.2 GB for three billion rows of 1,024 tokens, and 8 bytes per
sample of the period; with `mixed` 9 bytes a row.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from raymill.cluster.errors import DataError
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Corpus
from raymill.training.data.packed import STAGE_ROWS, by_stage, rows_per_group
from raymill.training.pack.packed_run import PackedRun

_WINDOW_BLOCKS = 8
_PERIOD = 1 << 20
_GOLDEN_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd; 2^64 divided by the golden ratio


@dataclass(frozen=True)
class Position:
    """The sample at which a training starts, for one that continues another.

    samples: those of the mixture that were taken before. taken: samples of each corpus that were taken before in
    mixtures with other shares; empty: none.
    """

    samples: int = 0
    taken: tuple[int, ...] = ()


class Order:
    """The rows of each training step, without end.

    Args:
        rows: number of rows of each corpus.
        samples: samples of each corpus in one pass, possibly fractional. The contents of steps depend on their
            ratios alone.
        block_rows: rows of a block.
        tokens_per_row: mean tokens of a row of each corpus, without padding; used to convert tokens into steps.
        how, stages: the order of stages, and the rows of each stage of each corpus, the easiest first. Not for
            `shuffled`.
        start: where step 0 starts.
    """

    def __init__(
        self,
        rows: Sequence[int],
        samples: Sequence[float],
        rows_per_step: int,
        block_rows: int,
        seed: int,
        tokens_per_row: Sequence[float] = (),
        how: str = "shuffled",
        stages: Sequence[Sequence[int]] = (),
        start: Position = Position(),
    ) -> None:
        assert len(rows) == len(samples) > 0 and min(rows) > 0 and min(samples) > 0, (
            "every corpus needs rows and a positive share"
        )
        self.rows_per_step = rows_per_step
        self.rows_per_pass = sum(samples)
        self._start = start.samples
        self._taken = start.taken or (0,) * len(rows)
        self.tokens_per_row = float(np.average(tokens_per_row or [1.0] * len(rows), weights=samples))
        self._epochs: list[Epochs] | list[StagedEpochs]
        if how == "shuffled":
            self._epochs = [Epochs(count, block_rows, seed, corpus) for corpus, count in enumerate(rows)]
        else:
            assert [sum(of_corpus) for of_corpus in stages] == list(rows), "every row is of one stage"
            self._epochs = [StagedEpochs(some, how, block_rows, seed, corpus) for corpus, some in enumerate(stages)]
        self._mixture = MixtureOrder(samples, seed)

    @classmethod
    def for_training(cls, config: TrainConfig, packed: PackedRun, start: Position = Position()) -> "Order":
        """The order over the train splits of all corpora, in the config's shares.

        Raises:
            DataError: a corpus has no training row.
        """
        rows, tokens, stages = [], [], []
        for artifacts in packed.corpora.values():
            manifest = artifacts["train"].manifest
            if not manifest.rows:
                raise DataError(
                    f"{artifacts['train'].uri}: no row to train on. Run `raymill pack`: it prints how many documents "
                    "were left out and why."
                )
            rows.append(manifest.rows)
            tokens.append(manifest.counters["tokens/train"] / manifest.rows)
            stages.append([count for count in by_stage(manifest.counters, STAGE_ROWS).values() if count])
        samples = shares(config.corpus, rows, tokens)
        block_rows = rows_per_group(config.sequence_length)
        return cls(rows, samples, config.rows_per_step, block_rows, config.seed, tokens, config.order, stages, start)

    def steps(self, config: TrainConfig) -> int:
        """Steps of the training: the config's `steps`, or enough for its `epochs` or `tokens` (without padding)."""
        if config.steps is not None:
            return config.steps
        if config.epochs is not None:
            samples = config.epochs * self.rows_per_pass
        else:
            assert config.tokens is not None
            samples = config.tokens / self.tokens_per_row
        # 1e-9: a quotient that floating point puts slightly above a whole number is that number.
        return config.steps_per_row * max(1, math.ceil(samples / self.rows_per_step - 1e-9))

    def step(self, step: int) -> list[tuple[int, int]]:
        """(corpus, row) of each row of a step, counted from 0."""
        samples = self._start + np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        corpora, indices = self._mixture.at(samples)
        rows = np.empty(len(samples), np.int64)
        for corpus in np.unique(corpora):
            of_corpus = corpora == corpus
            rows[of_corpus] = self._epochs[corpus].at(indices[of_corpus] + self._taken[corpus])
        return list(zip(corpora.tolist(), rows.tolist(), strict=True))

    def taken(self, samples: int) -> tuple[int, ...]:
        """Samples of each corpus before sample `samples` of the mixture, with those before its start."""
        return tuple(before + now for before, now in zip(self._taken, self._mixture.taken(samples), strict=True))


class HeldOut:
    """The rows of each step of a measurement: the first rows of each corpus' split, in order. rows: of each corpus."""

    def __init__(self, rows: Sequence[int], rows_per_step: int) -> None:
        self.rows_per_step = rows_per_step
        self._rows = [(corpus, row) for corpus, count in enumerate(rows) for row in range(count)]

    def __len__(self) -> int:
        """Number of steps; the last one may be short."""
        return -(-len(self._rows) // self.rows_per_step)

    def step(self, step: int) -> list[tuple[int, int]]:
        """(corpus, row) of each row of a step."""
        return self._rows[step * self.rows_per_step : (step + 1) * self.rows_per_step]


def rows_of_worker(rows: Sequence[tuple[int, int]], rank: int, world: int) -> list[tuple[int, int]]:
    """A worker's rows of a step: neighbours in the files, so that few row groups have to be read for them.

    Numbers of rows differ by one at most. A step's sum of losses does not depend on who computes a row. One worker
    keeps the order of the step.
    """
    if world == 1:
        return list(rows)
    each, more = divmod(len(rows), world)
    start = rank * each + min(rank, more)
    return sorted(rows)[start : start + each + (rank < more)]


def limited(rows: Sequence[int], limit: int | None) -> list[int]:
    """The rows of each corpus that are measured if all are at most `limit` together (None: all).

    Each corpus has its share, rounded down, but at least one row, so the sum is above the limit if there are many small
    corpora.
    """
    total = sum(rows)
    part = min(1.0, limit / total) if limit and total else 1.0
    return [min(count, max(1, int(count * part))) for count in rows]


def shares(corpora: Sequence[Corpus], rows: Sequence[int], tokens_per_row: Sequence[float]) -> list[float]:
    """Samples of each corpus in one pass.

    `weight` is a share of tokens, so at equal weights the corpus with fewer tokens in a row has more samples. The pass
    then has as many samples as all corpora have rows. Without weight, epochs and tokens, every row of every corpus is
    taken once.
    """
    if corpora[0].tokens is not None:
        return [(corpus.tokens or 0) / tokens for corpus, tokens in zip(corpora, tokens_per_row, strict=True)]
    if corpora[0].weight is not None:
        wanted = [(corpus.weight or 0) / tokens for corpus, tokens in zip(corpora, tokens_per_row, strict=True)]
        return [sum(rows) * share / sum(wanted) for share in wanted]
    return [(corpus.epochs or 1.0) * count for corpus, count in zip(corpora, rows, strict=True)]


class Epochs:
    """The samples of one corpus: all its rows, epoch after epoch, each in another order.

    key: the seed and the number of the corpus. The order is a function of it and the epoch.
    """

    def __init__(self, rows: int, block_rows: int, *key: int) -> None:
        self.rows = rows
        self.block_rows = block_rows
        self.key = key
        self._blocks = lru_cache(2)(self._permuted_blocks)
        self._window = lru_cache(4)(self._permuted_window)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The rows of samples, int64[N]. Samples are numbered from 0 through all epochs."""
        found = np.empty(len(indices), np.int64)
        epochs, inside_epoch = np.divmod(indices, self.rows)
        for epoch in np.unique(epochs).tolist():
            _, starts = self._blocks(epoch)
            windows = np.searchsorted(starts, inside_epoch, "right") - 1
            for window in np.unique(windows[epochs == epoch]).tolist():
                inside = (epochs == epoch) & (windows == window)
                found[inside] = self._window(epoch, window)[inside_epoch[inside] - starts[window]]
        return found

    def _permuted_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(the blocks in this epoch's order, the sample at which each window of them starts)."""
        blocks = permutation(-(-self.rows // self.block_rows), "blocks", *self.key, epoch)
        starts = np.arange(0, len(blocks), _WINDOW_BLOCKS) * self.block_rows
        missing = len(blocks) * self.block_rows - self.rows  # rows missing in the last block
        short = int(np.argmax(blocks))
        starts[short // _WINDOW_BLOCKS + 1 :] -= missing
        return blocks, starts

    def _permuted_window(self, epoch: int, window: int) -> np.ndarray:
        blocks, _ = self._blocks(epoch)
        in_window = blocks[window * _WINDOW_BLOCKS : (window + 1) * _WINDOW_BLOCKS]
        rows = (in_window[:, None] * self.block_rows + np.arange(self.block_rows)).ravel()
        rows = rows[rows < self.rows]
        return rows[permutation(len(rows), "rows", *self.key, epoch, window)]


class StagedEpochs:
    """The samples of one corpus with stages: all its rows, epoch after epoch, in the order of the stages.

    Args:
        counts: rows of each stage, the easiest first, which is their order in the corpus.
        how: curriculum, reverse or mixed. The others are as in `Epochs`.
    """

    def __init__(self, counts: Sequence[int], how: str, block_rows: int, *key: int) -> None:
        self.counts = np.array(counts)
        self._first = np.cumsum(self.counts) - self.counts
        self._of_stages = [Epochs(count, block_rows, *key, stage) for stage, count in enumerate(counts)]
        self._sequence = np.arange(len(counts))[:: -1 if how == "reverse" else 1]
        self._starts = np.cumsum(self.counts[self._sequence]) - self.counts[self._sequence]
        self._mixed = self._spread_evenly() if how == "mixed" else None

    def at(self, indices: np.ndarray) -> np.ndarray:
        """The rows of samples, int64[N]. Samples are numbered from 0 through all epochs."""
        epochs, inside_epoch = np.divmod(indices, self.counts.sum())
        if self._mixed is None:
            part = np.searchsorted(self._starts, inside_epoch, "right") - 1
            stages, inside_stage = self._sequence[part], inside_epoch - self._starts[part]
        else:
            stages, inside_stage = (values[inside_epoch].astype(np.int64) for values in self._mixed)
        found = np.empty(len(indices), np.int64)
        for stage in np.unique(stages):
            here = stages == stage
            samples = epochs[here] * self.counts[stage] + inside_stage[here]
            found[here] = self._first[stage] + self._of_stages[stage].at(samples)
        return found

    def _spread_evenly(self) -> tuple[np.ndarray, np.ndarray]:
        """(stage, number in the stage) of each sample of an epoch, in which every stage is spread evenly."""
        stages = np.repeat(np.arange(len(self.counts), dtype=np.uint8), self.counts)
        inside = np.concatenate([np.arange(count) for count in self.counts])
        order = np.argsort((inside + 0.5) / self.counts[stages], kind="stable")
        return stages[order], inside[order]


class MixtureOrder:
    """The corpus of each sample of a mixture, and the sample's number within that corpus.

    A period has a whole number of samples of each corpus. Sample j of a corpus with n samples is at a random position
    between j/n and (j+1)/n of the period, so in any interval each corpus has its share within two samples.
    """

    def __init__(self, samples: Sequence[float], seed: int) -> None:
        self.counts = whole_counts(samples)
        self.period = sum(self.counts)
        if len(self.counts) == 1:
            return
        positions = [
            (np.arange(count) + hashes(count, "mixture", seed, corpus) / 2.0**64) / count
            for corpus, count in enumerate(self.counts)
        ]
        corpora = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.argsort(np.concatenate(positions), kind="stable")
        self._corpora = corpora[order].astype(np.int32)
        self._index = np.concatenate([np.arange(count) for count in self.counts])[order].astype(np.int32)

    def at(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(corpus, index within the corpus) of samples, int64[N] each."""
        if len(self.counts) == 1:
            return np.zeros(len(samples), np.int64), samples
        periods, inside_period = np.divmod(samples, self.period)
        corpora = self._corpora[inside_period].astype(np.int64)
        return corpora, periods * np.array(self.counts)[corpora] + self._index[inside_period]

    def taken(self, samples: int) -> list[int]:
        """The number of samples of each corpus among the first `samples`."""
        if len(self.counts) == 1:
            return [samples]
        periods, rest = divmod(samples, self.period)
        inside = np.bincount(self._corpora[:rest], minlength=len(self.counts))
        return (periods * np.array(self.counts) + inside).tolist()


def whole_counts(samples: Sequence[float]) -> list[int]:
    """Samples of each corpus in one period: at least one each.

    They are `samples` if these are whole numbers with a sum of at most 2^20, else `samples` scaled to the sum 2^20 and
    rounded.
    """
    total = sum(samples)
    if all(float(count).is_integer() for count in samples) and total <= _PERIOD:
        return [int(count) for count in samples]
    exact = np.array(samples) / total * _PERIOD
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    # Rounding down left some samples of the period: the corpora with the largest remainders get one more each.
    for corpus in np.argsort(np.floor(exact) - exact, kind="stable")[: max(0, _PERIOD - int(counts.sum()))]:
        counts[corpus] += 1
    return counts.tolist()


def hashes(count: int, *key: int | str) -> np.ndarray:
    """Pseudo-random numbers, uint64[count], pairwise different and a function of `key` alone.

    They are the same on every machine and with every version of numpy, whose own generators may change.
    Source: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
    """
    start = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")
    value = np.arange(count, dtype=np.uint64) * _GOLDEN_STEP + np.uint64(start)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permutation(count: int, *key: int | str) -> np.ndarray:
    """The numbers below `count` in a pseudo-random order that is a function of `key` alone: int64[count]."""
    return np.argsort(hashes(count, *key), kind="stable")
