"""Matrix products of decoder layers in float8 (precision: float8), by torchao.

Input, weight and gradient are scaled row by row, by powers of two, to the range of e4m3, and multiplied in float8 with
sums in float32: the recipe `rowwise` of torchao. Weights, gradients, optimizer states and checkpoints are those of a
bf16 run, and scales are computed anew for each product, so a resumed training needs no further state.
"""

from collections.abc import Iterable

import torch
from torch import nn

from raymill.cluster.entry import require_extra
from raymill.cluster.errors import ConfigError

_SIDES = 16  # the sides of a product are multiples of this, for the kernels
_CAPABILITY = (8, 9)  # Ada; H100 has 9.0


def compute_in_float8(layers: Iterable[nn.Module], on_gpu: bool) -> None:
    """Have the linear modules of these layers compute in float8, but those with a side that is no multiple of 16.

    Raises:
        ConfigError: torchao is not installed, the GPU has no float8, or the layers have experts or no such module.
    """
    require_extra("float8", "precision: float8", "Or use precision bf16.")
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    if on_gpu and torch.cuda.get_device_capability() < _CAPABILITY:
        raise ConfigError(
            "precision: float8 needs a GPU of compute capability 8.9 or above, such as H100; "
            f"{torch.cuda.get_device_name()} has none. Use precision bf16."
        )
    converted = 0
    for layer in layers:
        if any(parameter.dim() == 3 for parameter in layer.parameters()):
            raise ConfigError("precision: float8 computes no mixture of experts. Use precision bf16.")
        fitting = {id(one) for one in layer.modules() if _fits(one)}
        converted += len(fitting)
        convert_to_float8_training(
            layer,
            config=Float8LinearConfig.from_recipe_name("rowwise"),
            module_filter_fn=lambda module, _, fitting=fitting: id(module) in fitting,
        )
    if not converted:
        raise ConfigError(
            "precision: float8 found no matrix in the layers whose sides are multiples of 16. Use precision bf16."
        )


def _fits(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.in_features % _SIDES == 0 and module.out_features % _SIDES == 0
