"""The oracle of training: one process, plain torch, nothing shared and nothing accumulated.

It computes a step's rows one at a time, adds their losses up, divides by the step's one denominator, and takes one step
of torch's own AdamW with torch's own clipping. Each parameter is a group of its own, so its learning rate is its own.
"""

import re
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


def factor(name: str, config: TrainConfig) -> float:
    """Of a parameter's learning rate, by its name in a Llama."""
    layers = (config.model.config or {})["num_hidden_layers"]
    layer = re.search(r"layers\.(\d+)\.", name)
    depth = layers - 1 - int(layer[1]) if layer else layers if "embed_tokens" in name else 0
    plus = config.lora.loraplus_ratio if "lora_B" in name or "magnitude" in name else 1.0
    return plus * config.optimizer.layer_decay**depth


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
        [{"params": [one], "weight_decay": settings.weight_decay if one.ndim > 1 else 0.0} for one in trained.values()],
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
        for name, group in zip(trained, optimizer.param_groups, strict=True):
            group["lr"] = rate(step) * factor(name, config)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(mean.item())
    return Trained(losses, norms, {name: one.detach().clone() for name, one in trained.items()})
