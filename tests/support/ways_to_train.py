"""One training by several numbers of workers and of rows at once, uninterrupted and resumed: losses are equal."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from raymill.training.records.job import Job
from raymill.training.records.schema import Outcome
from tests.support.fit_jobs import column, final_weights, fit_alone, fit_here, fit_until
from tests.support.ranks import RankPool

# (workers, rows at once, step after which it is broken off); the first is what the others are compared with.
WAYS = ((1, 8, None), (1, 3, None), (1, 2, 4), (2, 4, None), (2, 1, 5))
# AdamW's first updates are g / (|g| + epsilon): with a tiny epsilon, +-1 where g is nothing but rounding.
OPTIMIZER = {"learning_rate": 1e-2, "warmup_steps": 2, "epsilon": 1e-3}


def check_ways(
    job_at: Callable[..., Job], rel: float = 1e-6, rel_states: float = 1e-5, **more: Any
) -> tuple[Job, Outcome]:
    """Train by each of WAYS and compare losses, validations and states. Returns the first.

    rel, rel_states: relative tolerance of losses, and of states to the largest value of their tensor.
    """
    given = {"optimizer": OPTIMIZER, "evaluate": {"every_steps": 4}} | more
    found: list[tuple[Job, Outcome]] = []
    with RankPool(2) as ranks:
        for number, (workers, rows, stopped) in enumerate(WAYS):
            job = job_at(f"way-{number}", micro_batch=rows, **given)
            if stopped and workers == 1:
                fit_until(job, stopped, alone=True)
            elif stopped:
                ranks.run(fit_until, job, stopped)
            outcome = fit_alone(job) if workers == 1 else ranks.run(fit_here, job)[0]
            assert outcome["restarts"] == (stopped is not None)
            found.append((job, outcome))
    (job, outcome), *others = found
    state = final_weights(outcome)
    for way, (other, end) in zip(WAYS[1:], others, strict=True):
        for name in ("loss", "grad_norm"):
            assert column(other, name) == pytest.approx(column(job, name), rel=rel), (way, name)
        validations = [[one["loss"] for one in column(each, "validation")] for each in (other, job)]
        assert validations[0] == pytest.approx(validations[1], rel=rel), way
        for name, values in final_weights(end).items():
            off = np.abs(values - state[name]).max()
            assert off <= rel_states * np.abs(state[name]).max() + 1e-12, (way, name, off)
    return job, outcome
