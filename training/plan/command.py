"""The output of `raymill plan` for a training: steps, memory, time and cost of a training before it runs."""

import json
from collections.abc import Sequence
from typing import Any

from cluster.errors import ConfigError
from cluster.plan.plan import CORES, assumed_lines, costs_lines, load_prices, wrapped
from training.config import TrainConfig
from training.gpus import AssumedGpu, gpu_named
from training.output_folder import refuse_output_among_inputs
from training.plan.choices import MARGIN
from training.plan.planning import plan_run

_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "step", "context")
_GIB = 1 << 30


def print_plan(
    config: TrainConfig,
    *,
    gpu: str | None = None,
    gpu_memory_gib: float | None = None,
    peak_tflops: float | None = None,
    mfu: float = 0.4,
    price_per_gpu_hour: float | None = None,
    cores: Sequence[int] = CORES,
    prices: str | None = None,
    as_json: bool = False,
) -> None:
    """Print the plan of a config: no GPU is used. The options are those of the verb (cluster/plan.py).

    Raises:
        UserError: a model, a corpus, a column or a GPU is unknown.
    """
    refuse_output_among_inputs(config)
    of_gpu = machine(config, gpu, gpu_memory_gib, peak_tflops, mfu, price_per_gpu_hour)
    found = plan_run(config, of_gpu, cores, load_prices(prices))
    print(json.dumps(found, indent=1) if as_json else plan_text(found))


def machine(
    config: TrainConfig,
    gpu: str | None,
    gpu_memory_gib: float | None,
    peak_tflops: float | None,
    mfu: float,
    price: float | None,
) -> AssumedGpu:
    """The GPU of a plan: the given values, else those of the table, else the config's `device_memory_gib`.

    Raises:
        ConfigError: a price is given and the GPU's speed is unknown.
    """
    known = gpu_named(gpu) if gpu else None
    memory_gib = gpu_memory_gib or (known.memory_gib if known else config.device_memory_gib)
    if price is not None and not (known or peak_tflops):
        raise ConfigError("--price-per-gpu-hour: the time depends on the GPU's speed; give --gpu or --peak-tflops too.")
    return AssumedGpu(
        name=known.name if known else None,
        memory_gib=memory_gib,
        peak_flops=peak_tflops * 1e12 if peak_tflops else None,
        bf16_peak_flops=known.bf16_peak_flops if known else None,
        mfu=mfu,
        price=price,
    )


def plan_text(plan: dict[str, Any]) -> str:
    """The plan as text: each phase, and the sums if there are several."""
    machine, phases = plan["machine"], plan["phases"]
    lines = [f"plan of {plan['name']}"]
    for phase in phases:
        lines += ["", *_phase(phase, machine)]
        if phase["packing"]:
            lines += ["", f"packing of {phase['name']}, before it", "", *costs_lines(phase["packing"])]
    if len(phases) > 1 and plan["seconds"] is not None:
        lines += ["", f"all phases  {_time(plan['seconds'])}, {_price(plan)}"]
    return wrapped([*lines, "", *assumed_lines(plan["assumed"])])


def _phase(phase: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    model, data = phase["model"], phase["data"]
    least, most = phase["workers"]
    about = "" if data["exact"] else "about "
    workers = str(least) if least == most else f"{least} to {most}"
    tokens, data_rows = sum(data["tokens"].values()), sum(data["rows"].values())
    rows, micro, micros = phase["rows_per_step"], phase["micro_batch"], phase["accumulation"]
    lines = [
        f"{phase['name']}: {phase['method']}, {phase['engine']}, {phase['precision']}",
        f"  model       {model['type']}, {model['parameters']:,} parameters, {model['trained']:,} trained "
        f"({model['trained'] / model['parameters']:.2%})",
        *(f"  {line}" for line in phase["continues"]),
        f"  data        {about}{tokens:,} tokens, {data_rows:,} rows ({data['how']})",
        f"  training    {phase['steps']:,} steps, {about}{phase['tokens']:,} tokens, "
        f"{about}{phase['epochs']:.2f} epochs",
        f"  step        {_count(rows, 'row')} = {workers} {'worker' if most == 1 else 'workers'} x "
        f"{_count(micros, 'micro-batch', 'micro-batches')} x {_count(micro, 'row')}"
        + (f" (with {_count(least, 'worker')})" if least != most else ""),
        *_table(phase, machine),
    ]
    if not model["activations_exact"]:
        lines.append(f"              activations are estimated as if {model['type']} were a Llama")
    if machine["memory_gib"]:
        lines += _advice_on_memory(phase, machine)
    if phase["seconds"] is not None:
        lines += [
            f"  time        {_time(phase['seconds'])} on {_count(most, 'GPU')}, {_price(phase)}",
            f"              at MFU {machine['mfu']:.0%} of {phase['peak_flops'] / 1e12:,.4g} TFLOP/s, "
            f"{phase['flops_per_token'] / 1e9:,.4g} GFLOP a token; without validation, checkpoints and export",
        ]
    elif machine["bf16_peak_flops"]:
        lines.append(
            f"  time        and cost unknown: this trains in {phase['precision']}, and the table has only the bf16 "
            f"peak of {machine['name']}; give --peak-tflops"
        )
    else:
        lines.append("  time        unknown without a GPU: give --gpu or --peak-tflops")
    return lines + [f"  warning     {warning}" for warning in phase["warnings"]]


def _table(phase: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    unit, name = (_GIB, "GiB") if phase["memory_total"] >= _GIB / 10 else (1 << 20, "MiB")
    shown = [part for part in _PARTS if any(choice["memory"][part] for choice in phase["choices"])]
    head = f"  {'memory, ' + name:<21}{'micro-batch':>12}"
    lines = [head + "".join(f"{part:>12}" for part in (*shown, "total", "CPU memory"))]
    for choice in phase["choices"]:
        engine = choice["engine"] + (f" + {choice['offload']}" if choice["offload"] != "none" else "")
        mark = ">" if choice["chosen"] else " "
        sizes = [*(choice["memory"][part] for part in shown), choice["total"], choice["memory"]["host"]]
        numbers = "".join(f"{size / unit:>12,.2f}" for size in sizes)
        lines.append(f"  {mark} {engine:<19}{choice['micro_batch']:>12}{numbers}{_verdict(choice)}")
    return lines


def _verdict(choice: dict[str, Any]) -> str:
    if choice["fits"] is None:
        return ""
    if choice["fits"]:
        return "  fits"
    return f"  fits with micro_batch: {choice['fewer_rows']}" if choice["fewer_rows"] else "  too large"


def _advice_on_memory(phase: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    usable = phase["memory_usable"] / _GIB
    lines = [f"  limit       {usable:,.2f} of {machine['memory_gib']:g} GiB a GPU: {MARGIN}"]
    if phase["change"] is None:
        lines.append(
            f"              too large on {_count(phase['workers'][0], 'worker')}: no engine fits, even with one row at "
            "a time and activation checkpointing"
        )
    elif phase["change"]:
        lines.append(f"              too large; the smallest change that fits: {phase['change']}")
    if phase["change"] == "" and phase["simpler"]:
        lines.append(f"              a simpler engine fits too: {phase['simpler']}")
    return lines


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _price(of: dict[str, Any]) -> str:
    """GPU hours, and their cost if a price is given."""
    cost = f", cost {_hundredths(of['cost'])}" if of["cost"] is not None else ""
    return f"{_hundredths(of['gpu_hours'])} GPU hours{cost}"


def _hundredths(number: float) -> str:
    return "under 0.01" if 0 < number < 0.01 else f"{number:,.2f}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
