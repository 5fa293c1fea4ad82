"""The output of `raymill plan` for a curation."""

import json
import math
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cluster.formats import duration, plural, short
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import check_models_and_lists, frozen_inputs
from pipelines.curate.plan.estimate import (
    CANDIDATES_OF_A_DUPLICATE,
    LEAST_DUPLICATES,
    MOST_CORES,
    REPEATED,
    REQUEST_CORE_S,
    REQUEST_S,
    START_S,
    Size,
    on_cores,
    plan_stages,
    shuffle_bytes,
    size_of,
    store_money,
)
from pipelines.curate.plan.prices import load_prices
from pipelines.curate.plan.rates import Rates, measure_rates
from pipelines.curate.plan.sample import draw_sample
from pipelines.curate.work import document_count
from pipelines.dedup.earlier import open_runs
from pipelines.kernel_cache import kernels_are_compiled

_CORES = (2, 16, 64, 256)
_WIDTH = 120
_NAME_WIDTH = 22


def print_plan(
    config: CurateConfig,
    *,
    documents: float | None = None,
    cores: Sequence[int] = _CORES,
    duplicates: float | None = None,
    prices: str | None = None,
    as_json: bool = False,
) -> None:
    """Print the time, memory and cost of a run. Lists the inputs, and curates a sample of some 16 MB in this process.

    Args:
        documents: number of documents to plan for; default: those of the input. duplicates: share of duplicates among
            the documents that pass; default: that of the sample, at least LEAST_DUPLICATES. prices: file of prices.

    Raises:
        UserError: a first check of a run fails, or no document of the sample can be read.
    """
    priced = load_prices(prices)
    _, _, inputs = frozen_inputs(config)
    check_models_and_lists(config.filters, config.store)
    if not kernels_are_compiled():
        print("compiling kernels (first run on this machine, up to a minute)", file=sys.stderr)
    sample = draw_sample(inputs, config.limits)
    rates = measure_rates(config, sample)
    stated = document_count(inputs, rates.document_bytes / sample.text_share)
    count = max(1, round(stated * (1 - rates.unreadable)))
    earlier = sum(run.attributes.manifest.rows for run in open_runs(config.dedup, config.store))
    size = size_of(inputs, count, round(count * rates.document_bytes), earlier)
    if documents is not None:
        size = size.scaled(round(documents), config)
    share = duplicates if duplicates is not None else max(rates.duplicates, LEAST_DUPLICATES)
    stages = plan_stages(config, size, rates, share)
    found: dict[str, Any] = {
        "name": config.name,
        "sample": {
            "documents": rates.documents,
            "text_bytes": rates.text_bytes,
            "pieces": len(sample.pieces),
            "unreadable": rates.unreadable,
            "passed": rates.passed,
            "duplicates": rates.duplicates,
        },
        "input": asdict(size),
        "documents_exact": documents is not None or stated == sum(file.rows or 0 for file in inputs.files),
        "duplicates": share,
        "stages": [asdict(stage) for stage in stages],
        "core_s": sum(stage.core_s for stage in stages),
        "shuffle_bytes": shuffle_bytes(stages),
        "store_money": store_money(stages, priced),
        "on_cores": [asdict(on_cores(config, size, stages, one, priced)) for one in cores],
        "prices": priced.model_dump(),
        "assumed": assumed(config, rates, share, size, documents is not None, duplicates is not None),
    }
    print(json.dumps(found, indent=1) if as_json else plan_text(found))


def assumed(config: CurateConfig, rates: Rates, share: float, size: Size, is_scaled: bool, is_given: bool) -> list[str]:
    """The assumptions of the plan, a sentence each."""
    origin = (
        "given" if is_given else "as in the sample" if share > LEAST_DUPLICATES else
        f"a guess; the sample shows {rates.duplicates:.1%}, and duplicates far apart in the input are not in it"
    )  # fmt: skip
    found = [
        "The input is like the sample: speed, size, shares and languages.",
        f"{share:.1%} of the documents that pass are duplicates ({origin}), and {CANDIDATES_OF_A_DUPLICATE:g} times as "
        "many have a band key of another document (--duplicates).",
        "Cores are as fast as those of this machine; grouping is as fast as in tests/benchmarks/README.md.",
        "Units of a stage take equally long, and nothing fails.",
        f"A request to an object store takes {1000 * REQUEST_S:g} ms, of them {1000 * REQUEST_CORE_S:g} ms of a core; "
        "the network is not the bottleneck.",
        f"The machines are running; the start of Ray takes {START_S:g} s. The report at the end (up to 2 minutes for "
        "20,000 units) is not included.",
    ]
    if config.repeats:
        found.append(f"{REPEATED:.0%} of the words that stay are in runs that several documents have.")
    if is_scaled:
        found.append(
            f"{size.documents:,} documents are in files of the same sizes as now: {plural(size.files, 'file')}."
        )
    return found


def plan_text(plan: dict[str, Any]) -> str:
    """The plan as text."""
    size, sample, stages = plan["input"], plan["sample"], plan["stages"]
    about = "" if plan["documents_exact"] else "about "
    lines = [
        f"plan of {plan['name']}",
        f"input    {about}{plural(size['documents'], 'document')}, {amount_of_bytes(size['text_bytes'])} of text, "
        f"{amount_of_bytes(size['stored_bytes'])} in {plural(size['files'], 'file')}, {plural(size['units'], 'unit')}",
        f"sample   {plural(sample['documents'], 'document')}, {amount_of_bytes(sample['text_bytes'])}, from "
        f"{plural(sample['pieces'], 'unit')}: {sample['passed']:.1%} pass the rules"
        + (f", {sample['unreadable']:.1%} cannot be read" if sample["unreadable"] else ""),
        "",
        row("stage", "units", "core time", "read", "written", "GETs", "PUTs", "memory", "scratch"),
    ]
    for stage in stages:
        lines.append(
            row(
                stage["name"], f"{stage['units']:,}", core_time(stage["core_s"]), amount_of_bytes(stage["read"]),
                amount_of_bytes(stage["written"]), rounded_count(stage["gets"]), rounded_count(stage["puts"]),
                gib(stage["memory"]),
                amount_of_bytes(stage["scratch"]),
            )
        )  # fmt: skip
    sums = {name: sum(stage[name] for stage in stages) for name in ("read", "written", "gets", "puts")}
    lines += [
        row("all", "", core_time(plan["core_s"]), amount_of_bytes(sums["read"]), amount_of_bytes(sums["written"]),
             rounded_count(sums["gets"]), rounded_count(sums["puts"]), gib(max(stage["memory"] for stage in stages)),
             amount_of_bytes(max(stage["scratch"] for stage in stages))),
        "",
        "Memory and scratch are of one task; a dash: the stage states none. "
        f"Shuffled by grouping: {amount_of_bytes(plan['shuffle_bytes'])}.",
        "",
        f"{'cores':>8}  {'time':<14}{'memory of a machine':>20}  cost",
    ]  # fmt: skip
    for one in plan["on_cores"]:
        time, memory = duration(one["seconds"]), f"{one['machine_gib']:,.0f} GiB"
        lines.append(f"{one['cores']:>8,}  {time:<14}{memory:>20}  {money(one['money'])}")
    prices = plan["prices"]
    lines += [
        "",
        f"Cost: the machines from start to end, at most {MOST_CORES} cores each; of it {money(plan['store_money'])} "
        "for requests and egress. "
        f"Prices: {prices['name']}: {prices['core_hour']:g} a core-hour, {prices['gib_hour']:g} a GiB-hour, "
        f"{prices['thousand_puts']:g} and {prices['thousand_gets']:g} for 1,000 PUTs and GETs, "
        f"{prices['egress_gb']:g} a GB of egress (--prices).",
        "Assumed:",
        *(f"- {sentence}" for sentence in plan["assumed"]),
    ]
    return "\n".join(part for line in lines for part in wrapped(line))


def wrapped(line: str) -> list[str]:
    """A sentence in lines of at most 120 characters; a row of a table as it is."""
    if "  " in line or len(line) <= _WIDTH:
        return [line]
    return textwrap.wrap(line, _WIDTH, subsequent_indent="  " if line.startswith("- ") else "", break_on_hyphens=False)


def row(name: str, *cells: str) -> str:
    """A row of a table of stages."""
    return f"{name:<{_NAME_WIDTH}}" + "".join(f"{cell:>11}" for cell in cells)


def core_time(seconds: float) -> str:
    """Processor time in seconds, minutes or hours."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.{0 if seconds >= 100 * unit else 1}f} {name}"
    return f"{seconds:.1f} s"


def amount_of_bytes(size: float) -> str:
    """Bytes in powers of 1,000."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:,.{0 if size >= 99.95 * unit else 1}f} {name}"
    return f"{size:,.0f} B" if size else "-"


def gib(size: float) -> str:
    """Bytes in GiB; a dash for 0."""
    return f"{size / (1 << 30):,.1f} GiB" if size else "-"


def rounded_count(number: float) -> str:
    """A number in thousands or millions; a dash for 0."""
    return short(math.ceil(number)) if number else "-"


def money(amount: float) -> str:
    """An amount of money."""
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else "under 0.01"
