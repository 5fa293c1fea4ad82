"""Micro-batches of one worker, fetched ahead of the step that wants them.

The rows of a step are dealt like cards: worker `rank` of `world` takes `rows[rank::world]`. Every worker gets equally
many micro-batches, for a step of the optimizer is taken by all together; what is missing is padding without a target.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from training.data.batch import Batch, collate
from training.data.packed import PackedRows

if TYPE_CHECKING:
    from training.config import TrainConfig

# Positions that a worker computes at once where neither `micro_batch` nor the size of its device is given.
_MICRO_TOKENS = 8192


class Steps(Protocol):
    """An order of rows: `Order` or `HeldOut`."""

    rows_per_step: int

    def step(self, step: int) -> list[tuple[int, int]]: ...


class Loader:
    """Batches of the steps of an order, for one worker.

    Args:
        rows_by_corpus: what the order's corpus numbers stand for. Used by the loader's thread alone from now on.
        micro_rows: rows of a micro-batch. length: positions of a row. pad_id: what fills the rest; any valid id.
        steps: how many there are; nothing is fetched beyond.
        ahead: steps fetched before they are wanted.

    `waited_s`: how long callers of `micro_batches` have waited for data, in all.
    """

    def __init__(
        self,
        order: Steps,
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
        self._coming: dict[int, Future[list[Batch]]] = {}

    def micro_batches(self, step: int) -> list[Batch]:
        """The micro-batches of a step, from 0. Any step may be asked for; the one after the last is ready soonest.

        Raises:
            UserError: what went wrong when the step was fetched, with the file's URI.
        """
        started = time.perf_counter()
        wanted = range(step, step + 1 + self.ahead)
        for other in [other for other in self._coming if other not in wanted]:
            self._coming.pop(other).cancel()
        for coming in wanted:
            if coming not in self._coming and (self.steps is None or coming < self.steps or coming == step):
                self._coming[coming] = self._thread.submit(self._make, coming)
        try:
            return self._coming.pop(step).result()
        except BaseException:
            self._forget()  # what failed ahead of its time may succeed when it is asked for
            raise
        finally:
            self.waited_s += time.perf_counter() - started

    def close(self) -> None:
        """Stop fetching; returns when the thread has ended."""
        self._forget()
        self._thread.shutdown(wait=True)
        for rows in self.rows_by_corpus:
            rows.close()

    def _forget(self) -> None:
        for coming in self._coming.values():
            coming.cancel()
        self._coming.clear()

    def _make(self, step: int) -> list[Batch]:
        dealt = self.order.step(step)
        mine = dealt[self.rank :: self.world]
        tables = [self.rows_by_corpus[corpus].read([row])[0] for corpus, row in mine]
        most = -(-len(dealt) // self.world)
        return [
            collate(
                tables[first : first + self.micro_rows],
                self.micro_rows,
                self.length,
                self.pad_id,
                self.documents_per_row,
            )
            for first in range(0, most, self.micro_rows)
        ]


def micro_rows(config: "TrainConfig", world: int, most: int | None = None) -> int:
    """Rows that each of `world` workers computes at once.

    `micro_batch` where the config gives it, else `most` (what fits the device), else about 8,192 positions; never more
    than a worker has in a step. Without `micro_batch`, as few as the number of micro-batches allows, so that the last
    one is as full as the others.
    """
    share = -(-config.rows_per_step // world)
    rows = min(share, config.micro_batch or most or max(1, _MICRO_TOKENS // config.sequence_length))
    return rows if config.micro_batch else -(-share // -(-share // rows))
