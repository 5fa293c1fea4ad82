"""The loss of held-out rows, measured by all workers: the validation split in training, and the held-out rows of the
evaluation before the first step and after the last.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from raymill.training.data.batch import Loader, ReadableRows
from raymill.training.data.order import HeldOut
from raymill.training.fit.ranks import Ranks
from raymill.training.models.answers import AnswerLoss, baseline_of
from raymill.training.models.objective import Objective
from raymill.training.records.schema import Measured, measured


class Measurement:
    """Measures the same rows at each call, distributed over the workers.

    Losses and accuracy are weighted by tokens: summed over all workers, then divided once.

    Args:
        what: name of the rows, for reports about workers that are missing.
        sources: the packed rows of each corpus. rows: number of rows of each that are measured, the first ones.
        micro_rows: rows of a micro-batch. length: positions of a row.
        documents_per_row: of the rows that are trained on, so that a compiled model has the same shapes; default: the
            mean of the sources.
        mismatched, context: as of Loader.

    seconds: duration of the last measurement. tables: see `Objective.tables`, of the last measurement.
    """

    def __init__(
        self,
        what: str,
        sources: Sequence[ReadableRows],
        rows: Sequence[int],
        ranks: Ranks,
        micro_rows: int,
        length: int,
        documents_per_row: float | None = None,
        mismatched: bool = False,
        context: int = 1,
    ) -> None:
        self.what = what
        self.ranks = ranks
        self.seconds = 0.0
        self.tables: dict[str, Any] = {}
        held_out = HeldOut(rows, micro_rows * (ranks.world // context))
        self.steps = len(held_out)
        self.loader = Loader(
            held_out,
            sources,
            ranks.rank,
            ranks.world,
            micro_rows,
            length,
            pad_id=0,
            documents_per_row=documents_per_row,
            steps=self.steps,
            mismatched=mismatched,
            context=context,
        )

    def measure(self, call: Callable[..., Any], objective: Objective) -> Measured | None:
        """Measure with the current weights. Returns None if the rows have no label. All workers call it together.

        call: the engine's module around the objective. All workers call it equally often, because it may communicate.
        """
        began = time.perf_counter()
        losses = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        right = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        denominator, labels = 0.0, 0
        trained = objective.training
        objective.eval()
        with torch.no_grad():
            if isinstance(objective, AnswerLoss) and objective.name == "kto":
                objective.baseline = self._baseline(call, objective)
            for step in range(self.steps):
                self.ranks.reached(f"{self.what}, batch {step + 1}")
                for batch in self.loader.micro_batches(step):
                    loss, correct = call(**objective.tensors(batch, self.ranks.device))
                    losses += loss
                    right += correct
                    denominator += objective.loss_denominator(batch)
                    labels += objective.label_count(batch)
        objective.train(trained)
        mine = [losses.item(), right.item(), denominator, labels]
        mine += objective.measures.take()
        sums = [sum(column) for column in zip(*self.ranks.exchange_floats(mine), strict=True)]
        self.seconds = time.perf_counter() - began
        found = measured(*sums[:4])
        if found:
            found |= objective.means(sums[4:], sums[2])  # type: ignore[typeddict-item]
            self.tables = objective.tables(sums[4:])
        return found

    def _baseline(self, call: Callable[..., Any], objective: AnswerLoss) -> float:
        """z of objective kto, over all answers."""
        sums = np.zeros(2)
        for step in range(self.steps):
            self.ranks.reached(f"{self.what}, mismatched answers, batch {step + 1}")
            for batch in self.loader.micro_batches(step):
                assert batch.mismatched is not None
                call(**objective.tensors(batch.mismatched, self.ranks.device))
                sums += objective.gains(batch.mismatched)
        objective.measures.take()
        return baseline_of(self.ranks.exchange_floats(sums.tolist()))
