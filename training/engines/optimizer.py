"""The optimizer of a training: AdamW, its groups of parameters with their learning rates, and a step of it.

All parameters have the learning rate of the schedule times a factor of their own, which does not change in a training:

    decoder layer l of L, from 0    layer_decay ** (L - 1 - l)    Clark et al. 2020 (ELECTRA)
    embeddings                      layer_decay ** L              a tied lm_head too
    all others                      1                             the last norm, the lm_head
    LoRA's B matrices               times lora.loraplus_ratio     Hayou et al. 2024 (LoRA+); DoRA's magnitudes too

ELECTRA has a new head at the full rate and its last layer below it; here the last layer has the full rate.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed
from torch import nn

from raymill.training.config import TrainConfig
from raymill.training.config_parts import Optimizer
from raymill.training.engines.engine import AVERAGE, STATES, local_values
from raymill.training.models.base import decoder_layers


def make_optimizer(config: TrainConfig, module: nn.Module) -> torch.optim.AdamW:
    """AdamW over the trained parameters of `module`, by torch's fused kernel, which exists for CPUs too."""
    settings = config.optimizer
    groups = parameter_groups(module, settings.weight_decay, rate_factors(config, module))
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)


def rate_factors(config: TrainConfig, module: nn.Module) -> dict[str, float]:
    """Name of a trained parameter -> the factor of its learning rate, if it is not 1."""
    method, decay = config.training_method, config.optimizer.layer_decay
    factors: defaultdict[str, float] = defaultdict(lambda: 1.0)
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    if decay < 1 and not (method.virtual or method.classifies):
        layers = decoder_layers(module)
        depth = {id(p): len(layers) - 1 - number for number, layer in enumerate(layers) for p in layer.parameters()}
        for part in module.modules():
            if isinstance(getattr(part, "base_layer", part), nn.Embedding):
                depth = {id(p): len(layers) for p in part.parameters()} | depth
        for name, parameter in trained.items():
            factors[name] *= decay ** depth.get(id(parameter), 0)
    if method.merges:
        for name in trained:
            if ".lora_B." in name or ".lora_magnitude_vector." in name:
                factors[name] *= config.lora.loraplus_ratio
    return {name: factor for name, factor in factors.items() if factor != 1}


def parameter_groups(
    module: nn.Module, weight_decay: float, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """The optimizer's groups of the trained parameters: matrices decay; biases, norms and other vectors do not.

    Parameters keep the module's order; a tied parameter occurs once. factors: see `rate_factors`.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for is_matrix in (True, False):
        for name, parameter in trained:
            if (parameter.ndim > 1) == is_matrix:
                factor = (factors or {}).get(name, 1.0)
                group = {"params": [], "weight_decay": weight_decay if is_matrix else 0.0, "rate_factor": factor}
                groups.setdefault((is_matrix, factor), group)["params"].append(parameter)
    return list(groups.values())


def state_names(settings: Optimizer) -> tuple[str, ...]:
    """The states of a trained parameter that are saved."""
    return STATES if settings.ema_decay is None else (*STATES, AVERAGE)


def start_state(
    optimizer: torch.optim.AdamW, parameters: Iterable[torch.Tensor], states: tuple[str, ...] = STATES
) -> None:
    """Give each parameter the zero state that AdamW creates at its first step, so that it can be saved from step 0.

    states: also those that others keep beside AdamW's.
    """
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{name: torch.zeros_like(parameter, requires_grad=False) for name in states[1:]},
        }


def set_steps_taken(optimizer: torch.optim.AdamW, steps: int) -> None:
    """Set AdamW's count of steps, which its bias correction uses."""
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups to this one times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_factor"]


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
        local_values(parameter.grad)
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
