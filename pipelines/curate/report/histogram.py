"""Histograms as inline SVG.

The removed part is hatched and outside a line, so that it can be seen without colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cluster.formats import count, decimal, short
from cluster.page.charts import Axis, Frame, ticks
from cluster.page.markup import Markup, element, join
from pipelines.curate.report.schema import Bound

# The pattern of all histograms; a page contains it once.
DEFINITIONS = element(
    "svg",
    element(
        "defs",
        element(
            "pattern",
            element("path", d="M0 6 L6 0", class_="hatch-line"),
            id="hatch",
            width=6,
            height=6,
            patternUnits="userSpaceOnUse",
        ),
    ),
    class_="definitions",
    width=0,
    height=0,
    aria_hidden="true",
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The tightest bounds of a signal, infinite if it has none. counts: whether its values are whole numbers."""

    minimum: float
    maximum: float
    counts: bool

    def style(self, low: float, high: float) -> str:
        """The CSS class of the bin [low, high): `removed`, `kept`, or `cut` if a bound is inside the bin."""
        if self.counts:
            least, most = float(math.ceil(low)), float(math.ceil(high) - 1)
            removed = most < self.minimum or least > self.maximum
        else:
            least, most = low, high
            removed = high <= self.minimum or low > self.maximum or low == self.maximum > 0
        kept = least >= self.minimum and most <= self.maximum
        return "removed" if removed else "kept" if kept else "cut"

    def ends(self, edges: Sequence[float]) -> tuple[float, float]:
        """Where the lines of the bounds are drawn: at the edge of the kept bin with the bound, else at the bound."""
        whole = [(low, high) for low, high in pairwise(edges) if self.style(low, high) == "kept"]
        minimum = next((low for low, high in whole if low <= self.minimum < high), self.minimum)
        return minimum, next((high for low, high in whole if low <= self.maximum < high), self.maximum)


SMALL = Frame()
WIDE = Frame(width=720, right=712, height=180, bottom=158)


def histogram(
    edges: Sequence[float],
    documents: Sequence[int],
    bounds: Sequence[Bound],
    *,
    log: bool,
    label: str,
    frame: Frame = SMALL,
    bound_signs: tuple[str, str] = ("≥", "≤"),
) -> Markup:
    """Number of documents by value. The part outside a bound is hatched, its bars have the colour of removal.

    The height of a bar is the square root of its documents, because bounds are in the tails. A bin with a bound inside
    is grey, because the number of documents on each side is unknown.

    Args:
        edges, documents, bounds: as in schema.Histogram.
        log: logarithmic scale; the values are counts.
        bound_signs: text before a minimum and before a maximum.
    """
    edges, documents = _occupied(edges, documents, bounds, log)
    axis, most = Axis.over(edges, log), max(documents)
    limits = Bounds(
        minimum=max((b["minimum"] for b in bounds if b["minimum"] is not None), default=-math.inf),
        maximum=min((b["maximum"] for b in bounds if b["maximum"] is not None), default=math.inf),
        counts=log,
    )
    lines = list(zip((limits.minimum, limits.maximum), limits.ends(edges), bound_signs, strict=True))
    drawing = [
        _outside(axis, limits.ends(edges), frame),
        _grid(most, frame),
        [
            _column(axis, low, high, number, most, limits, frame)
            for (low, high), number in zip(pairwise(edges), documents, strict=True)
            if number
        ],
        element("line", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom, class_="axis"),
        ticks(axis, frame),
        [_bound(axis, value, end, sign, frame) for value, end, sign in lines if math.isfinite(value)],
    ]
    return element(
        "svg", drawing, viewBox=f"0 0 {frame.width} {frame.height}", class_="histogram", role="img", aria_label=label
    )


def _occupied(
    edges: Sequence[float], documents: Sequence[int], bounds: Sequence[Bound], log: bool
) -> tuple[list[float], list[int]]:
    """The bins from the first to the last with documents or a bound, and one more at either end."""
    inside = [i for i, number in enumerate(documents) if number]
    for value in (value for bound in bounds for value in (bound["minimum"], bound["maximum"]) if value is not None):
        inside += [i for i in range(len(documents)) if edges[i] <= value < edges[i + 1]]
    first = max(0, min(inside) - 1) if log else 0  # linear signals are fractions, shown from 0
    last = min(len(documents), max([*inside, first + 8]) + 2)
    return list(edges[first : last + 1]), list(documents[first:last])


def _outside(axis: Axis, ends: tuple[float, float], frame: Frame) -> Markup:
    minimum, maximum = ends
    spans = [(0.0, axis.fraction(minimum))] if math.isfinite(minimum) else []
    if math.isfinite(maximum):
        spans.append((axis.fraction(maximum), 1.0))
    return join(
        element(
            "rect",
            x=frame.x(start),
            y=frame.top,
            width=frame.x(stop) - frame.x(start),
            height=frame.bottom - frame.top,
            class_=style,
        )
        for start, stop in spans
        for style in ("outside", "hatch")
    )


def _grid(most: int, frame: Frame) -> Markup:
    """Lines at the highest bar and, with enough documents, at a quarter of its number, which is half the height."""
    marks = [(1.0, most)] + ([(0.5, round(most / 4))] if (most >= 4 and most % 4 == 0) or most >= 40 else [])
    return join(
        (
            element("line", x1=frame.left, x2=frame.right, y1=frame.y(level), y2=frame.y(level), class_="grid"),
            element("text", short(value), x=frame.left - 5, y=frame.y(level) + 4, class_="tick end"),
        )
        for level, value in marks
    )


def _column(axis: Axis, low: float, high: float, number: int, most: int, limits: Bounds, frame: Frame) -> Markup:
    style = limits.style(low, high)
    title = f"{decimal(low)} to {decimal(high)}: {count(number)} documents" + (
        ", on both sides" if style == "cut" else ""
    )
    left, right, top = frame.x(axis.fraction(low)), frame.x(axis.fraction(high)), frame.y(math.sqrt(number / most))
    gap = 0.8 if right - left > 2 else 0.0
    return element(
        "rect",
        element("title", title),
        x=left,
        y=top,
        width=right - left - gap,
        height=frame.bottom - top,
        class_=style,
    )


def _bound(axis: Axis, value: float, at: float, side: str, frame: Frame) -> Markup:
    """The line, and above it its value."""
    x = frame.x(axis.fraction(at))
    line = element("line", x1=x, x2=x, y1=frame.top - 8, y2=frame.bottom, class_="bound")
    anchor = "start" if x < frame.width * 0.25 else "end" if x > frame.width * 0.75 else "middle"
    return join(
        line, element("text", f"{side} {decimal(value)}", x=x, y=frame.top - 12, class_=f"bound-label {anchor}")
    )
