"""The micro-batches of one worker, prefetched in a thread.

Of the rows of a step, worker `rank` of `world` takes `rows[rank::world]`. Every worker gets the same number of
micro-batches, because all workers take optimizer steps together; missing rows are padding without a target.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from training.data.batch import Batch, collate
from training.data.packed import PackedRows


class RowsOfSteps(Protocol):
    """The rows of each step: `Order` in training, `HeldOut` in validation."""

    rows_per_step: int

    def step(self, step: int) -> list[tuple[int, int]]:
        """(corpus, row) of each row of a step, counted from 0."""


class Loader:
    """The micro-batches of each step, for one worker.

    Args:
        rows_by_corpus: the rows of each corpus, in the order of the corpus numbers of `order`. Only the loader's thread
            may use them.
        micro_rows: rows of a micro-batch. length: positions of a row.
        pad_id: token id of padding: any valid id, since padding is never attended to.
        steps: number of steps; nothing is prefetched beyond them. None: no limit.
        ahead: number of steps to prefetch.

    waited_s: total seconds that callers of `micro_batches` have waited for data.
    """

    def __init__(
        self,
        order: RowsOfSteps,
        rows_by_corpus: Sequence[PackedRows],
        rank: int,
        world: int,
        micro_rows: int,
        length: int,
        pad_id: int,
        *,
        steps: int | None = None,
        ahead: int = 2,
    ) -> None:
        assert 0 <= rank < world and micro_rows > 0
        self.order = order
        self.rows_by_corpus = rows_by_corpus
        self.rank, self.world = rank, world
        self.micro_rows, self.length, self.pad_id = micro_rows, length, pad_id
        self.steps, self.ahead = steps, ahead
        self.documents_per_row = max((rows.documents_per_row for rows in rows_by_corpus), default=1.0)
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
        own = rows[self.rank :: self.world]
        tables = [self.rows_by_corpus[corpus].read([row])[0] for corpus, row in own]
        rows_per_rank = -(-len(rows) // self.world)
        return [
            collate(
                tables[first : first + self.micro_rows],
                self.micro_rows,
                self.length,
                self.pad_id,
                self.documents_per_row,
            )
            for first in range(0, rows_per_rank, self.micro_rows)
        ]
