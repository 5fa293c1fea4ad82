"""`raymill plan` of a training: steps, memory, time and price before it runs, as JSON values and as text.

Reads lists of files and the model's config, not weights.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import plural
from raymill.cluster.plan.plan import (
    ASSUMED,
    CORES,
    Prices,
    assumed_lines,
    costs_lines,
    costs_of,
    load_prices,
    money,
    wrapped,
)
from raymill.training.compile_choice import refuse_selective
from raymill.training.config import TrainConfig
from raymill.training.continuing import planned_words
from raymill.training.folds import fold_configs
from raymill.training.gpus import AssumedGpu, gpu_named
from raymill.training.objectives import SAMPLED_TOKENS
from raymill.training.output_folder import refuse_output_among_inputs
from raymill.training.pack.job import refuse_fewer_rows_than_a_step, with_exported_model
from raymill.training.plan.advice import PlannedTraining, advise
from raymill.training.plan.data import Data, find_data
from raymill.training.plan.memory import (
    CHOICES,
    GIB,
    MARGIN,
    USABLE,
    Shape,
    changes,
    default_rows,
    exchanged_bytes,
    first_that_fits,
    fits,
    memory,
    most_rows,
    possible_choices,
    smallest_change,
)

_refuse_context = Entry("raymill.training.models.attention:refuse_context")
_flops_per_token = Entry("raymill.training.models.cost:flops_per_token")
_forward_flops = Entry("raymill.training.models.cost:forward_flops")
_shape_of = Entry("raymill.training.models.cost:shape_of")
_transformers_config = Entry("raymill.training.models.cost:transformers_config")


def plan_run(
    config: TrainConfig, machine: AssumedGpu, cores: Sequence[int] = CORES, prices: Prices | None = None
) -> dict[str, Any]:
    """The plan as plain JSON values: {kind, name, machine, phases, seconds, gpu_hours, cost, assumed}.

    Seconds, GPU hours and cost are sums over the phases, null if the machine lacks what they depend on. cores, prices:
    for the packing of each phase.

    Raises:
        UserError: a model, a corpus or a column is missing.
    """
    phases = [plan_phase(one, machine, cores, prices) for one in _configs(config)]
    phases[0]["warnings"] = [*config.without_effect, *phases[0]["warnings"]]
    totals: dict[str, Any] = {
        total: None if any(phase[total] is None for phase in phases) else sum(phase[total] for phase in phases)
        for total in ("seconds", "gpu_hours", "cost")
    }
    assumed = [*_ASSUMED, *(ASSUMED if any(phase["packing"] for phase in phases) else ())]
    if any(one.objective == "grpo" for one in config.trainings):
        assumed.append(_SAMPLING if any(one.grpo.engine == "transformers" for one in config.trainings) else _BY_VLLM)
    named = {"kind": config.kind, "name": config.name, "machine": asdict(machine)}
    return {**named, "phases": phases, **totals, "assumed": assumed}


def _configs(config: TrainConfig) -> list[TrainConfig]:
    """The config of each phase or fold.

    A phase continues with the weights of the one before, which have the shape of the first model.
    """
    if config.kind == "cross-validate":
        return list(fold_configs(config)[1])
    return [config.phase(overrides) for overrides in config.phases] or [config]


def plan_phase(
    config: TrainConfig, machine: AssumedGpu, cores: Sequence[int] = CORES, prices: Prices | None = None
) -> dict[str, Any]:
    """The plan of one training. Bytes are of one worker, at the minimum number of workers.

    context: workers that share a row, and the bytes that each sends to the others in a step.
    packing: as for `raymill.cluster.plan.plan.costs_of`; null if the corpora are packed, or no sample could be packed.
    """
    shape: Shape = _shape_of(config)
    refuse_selective(config, shape.model_type)
    sharing = config.workers.context
    if sharing > 1:
        _refuse_context(_transformers_config(config.store, config.model), sharing)
    data = find_data(config, shape.vocabulary)
    least, most = config.workers.range
    steps = data.order.steps(config)
    tokens = round(steps * config.rows_per_step * data.tokens_per_row)
    device = machine.memory_gib * GIB * config.gpu_fraction if machine.memory_gib else None
    rows = default_rows(config, shape, device)
    need = memory(config, shape, rows)
    choices = [_choice(one, config, shape, device) for one in possible_choices(config)]
    packing = None
    if data.packing:
        task = max(one.memory for one in data.packing)
        packing = costs_of(data.packing, lambda count: count * task, cores, prices or load_prices(None))
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
        "precision": config.number_type,
        "workers": [least, most],
        "gpus": most * config.workers.gpus_each,
        "data": {
            "exact": data.exact,
            "how": data.how,
            "rows": data.rows,
            "tokens": data.tokens,
            "documents": data.documents,
        },
        "packing": packing,
        "continues": planned_words(config),
        "steps": steps,
        "tokens": tokens,
        "epochs": data.epochs(steps // config.steps_per_row),
        "rows_per_step": config.rows_per_step,
        "micro_batch": rows,
        "accumulation": -(-config.rows_of_worker(least) // rows),
        "context": {"workers": sharing, "exchanged_bytes": exchanged_bytes(config, shape, least)},
        "memory": asdict(need),
        "memory_total": need.total,
        "memory_usable": USABLE * device if device else None,
        "choices": choices,
        **_advice_on_memory(config, shape, device),
        "warnings": advise(facts),
        **_duration(config, shape, data, steps, machine),
        **({"sampling": _sampling(config, shape, data, steps, machine)} if config.objective == "grpo" else {}),
    }


def _sampling(config: TrainConfig, shape: Shape, data: Data, steps: int, machine: AssumedGpu) -> dict[str, Any]:
    """{answers, tokens, passes, seconds, together, cache_bytes, judged, judge_tokens} of objective grpo, of all steps.

    tokens: at most, of the answers. together: answers that a worker samples at the same time. cache_bytes: of their
    keys, values and probabilities, at most; of one worker, while it holds no activations. judged, judge_tokens: answers
    that judges score, and the tokens that these write for them, at most. A server of vLLM has memory of its own.
    passes, seconds: forward passes of a worker, at most, and their time, as of `_passes` and `_sampling_seconds`; null
    with vLLM.
    """
    how = config.grpo
    answers = math.ceil(steps / how.updates) * config.rows_per_step * how.samples
    of_worker = config.rows_of_worker(config.workers.range[0]) * how.samples
    together = min(max(1, SAMPLED_TOKENS // config.sequence_length), of_worker) if how.engine == "transformers" else 0
    keys_values = 2 * shape.layers * shape.key * (2 if config.bf16 else 4)  # of a token
    judges = [one.judge for one in how.rewards if one.judge]
    return {
        "answers": answers,
        "tokens": answers * how.max_new_tokens,
        "passes": _passes(config, steps),
        "seconds": _sampling_seconds(config, shape, data, steps, machine),
        "together": together,
        # Probabilities in float64, with what computes them (training/rollouts/sampling.py).
        "cache_bytes": together * (config.sequence_length * keys_values + 3 * 8 * shape.vocabulary),
        "judged": answers * len(judges),
        "judge_tokens": answers * sum(one.sampling.max_tokens for one in judges),
    }


def _passes(config: TrainConfig, steps: int) -> int | None:
    """Forward passes of a worker, of the largest number, in which it samples all answers if each has `max_new_tokens`:
    one for each token of the answers that are sampled together. None with vLLM, which begins an answer as another ends.
    """
    how = config.grpo
    if how.engine == "vllm":
        return None
    of_worker = config.rows_of_worker(config.workers.range[1]) * how.samples
    together = max(1, SAMPLED_TOKENS // config.sequence_length)
    return math.ceil(steps / how.updates) * math.ceil(of_worker / together) * how.max_new_tokens


def _sampling_seconds(config: TrainConfig, shape: Shape, data: Data, steps: int, machine: AssumedGpu) -> float | None:
    """Seconds of sampling: the operations of all prompts and answers at the MFU, and _LAYER_S a layer and pass."""
    passes, peak, how = _passes(config, steps), machine.peak(config.bf16), config.grpo
    if passes is None or not peak:
        return None
    answers = math.ceil(steps / how.updates) * config.rows_of_worker(config.workers.range[1]) * how.samples
    tokens = answers * (data.tokens_per_row + how.max_new_tokens)
    return passes * shape.layers * _LAYER_S + tokens * 2 * shape.total / (machine.mfu * peak)


# Of a layer in a forward pass of one token, in which a GPU waits for the CPU to start its kernels. It is assumed: 40
# tokens a second of a model of 32 layers, and was not measured.
_LAYER_S = 8e-4
_SAMPLING = (
    "Sampling answers (objective grpo) is an estimate within a factor of three: all answers have max_new_tokens, and a "
    "layer takes 0.8 ms for a token of the answers that are sampled together, whatever the GPU. Judges and programs "
    "are not counted."
)
_BY_VLLM = "The time of sampling answers by vLLM (objective grpo) is not counted."
_ASSUMED = (
    "A GPU reaches its share of the peak in each step (--mfu), and workers wait for the one with the most rows.",
    "Activations are counted as autograd keeps them for a Llama, within a tenth; see training/plan/memory.py.",
)


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
        "memory": asdict(need),
        "total": need.total,
    }


def _advice_on_memory(config: TrainConfig, shape: Shape, device: float | None) -> dict[str, Any]:
    """{change: the smallest that fits; "" if none is needed, null if nothing fits or the GPU is unknown; simpler: an
    engine before this one in CHOICES that fits too, null if there is none}.
    """
    if device is None:
        return {"change": None, "simpler": None}
    change = smallest_change(config, shape, device)
    engine = first_that_fits([config], possible_choices(config), shape, device)
    before = list(itertools.takewhile(lambda choice: choice != (config.engine, config.offload), CHOICES))
    simpler = engine if engine and (engine.engine, engine.offload) in before else None
    return {
        "change": changes(config, change) if change else None,
        "simpler": changes(config, simpler) if simpler else None,
    }


def _duration(config: TrainConfig, shape: Shape, data: Data, steps: int, machine: AssumedGpu) -> dict[str, Any]:
    """{flops_per_token, peak_flops, seconds, gpu_hours, cost, reference} of the steps: tokens x FLOP per token / (MFU x
    peak x GPUs).

    reference: {rows, seconds} of the forward pass of the reference model before the first step, which the sums include;
    null if the objective has none. rows: with those held out. Later trainings with the same model and rows find it.
    A token attends to half a document on average, or half a row if documents are longer or not counted. Workers wait
    for the one with the most rows. Validation, checkpoints and export are not included.
    """
    per_row = max(1.0, data.documents_per_row or 1.0)
    context = (data.tokens_per_row / per_row + 1) / 2
    of_token = (_transformers_config(config.store, config.model), shape.trained, config.method, context)
    flops: float = _flops_per_token(*of_token, config.objective)
    peak = machine.peak(config.bf16)
    found: dict[str, Any] = {"flops_per_token": flops, "peak_flops": peak}
    found |= {"seconds": None, "gpu_hours": None, "cost": None, "reference": None}
    gpus = config.workers.range[1]
    if config.training_objective.reference:
        rows = math.ceil(sum(data.rows.values()) / (config.split.train or 1))
        found["reference"] = {"rows": rows, "seconds": None}
    if peak:
        # Padding is computed too, and workers with fewer rows wait.
        positions = steps * (gpus // config.workers.context) * config.rows_of_worker(gpus) * config.sequence_length
        seconds = positions * flops / (machine.mfu * peak * gpus)
        if found["reference"]:
            passes = 2 if config.objective == "kto" else 1  # of the mismatched answers too
            forward = passes * found["reference"]["rows"] * config.sequence_length * _forward_flops(*of_token)
            found["reference"]["seconds"] = forward / (machine.mfu * peak * gpus)
            seconds += found["reference"]["seconds"]
        if config.objective == "grpo":
            seconds += _sampling_seconds(config, shape, data, steps, machine) or 0
        found |= {"seconds": seconds, "gpu_hours": gpus * seconds / 3600}
        if machine.price is not None:
            found["cost"] = machine.price * found["gpu_hours"]
    return found


_PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "step", "context")


def plan_training(
    config: TrainConfig,
    *,
    gpu: str | None = None,
    gpu_memory_gib: float | None = None,
    peak_tflops: float | None = None,
    mfu: float = 0.4,
    price_per_gpu_hour: float | None = None,
    cores: Sequence[int] = CORES,
    prices: str | None = None,
) -> Answer:
    """The plan of a config: no GPU is used. The options are those of the verb (cluster/plan.py).

    Raises:
        UserError: a model, a corpus, a column or a GPU is unknown, or there are fewer rows than a step takes.
    """
    config = with_exported_model(config)
    refuse_output_among_inputs(config)
    of_gpu = machine(config, gpu, gpu_memory_gib, peak_tflops, mfu, price_per_gpu_hour)
    found = plan_run(config, of_gpu, cores, load_prices(prices))
    for one, phase in zip(_configs(config), found["phases"], strict=True):
        data = phase["data"]
        refuse_fewer_rows_than_a_step(one, config.output, sum(data["rows"].values()), exact=data["exact"])
    return Answer(found, plan_text(found))


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
        parts = "folds" if plan["kind"] == "cross-validate" else "phases"
        lines += ["", f"all {parts}  {_time(plan['seconds'])}, {_price(plan)}"]
    return wrapped([*lines, "", *assumed_lines(plan["assumed"])])


def _phase(phase: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    model, data = phase["model"], phase["data"]
    least, most = phase["workers"]
    about = "" if data["exact"] else "about "
    sharing = phase["context"]["workers"]
    workers = str(least) if least == most else f"{least} to {most}"
    units = "worker" if most == 1 else "workers"
    if sharing > 1:
        workers, units = str(least // sharing), f"{'group' if least == sharing else 'groups'} of {sharing} workers"
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
        f"  step        {plural(rows, 'row')} = {workers} {units} x "
        f"{plural(micros, 'micro-batch', 'es')} x {plural(micro, 'row')}"
        + (f" (with {plural(least, 'worker')})" if least != most else ""),
        *_context_lines(phase["context"]),
        *_table(phase, machine),
    ]
    if not model["activations_exact"]:
        lines.append(f"              activations are estimated as if {model['type']} were a Llama")
    if machine["memory_gib"]:
        usable = phase["memory_usable"] / GIB
        lines.append(f"  limit       {usable:,.2f} of {machine['memory_gib']:g} GiB a GPU: {MARGIN}")
        if phase["change"] is None:
            lines.append(
                f"              too large on {plural(least, 'worker')}: no engine fits, even with one row at a time "
                "and activation checkpointing"
            )
        elif phase["change"]:
            lines.append(f"              too large; the smallest change that fits: {phase['change']}")
        elif phase["simpler"]:
            lines.append(f"              a simpler engine fits too: {phase['simpler']}")
    if reference := phase.get("reference"):
        takes = "" if reference["seconds"] is None else f", {_time(reference['seconds'])} of the time below"
        lines += [
            f"  reference   one forward pass over {plural(reference['rows'], 'row')} before the first step{takes};",
            "              later trainings with the same model and rows find its log-probabilities",
        ]
    if sampling := phase.get("sampling"):
        size, together = sampling["cache_bytes"] / GIB, plural(sampling["together"], "answer")
        lines += [
            f"  sampling    {plural(sampling['answers'], 'answer')}, at most {sampling['tokens']:,} tokens"
            + (f"; about {_time(sampling['seconds'])} of the time below" if sampling["seconds"] is not None else ""),
            f"              {size:,.2f} GiB for {together} at the same time on a worker, in place of activations"
            if sampling["together"]
            else "              by vLLM; its part of a GPU's memory is not in the limit",
        ]
        if sampling["judged"]:
            judged, written = plural(sampling["judged"], "answer"), sampling["judge_tokens"]
            lines.append(f"              judges score {judged} and write at most {written:,} tokens")
    if phase["seconds"] is not None:
        lines += [
            f"  time        {_time(phase['seconds'])} on {plural(most, 'GPU')}, {_price(phase)}",
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


def _context_lines(context: dict[str, int]) -> list[str]:
    if context["workers"] == 1:
        return []
    sent = f"{context['exchanged_bytes'] / 1e9:,.3g} GB"
    return [f"  context     {context['workers']} workers share each row; each sends {sent} to the others in a step"]


def _table(phase: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    unit, name = (GIB, "GiB") if phase["memory_total"] >= GIB / 10 else (1 << 20, "MiB")
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


def _price(of: dict[str, Any]) -> str:
    """GPU hours, and their cost if a price is given."""
    cost = f", cost {money(of['cost'])}" if of["cost"] is not None else ""
    return f"{money(of['gpu_hours'])} GPU hours{cost}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h"
