"""The funnel as text, which `raymill curate` prints at its end."""

import re

from cluster.page.formats import count, plural, share
from pipelines.curate.report.schema import FunnelStage, Report, stage_name

_WIDTH = 100
_STAGE_WIDTH = 20
_GAP = "  "
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def funnel_text(report: Report) -> str:
    """One line for each stage, at most 100 columns of ASCII, without a line end at the end.

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
    reasons = ["top reasons", *(_reasons(stage, room) for stage in report["funnel"])]
    lines = [
        _GAP.join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)), why])
        for row, why in zip((head, *rows), reasons, strict=True)
    ]
    return "\n".join(line.rstrip() for line in lines)


def _reasons(stage: FunnelStage, room: int) -> str:
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
