"""The numbers of a benchmark as one JSON-able mapping; the only place that turns times into rates and MFU."""

import platform
from importlib.metadata import version
from statistics import median
from typing import Any

import torch

from training.bench.measure import Timing
from training.bench.rows import document_lengths
from training.config import TrainConfig
from training.data.batch import Batch
from training.fit.place import Place
from training.models.base import named_config
from training.models.flops import flops_per_token, mean_context, peak_flops


def describe(
    config: TrainConfig,
    place: Place,
    batches: list[Batch],
    ours: Timing,
    peer: Timing | None,
    peak_tflops: float | None,
) -> dict[str, Any]:
    """
    Args:
        peak_tflops: of one device at the precision used; None: what models/flops.py knows of the device's name in
            bf16, else no MFU.
    """
    device = place.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peak = peak_tflops * 1e12 if peak_tflops else peak_flops(name) if config.bf16 else None
    context = mean_context(document_lengths(batches))
    flops = flops_per_token(named_config(config.model), ours.trainable_parameters, config.method, context)
    workers = place.world
    tokens, labels = (sum(getattr(batch, kind) for batch in batches) for kind in ("tokens", "label_tokens"))
    sides = {"ours": _side(ours, flops, workers, peak), "peer": _side(peer, flops, workers, peak) if peer else None}
    return {
        "setting": {
            "shape": config.name.removeprefix("bench-"),
            "method": config.method,
            "engine": config.engine,
            "precision": "bf16" if config.bf16 else "float32",
            "attention": ours.attention,
            "compile": config.compile,
            "activation_checkpointing": config.activation_checkpointing,
            "sequence_length": config.sequence_length,
            "micro_batch": config.micro_batch,
            "accumulation": len(batches),
            "workers": workers,
        },
        "device": name,
        "parameters": ours.all_parameters,
        "trainable_parameters": ours.trainable_parameters,
        "mean_context": context,
        "label_share": labels / tokens,
        "steps": len(ours.seconds),
        "flops_per_token": flops,
        "peak_flops": peak,
        **sides,
        "ratio": ours.tokens_per_s / peer.tokens_per_s if peer else None,
        "versions": ", ".join(
            f"{package} {version(package)}" for package in ("torch", "transformers", "peft", "deepspeed")
        ),
    }


def _side(timing: Timing, flops: float, workers: int, peak: float | None) -> dict[str, Any]:
    rate = timing.tokens_per_s
    mfu = rate * flops / (workers * peak) if peak else None
    formula = (
        f"{rate:,.0f} tokens/s x {flops / 1e9:,.4g} GFLOP/token / ({workers} x {peak / 1e12:,.4g} TFLOP/s)"
        if peak
        else None
    )
    return {
        "tokens_per_s": rate,
        "step_s": median(timing.seconds),
        "seconds": list(timing.seconds),
        "mfu": mfu,
        "mfu_formula": formula,
        "peak_memory_gib": timing.peak_memory_gib,
        "first_loss": timing.first_loss,
        "attention": timing.attention,
    }
