"""The funnel: what each stage removed and left. A section of the report page, and text for the terminal."""

from typing import Any

from markupsafe import Markup

from cluster.formats import ascii_text, count, plural, share
from cluster.report.charts import BarSegment, bar
from cluster.report.sections import DataTable, Fold, Items, Section, anchor, code, join, note, sentence, styled
from pipelines.curate.report.schema import CurateReport, stage_name

_OPEN_STAGES = 2
_NAMED_REASONS = 2
_UNITS = (("documents", "thick"), ("characters", "thin"))
_STAGES_WITHOUT_CHECKS = ("read", "corpus")

# The text, in columns of the terminal.
_WIDTH = 100
_STAGE_WIDTH = 20
_GAP = "  "


def funnel(report: CurateReport) -> Section:
    """The section: bars of what each stage removed and left, with reasons, and the same as a table."""
    stages, given = report["funnel"], report["totals"]["input"]
    if not stages or not given["documents"]:
        return Section("funnel", "Funnel", [sentence("No documents were read, so there is nothing to follow.")])
    by_loss = sorted(stages, key=lambda stage: -stage["removed"]["documents"])
    opened = {stage["stage"] for stage in by_loss[:_OPEN_STAGES]}
    sampled = {(sample["stage"], sample["reason"]) for sample in report["samples"]}
    before = [given, *(stage["left"] for stage in stages)]
    rows = [
        join(
            Markup("<h3>{}</h3>").format(stage_name(stage["stage"])),
            _bars(stage, given),
            _amount(stage["left"], given, "", "left"),
            _loss(stage, seen, given),
            _why(stage, given, stage["stage"] in opened, sampled),
        )
        for stage, seen in zip(stages, before, strict=False)
    ]
    legend = Markup(
        '<span class="key key-left"></span> left after the stage <span class="key key-removed"></span> removed by it. '
        "The thick bar counts documents, the thin one characters. Shares are of the input."
    )
    columns = [
        "Stage", ">Documents removed", ">Documents left", ">of input", ">Characters removed", ">Characters left",
        ">of input",
    ]  # fmt: skip
    cells = [
        (
            stage_name(s["stage"]),
            *(cell for unit, _ in _UNITS for cell in (s["removed"][unit], s["left"][unit],
                                                      share(s["left"][unit], given[unit]))),
        )
        for s in stages
    ]  # fmt: skip
    as_table = Fold(["The funnel as a table"], [DataTable("Documents and characters by stage", columns, cells)])
    return Section("funnel", "Funnel", [note(legend), Items(rows, "funnel", ordered=True), as_table])


def _bars(stage: dict[str, Any], given: dict[str, int]) -> Markup:
    title = stage_name(stage["stage"])
    drawn = []
    for unit, style in _UNITS:
        left, removed = stage["left"][unit], stage["removed"][unit]
        reasons = sorted(stage["reasons"], key=lambda r: -r["documents"])
        pieces = [BarSegment(left, "kept", f"{title}: {count(left)} {unit} left")]
        pieces += [BarSegment(r[unit], "removed part", f"{r['reason']}: {count(r[unit])} {unit}") for r in reasons]
        label = f"{title}: {count(left)} {unit} left, {share(left, given[unit])} of the input; {count(removed)} removed"
        drawn.append(bar(pieces, max(given[unit], left + removed), label, style))
    return styled("bars", *drawn, tag="div")


def _amount(amount: dict[str, int], given: dict[str, int], sign: str, style: str) -> Markup:
    """Two lines, documents and characters, beside their bars."""
    line = Markup("<span><b>{}{}</b><span>{} {}</span></span>")
    lines = [line.format(sign, share(amount[unit], given[unit]), count(amount[unit]), unit) for unit, _ in _UNITS]
    return styled(f"amount {style}", *lines, tag="p")


def _loss(stage: dict[str, Any], before: dict[str, int], given: dict[str, int]) -> Markup | None:
    if stage["removed"]["documents"]:
        return _amount(stage["removed"], given, "−", "loss")
    shortened = before["characters"] - stage["left"]["characters"]
    if shortened <= 0 and stage["stage"] in _STAGES_WITHOUT_CHECKS:
        return None
    cut = f"{count(shortened)} characters cut out of documents or replaced by placeholders"
    return styled("amount soft", cut if shortened > 0 else "removes nothing", tag="p")


def _why(stage: dict[str, Any], given: dict[str, int], opened: bool, sampled: set[tuple[str, str]]) -> Markup | None:
    """The reasons of a stage. sampled: (stage, reason) of those with examples, to which their names link."""

    def named(reason: dict[str, Any]) -> Markup:
        key = (stage["stage"], reason["reason"])
        shown = code(key[1])
        return Markup('<a href="#{}">{}</a>').format(anchor("sample", *key), shown) if key in sampled else shown

    reasons = sorted((r for r in stage["reasons"] if r["documents"]), key=lambda r: -r["documents"])
    if not reasons:
        return None
    if len(reasons) == 1:
        return styled("why", "Reason: ", named(reasons[0]), tag="p")
    most = reasons[0]["documents"]
    rows = [
        (
            styled("name", named(r)),
            bar([BarSegment(r["documents"], "removed", f"{count(r['documents'])} documents")], most, "", "small"),
            *(cell for unit, _ in _UNITS for cell in (r[unit], share(r[unit], given[unit]))),
        )
        for r in reasons
    ]
    gone = plural(stage["removed"]["documents"], "document")
    caption = f"{stage_name(stage['stage'])}: why {gone} went; the first failed check counts"
    columns = ["Reason", "", ">Documents", ">of input", ">Characters", ">of input"]
    first = ", ".join(f"{r['reason']} {count(r['documents'])}" for r in reasons[:_NAMED_REASONS])
    summary = f"{len(reasons)} reasons: {first}" + (", …" if len(reasons) > _NAMED_REASONS else "")
    return styled("why", Fold([summary], [DataTable(caption, columns, rows)], opened), tag="div")


def funnel_text(report: CurateReport) -> str:
    """The text: one line for each stage, at most 100 columns of ASCII, without a line end at the end.

    A line ends with the most frequent reasons that fit in it and the number of the others.
    """
    given = report["totals"]["input"]["documents"]
    head = ("stage", "removed", "left", "of input")
    rows = [
        (
            ascii_text(stage_name(stage["stage"]))[:_STAGE_WIDTH],
            count(stage["removed"]["documents"]),
            count(stage["left"]["documents"]),
            ascii_text(share(stage["left"]["documents"], given)),
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


def _top_reasons(stage: dict[str, Any], room: int) -> str:
    found = sorted((r for r in stage["reasons"] if r["documents"]), key=lambda r: -r["documents"])
    named = [f"{ascii_text(r['reason'])} {count(r['documents'])}" for r in found]
    for shown in range(len(named), 0, -1):
        rest = len(named) - shown
        line = ", ".join(named[:shown]) + (f", +{rest} more" if rest else "")
        if len(line) <= room:
            return line
    return plural(len(named), "reason") if named else ""
