"""First sections of the report page: warnings, result, and the funnel of removals by stage."""

from collections.abc import Sequence
from typing import Literal

from cluster.page import formats
from cluster.page.charts import Segment, bar
from cluster.page.formats import count, plural, share
from cluster.page.layout import Column, Section, anchor, code, fold, name, sentence, table
from cluster.page.markup import Html, element, join
from pipelines.curate.report.schema import Amount, FunnelStage, ReasonAmount, Report, stage_name

_OPEN_STAGES = 2
_NAMED_REASONS = 2
_UNITS: tuple[tuple[Literal["documents", "characters"], str], ...] = (("documents", "thick"), ("characters", "thin"))
_STAGES_WITHOUT_CHECKS = ("read", "corpus")


def warnings(report: Report) -> Section | None:
    if not report["warnings"]:
        return None
    items = [element("li", warning) for warning in report["warnings"]]
    return Section("warnings", plural(len(items), "warning").capitalize(), element("ul", items))


def headline(report: Report) -> Section:
    """Documents, characters and tokens kept, time and throughput."""
    totals = report["totals"]
    given, kept = totals["input"], totals["corpus"]
    text_bytes = max((stage["text_bytes"] for stage in report["stages"]), default=0)
    tiles = [
        (
            "Documents kept",
            share(kept["documents"], given["documents"]),
            f"{count(kept['documents'])} of {count(given['documents'])}",
        ),
        (
            "Characters kept",
            share(kept["characters"], given["characters"]),
            f"{count(kept['characters'])} of {count(given['characters'])}",
        ),
        ("Tokens, estimated", formats.short(kept["tokens_estimate"]), count(kept["tokens_estimate"])),
        (
            "Time",
            "in several calls" if totals["wall_s"] is None else formats.duration(totals["wall_s"]),
            f"{formats.core_hours(totals['core_s'])} core-hours",
        ),
        (
            "Throughput",
            f"{formats.megabytes_per_s(text_bytes, totals['wall_s'])} MB/s",
            f"{formats.megabytes_per_s(text_bytes, totals['core_s'])} MB/s per core",
        ),
    ]
    body = [
        element("div", element("dt", title), element("dd", element("strong", big), element("span", small)))
        for title, big, small in tiles
    ]
    return Section("result", "Result", element("dl", body, class_="tiles"))


def funnel(report: Report) -> Section:
    """Bars of what each stage removed and left, with reasons, and the same as a table."""
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


def _legend() -> Html:
    return element(
        "p",
        element("span", class_="key key-left"),
        " left after the stage ",
        element("span", class_="key key-removed"),
        " removed by it. The thick bar counts documents, the thin one characters. Shares are of the input.",
        class_="note",
    )


def _stage(stage: FunnelStage, given: Amount, loss: Html | None, opened: bool, sampled: set[tuple[str, str]]) -> Html:
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


def _reason_name(stage: FunnelStage, reason: ReasonAmount, sampled: set[tuple[str, str]]) -> Html:
    key = (stage["stage"], reason["reason"])
    return element("a", code(key[1]), href=f"#{anchor('sample', *key)}") if key in sampled else code(key[1])


def _amount(amount: Amount, given: Amount, sign: str, style: str) -> Html:
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


def _loss(stage: FunnelStage, before: Amount, given: Amount) -> Html | None:
    if stage["removed"]["documents"]:
        return _amount(stage["removed"], given, "−", "loss")
    shortened = before["characters"] - stage["left"]["characters"]
    if shortened > 0:
        words = f"{count(shortened)} characters cut out of documents or replaced by placeholders"
        return element("p", words, class_="amount soft")
    return None if stage["stage"] in _STAGES_WITHOUT_CHECKS else element("p", "removes nothing", class_="amount soft")


def _bars(stage: FunnelStage, given: Amount) -> Html:
    title = stage_name(stage["stage"])
    drawn = []
    for unit, style in _UNITS:
        left, removed = stage["left"][unit], stage["removed"][unit]
        reasons = sorted(stage["reasons"], key=lambda r: -r["documents"])
        pieces = [Segment(left, "kept", f"{title}: {count(left)} {unit} left")]
        pieces += [Segment(r[unit], "removed part", f"{r['reason']}: {count(r[unit])} {unit}") for r in reasons]
        label = f"{title}: {count(left)} {unit} left, {share(left, given[unit])} of the input; {count(removed)} removed"
        drawn.append(bar(pieces, max(given[unit], left + removed), label, style))
    return element("div", drawn, class_="bars")


def _reasons(stage: FunnelStage, reasons: Sequence[ReasonAmount], given: Amount, sampled: set[tuple[str, str]]) -> Html:
    most = max(r["documents"] for r in reasons)
    rows = [
        (
            name(_reason_name(stage, r, sampled)),
            bar([Segment(r["documents"], "removed", f"{count(r['documents'])} documents")], most, "", "small"),
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
    caption = f"{stage_name(stage['stage'])}: why {gone} went; the first objection counts"
    return table(caption, columns, rows)


def _as_table(stages: Sequence[FunnelStage], given: Amount) -> Html:
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
