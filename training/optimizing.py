"""The learning rate of a step, and which parameters AdamW decays.

Both are functions of their arguments alone: nothing about a schedule is saved in a checkpoint or restored from one.
Does not load torch, so that a plan or a report can draw the schedule.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from training.config_parts import Optimizer


def learning_rate(optimizer: "Optimizer", step: int, steps: int) -> float:
    """The learning rate of `step` (from 0) of a run of `steps`.

    Warm-up rises in equal parts to the full rate, which its last step has. Then the schedule goes from the full rate
    to `final_fraction` of it, which one step more than the run has would have: so none is taken at a rate of nothing.

        cosine      half a wave
        linear      a straight line
        wsd         full for as long as may be, then a straight line over the last `decay_steps`, by default a tenth
        constant    full to the end
    """
    full, final = optimizer.learning_rate, optimizer.final_fraction
    if step < optimizer.warmup_steps:
        return full * (step + 1) / optimizer.warmup_steps
    after = steps - optimizer.warmup_steps
    gone = _share(step - optimizer.warmup_steps, after)
    match optimizer.schedule:
        case "cosine":
            left = (1 + math.cos(math.pi * gone)) / 2
        case "linear":
            left = 1 - gone
        case "wsd":
            decay = min(optimizer.decay_steps or max(1, round(steps / 10)), after)
            left = 1 - _share(step - (steps - decay) + 1, decay + 1)
        case "constant":
            return full
    return full * (final + (1 - final) * left)


def _share(part: int, whole: int) -> float:
    """part / whole, inside 0 to 1; 0 of nothing."""
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0


def parameter_groups(module: "torch.nn.Module", weight_decay: float) -> list[dict[str, Any]]:
    """The trained parameters as AdamW's groups: matrices decay; biases, norms and other vectors do not.

    Parameters keep the order in which the module names them, and a tied one is there once.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
