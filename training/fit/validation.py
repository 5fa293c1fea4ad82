"""Loss and accuracy on held-out rows, weighted by tokens: summed over all workers, then divided once."""

import time
from collections.abc import Callable
from typing import Any

import torch

from cluster.examples.splits import SPLITS
from training.data.loader import Loader
from training.data.order import HeldOut
from training.data.packed import PackedRows
from training.fit.ranks import Ranks
from training.models.objective import Objective
from training.pack.packed_run import PackedRun
from training.records.schema import Measured, measured


class Validation:
    """Measures the same rows of one split at each call, distributed over the workers.

    micro_rows: rows of a micro-batch. length: positions of a row. rows: most rows of all corpora together; None: all.
    seconds: duration of the last measurement.
    """

    def __init__(
        self, packed: PackedRun, ranks: Ranks, split: str, *, micro_rows: int, length: int, rows: int | None
    ) -> None:
        assert split in SPLITS
        self.ranks = ranks
        self.seconds = 0.0
        sources = [PackedRows(artifact) for artifact in packed.split(split)]
        self.held_out = HeldOut([source.rows for source in sources], micro_rows * ranks.world, rows)
        self.loader = Loader(
            self.held_out,
            sources,
            ranks.rank,
            ranks.world,
            micro_rows,
            length,
            0,
            steps=len(self.held_out),
        )

    def measure(self, call: Callable[..., Any], objective: Objective) -> Measured | None:
        """Measure with the current weights. Returns None if the split has no label. All workers call it together.

        call: the engine's module around the objective. All workers call it equally often, because it may communicate.
        """
        began = time.perf_counter()
        losses = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        right = torch.zeros((), dtype=torch.int64, device=self.ranks.device)
        denominator, labels = 0.0, 0
        trained = objective.training
        objective.eval()
        with torch.no_grad():
            for step in range(len(self.held_out)):
                self.ranks.reached(f"validation, batch {step + 1}")
                for batch in self.loader.micro_batches(step):
                    loss, correct = call(**objective.tensors(batch, self.ranks.device))
                    losses += loss
                    right += correct
                    denominator += objective.loss_denominator(batch)
                    labels += objective.label_count(batch)
        objective.train(trained)
        sums = self.ranks.exchange_floats([losses.item(), right.item(), denominator, labels])
        self.seconds = time.perf_counter() - began
        return measured(*(sum(column) for column in zip(*sums, strict=True)))

    def close(self) -> None:
        """Stop prefetching and close the files."""
        self.loader.close()
