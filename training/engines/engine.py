"""The protocol of a training engine, the slices in which it saves and loads its training state, and AdamW.

An engine holds the weights, gradients and optimizer state of one worker and takes the optimizer steps. The training
loop uses nothing else of it. Gradients are summed over the micro-batches of a step and over all workers: the loop
divides each micro-batch's loss by the denominator of the whole step (label tokens over all workers and micro-batches),
and an engine whose library averages over workers multiplies the loss by the number of workers.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed

from raymill.training.config_parts import Optimizer

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


@torch.no_grad()
def load_slices(slices: Iterable[StateSlice], fetch: Fetch) -> None:
    """Copy saved values into the memory of which the slices are views. At most one slice is in memory twice."""
    for one in slices:
        one.values.copy_(fetch(one.name, one.state, one.start, one.start + one.values.numel()))


def to_float32(module: torch.nn.Module, device: torch.device | str) -> None:
    """Make the trained parameters float32 and move them to the device. Those of a model's files can have another type.

    They are converted on the device, so that the host does not hold them in float32.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.to(device).float()


def even_share(values: int, worker: int, workers: int) -> tuple[int, int]:
    """(start, stop) of one worker's share of `values` values. Shares differ by one value at most."""
    return values * worker // workers, values * (worker + 1) // workers


def make_adamw(settings: Optimizer, module: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW over the trained parameters of `module`, by torch's fused kernel, which exists for CPUs too."""
    groups = parameter_groups(module, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups of the trained parameters: matrices decay; biases, norms and other vectors do not.

    Parameters keep the module's order; a tied parameter occurs once.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim > 1]
    vectors = [parameter for parameter in trained if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def start_state(optimizer: torch.optim.AdamW, parameters: Iterable[torch.Tensor]) -> None:
    """Give each parameter the zero state that AdamW creates at its first step, so that it can be saved from step 0."""
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }


def set_steps_taken(optimizer: torch.optim.AdamW, steps: int) -> None:
    """Set AdamW's count of steps, which its bias correction uses."""
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def gradient_norm(gradients: list[torch.Tensor], sharded: bool) -> torch.Tensor:
    """The global norm of the gradients, float32 scalar, bitwise equal on every worker.

    sharded: the gradients are this worker's shards, and the norm is over the shards of all workers.
    """
    norms = torch._foreach_norm(gradients) if gradients else []
    norm = torch.linalg.vector_norm(torch.stack(list(norms)).float()) if norms else torch.zeros(())
    if not sharded:
        return norm
    square = norm.square()
    torch.distributed.all_reduce(square)
    return square.sqrt()


def take_step(optimizer: torch.optim.AdamW, learning_rate: float, clip: float | None, sharded: bool) -> float:
    """Clip, update the weights, clear the gradients, and return the gradient norm before clipping.

    A norm that is not finite changes no weight.
    Clipping multiplies by clip / (norm + 1e-6) where that is below 1, as torch.nn.utils.clip_grad_norm_ does.
    """
    gradients = [
        _local(parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    norm = gradient_norm(gradients, sharded)
    size = norm.item()
    if math.isfinite(size):
        if clip is not None and gradients:
            torch._foreach_mul_(gradients, (clip / (norm + 1e-6)).clamp(max=1.0))
        set_learning_rate(optimizer, learning_rate)
        optimizer.step()
    optimizer.zero_grad(set_to_none=sharded)
    return size


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor that this worker holds; a view."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
