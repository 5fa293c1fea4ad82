"""The oracle of training: one process, plain torch, nothing shared and nothing accumulated.

It computes a step's rows one at a time, adds their losses up, divides by the step's one denominator, and takes one step
of torch's own AdamW with torch's own clipping.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raymill.training.config import TrainConfig


@dataclass(frozen=True)
class Trained:
    """losses: mean over the label tokens of each step, before its update. norms: of its gradient, before clipping."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, torch.Tensor]


def train_plainly(
    config: TrainConfig,
    objective: torch.nn.Module,
    steps: Sequence[Sequence[dict[str, torch.Tensor]]],
    units: Sequence[float],
    rate: Callable[[int], float],
) -> Trained:
    """`steps`: the rows of each step, as an objective takes them, one row a micro-batch. `units`: its denominators."""
    settings = config.optimizer
    trained = {name: one for name, one in objective.named_parameters() if one.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in trained.values() if one.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [one for one in trained.values() if one.ndim == 1], "weight_decay": 0.0},
        ],
        betas=settings.betas,
        eps=settings.epsilon,
    )
    losses, norms = [], []
    for step, rows in enumerate(steps):
        total: Any = 0
        for row in rows:
            loss, _ = objective(**row)
            total = total + loss
        mean = total / units[step]
        mean.backward()
        limit = settings.clip if settings.clip is not None else float("inf")
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.values(), limit)))
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean.item())
    return Trained(losses, norms, {name: one.detach().clone() for name, one in trained.items()})
