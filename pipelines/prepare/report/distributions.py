"""Sections of the page with how records are spread: classes over the splits, lengths, languages, turns."""

import re
from collections.abc import Sequence

from cluster.formats import count, plural, share
from cluster.page.charts import BarSegment, bar
from cluster.page.markup import Child, Column, Markup, Section, element, fold, join, note, outside_text, table
from pipelines.prepare.assess.score import Assessment
from pipelines.prepare.report.schema import PrepareReport
from pipelines.prepare.stages.classes import ClassCounts
from pipelines.prepare.stages.split import SPLITS

_OPENED = 3  # fields whose tables are open
_ROWS = 40  # classes of a field that are shown

_KEY = join(
    element("span", class_="key key-left"), " in the data set ", element("span", class_="key key-removed"), " removed"
)


def classes_section(report: PrepareReport) -> Section | None:
    """A table for each field that has few values: its classes by split, with those that were removed."""
    fields = {name: values for name, values in report.get("classes", {}).items() if len(values) > 1}
    if not fields:
        return None
    named = [name for name in report["config"]["split"]["stratify"] if name in fields]
    order = [*named, *(name for name in fields if name not in named)]
    parts = [
        fold(
            join(name, element("span", f" {plural(len(fields[name]), 'value')}", class_="aside")),
            _classes(name, fields[name]),
            opened=at < _OPENED,
        )
        for at, name in enumerate(order)
    ]
    return Section("classes", "Classes", join(note(_KEY), *parts))


def _classes(name: str, values: Sequence[ClassCounts]) -> Markup:
    columns = [Column(name, numeric=False), *(Column(split.capitalize()) for split in SPLITS)]
    columns += [Column("Share"), Column("Removed"), Column("", numeric=False), Column("Mostly by", numeric=False)]
    kept = sum(sum(one["splits"].values()) for one in values)
    largest = max(sum(one["splits"].values()) + sum(one["removed"].values()) for one in values)
    rows: list[Sequence[Child]] = []
    for one in values[:_ROWS]:
        own, gone = sum(one["splits"].values()), sum(one["removed"].values())
        segments = [
            BarSegment(own, "kept", f"{count(own)} kept"),
            BarSegment(gone, "removed", f"{count(gone)} removed"),
        ]
        counts = [count(one["splits"][split]) for split in SPLITS]
        reason = next(iter(one["removed"]), "").partition("/")[2]
        drawn = bar(segments, largest, "", "small")
        rows.append((outside_text(one["value"]), *counts, share(own, kept), count(gone), drawn, reason))
    shown = (
        f"{len(rows)} of {plural(len(values), 'value')}" if len(values) > len(rows) else plural(len(values), "value")
    )
    return table(f"Records by {name}: {shown}", columns, rows)


def spread_section(assessment: Assessment) -> Section | None:
    """Bars of lengths, languages and turns."""
    values = assessment["findings"]["values"]
    spread = {"Characters": _lengths(values["length"]["shown"]), "Languages": assessment["findings"]["languages"]}
    if values["turns"]["distinct"] > 1:
        spread["Answers of a conversation"] = dict(
            sorted(values["turns"]["shown"].items(), key=lambda one: _number(one[0]))
        )
    figures = [_bars(title, counts) for title, counts in spread.items() if counts]
    return Section("spread", "Lengths and languages", element("div", figures, class_="charts")) if figures else None


def _lengths(shown: dict[str, int]) -> dict[str, int]:
    """Counts of `below N`, in order."""
    ordered = sorted(shown.items(), key=lambda one: _number(one[0]))
    return {f"{_number(name) // 2:,} to {_number(name) - 1:,}": number for name, number in ordered}


def _number(words: str) -> int:
    return int("".join(re.findall(r"\d", words)) or 0)


def _bars(title: str, counts: dict[str, int]) -> Markup:
    largest, total = max(counts.values()), sum(counts.values())
    rows = [
        (name, count(number), share(number, total), bar([BarSegment(number, "kept", name)], largest, "", "small"))
        for name, number in list(counts.items())[:_ROWS]
    ]
    columns = [Column(title, numeric=False), Column("Records"), Column("Share"), Column("", numeric=False)]
    return table(f"Records by {title.lower()}", columns, rows)
