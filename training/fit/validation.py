"""The loss on held-out rows, weighted by tokens: sums over all workers first, one division last."""

import time
from collections.abc import Callable
from typing import Any

import torch

from training.config import TrainConfig
from training.data.loader import Loader, micro_rows
from training.data.order import HeldOut
from training.data.packed import PackedRows
from training.data.schema import SPLITS
from training.fit.ranks import Place
from training.fit.records import Measured, measured
from training.models.objective import Objective
from training.pack.packed_run import PackedRun


class Validation:
    """The rows of one split that are measured, every time the same ones, dealt to the workers.

    rows: at most so many of all corpora; None: all. seconds: that the last measurement took.
    """

    def __init__(self, config: TrainConfig, packed: PackedRun, place: Place, split: str, rows: int | None) -> None:
        assert split in SPLITS
        self.place = place
        self.seconds = 0.0
        sources = [PackedRows(artifact) for artifact in packed.split(split)]
        at_once = micro_rows(config, place.world)
        self.held_out = HeldOut([source.rows for source in sources], at_once * place.world, rows)
        self.loader = Loader(
            self.held_out,
            sources,
            place.rank,
            place.world,
            at_once,
            config.sequence_length,
            0,
            steps=len(self.held_out),
        )

    def measure(self, call: Callable[..., Any], objective: Objective) -> Measured | None:
        """With the weights as they are; None if the split has no label. All workers call it together.

        call: what an engine made of the objective. Every worker calls it equally often, for it may communicate.
        """
        began = time.perf_counter()
        losses = torch.zeros((), dtype=torch.float64, device=self.place.device)
        right = torch.zeros((), dtype=torch.int64, device=self.place.device)
        units = 0
        trained = objective.training
        objective.eval()
        with torch.no_grad():
            for step in range(len(self.held_out)):
                self.place.at(f"validation, batch {step + 1}")
                for batch in self.loader.micro_batches(step):
                    loss, correct = call(**objective.tensors(batch, self.place.device))
                    losses += loss
                    right += correct
                    units += objective.loss_denominator(batch)
        objective.train(trained)
        told = self.place.exchange_floats([losses.item(), right.item(), units])
        self.seconds = time.perf_counter() - began
        return measured(*(sum(column) for column in zip(*told, strict=True)))

    def close(self) -> None:
        self.loader.close()
