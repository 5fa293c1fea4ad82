"""The merge of a LoRA adapter into its base, one matrix at a time, and the check of each merged matrix.

Modules that were trained in full beside the adapter take the place of the base's, by peft's `unload`.

A matrix is merged in float32, whatever the type of the base, and is then written to a file on disk, so memory holds a
few copies of the largest matrix and not the model.

The check computes the outputs of each adapted module for some random inputs, with the adapter and after the merge. A
merge adds the adapter's product to the weights, so both differ by rounding only. The tolerance grows with the largest
output (float32 has about seven digits, and errors add up over a row) and with the adapter's largest effect on outputs,
so that a merge without effect is also detected for an adapter of small effect.
"""

import itertools
from math import inf, isfinite, prod
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import Embedding, LoraLayer, ParamWrapper
from torch import Tensor

from raymill.cluster.errors import RaymillError
from raymill.cluster.temporary import reserved
from raymill.training.records.finished import MergedCheck

_INPUTS = 8
# The tolerance is the sum of these fractions of the largest output and of the adapter's largest effect.
_OUTPUT_FRACTION, _EFFECT_FRACTION = 1e-5, 1e-2


class OnDisk:
    """Makes tensors whose values are in files of a folder, of which the operating system keeps in memory what it can.

    The disk space is freed with the tensor.
    """

    def __init__(self, folder: Path) -> None:
        self._names = (folder / f"tensor-{number}" for number in itertools.count())

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A tensor with any values.

        Raises:
            OSError: the disk is full.
        """
        size, path = prod(shape), next(self._names)
        if not size:
            return torch.empty(shape, dtype=dtype)
        with reserved(path, size * dtype.itemsize):
            return torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)

    def cast(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """The values in another number type; the same tensor if they have it."""
        return values if values.dtype == dtype else self.empty(values.shape, dtype).copy_(values)


def merge(model: Any, dtype: torch.dtype, on_disk: OnDisk) -> tuple[Any, MergedCheck]:
    """(merged model, the check of the matrix that is nearest to its tolerance).

    Args:
        model: peft model on the CPU, with the base in any number type. It is merged in place; do not use it afterwards.
        dtype: number type of the merged matrices.

    Raises:
        RaymillError: a merged matrix is not finite, or its outputs differ by more than the tolerance.
    """
    model.eval()
    checks: list[MergedCheck] = []
    draw = torch.Generator().manual_seed(0)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name, layer in layers:
        base = layer.get_base_layer()
        stored = {key: parameter.data for key, parameter in base.named_parameters(recurse=False)}
        for parameter in base.parameters(recurse=False):
            parameter.data = parameter.data.float()
        with torch.inference_mode():
            checks.append(_merge_layer(name, layer, draw))
        merged = getattr(layer, "parameter_name", "weight")
        for key, parameter in base.named_parameters(recurse=False):
            parameter.data = on_disk.empty(parameter.shape, dtype).copy_(parameter) if key == merged else stored[key]
    worst = max(checks, key=lambda one: one["max_abs_difference"] / (one["tolerance"] or inf))
    return model.unload(), worst | {"matrices": len(checks)}


def _merge_layer(name: str, layer: Any, draw: torch.Generator) -> MergedCheck:
    """Merge one adapted module in place and check it. Its weights are float32."""
    inputs = _inputs(layer, draw)
    before, wanted = _base_outputs(layer, inputs), _outputs(layer, inputs)
    try:
        layer.merge(safe_merge=True)
    except ValueError as error:
        raise RaymillError(
            f"export: {name}: the adapter cannot be merged ({error}). The adapter itself is exported; set "
            "export.merged: false to leave out the merged model."
        ) from error
    return compare(name, _base_outputs(layer, inputs), wanted, before)


def compare(name: str, merged: Tensor, wanted: Tensor, before: Tensor) -> MergedCheck:
    """Compare a merged module's outputs with the ones wanted. name: of the module. before: the outputs of the base.

    Raises:
        RaymillError: a difference is above the tolerance or not finite.
    """
    difference, effect, largest = (float(one.abs().max()) for one in (merged - wanted, wanted - before, wanted))
    tolerance = _OUTPUT_FRACTION * largest + _EFFECT_FRACTION * effect
    if not (difference <= tolerance and isfinite(tolerance)):
        raise RaymillError(
            f"export: {name}: the merged matrix's outputs differ from the adapter's by up to {difference:.3g} on "
            f"{_INPUTS} inputs; {tolerance:.3g} was allowed (largest output {largest:.3g}, the adapter moves them by "
            f"up to {effect:.3g}). The adapter itself is exported; set export.merged: false to leave out the merged "
            "model."
        )
    return {
        "matrices": 1,
        "inputs": _INPUTS,
        "max_abs_difference": difference,
        "tolerance": tolerance,
        "adapter_effect": effect,
        "largest_output": largest,
    }


def _inputs(layer: Any, draw: torch.Generator) -> Tensor:
    """Random inputs of an adapted module: token ids of an embedding, else float32[inputs, size]."""
    base, size = layer.get_base_layer(), layer.in_features
    if isinstance(layer, Embedding):
        return torch.randint(base.num_embeddings, (_INPUTS,), generator=draw)
    if isinstance(layer, ParamWrapper):
        size = getattr(base, layer.parameter_name).shape[-1]
    return torch.randn(_INPUTS, size, generator=draw)


def _base_outputs(layer: Any, inputs: Tensor) -> Tensor:
    """The outputs of an adapted module without its adapter, or after it is merged."""
    base = layer.get_base_layer()
    if isinstance(layer, ParamWrapper):  # the module around the parameter has other inputs, as routes to experts
        return inputs @ getattr(base, layer.parameter_name).mT
    return base(inputs)


def _outputs(layer: Any, inputs: Tensor) -> Tensor:
    """The outputs of an adapted module with its adapter, which is not merged yet."""
    if not isinstance(layer, ParamWrapper):
        return layer(inputs)
    adapted: Any = layer
    (adapter,) = adapted.active_adapters
    a = adapted.lora_A[adapter].weight.view(adapted.num_experts, -1, adapted.in_features)
    b = adapted.lora_B[adapter].weight.view(adapted.out_features, -1, adapted.num_experts)
    # The parameter of an expert is [out, in] or [in, out].
    swapped = getattr(adapted, "_did_swap_in_out_features", False)
    order = "ore,eri,ni->eno" if swapped or adapted.num_experts == 1 else "ore,eri,no->eni"
    before = _base_outputs(adapted, inputs)
    return before + adapted.scaling[adapter] * torch.einsum(order, b, a, inputs).view(before.shape)
