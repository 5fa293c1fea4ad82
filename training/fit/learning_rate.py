"""The learning-rate schedule."""

import math

from training.config_parts import Optimizer


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """The learning rate of `step` (from 0) in a run of `steps` steps.

    In warm-up the rate rises linearly; its last step has the full rate. After it, the rate falls from the full rate
    towards `final_fraction` of it. It would reach that at the step after the last one, so no step has a rate of zero.

        cosine      half a cosine wave
        linear      a straight line
        wsd         constant, then a straight line over the last `decay_steps` (default: a tenth of the steps)
        constant    the full rate to the end

    A pure function of its arguments: no schedule state is saved in a checkpoint.
    """
    full, final = optimizer.learning_rate, optimizer.final_fraction
    if step < optimizer.warmup_steps:
        return full * (step + 1) / optimizer.warmup_steps
    after = steps - optimizer.warmup_steps
    done = _clamped_ratio(step - optimizer.warmup_steps, after)
    match optimizer.schedule:
        case "cosine":
            left = (1 + math.cos(math.pi * done)) / 2
        case "linear":
            left = 1 - done
        case "wsd":
            decay = min(optimizer.decay_steps or max(1, round(steps / 10)), after)
            left = 1 - _clamped_ratio(step - (steps - decay) + 1, decay + 1)
        case "constant":
            return full
    return full * (final + (1 - final) * left)


def _clamped_ratio(part: int, whole: int) -> float:
    """part / whole, clamped to [0, 1]; 0 if whole is 0."""
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else 0.0
