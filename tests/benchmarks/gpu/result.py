"""The result of a benchmark as plain JSON values, with rates and MFU, and as text."""

import platform
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch

from raymill.training.config import TrainConfig
from raymill.training.fit.ranks import Ranks
from raymill.training.gpus import peak_flops
from raymill.training.models.base import named_config
from raymill.training.models.cost import flops_per_token
from tests.benchmarks.gpu.measure import Kernel, Step, Timing
from tests.benchmarks.gpu.parts import MeasuredPart
from tests.benchmarks.gpu.workload import document_lengths, mean_context
from tests.support.versions import installed

COSTLIEST = 10


def benchmark_result(
    config: TrainConfig,
    ranks: Ranks,
    drawn: Sequence[Step],
    ours: Timing,
    peak_tflops: float | None,
    *,
    peer: Timing | str | None = None,
    parts: Sequence[MeasuredPart] = (),
) -> dict[str, Any]:
    """The result of one benchmark.

    Args:
        peak_tflops: of one device at the precision used; None: of the table of GPUs, in bf16; else there is no MFU.
        peer: its times, or why there are none.
        parts: of a micro-batch.
    """
    device = ranks.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    peak = peak_tflops * 1e12 if peak_tflops else peak_flops(name) if config.bf16 else None
    batches = [batch for step in drawn for batch in step]
    context = mean_context(document_lengths(batches))
    flops = _flops(config, ours, context)
    # torchtitan and TRL count as if a token attended to the whole row.
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


def _parts(
    parts: Sequence[MeasuredPart], tokens: int, workers: int, flops: float, peak: float | None
) -> dict[str, Any]:
    """The parts with the ceiling of the rate: the rate of a step which only has the parts with `ceiling`."""
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


RECOMPUTING = {False: "", True: "activation checkpointing, ", "selective": "selective activation checkpointing, "}


def result_text(result: dict[str, Any]) -> str:
    """The result as text: setting, tokens per second, MFU with its formula, memory; parts and kernels if measured."""
    setting = result["setting"]
    documents = result["documents"]
    lines = [
        f"model       {setting['shape']}: {result['trainable_parameters']:,} of {result['parameters']:,} parameters",
        f"setting     {setting['method']}, {setting['engine']}, {setting['precision']}, "
        f"{'compiled, ' if setting['compile'] else ''}"
        f"{''.join(f'with {name}, ' for name in setting['put_back'])}"
        f"{RECOMPUTING[setting['activation_checkpointing']]}"
        f"{setting['workers']} x {result['device']}",
        f"rows        {setting['micro_batch']} x {setting['sequence_length']} tokens a micro-batch, "
        f"{setting['accumulation']} a step and worker, {min(documents)} to {max(documents)} documents a step; a token "
        f"attends to {result['mean_context']:,.0f} positions on average; {result['label_share']:.1%} of tokens have a "
        "label",
        *_side_text("raymill", result["ours"], result["steps"], setting["precision"]),
    ]
    if (seconds := result["ours"]["compile_s"]) is not None:
        lines.append(f"{'':<11} torch.compile took {seconds:.1f} s, before the measured steps")
    if result["parts"]:
        lines += _parts_text(result["parts"], result["ours"])
    if result["kernels"]:
        lines += _kernels_text(result["kernels"])
    versions = ", ".join(f"{name} {number or 'not installed'}" for name, number in result["versions"].items())
    return "\n".join([*lines, f"versions    {versions}"])


def peer_text(result: dict[str, Any]) -> str:
    """The Trainer's numbers and the ratio, or why there are none."""
    if result["peer_failed"]:
        return f"HF Trainer  {result['peer_failed']}"
    lines = _side_text("HF Trainer", result["peer"], result["steps"], result["setting"]["precision"])
    return "\n".join([*lines, f"ratio       {result['ratio']:.2f} times the Trainer's tokens/s"])


def _side_text(name: str, side: dict[str, Any], steps: int, precision: str) -> list[str]:
    lines = [
        f"{name:<11} {side['tokens_per_s']:,.0f} tokens/s (median of {steps} steps, {side['step_s'] * 1e3:,.1f} ms); "
        f"peak {side['peak_memory_gib']:.2f} GiB; attention {side['attention']}; first loss {side['first_loss']:.4f}"
    ]
    if side["mfu"] is not None:
        lines += [
            f"{'':<11} MFU {side['mfu']:.1%} = {side['mfu_formula']}; FLOP a token: see training/models/cost.py",
            f"{'':<11} MFU {side['mfu_whole_rows']:.1%} with whole rows attended to, as torchtitan and TRL count",
        ]
    else:
        lines.append(f"{'':<11} MFU unknown: no peak of this device in {precision} in the table; give --peak-tflops")
    return lines


def _parts_text(parts: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    lines = ["parts       of a micro-batch, forward and backward, each alone; + counts to the ceiling"]
    for part in parts["parts"]:
        lines.append(
            f"          {'+' if part['ceiling'] else ' '} {part['name']:<36}{part['ms']:>10,.2f} ms"
            f"{part['tflops_per_s']:>10,.2f} TFLOP/s"
        )
    mfu = f", MFU {parts['ceiling_mfu']:.1%}" if parts["ceiling_mfu"] is not None else ""
    reached = ours["tokens_per_s"] / parts["ceiling_tokens_per_s"]
    lines.append(
        f"ceiling     {parts['ceiling_tokens_per_s']:,.0f} tokens/s{mfu}, {parts['ceiling_ms']:,.2f} ms a micro-batch; "
        f"training reaches {reached:.0%} of it"
    )
    return lines


def _kernels_text(kernels: dict[str, Any]) -> list[str]:
    lines = [
        f"kernels     {kernels['ms']:,.2f} ms a step in {kernels['count']} kinds; the "
        f"{len(kernels['costliest'])} costliest:"
    ]
    lines += [
        f"            {kernel['share']:>6.1%}{kernel['ms']:>10,.2f} ms{kernel['calls']:>7} calls  {kernel['name'][:80]}"
        for kernel in kernels["costliest"]
    ]
    return lines
