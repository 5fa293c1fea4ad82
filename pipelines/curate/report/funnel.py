"""The funnel: what each stage removed and left. A section of the report page, and text for the terminal."""

import re
from collections.abc import Sequence
from typing import Literal

from cluster.formats import count, plural, share
from cluster.page.charts import BarSegment, bar
from cluster.page.markup import Column, Markup, Section, anchor, code, element, fold, join, name, sentence, table
from pipelines.curate.report.schema import Amount, CurateReport, FunnelStage, ReasonAmount, stage_name

_OPEN_STAGES = 2
_NAMED_REASONS = 2
_UNITS: tuple[tuple[Literal["documents", "characters"], str], ...] = (("documents", "thick"), ("characters", "thin"))
_STAGES_WITHOUT_CHECKS = ("read", "corpus")

# The text, in columns of the terminal.
_WIDTH = 100
_STAGE_WIDTH = 20
_GAP = "  "
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def funnel(report: CurateReport) -> Section:
    """The section: bars of what each stage removed and left, with reasons, and the same as a table."""
    stages, given = report["funnel"], report["totals"]["input"]
    if not stages or not given["documents"]:
        return Section("funnel", "Funnel", sentence("No documents were read, so there is nothing to follow."))
    by_loss = sorted(stages, key=lambda stage: -stage["removed"]["documents"])
    opened = {stage["stage"] for stage in by_loss[:_OPEN_STAGES]}
    sampled = {(sample["stage"], sample["reason"]) for sample in report["samples"]}
    before = [given, *(stage["left"] for stage in stages)]
    rows = [
        _stage(stage, given, _loss(stage, seen, given), stage["stage"] in opened, sampled)
        for stage, seen in zip(stages, before, strict=False)
    ]
    body = [_legend(), element("ol", rows, class_="funnel"), _as_table(stages, given)]
    return Section("funnel", "Funnel", join(body))


def _legend() -> Markup:
    return element(
        "p",
        element("span", class_="key key-left"),
        " left after the stage ",
        element("span", class_="key key-removed"),
        " removed by it. The thick bar counts documents, the thin one characters. Shares are of the input.",
        class_="note",
    )


def _stage(
    stage: FunnelStage, given: Amount, loss: Markup | None, opened: bool, sampled: set[tuple[str, str]]
) -> Markup:
    heading = element("h3", stage_name(stage["stage"]))
    body = [heading, _bars(stage, given), _amount(stage["left"], given, "", "left"), loss]
    reasons = sorted((r for r in stage["reasons"] if r["documents"]), key=lambda r: -r["documents"])
    if len(reasons) == 1:
        body.append(element("p", "Reason: ", _reason_name(stage, reasons[0], sampled), class_="why"))
    elif reasons:
        named = ", ".join(f"{r['reason']} {count(r['documents'])}" for r in reasons[:_NAMED_REASONS])
        summary = f"{len(reasons)} reasons: {named}" + (", …" if len(reasons) > _NAMED_REASONS else "")
        content = fold(summary, _reasons(stage, reasons, given, sampled), opened=opened)
        body.append(element("div", content, class_="why"))
    return element("li", body)


def _reason_name(stage: FunnelStage, reason: ReasonAmount, sampled: set[tuple[str, str]]) -> Markup:
    key = (stage["stage"], reason["reason"])
    return element("a", code(key[1]), href=f"#{anchor('sample', *key)}") if key in sampled else code(key[1])


def _amount(amount: Amount, given: Amount, sign: str, style: str) -> Markup:
    """Two lines, documents and characters, beside their bars."""
    lines = [
        element(
            "span",
            element("b", sign, share(amount[unit], given[unit])),
            element("span", count(amount[unit]), f" {unit}"),
        )
        for unit, _ in _UNITS
    ]
    return element("p", lines, class_=f"amount {style}")


def _loss(stage: FunnelStage, before: Amount, given: Amount) -> Markup | None:
    if stage["removed"]["documents"]:
        return _amount(stage["removed"], given, "−", "loss")
    shortened = before["characters"] - stage["left"]["characters"]
    if shortened > 0:
        words = f"{count(shortened)} characters cut out of documents or replaced by placeholders"
        return element("p", words, class_="amount soft")
    return None if stage["stage"] in _STAGES_WITHOUT_CHECKS else element("p", "removes nothing", class_="amount soft")


def _bars(stage: FunnelStage, given: Amount) -> Markup:
    title = stage_name(stage["stage"])
    drawn = []
    for unit, style in _UNITS:
        left, removed = stage["left"][unit], stage["removed"][unit]
        reasons = sorted(stage["reasons"], key=lambda r: -r["documents"])
        pieces = [BarSegment(left, "kept", f"{title}: {count(left)} {unit} left")]
        pieces += [BarSegment(r[unit], "removed part", f"{r['reason']}: {count(r[unit])} {unit}") for r in reasons]
        label = f"{title}: {count(left)} {unit} left, {share(left, given[unit])} of the input; {count(removed)} removed"
        drawn.append(bar(pieces, max(given[unit], left + removed), label, style))
    return element("div", drawn, class_="bars")


def _reasons(
    stage: FunnelStage, reasons: Sequence[ReasonAmount], given: Amount, sampled: set[tuple[str, str]]
) -> Markup:
    most = max(r["documents"] for r in reasons)
    rows = [
        (
            name(_reason_name(stage, r, sampled)),
            bar([BarSegment(r["documents"], "removed", f"{count(r['documents'])} documents")], most, "", "small"),
            count(r["documents"]),
            share(r["documents"], given["documents"]),
            count(r["characters"]),
            share(r["characters"], given["characters"]),
        )
        for r in reasons
    ]
    columns = [
        Column("Reason", False), Column("", False), Column("Documents"), Column("of input"),
        Column("Characters"), Column("of input"),
    ]  # fmt: skip
    gone = plural(stage["removed"]["documents"], "document")
    caption = f"{stage_name(stage['stage'])}: why {gone} went; the first failed check counts"
    return table(caption, columns, rows)


def _as_table(stages: Sequence[FunnelStage], given: Amount) -> Markup:
    columns = [
        Column("Stage", False), Column("Documents removed"), Column("Documents left"), Column("of input"),
        Column("Characters removed"), Column("Characters left"), Column("of input"),
    ]  # fmt: skip
    rows = [
        (
            stage_name(s["stage"]),
            count(s["removed"]["documents"]),
            count(s["left"]["documents"]),
            share(s["left"]["documents"], given["documents"]),
            count(s["removed"]["characters"]),
            count(s["left"]["characters"]),
            share(s["left"]["characters"], given["characters"]),
        )
        for s in stages
    ]
    return fold("The funnel as a table", table("Documents and characters by stage", columns, rows), opened=False)


def funnel_text(report: CurateReport) -> str:
    """The text: one line for each stage, at most 100 columns of ASCII, without a line end at the end.

    A line ends with the most frequent reasons that fit in it and the number of the others.
    """
    given = report["totals"]["input"]["documents"]
    head = ("stage", "removed", "left", "of input")
    rows = [
        (
            _plain(stage_name(stage["stage"]))[:_STAGE_WIDTH],
            count(stage["removed"]["documents"]),
            count(stage["left"]["documents"]),
            _plain(share(stage["left"]["documents"], given)),
        )
        for stage in report["funnel"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    room = _WIDTH - sum(widths) - len(_GAP) * len(widths)
    reasons = ["top reasons", *(_top_reasons(stage, room) for stage in report["funnel"])]
    lines = [
        _GAP.join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)), why])
        for row, why in zip((head, *rows), reasons, strict=True)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _top_reasons(stage: FunnelStage, room: int) -> str:
    found = sorted((r for r in stage["reasons"] if r["documents"]), key=lambda r: -r["documents"])
    named = [f"{_plain(r['reason'])} {count(r['documents'])}" for r in found]
    for shown in range(len(named), 0, -1):
        rest = len(named) - shown
        line = ", ".join(named[:shown]) + (f", +{rest} more" if rest else "")
        if len(line) <= room:
            return line
    return plural(len(named), "reason") if named else ""


def _plain(words: str) -> str:
    """The text with characters other than printable ASCII replaced by `?`: a terminal executes control characters."""
    return _UNPRINTABLE.sub("?", words.replace("–", "-"))
