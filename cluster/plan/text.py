"""A plan as text."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from cluster.formats import duration, plural, short
from cluster.plan.subject import MOST_CORES

_WIDTH = 120
_NAME_WIDTH = 22


def plan_text(plan: dict[str, Any]) -> str:
    """The plan of a run of stages."""
    size, sample = plan["input"], plan["sample"]
    about = "" if size["exact"] else "about "
    unreadable = f", {sample['unreadable']:.1%} cannot be read" if sample["unreadable"] else ""
    lines = [
        f"plan of {plan['name']}",
        f"input    {about}{plural(size['documents'], plan['noun'])}, {amount_of_bytes(size['text_bytes'])} of text, "
        f"{amount_of_bytes(size['stored_bytes'])} in {plural(size['files'], 'file')}, {plural(size['units'], 'unit')}",
        f"sample   {plural(sample['documents'], plan['noun'])}, {amount_of_bytes(sample['text_bytes'])}, from "
        f"{plural(sample['pieces'], 'unit')}: {sample['outcome']}{unreadable}",
        "",
        *costs_lines(plan),
        *assumed_lines(plan["assumed"]),
    ]
    return wrapped(lines)


def costs_lines(plan: dict[str, Any]) -> list[str]:
    """What stages take, then time and money, then prices. plan: as from `costs_of`."""
    stages, prices = plan["stages"], plan["prices"]
    sums = {name: sum(stage[name] for stage in stages) for name in ("core_s", "read", "written", "gets", "puts")}
    most = {name: max(stage[name] for stage in stages) for name in ("memory", "scratch")}
    lines = [
        _row("stage", "units", "core time", "read", "written", "GETs", "PUTs", "memory", "scratch"),
        *(_stage(one["name"], f"{one['units']:,}", one) for one in stages),
        _stage("all", "", sums | most),
        "",
        "Memory and scratch are of one task; a dash: the stage states none. "
        f"Shuffled by grouping: {amount_of_bytes(plan['shuffle_bytes'])}.",
        "",
        f"{'cores':>8}  {'time':<14}{'memory of a machine':>20}  cost",
    ]
    for one in plan["on_cores"]:
        time, memory = duration(one["seconds"]), f"{one['machine_gib']:,.0f} GiB"
        lines.append(f"{one['cores']:>8,}  {time:<14}{memory:>20}  {money(one['money'])}")
    return [
        *lines,
        "",
        f"Cost: the machines from start to end, at most {MOST_CORES} cores each; of it {money(plan['store_money'])} "
        "for requests and egress. "
        f"Prices: {prices['name']}: {prices['core_hour']:g} a core-hour, {prices['gib_hour']:g} a GiB-hour, "
        f"{prices['thousand_puts']:g} and {prices['thousand_gets']:g} for 1,000 PUTs and GETs, "
        f"{prices['egress_gb']:g} a GB of egress (--prices).",
    ]


def assumed_lines(sentences: Sequence[str]) -> list[str]:
    """The assumptions of a plan."""
    return ["Assumed:", *(f"- {sentence}" for sentence in sentences)]


def wrapped(lines: Sequence[str]) -> str:
    """The lines as text: sentences of at most 120 characters, rows of a table as they are."""
    found = []
    for line in lines:
        if "  " in line or len(line) <= _WIDTH:
            found.append(line)
        else:
            indent = "  " if line.startswith("- ") else ""
            found += textwrap.wrap(line, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(found)


def _stage(name: str, units: str, one: dict[str, Any]) -> str:
    sizes = [amount_of_bytes(one[key]) for key in ("read", "written")]
    counts = [short(math.ceil(one[key])) if one[key] else "-" for key in ("gets", "puts")]
    memory = f"{one['memory'] / (1 << 30):,.1f} GiB" if one["memory"] else "-"
    return _row(name, units, core_time(one["core_s"]), *sizes, *counts, memory, amount_of_bytes(one["scratch"]))


def _row(name: str, *cells: str) -> str:
    return f"{name:<{_NAME_WIDTH}}" + "".join(f"{cell:>11}" for cell in cells)


def core_time(seconds: float) -> str:
    """Processor time in seconds, minutes or hours."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:,.{0 if seconds >= 100 * unit else 1}f} {name}"
    return f"{seconds:.1f} s"


def amount_of_bytes(size: float) -> str:
    """Bytes in powers of 1,000; a dash for 0."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.9995 * unit:
            return f"{size / unit:,.{0 if size >= 99.95 * unit else 1}f} {name}"
    return f"{size:,.0f} B" if size else "-"


def money(amount: float) -> str:
    """An amount of money."""
    return f"{amount:,.2f}" if amount >= 0.01 or not amount else "under 0.01"
