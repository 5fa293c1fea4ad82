"""PiSSA: adapters that begin with the principal part of each matrix (Meng et al. 2024, arXiv 2404.02948).

Of an adapted matrix W the r largest singular values and their vectors become the adapter, B0 A0 with the scale s of
LoRA, and the frozen base keeps the rest, W - s B0 A0. So the model at the start is the base, up to the rounding of its
number type, and the largest directions are trained.

The frozen rest is not saved: every start of a training, and the export, compute it again from the base. Therefore it is
computed on the CPU in float32 with a seed of its own, whatever the device and the seed of the training, by power
iterations (torch.svd_lowrank), in about a second for a matrix of 4,096 x 14,336.

The exported adapter is an ordinary LoRA of rank 2 r on the unchanged base: s (B A - B0 A0) = s [B, -B0] [A; A0].
"""

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft.tuners import lora
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raymill.cluster.errors import ConfigError

_ITERATIONS = 4
_FURTHER_VECTORS = 8  # that are computed beside the wanted ones, for accuracy

# The adapter's first A and B, by the prefix of the module's parameters in the adapter's file.
Initial = dict[str, tuple[Tensor, Tensor]]


@torch.no_grad()
def begin_with_principal_parts(model: nn.Module) -> None:
    """Initialise the adapters of a peft model in place.

    Raises:
        ConfigError: an adapted module is no linear layer.
    """
    for name, module in model.named_modules():
        if not isinstance(module, lora.LoraLayer):
            continue
        layer: Any = module
        if not isinstance(module, lora.Linear):
            raise ConfigError(f"lora.init: pissa is for linear layers; leave {name} out of lora.target.")
        weight = layer.get_base_layer().weight
        if weight.is_meta:
            continue
        (adapter,) = layer.active_adapters
        a, b, scale = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight, layer.scaling[adapter]
        whole = weight.detach().float().cpu()
        whole = whole.T if layer.fan_in_fan_out else whole
        rank = min(len(a), *whole.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            left, values, right = torch.svd_lowrank(whole, min(rank + _FURTHER_VECTORS, *whole.shape), _ITERATIONS)
        root = (values[:rank] / scale).sqrt()
        a.zero_()
        b.zero_()
        a[:rank] = (root[:, None] * right[:, :rank].T).to(a.device)
        b[:, :rank] = (left[:, :rank] * root).to(b.device)
        rest = whole - scale * (b.float().cpu() @ a.float().cpu())
        layer.get_base_layer().weight.data = (rest.T if layer.fan_in_fan_out else rest).to(weight.device, weight.dtype)


def initial_adapters(model: Any) -> Initial:
    """Copies of A and B of each adapted module, by its name in the adapter's file."""
    layers: list[tuple[str, Any]] = [(n, one) for n, one in model.named_modules() if isinstance(one, lora.Linear)]
    return {
        name: (layer.lora_A[adapter].weight.detach().clone(), layer.lora_B[adapter].weight.detach().clone())
        for name, layer in layers
        for adapter in layer.active_adapters
    }


def convert_saved(folder: Path, initial: Initial) -> None:
    """Make an ordinary LoRA on the unchanged base of the adapter that peft saved in a folder."""
    tensors, at = load_file(folder / "adapter_model.safetensors"), folder / "adapter_config.json"
    for name, (first_a, first_b) in initial.items():
        a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        tensors[a] = torch.cat([tensors[a], first_a.to(tensors[a].dtype)])
        tensors[b] = torch.cat([tensors[b], -first_b.to(tensors[b].dtype)], 1).contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = json.loads(at.read_text("utf-8"))
    config["r"] *= 2
    config["lora_alpha"] *= math.sqrt(2) if config.get("use_rslora") else 2
    at.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False), "utf-8")
