"""The plan of a config: steps, memory, time and price. Reads lists of files and the model's config, not weights."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cluster.entry import Entry
from cluster.plan.plan import ASSUMED, CORES, Prices, costs_of, load_prices
from training.config import TrainConfig
from training.continuing import planned_words
from training.gpus import AssumedGpu
from training.plan.advice import PlannedTraining, advise
from training.plan.choices import (
    CHOICES,
    USABLE,
    changes,
    default_rows,
    fits,
    most_rows,
    possible_choices,
    simplest_engine,
    smallest_change,
)
from training.plan.data import Data, find_data
from training.plan.memory import GIB, Shape, memory

_flops_per_token = Entry("training.models.cost:flops_per_token")
_shape_of = Entry("training.models.cost:shape_of")
_transformers_config = Entry("training.models.cost:transformers_config")


def plan_run(
    config: TrainConfig, machine: AssumedGpu, cores: Sequence[int] = CORES, prices: Prices | None = None
) -> dict[str, Any]:
    """The plan as plain JSON values: {kind, name, machine, phases, seconds, gpu_hours, cost, assumed}.

    Seconds, GPU hours and cost are sums over the phases, null if the machine lacks what they depend on. cores, prices:
    for the packing of each phase.

    Raises:
        UserError: a model, a corpus or a column is missing.
    """
    # A phase continues with the weights of the one before, which have the shape of the first model.
    configs = [config.phase(overrides) for overrides in config.phases] or [config]
    priced = prices or load_prices(None)
    phases = [plan_phase(one, machine, cores, priced) for one in configs]
    phases[0]["warnings"] = [*config.without_effect, *phases[0]["warnings"]]
    totals: dict[str, Any] = {
        total: None if any(phase[total] is None for phase in phases) else sum(phase[total] for phase in phases)
        for total in ("seconds", "gpu_hours", "cost")
    }
    assumed = [*_ASSUMED, *(ASSUMED if any(phase["packing"] for phase in phases) else ())]
    named = {"kind": config.kind, "name": config.name, "machine": asdict(machine)}
    return {**named, "phases": phases, **totals, "assumed": assumed}


def plan_phase(
    config: TrainConfig, machine: AssumedGpu, cores: Sequence[int] = CORES, prices: Prices | None = None
) -> dict[str, Any]:
    """The plan of one training. Bytes are of one worker, at the minimum number of workers.

    packing: as `cluster.plan.plan.costs_of` has it; null if the corpora are packed, or no sample could be packed.
    """
    shape: Shape = _shape_of(config)
    data = find_data(config, shape.vocabulary)
    least, most = config.workers.range
    steps = data.order.steps(config)
    tokens = round(steps * config.rows_per_step * data.tokens_per_row)
    device = machine.memory_gib * GIB if machine.memory_gib else None
    rows = default_rows(config, shape, device)
    need = memory(config, shape, rows)
    choices = [_choice(one, config, shape, device) for one in possible_choices(config)]
    facts = PlannedTraining(config, shape, data, steps, machine.memory_gib, machine.is_gpu)
    return {
        "name": config.name,
        "model": {
            "type": shape.model_type,
            "parameters": shape.total,
            "trained": shape.trained,
            "activations_exact": shape.exact,
        },
        "method": config.method,
        "engine": config.engine,
        "offload": config.offload,
        "precision": "bf16" if config.bf16 else "float32",
        "workers": [least, most],
        "gpus": most * config.workers.gpus_each,
        "data": {
            "exact": data.exact,
            "how": data.how,
            "rows": data.rows,
            "tokens": data.tokens,
            "documents": data.documents,
        },
        "packing": _packing(data, cores, prices or load_prices(None)),
        "continues": planned_words(config),
        "steps": steps,
        "tokens": tokens,
        "epochs": data.epochs(steps),
        "rows_per_step": config.rows_per_step,
        "micro_batch": rows,
        "accumulation": -(-config.rows_per_step // (least * rows)),
        "memory": need.parts(),
        "memory_total": need.total,
        "memory_usable": USABLE * device if device else None,
        "choices": choices,
        **_advice_on_memory(config, shape, device),
        "warnings": advise(facts),
        **_duration(config, shape, data, steps, machine),
    }


_ASSUMED = (
    "A GPU reaches its share of the peak in each step (--mfu), and workers wait for the one with the most rows.",
    "Activations are counted as autograd keeps them for a Llama, within a tenth; see training/plan/memory.py.",
)


def _packing(data: Data, cores: Sequence[int], prices: Prices) -> dict[str, Any] | None:
    if not data.packing:
        return None
    task = max(one.memory for one in data.packing)
    return costs_of(data.packing, lambda count: count * task, cores, prices)


def _choice(one: TrainConfig, config: TrainConfig, shape: Shape, device: float | None) -> dict[str, Any]:
    """One line of the table: an engine with its micro-batch, and whether that fits (null if the GPU is unknown).

    fewer_rows: the largest micro-batch that fits if the config's does not; 0: one row does not fit; else null.
    """
    rows = default_rows(one, shape, device)
    need = memory(one, shape, rows)
    fit = fits(one, shape, device) if device else None
    return {
        "engine": one.engine,
        "offload": one.offload,
        "chosen": (one.engine, one.offload) == (config.engine, config.offload),
        "micro_batch": rows,
        "fits": fit,
        "fewer_rows": most_rows(one, shape, device, rows) if device and not fit else None,
        "memory": need.parts(),
        "total": need.total,
    }


def _advice_on_memory(config: TrainConfig, shape: Shape, device: float | None) -> dict[str, Any]:
    """{change, simpler}. change: the smallest change that fits; "" if none is needed, null if nothing fits or the GPU
    is unknown. simpler: an engine before this one in CHOICES that fits too; null if there is none.
    """
    if device is None:
        return {"change": None, "simpler": None}
    change = smallest_change(config, shape, device)
    engine = simplest_engine(config, shape, device)
    before = list(itertools.takewhile(lambda choice: choice != (config.engine, config.offload), CHOICES))
    simpler = engine if engine and (engine.engine, engine.offload) in before else None
    return {
        "change": changes(config, change) if change else None,
        "simpler": changes(config, simpler) if simpler else None,
    }


def _duration(config: TrainConfig, shape: Shape, data: Data, steps: int, machine: AssumedGpu) -> dict[str, Any]:
    """{flops_per_token, peak_flops, seconds, gpu_hours, cost} of the steps: tokens x FLOP per token / (MFU x peak x
    GPUs).

    A token attends to half a document on average, or half a row if documents are longer or not counted. Workers wait
    for the one with the most rows. Validation, checkpoints and export are not included.
    """
    per_row = max(1.0, data.documents_per_row or 1.0)
    context = (data.tokens_per_row / per_row + 1) / 2
    flops: float = _flops_per_token(
        _transformers_config(config.store, config.model), shape.trained, config.method, context
    )
    peak = machine.peak(config.bf16)
    found: dict[str, Any] = {"flops_per_token": flops, "peak_flops": peak}
    found |= {"seconds": None, "gpu_hours": None, "cost": None}
    gpus = config.workers.range[1]
    if peak:
        # Padding is computed too, and workers with fewer rows wait.
        positions = steps * gpus * -(-config.rows_per_step // gpus) * config.sequence_length
        seconds = positions * flops / (machine.mfu * peak * gpus)
        found |= {"seconds": seconds, "gpu_hours": gpus * seconds / 3600}
        if machine.price is not None:
            found["cost"] = machine.price * found["gpu_hours"]
    return found
