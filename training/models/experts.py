"""The experts of a mixture in bf16, where their weights are float32.

Autocast casts the operands of matrix products to bf16, but not those of the grouped product by which transformers
computes experts, three-dimensional weights. Engine ddp keeps float32 weights, so it would compute them in float32, some
ten times slower on a GPU. Engines that shard have bf16 weights in the forward pass.
"""

from typing import Any

import torch
from torch import nn


def compute_experts_in_bf16(model: nn.Module) -> None:
    """Have modules with three-dimensional parameters compute with bf16 copies, as autocast does for other weights.

    Gradients are float32. The copies are made in each forward pass and kept for its backward pass.
    """
    for module in model.modules():
        if _stacked(module):
            module.register_forward_pre_hook(_cast, with_kwargs=True)
            module.register_forward_hook(_uncast, always_call=True)


def _stacked(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: one for name, one in module.named_parameters(recurse=False) if one.dim() == 3}


def _cast(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # An attribute of the object itself is found before the parameter of this name.
    module.__dict__.update({name: one.to(torch.bfloat16) for name, one in _stacked(module).items()})
    hidden, *others = args
    return (hidden.to(torch.bfloat16), *others), kwargs


def _uncast(module: nn.Module, args: Any, output: Any) -> None:
    for name in _stacked(module):
        module.__dict__.pop(name, None)
