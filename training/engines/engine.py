"""The protocol of a training engine, and the slices in which an engine saves and loads its training state.

An engine holds the weights, gradients and optimizer state of one worker and takes the optimizer steps. The training
loop uses nothing else of it. Gradients are summed over the micro-batches of a step and over all workers: the loop
divides each micro-batch's loss by the denominator of the whole step (label tokens over all workers and micro-batches),
and an engine whose library averages over workers multiplies the loss by the number of workers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

# What is saved of a trained parameter: the float32 master weight and AdamW's two running averages.
STATES = ("param", "exp_avg", "exp_avg_sq")

# (name, state, start, stop) -> float32 values on the CPU: reads a range of a saved state.
Fetch = Callable[[str, str, int, int], torch.Tensor]


@dataclass(frozen=True)
class StateSlice:
    """A contiguous range of one state of one parameter, in the parameter's flattened (row-major) order.

    name: the parameter's name in the model, without prefixes of an engine's wrapper. shape: of the whole parameter.
    start: first value of the range. values: float32[n], on the CPU or the device; may be a view of training memory, so
    the receiver copies it.
    """

    name: str
    state: str
    shape: tuple[int, ...]
    start: int
    values: torch.Tensor


@dataclass(frozen=True)
class LocalRange:
    """The range [start, start + n) of a flattened parameter that this worker holds or saves.

    states: float32[n] views of the memory that training uses, by name of the state (see STATES).
    """

    name: str
    shape: tuple[int, ...]
    start: int
    states: dict[str, torch.Tensor]


class TrainingEngine(Protocol):
    """One worker's part of a model in training. All workers call every method, in the same order.

    module: called with a batch's tensors; returns (sum of losses, number of correct predictions).
    """

    module: torch.nn.Module

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add the gradients of `loss`. last: this is the step's last micro-batch; workers may synchronise only then."""

    def step(self, learning_rate: float, clip: float | None) -> float:
        """Update the weights, clear the gradients and return the global gradient norm before clipping.

        A norm that is not finite is returned as it is, and no weight changes.
        """

    def slices(self) -> Iterator[StateSlice]:
        """The training state that this worker saves. Over all workers, every value occurs exactly once."""

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        """Load a saved state, written by any engine on any number of workers. steps_taken: of its optimizer."""

    def close(self) -> None:
        """Free the engine's memory. The process group stays."""


def slices_of(ranges: Iterable[LocalRange]) -> Iterator[StateSlice]:
    """The states of the ranges as slices, without a copy; empty ranges are left out."""
    for part in ranges:
        for state, values in part.states.items():
            if values.numel():
                yield StateSlice(part.name, state, part.shape, part.start, values)


@torch.no_grad()
def load_ranges(ranges: Iterable[LocalRange], fetch: Fetch) -> None:
    """Copy saved values into the ranges. At most one range is in memory twice."""
    for part in ranges:
        for state, values in part.states.items():
            if values.numel():
                values.copy_(fetch(part.name, state, part.start, part.start + values.numel()))


def even_share(values: int, worker: int, workers: int) -> tuple[int, int]:
    """(start, stop) of one worker's share of `values` values. Shares differ by one value at most."""
    return values * worker // workers, values * (worker + 1) // workers
