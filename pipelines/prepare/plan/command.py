"""The output of `raymill plan` for a preparation."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cluster.formats import duration, plural, share
from cluster.readers.freeze import freeze_listing
from pipelines.curate.plan.command import amount_of_bytes, core_time, gib, money, rounded_count, row, wrapped
from pipelines.curate.plan.estimate import LEAST_DUPLICATES, START_S, store_money
from pipelines.curate.plan.prices import load_prices
from pipelines.curate.plan.sample import draw_sample
from pipelines.curate.work import CORES_OF_A_MACHINE, document_count
from pipelines.kernel_cache import kernels_are_compiled
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.job import listed_inputs, refuse_unfetched, require_extras
from pipelines.prepare.named_fields import with_named_columns
from pipelines.prepare.plan.estimate import measure_rates, plan_stages
from pipelines.prepare.plan.trial import Trial
from pipelines.prepare.work import machine_memory

_CORES = (2, 16, 64)
_PIECE_BYTES = 1 << 18
_NAMED_REASONS = 4

_ASSUMED = (
    "The input is like the sample: speed, size and shares of rules and duplicates.",
    "Cores are as fast as those of this machine; `complexity` and `split` take as long for every record.",
    f"At least {LEAST_DUPLICATES:.0%} of the texts that are compared are duplicates, since a sample has fewer.",
    "Units of a stage take equally long, and nothing fails.",
    f"Machines run already; Ray's start takes {START_S:g} s.",
)


def print_plan(
    config: PrepareConfig,
    *,
    documents: float | None = None,
    cores: Sequence[int] = _CORES,
    prices: str | None = None,
    as_json: bool = False,
) -> None:
    """Print what a run takes. Lists the inputs, and prepares a sample of some 4 MB in this process.

    Args:
        documents: plan for so many rows of the same kind. prices: file of prices.

    Raises:
        UserError: as the first checks of a run; or no row of the sample can be read.
    """
    priced = load_prices(prices)
    require_extras(config, computes=True)
    refuse_unfetched(config)
    config = with_named_columns(config)
    _, settings, listing = listed_inputs(config)
    inputs = freeze_listing(listing, config.execution.unit_bytes, config.execution.max_bad_files)
    if not kernels_are_compiled():
        print("compiling kernels (first run on this machine, up to a minute)", file=sys.stderr)
    sample = draw_sample(inputs, config.limits, _PIECE_BYTES)
    rates = measure_rates(config, settings, sample)
    row_bytes = sample.text_bytes / sample.documents
    stated = document_count(inputs, row_bytes / sample.text_share)
    rows = round(documents) if documents is not None else stated
    units = max(1, math.ceil(len(inputs.units) * rows / stated))
    stages = plan_stages(config, rates, rows, units, rows * row_bytes)
    on_cores = []
    for count in cores:
        seconds = START_S + sum(stage.seconds(count) for stage in stages)
        of_machine = min(count, CORES_OF_A_MACHINE)
        memory = machine_memory(config, inputs, of_machine, rows)[0] / (1 << 30)
        hourly = count * priced.core_hour + math.ceil(count / of_machine) * memory * priced.gib_hour
        cost = seconds / 3600 * hourly + store_money(stages, priced)
        on_cores.append({"cores": count, "seconds": seconds, "machine_gib": memory, "money": cost})
    found: dict[str, Any] = {
        "name": config.name,
        "rows": rows,
        "text_bytes": round(rows * row_bytes),
        "files": len([file for file in inputs.files if file.problem is None]),
        "units": units,
        "sample": {"rows": rates.trial.rows, "unreadable": sample.unreadable_share, "said": trial_text(rates.trial)},
        "stages": [asdict(stage) for stage in stages],
        "core_s": sum(stage.core_s for stage in stages),
        "on_cores": on_cores,
        "prices": priced.model_dump(),
        "assumed": list(_ASSUMED),
    }
    print(json.dumps(found, indent=1) if as_json else _plan_text(found))


def trial_text(trial: Trial) -> str:
    """What became of the rows of a sample, in a sentence."""
    removed = sum(trial.reasons.values())
    parts = [f"{share(trial.kept, trial.rows)} are in the data set"]
    if trial.quarantined:
        parts.append(f"{share(trial.quarantined, trial.rows)} are no records ({_named(trial.problems)})")
    if removed:
        parts.append(f"{share(removed, trial.rows)} are removed ({_named(trial.reasons)})")
    return f"of {plural(trial.rows, 'row')}, {'; '.join(parts)}"


def _named(counts: Mapping[str, int]) -> str:
    """The most frequent reasons with their numbers."""
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    more = f", +{len(ranked) - _NAMED_REASONS} more" if len(ranked) > _NAMED_REASONS else ""
    return ", ".join(f"{reason} {count:,}" for reason, count in ranked[:_NAMED_REASONS]) + more


def _plan_text(plan: dict[str, Any]) -> str:
    sample, stages, prices = plan["sample"], plan["stages"], plan["prices"]
    unreadable = f"; besides, {sample['unreadable']:.1%} of all rows cannot be read" if sample["unreadable"] else ""
    lines = [
        f"plan of {plan['name']}",
        f"input    about {plural(plan['rows'], 'row')}, {amount_of_bytes(plan['text_bytes'])} of text, in "
        f"{plural(plan['files'], 'file')}, {plural(plan['units'], 'unit')}",
        f"sample   {sample['said']}{unreadable}",
        "",
        row("stage", "units", "core time", "written", "GETs", "PUTs", "memory"),
    ]
    for one in stages:
        lines.append(
            row(
                one["name"], f"{one['units']:,}", core_time(one["core_s"]), amount_of_bytes(one["written"]),
                rounded_count(one["gets"]), rounded_count(one["puts"]), gib(one["memory"]),
            )
        )  # fmt: skip
    lines += [
        row("all", "", core_time(plan["core_s"])),
        "",
        f"{'cores':>8}  {'time':<14}{'memory of a machine':>20}  cost",
    ]
    for one in plan["on_cores"]:
        memory = f"{one['machine_gib']:,.0f} GiB"
        lines.append(f"{one['cores']:>8,}  {duration(one['seconds']):<14}{memory:>20}  {money(one['money'])}")
    lines += [
        "",
        f"Cost: the machines from start to end. Prices: {prices['name']}: {prices['core_hour']:g} a core-hour, "
        f"{prices['gib_hour']:g} a GiB-hour (--prices).",
        "Assumed:",
        *(f"- {sentence}" for sentence in plan["assumed"]),
    ]
    return "\n".join(part for line in lines for part in wrapped(line))
