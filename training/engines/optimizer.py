"""The optimizer of a training, AdamW or Muon with AdamW: its groups of parameters with their learning rates, its steps.

All parameters have the learning rate of the schedule times a factor of their own, which does not change in a training:

    decoder layer l of L, from 0    layer_decay ** (L - 1 - l)    Clark et al. 2020 (ELECTRA)
    embeddings                      layer_decay ** L              a tied lm_head too
    all others                      1                             the last norm, the lm_head
    LoRA's B matrices               times lora.loraplus_ratio     Hayou et al. 2024 (LoRA+); DoRA's magnitudes too

ELECTRA has a new head at the full rate and its last layer below it; here the last layer has the full rate.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed
from torch import nn

from raymill.training.config import TrainConfig
from raymill.training.config_parts import Optimizer
from raymill.training.engines.engine import AVERAGE, STATES, local_values
from raymill.training.engines.muon import MOMENTUM_STATE, USES_MUON, MuonAdamW
from raymill.training.models.base import decoder_layers


def make_optimizer(config: TrainConfig, module: nn.Module) -> torch.optim.AdamW:
    """The optimizer over the trained parameters of `module`. AdamW's kernel is torch's fused one, also on CPUs."""
    settings = config.optimizer
    muon = settings.algorithm == "muon"
    of_muon = {id(p) for layer in decoder_layers(module) for p in layer.parameters() if p.ndim == 2} if muon else set()
    groups = parameter_groups(module, settings.weight_decay, rate_factors(config, module), of_muon)
    kind = MuonAdamW if muon else torch.optim.AdamW
    return kind(groups, lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon, fused=True)


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
    module: nn.Module,
    weight_decay: float,
    factors: Mapping[str, float] | None = None,
    muon: Collection[int] = (),
) -> list[dict[str, Any]]:
    """The optimizer's groups of the trained parameters: matrices decay; biases, norms and other vectors do not.

    Parameters keep the module's order; a tied parameter occurs once. factors: see `rate_factors`. muon: ids of the
    matrices that Muon updates.
    """
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    groups: dict[tuple[bool, float, bool], dict[str, Any]] = {}
    for is_matrix in (True, False):
        for name, parameter in trained:
            if (parameter.ndim > 1) == is_matrix:
                factor = (factors or {}).get(name, 1.0)
                uses_muon = id(parameter) in muon
                group: dict[str, Any] = {"params": [], "rate_factor": factor, USES_MUON: uses_muon}
                group["weight_decay"] = weight_decay if is_matrix else 0.0
                groups.setdefault((is_matrix, factor, uses_muon), group)["params"].append(parameter)
    return list(groups.values())


def state_names(settings: Optimizer) -> tuple[str, ...]:
    """The states of a trained parameter that AdamW updates, which are saved."""
    return STATES if settings.ema_decay is None else (*STATES, AVERAGE)


def start_state(
    optimizer: torch.optim.AdamW, parameters: Iterable[torch.Tensor], states: tuple[str, ...] = STATES
) -> None:
    """Give each parameter the zero state that the optimizer creates at its first step, so that it can be saved from
    step 0.

    states: of a parameter that AdamW updates; also what others keep beside its own.
    """
    with_muon = {id(p) for group in optimizer.param_groups if group.get(USES_MUON) for p in group["params"]}
    of_muon = (MOMENTUM_STATE, *(name for name in states if name not in STATES))
    for parameter in parameters:
        names = of_muon if id(parameter) in with_muon else states[1:]
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{name: torch.zeros_like(parameter, requires_grad=False) for name in names},
        }


def saved_states(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, values) of the parameter itself, which is the master weight, and of each of its states."""
    yield STATES[0], parameter.detach()
    yield from ((name, values) for name, values in optimizer.state[parameter].items() if name != "step")


def set_steps_taken(optimizer: torch.optim.AdamW, steps: int) -> None:
    """Set AdamW's count of steps, which its bias correction uses."""
    for state in optimizer.state.values():
        state["step"].fill_(steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups to this one times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate_factor"]


def gradient_norm(
    gradients: list[torch.Tensor], sharded: bool, group: torch.distributed.ProcessGroup | None = None
) -> torch.Tensor:
    """The global norm of the gradients, float32 scalar, bitwise equal on every worker.

    sharded: the gradients are this worker's shards, and the norm is over the shards of all workers of `group` (None:
    all).
    """
    norms = torch._foreach_norm(gradients) if gradients else []
    norm = torch.linalg.vector_norm(torch.stack(list(norms)).float()) if norms else torch.zeros(())
    if not sharded:
        return norm
    square = norm.square()
    torch.distributed.all_reduce(square, group=group)
    return square.sqrt()


def take_step(
    optimizer: torch.optim.AdamW,
    learning_rate: float,
    clip: float | None,
    sharded: bool,
    group: torch.distributed.ProcessGroup | None = None,
) -> float:
    """Clip, update the weights, clear the gradients, and return the gradient norm before clipping.

    A norm that is not finite changes no weight. sharded, group: see `gradient_norm`.
    Clipping divides by (norm + 1e-6) / clip where that is above 1; torch.nn.utils.clip_grad_norm_ multiplies by the
    inverse. AdamW's fused kernel does both, clip and skip, in its own pass over the gradients, if these are plain
    tensors; then the norm is read when the update is already queued.
    """
    gradients = [
        local_values(parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    norm = gradient_norm(gradients, sharded, group)
    divisor = None if clip is None else ((norm + 1e-6) / clip).clamp(min=1.0)
    set_learning_rate(optimizer, learning_rate)
    if sharded or isinstance(optimizer, MuonAdamW):
        if math.isfinite(norm.item()):
            if divisor is not None and gradients:
                torch._foreach_div_(gradients, divisor)
            optimizer.step()
    else:
        how: Any = optimizer  # torch's fused kernel takes these two, which torch.amp.GradScaler sets
        how.grad_scale, how.found_inf = divisor, (~norm.isfinite()).float()
        optimizer.step()
    optimizer.zero_grad(set_to_none=sharded)
    return norm.item()
