"""The protocol of a training engine, and the slices in which it saves and loads its training state.

An engine holds the weights, gradients and optimizer state of one worker and takes the optimizer steps. The training
loop uses nothing else of it. Gradients are summed over the micro-batches of a step and over all workers: the loop
divides each micro-batch's loss by the denominator of the whole step (label tokens over all workers and micro-batches),
and an engine whose library averages over workers multiplies the loss by the number of workers.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
import torch.distributed.tensor

# What is saved of a trained parameter: the float32 master weight and AdamW's two running averages.
STATES = ("param", "exp_avg", "exp_avg_sq")
# A further state, if the settings ask for it: the moving average of the master weight (weight_average.py).
AVERAGE = "ema"

T = TypeVar("T")

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

    def averaged(self) -> AbstractContextManager[None]:
        """Inside this context, the module computes with the average of the weights, if there is one."""

    def slices(self) -> Iterator[StateSlice]:
        """The training state that this worker saves. Over all workers, every value occurs exactly once."""

    def load(self, fetch: Fetch, steps_taken: int) -> None:
        """Load a saved state, written by any engine on any number of workers. steps_taken: of its optimizer."""

    def close(self) -> None:
        """Free the engine's memory. The process group stays."""


@torch.no_grad()
def load_slices(slices: Iterable[StateSlice], fetch: Fetch) -> None:
    """Copy saved values into the memory of which the slices are views. Few are in memory twice, see `fetched`."""
    wanted = ((one, (one.name, one.state, one.start, one.start + one.values.numel())) for one in slices)
    for one, values in fetched(wanted, fetch):
        one.values.copy_(values)


# Ranges that are read at the same time, as long as they have few values together: many small requests wait for the
# store's latency, not for its rate.
_AHEAD = 16
_AHEAD_VALUES = 64 << 20


def fetched(wanted: Iterable[tuple[T, tuple[str, str, int, int]]], fetch: Fetch) -> Iterator[tuple[T, torch.Tensor]]:
    """(key, values) of each (key, arguments of `fetch`), in order, with the next ones read meanwhile in threads."""
    coming: deque[tuple[T, int, Future[torch.Tensor]]] = deque()
    values = 0
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="fetch") as pool:
        for key, (name, state, start, stop) in wanted:
            while coming and (len(coming) == _AHEAD or values + stop - start > _AHEAD_VALUES):
                first, size, future = coming.popleft()
                yield first, future.result()
                values -= size
            coming.append((key, stop - start, pool.submit(fetch, name, state, start, stop)))
            values += stop - start
        for first, _, future in coming:
            yield first, future.result()


def to_float32(module: torch.nn.Module, device: torch.device | str) -> None:
    """Make the trained parameters float32 and move them to the device. Those of a model's files can have another type.

    They are converted on the device, so that the host does not hold them in float32.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.to(device).float()


def local_values(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor that this worker holds; a view."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor


def even_share(values: int, worker: int, workers: int) -> tuple[int, int]:
    """(start, stop) of one worker's share of `values` values. Shares differ by one value at most."""
    return values * worker // workers, values * (worker + 1) // workers
