"""AdamW for all engines: parameter groups, optimizer state from the start, and a step with a clipped gradient."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed

from training.config_parts import Optimizer


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
