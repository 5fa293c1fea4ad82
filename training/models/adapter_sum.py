"""The weighted sum of LoRA adapters of one base, exactly, as one adapter.

Letters: m, n sizes of a matrix, r rank; an adapter adds s B A to a matrix, with A [r, n], B [m, r] and a scale s.

    w1 s1 B1 A1 + w2 s2 B2 A2  =  [B1 B2] [w1 s1 A1; w2 s2 A2]

The combination's rank is the sum of the ranks, and nothing is approximated. Adding the A matrices and the B matrices
(peft's `linear`) would also add the cross products B1 A2 and B2 A1.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor

from cluster.errors import ConfigError

_PREFIX = "base_model.model."
# peft's names of A and B, of a linear module and of an embedding.
_KINDS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter as peft saves it.

    name: for messages. config: adapter_config.json. tensors: adapter_model.safetensors, by peft's names.
    """

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def pairs(self) -> dict[str, tuple[str, str]]:
        """The names of A and B, by the name of the matrix that they adapt."""
        found = {}
        for a, b in _KINDS:
            for key in self.tensors:
                if key.endswith(f".{a}"):
                    found[key.removesuffix(f".{a}")] = (key, key.removesuffix(a) + b)
        return found

    def scale(self, matrix: str, rank: int) -> float:
        """The scale s of a matrix: alpha / rank, or alpha / sqrt(rank) with rsLoRA; `alpha_pattern` is applied."""
        module = matrix.removeprefix(_PREFIX)
        patterns = self.config.get("alpha_pattern") or {}
        alpha = patterns.get(get_pattern_key(list(patterns), module), self.config["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def change(self, matrix: str) -> Tensor:
        """The matrix that the adapter adds: s B A, float64[m, n]."""
        a, b = (self.tensors[key].double() for key in self.pairs()[matrix])
        return self.scale(matrix, len(a)) * (b @ a)


def weighted_sum(adapters: Sequence[LoraAdapter], weights: Sequence[float]) -> LoraAdapter:
    """The adapter whose change of every matrix is the weighted sum of the adapters' changes.

    Raises:
        ConfigError: one of the adapters changes the base in another way than by s B A.
    """
    for adapter in adapters:
        _require_exact(adapter)
    matrices = sorted({matrix for adapter in adapters for matrix in adapter.pairs()})
    tensors: dict[str, Tensor] = {}
    for matrix in matrices:
        parts: list[tuple[Tensor, Tensor]] = []
        for adapter, weight in zip(adapters, weights, strict=True):
            if matrix in adapter.pairs():
                key_a, key_b = adapter.pairs()[matrix]
                a, b = adapter.tensors[key_a], adapter.tensors[key_b]
                scale = weight * adapter.scale(matrix, len(a))
                parts.append(((a.double() * scale).float(), b.float()))
        tensors[key_a] = torch.cat([a for a, _ in parts])
        tensors[key_b] = torch.cat([b for _, b in parts], dim=1)
    return LoraAdapter("the combination", _config(adapters, matrices, tensors), tensors)


def _config(adapters: Sequence[LoraAdapter], matrices: list[str], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The combination's adapter_config.json. Alpha equals the rank of each module, so that the scale is 1.

    Modules are listed by their full names if the adapters' targets differ.
    """
    ranks = {
        matrix.removeprefix(_PREFIX): len(tensors[f"{matrix}.{a}"])
        for matrix in matrices
        for a, _ in _KINDS
        if f"{matrix}.{a}" in tensors
    }
    usual = max(sorted(set(ranks.values())), key=list(ranks.values()).count)
    unusual = {re.escape(module): rank for module, rank in ranks.items() if rank != usual}
    first = adapters[0].config
    targets = [_target(adapter.config) for adapter in adapters]
    alike = all(target == targets[0] for target in targets)
    return first | {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": unusual,
        "target_modules": first["target_modules"] if alike else sorted(ranks),
        "layers_to_transform": first.get("layers_to_transform") if alike else None,
        "layers_pattern": first.get("layers_pattern") if alike else None,
        "exclude_modules": first.get("exclude_modules") if alike else None,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def _target(config: dict[str, Any]) -> Any:
    modules = config["target_modules"]
    own = sorted(modules) if isinstance(modules, list) else modules
    return [own, *(config.get(name) for name in ("layers_to_transform", "layers_pattern", "exclude_modules"))]


def _require_exact(adapter: LoraAdapter) -> None:
    """
    Raises:
        ConfigError: the adapter's change is not s B A for every matrix that it adapts.
    """
    config = adapter.config
    reasons = {
        f"it is of type {config.get('peft_type')}, which is not additive": config.get("peft_type") != "LORA",
        "DoRA rescales whole columns of the sum, so its change is not additive": config.get("use_dora"),
        "it adapts the experts of a mixture in one parameter (target_parameters)": config.get("target_parameters"),
        "it holds whole modules besides (modules_to_save)": config.get("modules_to_save"),
        "it trains biases": config.get("bias", "none") != "none" or config.get("lora_bias"),
        "it repeats layers of the base (layer_replication)": config.get("layer_replication"),
        "it holds new rows of an embedding (trainable_token_indices)": config.get("trainable_token_indices"),
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ConfigError(f"--adapter {adapter.name}: cannot be combined exactly: {'; '.join(found)}. Leave it out.")
    known = {key for pair in adapter.pairs().values() for key in pair}
    if strange := sorted(set(adapter.tensors) - known | known - set(adapter.tensors)):
        raise ConfigError(
            f"--adapter {adapter.name}: cannot be combined exactly: {strange[0]} is no A or B of LoRA, or lacks its "
            "counterpart. Leave it out."
        )
    if wide := [key for key, values in adapter.tensors.items() if values.dim() != 2]:
        raise ConfigError(f"--adapter {adapter.name}: cannot be combined exactly: {wide[0]} belongs to a convolution.")


def largest_deviation(result: LoraAdapter, adapters: Sequence[LoraAdapter], weights: Sequence[float]) -> float:
    """The largest difference, over all matrices, between the result's change and the weighted sum of the adapters'.

    Relative to the largest value of the sum: about 1e-6 with float32. NaN if a value is not finite.
    """
    deviations = []
    for matrix in result.pairs():
        parts = [w * one.change(matrix) for one, w in zip(adapters, weights, strict=True) if matrix in one.pairs()]
        want = torch.stack(parts).sum(0)
        most = want.abs().max()
        deviations.append((result.change(matrix) - want).abs().max() / (most if most else 1.0))
    return torch.stack(deviations).max().item()
