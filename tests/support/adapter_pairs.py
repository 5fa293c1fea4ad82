"""Adapters to compose."""

from typing import Any

import torch

from raymill.training.models.compose import LoraAdapter


def lora_of(tensors: dict[str, torch.Tensor], **config: Any) -> LoraAdapter:
    usual = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["x"]}
    return LoraAdapter("hand-made", usual | config, tensors)


def pair(name: str, rank: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, 5, generator=generator), torch.randn(6, rank, generator=generator)
    return {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
