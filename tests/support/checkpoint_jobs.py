"""A small job and its checkpoints."""

from pathlib import Path

import numpy as np
import torch

from raymill.training.engines.engine import StateSlice
from raymill.training.fit.checkpoint import Saver
from raymill.training.fit.ranks import Ranks
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import TrainingProgress
from tests.support import fit_jobs

SHAPES: dict[str, tuple[int, ...]] = {"first.weight": (5, 4), "second": (7,)}


STATES = ("param", "exp_avg", "exp_avg_sq")


def make_job(root: Path, keep: int = 2, **identity: str) -> Job:
    config = fit_jobs.settings(str(root), checkpoint={"every_steps": 1, "keep": keep})
    parts = {"settings.seed": "1", "data": "abc"} | identity
    return Job(config, TrainingFolder(config.store, f"{root}/run", parts), "nowhere", (), 10)


def values(name: str, state: str) -> torch.Tensor:
    size = int(np.prod(SHAPES[name]))
    return torch.arange(size, dtype=torch.float32) + 100 * STATES.index(state) + 1000 * list(SHAPES).index(name)


def slices(rank: int = 0, world: int = 1):
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        start, stop = size * rank // world, size * (rank + 1) // world
        for state in STATES:
            yield StateSlice(name, state, shape, start, values(name, state)[start:stop])


def write(job: Job, step: int, attempt: str = "a", progress: TrainingProgress | None = None) -> str:
    """A whole checkpoint by one worker; its URI."""
    saver = Saver(job.folder, job.config.checkpoint.keep, Ranks(0, 1, torch.device("cpu")), attempt, lambda: None)
    saver.begin(progress or TrainingProgress(step=step, updates=step), slices())
    saver.settle()
    saver.close()
    return saver.uri(step)
