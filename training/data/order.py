"""Which rows a step learns from: a pure function of what is packed, the seed and the step.

No iterator, no state, no network: a run that is killed, resumed or given other workers asks for step n and gets the
same rows. An epoch takes every row once. Its order keeps blocks of neighbouring rows (about a row group) together, so
that reading stays cheap: blocks are permuted, and then the rows of each `_WINDOW_BLOCKS` blocks in a row (2 million
tokens). The packed rows are in random order already, so this decides what varies from epoch to epoch. Epochs follow one
another without a gap, and a step may lie across two.

A mixture of corpora is a sequence of corpus numbers that repeats with a period of at most a million samples and holds
each corpus exactly in its share, evenly spread; the samples of one corpus are its own epochs.

Memory: 8 bytes for each block in each of the last two epochs, so 0.2 GB for three billion rows of 1,024 tokens, and
8 bytes for each sample of the period.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import DataError
from training.data.schema import rows_per_group
from training.data.shuffle import hashes, permutation

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.pack.packed_run import PackedRun

_WINDOW_BLOCKS = 8
_PERIOD = 1 << 20


class Order:
    """Rows of C corpora, step by step, without end.

    Args:
        rows: of each corpus. samples: how many of each corpus one pass takes, whole or not; only their ratios count
            for what a step holds.
        tokens_per_row: real tokens of a row of each corpus, on average; to turn tokens into steps.
    """

    def __init__(
        self,
        rows: Sequence[int],
        samples: Sequence[float],
        rows_per_step: int,
        block_rows: int,
        seed: int,
        tokens_per_row: Sequence[float] = (),
    ) -> None:
        assert len(rows) == len(samples) > 0 and min(rows) > 0 and min(samples) > 0, "every corpus takes part"
        self.rows_per_step = rows_per_step
        self.rows_per_pass = sum(samples)
        self.tokens_per_row = float(np.average(tokens_per_row or [1.0] * len(rows), weights=samples))
        self._epochs = [Epochs(count, block_rows, seed, corpus) for corpus, count in enumerate(rows)]
        self._mixture = Mixture(samples, seed)

    @classmethod
    def for_training(cls, config: "TrainConfig", packed: "PackedRun") -> "Order":
        """The train splits of all corpora, in the shares that the config gives them.

        Raises:
            DataError: a corpus has no row to train on.
        """
        rows, tokens = [], []
        for artifacts in packed.corpora.values():
            manifest = artifacts["train"].manifest
            if not manifest.rows:
                raise DataError(f"{artifacts['train'].uri}: no row to train on. Run `raymill pack`: it says why.")
            rows.append(manifest.rows)
            tokens.append(manifest.counters["tokens/train"] / manifest.rows)
        samples = shares(config, rows, tokens)
        block_rows = rows_per_group(config.sequence_length)
        return cls(rows, samples, config.rows_per_step, block_rows, config.seed, tokens)

    @property
    def rows_per_epoch(self) -> int:
        """Samples of one pass: every row once, or as often as the corpora's `epochs` and `tokens` say."""
        return max(1, round(self.rows_per_pass))

    def steps(self, config: "TrainConfig") -> int:
        """Steps of the whole training: as many as its `steps` says, or enough for its `epochs` or `tokens`.

        Tokens are real ones, without padding, as the step log counts them.
        """
        if config.steps is not None:
            return config.steps
        if config.epochs is not None:
            samples = config.epochs * self.rows_per_pass
        else:
            assert config.tokens is not None
            samples = config.tokens / self.tokens_per_row
        # A whole number that floating point left a hair above itself is that number.
        return max(1, math.ceil(samples / self.rows_per_step - 1e-9))

    def step(self, step: int) -> list[tuple[int, int]]:
        """(corpus, row) of each row of a step, from 0; the same for any number of workers."""
        samples = np.arange(step * self.rows_per_step, (step + 1) * self.rows_per_step)
        corpora, indices = self._mixture.at(samples)
        rows = np.empty(len(samples), np.int64)
        for corpus in np.unique(corpora):
            mine = corpora == corpus
            rows[mine] = self._epochs[corpus].at(indices[mine])
        return list(zip(corpora.tolist(), rows.tolist(), strict=True))


class HeldOut:
    """The first rows of each corpus' split, in their order: what an evaluation sees, every time the same.

    limit: rows in all, at most; each corpus gets its share of them, and one at least.
    """

    def __init__(self, rows: Sequence[int], rows_per_step: int, limit: int | None = None) -> None:
        total = sum(rows)
        part = min(1.0, limit / total) if limit and total else 1.0
        counts = [min(count, max(1, int(count * part))) for count in rows]
        self.rows_per_step = rows_per_step
        self._rows = [(corpus, row) for corpus, count in enumerate(counts) for row in range(count)]

    def __len__(self) -> int:
        """Steps, the last of them perhaps short."""
        return -(-len(self._rows) // self.rows_per_step)

    def step(self, step: int) -> list[tuple[int, int]]:
        return self._rows[step * self.rows_per_step : (step + 1) * self.rows_per_step]


def shares(config: "TrainConfig", rows: Sequence[int], tokens_per_row: Sequence[float]) -> list[float]:
    """How many samples of each corpus one pass takes.

    `weight` is a share of tokens, so a corpus whose rows are emptier gives more of them; the pass is then as long as
    the corpora together. Without any of weight, epochs and tokens every row of every corpus is taken once.
    """
    corpora = config.corpus
    if corpora[0].tokens is not None:
        return [(corpus.tokens or 0) / tokens for corpus, tokens in zip(corpora, tokens_per_row, strict=True)]
    if corpora[0].weight is not None:
        wanted = [(corpus.weight or 0) / tokens for corpus, tokens in zip(corpora, tokens_per_row, strict=True)]
        return [sum(rows) * share / sum(wanted) for share in wanted]
    return [(corpus.epochs or 1.0) * count for corpus, count in zip(corpora, rows, strict=True)]


class Epochs:
    """The samples of one corpus: all its rows, again and again, each time in another order."""

    def __init__(self, rows: int, block_rows: int, seed: int, corpus: int) -> None:
        self.rows = rows
        self.block_rows = block_rows
        self.key = (seed, corpus)
        self._blocks = lru_cache(2)(self._permuted_blocks)
        self._window = lru_cache(4)(self._permuted_window)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """int64[N]: the rows of these samples, numbered from 0 through all epochs."""
        found = np.empty(len(indices), np.int64)
        epochs, places = np.divmod(indices, self.rows)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            found[inside] = self._in_epoch(int(epoch), places[inside])
        return found

    def _in_epoch(self, epoch: int, places: np.ndarray) -> np.ndarray:
        _, starts = self._blocks(epoch)
        windows = np.searchsorted(starts, places, "right") - 1
        found = np.empty(len(places), np.int64)
        for window in np.unique(windows):
            inside = windows == window
            found[inside] = self._window(epoch, int(window))[places[inside] - starts[window]]
        return found

    def _permuted_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks in this epoch's order, and the place at which each window of them starts."""
        blocks = permutation(-(-self.rows // self.block_rows), "blocks", *self.key, epoch)
        starts = np.arange(0, len(blocks), _WINDOW_BLOCKS) * self.block_rows
        missing = len(blocks) * self.block_rows - self.rows  # rows that the last block is short of
        short = int(np.argmax(blocks))
        starts[short // _WINDOW_BLOCKS + 1 :] -= missing
        return blocks, starts

    def _permuted_window(self, epoch: int, window: int) -> np.ndarray:
        blocks, _ = self._blocks(epoch)
        mine = blocks[window * _WINDOW_BLOCKS : (window + 1) * _WINDOW_BLOCKS]
        rows = (mine[:, None] * self.block_rows + np.arange(self.block_rows)).ravel()
        rows = rows[rows < self.rows]
        return rows[permutation(len(rows), "rows", *self.key, epoch, window)]


class Mixture:
    """Which corpus each sample comes from, and which of that corpus' samples it is.

    One period holds whole numbers of samples of each corpus; sample j of the n of a corpus stands at a random place
    between j/n and (j+1)/n of the period. So in any stretch of it each corpus has its share, give or take two samples
    for each corpus there is.
    """

    def __init__(self, samples: Sequence[float], seed: int) -> None:
        self.counts = whole_counts(samples)
        self.period = sum(self.counts)
        if len(self.counts) == 1:
            return
        places = [
            (np.arange(count) + hashes(count, "mixture", seed, corpus) / 2.0**64) / count
            for corpus, count in enumerate(self.counts)
        ]
        corpora = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.argsort(np.concatenate(places), kind="stable")
        self._corpora = corpora[order].astype(np.int32)
        self._index = np.concatenate([np.arange(count) for count in self.counts])[order].astype(np.int32)

    def at(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corpus and index within the corpus, int64[N] each."""
        if len(self.counts) == 1:
            return np.zeros(len(samples), np.int64), samples
        periods, places = np.divmod(samples, self.period)
        corpora = self._corpora[places].astype(np.int64)
        return corpora, periods * np.array(self.counts)[corpora] + self._index[places]


def whole_counts(samples: Sequence[float]) -> list[int]:
    """Samples of one period: the given numbers where they are whole and few, else in their ratios, summing to 2^20."""
    total = sum(samples)
    if all(float(count).is_integer() for count in samples) and total <= _PERIOD:
        return [int(count) for count in samples]
    exact = np.array(samples) / total * _PERIOD
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    # The largest remainders get what rounding down left over.
    for corpus in np.argsort(np.floor(exact) - exact, kind="stable")[: max(0, _PERIOD - int(counts.sum()))]:
        counts[corpus] += 1
    return counts.tolist()
