"""AdamW as all engines use it: made, its state there from the start, one step of it taken with a clipped gradient."""

import math
from collections.abc import Iterable

import torch
import torch.distributed

from training.config_parts import Optimizer
from training.optimizing import parameter_groups


def make_adamw(settings: Optimizer, module: torch.nn.Module) -> torch.optim.AdamW:
    """Over the trained parameters of `module`. The fused kernel is there for CPUs too, without compiling anything."""
    groups = parameter_groups(module, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)


def start_state(optimizer: torch.optim.AdamW, parameters: Iterable[torch.Tensor]) -> None:
    """Give each parameter the state that AdamW would give it at its first step, so that a state is always there."""
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }


def set_steps_taken(optimizer: torch.optim.AdamW, steps: int) -> None:
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def gradient_norm(gradients: list[torch.Tensor], sharded: bool) -> torch.Tensor:
    """float32 scalar. `sharded`: these are one worker's parts, and the norm is over the parts of all workers.

    Every worker gets the same bits, so all of them come to the same decision.
    """
    norms = torch._foreach_norm(gradients) if gradients else []
    norm = torch.linalg.vector_norm(torch.stack(list(norms)).float()) if norms else torch.zeros(())
    if not sharded:
        return norm
    square = norm.square()
    torch.distributed.all_reduce(square)
    return square.sqrt()


def take_step(optimizer: torch.optim.AdamW, learning_rate: float, clip: float | None, sharded: bool) -> float:
    """Clip, update, forget the gradients; the norm before clipping. A norm that is not finite changes no weight.

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
    """What of a tensor is on this worker; a view."""
    return tensor.to_local() if isinstance(tensor, torch.distributed.tensor.DTensor) else tensor
