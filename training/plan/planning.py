"""A config to a plan: steps, memory, time, price as one JSON-able mapping. Reads corpora and configs, never weights."""

import itertools
from dataclasses import asdict, dataclass
from typing import Any

from training.config import TrainConfig
from training.plan.advice import Facts, advise, unused
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
from training.plan.memory import GIB, memory
from training.plan.shape import Shape, shape_of, transformers_config


@dataclass(frozen=True)
class Machine:
    """What the plan assumes of a GPU. None: not said, and what depends on it is left out.

    peak_flops: as told, whatever the precision. bf16_peak_flops: as its name tells, which says nothing of float32.
    mfu: share of the peak that the training reaches. price: of one GPU for an hour, in any currency.
    """

    name: str | None = None
    memory_gib: float | None = None
    peak_flops: float | None = None
    bf16_peak_flops: float | None = None
    mfu: float = 0.4
    price: float | None = None

    def peak(self, bf16: bool) -> float | None:
        return self.peak_flops or (self.bf16_peak_flops if bf16 else None)

    @property
    def is_gpu(self) -> bool:
        """Whether anything is said of one."""
        return any((self.name, self.memory_gib, self.peak_flops))


def plan_run(config: TrainConfig, machine: Machine) -> dict[str, Any]:
    """{name, machine, phases, seconds, gpu_hours, cost}; the last three are sums, null where something is not said.

    Raises:
        UserError: a model, a corpus or a column that is not there.
    """
    # A phase goes on with the weights of the one before, which have the shape of the model they all begin with.
    configs = [config.phase(overrides) for overrides in config.phases] or [config]
    phases = [plan_phase(one, machine) for one in configs]
    phases[0]["warnings"] = [*unused(config), *phases[0]["warnings"]]
    totals: dict[str, Any] = {
        total: None if any(phase[total] is None for phase in phases) else sum(phase[total] for phase in phases)
        for total in ("seconds", "gpu_hours", "cost")
    }
    return {"name": config.name, "machine": asdict(machine), "phases": phases, **totals}


def plan_phase(config: TrainConfig, machine: Machine) -> dict[str, Any]:
    """One training. Bytes are of one worker, at the least number of workers that the config allows."""
    shape = shape_of(config)
    data = find_data(config, shape.vocabulary)
    least, most = config.workers.range
    steps = data.order.steps(config)
    tokens = round(steps * config.rows_per_step * data.tokens_per_row)
    device = machine.memory_gib * GIB if machine.memory_gib else None
    rows = default_rows(config, shape, device)
    need = memory(config, shape, rows)
    choices = [_choice(one, config, shape, device) for one in possible_choices(config)]
    facts = Facts(config, shape, data, steps, machine.memory_gib, machine.is_gpu)
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
        "steps": steps,
        "tokens": tokens,
        "epochs": data.epochs(config),
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


def _choice(one: TrainConfig, config: TrainConfig, shape: Shape, device: float | None) -> dict[str, Any]:
    """One line of the table: this engine with the rows at once that it would take, and whether that fits.

    fewer_rows: the most that fit where its own `micro_batch` does not; 0: not even one. null: nothing to say.
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
    """change: settings of the smallest change that fits; "" where none is needed, null where nothing fits or nothing is
    known of the GPU. simpler: settings of an engine before this one in CHOICES that fits too; null where none does.
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


def _duration(config: TrainConfig, shape: Shape, data: Data, steps: int, machine: Machine) -> dict[str, Any]:
    """seconds, gpu_hours and cost of the steps alone: tokens x FLOP a token / (MFU x peak x GPUs).

    A token is taken to see half a document, or half a row where documents are longer or not yet counted. Workers that
    a step's rows do not fill evenly wait for the others. Validation, checkpoints and export come on top.
    """
    from training.models.flops import flops_per_token

    per_row = max(1.0, data.documents_per_row or 1.0)
    context = (data.tokens_per_row / per_row + 1) / 2
    flops = flops_per_token(transformers_config(config.store, config.model), shape.trained, config.method, context)
    peak = machine.peak(config.bf16)
    found: dict[str, Any] = {"flops_per_token": flops, "peak_flops": peak}
    found |= {"seconds": None, "gpu_hours": None, "cost": None}
    gpus = config.workers.range[1]
    if peak:
        # Padding is computed too, and so is the waiting of workers without a row.
        positions = steps * gpus * -(-config.rows_per_step // gpus) * config.sequence_length
        seconds = positions * flops / (machine.mfu * peak * gpus)
        found |= {"seconds": seconds, "gpu_hours": gpus * seconds / 3600}
        if machine.price is not None:
            found["cost"] = machine.price * found["gpu_hours"]
    return found
