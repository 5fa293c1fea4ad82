"""The numbers of a benchmark as one JSON-able mapping; the only place that turns times into rates and MFU."""

import platform
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from training.bench.kernels import Kernel
from training.bench.measure import Step, Timing
from training.bench.parts import Part
from training.bench.rows import document_lengths
from training.config import TrainConfig
from training.fit.ranks import Ranks
from training.gpus import peak_flops
from training.models.base import named_config
from training.models.flops import flops_per_token, mean_context
from training.versions import installed

COSTLIEST = 10


def describe(
    config: TrainConfig,
    ranks: Ranks,
    drawn: Sequence[Step],
    ours: Timing,
    peak_tflops: float | None,
    *,
    peer: Timing | str | None = None,
    parts: Sequence[Part] = (),
) -> dict[str, Any]:
    """
    Args:
        peak_tflops: of one device at the precision used; None: what models/flops.py has for the device's name in
            bf16, else no MFU.
        peer: its times, or why there are none.
        parts: of a micro-batch.
    """
    device = ranks.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peak = peak_tflops * 1e12 if peak_tflops else peak_flops(name) if config.bf16 else None
    batches = [batch for step in drawn for batch in step]
    context = mean_context(document_lengths(batches))
    flops = _flops(config, ours, context)
    # As torchtitan and TRL count: a token attends to the whole row.
    whole = _flops(config, ours, config.sequence_length)
    workers = ranks.world
    tokens, labels = (sum(getattr(batch, kind) for batch in batches) for kind in ("tokens", "label_tokens"))
    side = ours.kernels
    return {
        "setting": {
            "shape": config.name.removeprefix("bench-"),
            "method": config.method,
            "engine": config.engine,
            "precision": "bf16" if config.bf16 else "float32",
            "attention": ours.attention,
            "compile": ours.compile_s is not None,
            "put_back": list(ours.put_back),
            "activation_checkpointing": config.activation_checkpointing,
            "loss_chunk_tokens": config.loss_chunk,
            "sequence_length": config.sequence_length,
            "micro_batch": config.micro_batch,
            "accumulation": len(drawn[0]),
            "workers": workers,
        },
        "device": name,
        "parameters": ours.all_parameters,
        "trainable_parameters": ours.trainable_parameters,
        "mean_context": context,
        "documents": [len(document_lengths(step)) for step in drawn],
        "label_share": labels / tokens,
        "steps": len(ours.seconds),
        "flops_per_token": flops,
        "flops_per_token_whole_rows": whole,
        "peak_flops": peak,
        "ours": _side(ours, flops, whole, workers, peak) | {"compile_s": ours.compile_s},
        "peer": _side(peer, flops, whole, workers, peak) if isinstance(peer, Timing) else None,
        "peer_failed": peer if isinstance(peer, str) else None,
        "ratio": ours.tokens_per_s / peer.tokens_per_s if isinstance(peer, Timing) else None,
        "parts": _parts(parts, batches[0].input_ids.size, workers, flops, peak) if parts else None,
        "kernels": _kernels(side),
        "versions": {
            package: installed(package) for package in ("torch", "transformers", "peft", "deepspeed", "accelerate")
        },
    }


def _flops(config: TrainConfig, ours: Timing, context: float) -> float:
    return flops_per_token(named_config(config.store, config.model), ours.trainable_parameters, config.method, context)


def _side(timing: Timing, flops: float, whole: float, workers: int, peak: float | None) -> dict[str, Any]:
    rate = timing.tokens_per_s
    formula = (
        f"{rate:,.0f} tokens/s x {flops / 1e9:,.4g} GFLOP/token / ({workers} x {peak / 1e12:,.4g} TFLOP/s)"
        if peak
        else None
    )
    return {
        "tokens_per_s": rate,
        "step_s": median(timing.seconds),
        "seconds": list(timing.seconds),
        "mfu": rate * flops / (workers * peak) if peak else None,
        "mfu_whole_rows": rate * whole / (workers * peak) if peak else None,
        "mfu_formula": formula,
        "peak_memory_gib": timing.peak_memory_gib,
        "first_loss": timing.first_loss,
        "attention": timing.attention,
    }


def _parts(parts: Sequence[Part], tokens: int, workers: int, flops: float, peak: float | None) -> dict[str, Any]:
    """ceiling: what training would reach if a step had no parts but those that this config computes."""
    ms = sum(part.ms for part in parts if part.ceiling)
    rate = workers * tokens / (ms / 1e3)
    return {
        "parts": [
            {"name": part.name, "ms": part.ms, "tflops_per_s": part.tflops_per_s, "ceiling": part.ceiling}
            for part in parts
        ],
        "ceiling_ms": ms,
        "ceiling_tokens_per_s": rate,
        "ceiling_mfu": rate * flops / (workers * peak) if peak else None,
    }


def _kernels(kernels: Sequence[Kernel]) -> dict[str, Any] | None:
    if not kernels:
        return None
    costliest = [
        {"name": kernel.name, "ms": kernel.ms, "calls": kernel.calls, "share": kernel.share}
        for kernel in kernels[:COSTLIEST]
    ]
    return {"costliest": costliest, "count": len(kernels), "ms": sum(kernel.ms for kernel in kernels)}
