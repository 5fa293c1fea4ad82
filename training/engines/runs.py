"""A trained parameter's state in runs: contiguous pieces of its flattened values that one worker holds or saves.

An engine says which runs are this worker's; reading them out and filling them in is the same for all engines, because
a run is a view of the memory that training uses.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from training.engines import Fetch, Slice


@dataclass(frozen=True)
class Run:
    """Values [start, start + n) of the parameter `name`, flattened.

    states: flat float32 views of n values each, by name of the state (see STATES).
    """

    name: str
    shape: tuple[int, ...]
    start: int
    states: dict[str, torch.Tensor]


def read_runs(runs: Iterable[Run]) -> Iterator[Slice]:
    """What is in the runs, without copying it."""
    for run in runs:
        for state, values in run.states.items():
            if values.numel():
                yield Slice(run.name, state, run.shape, run.start, values)


@torch.no_grad()
def fill_runs(runs: Iterable[Run], fetch: Fetch) -> None:
    """Put saved values into the runs; no more than one run is in memory twice."""
    for run in runs:
        for state, values in run.states.items():
            if values.numel():
                values.copy_(fetch(run.name, state, run.start, run.start + values.numel()))


def share(values: int, worker: int, workers: int) -> tuple[int, int]:
    """(start, stop) of one worker's part of so many values. The parts differ by one value at most."""
    return values * worker // workers, values * (worker + 1) // workers
