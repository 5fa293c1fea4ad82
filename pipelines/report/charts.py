"""Inline SVG. Colours are classes of the style sheet, so both colour schemes and print have their own.

Bars stretch with the page (`preserveAspectRatio="none"`, no text inside); histograms keep their proportions and carry
text. Nothing is told by colour alone: what is removed is also hatched, or lies to the right of what is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pipelines.report.formats import count, decimal, short
from pipelines.report.markup import Html, element, join
from pipelines.report.schema import Bound

_BAR_WIDTH = 1000
_THINNEST = 2.0  # of 1000: what is there must be seen

# Referred to by every histogram; patterns live once in a page.
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
class Segment:
    """A piece of a bar: its size in the bar's unit, its style class, and what hovering over it says."""

    size: float
    style: str
    title: str


def bar(segments: Sequence[Segment], whole: float, label: str, style: str = "") -> Html:
    """Segments side by side on a track that stands for `whole`; `label` is what a screen reader says.

    Without a label the bar only repeats numbers beside it, and a screen reader passes over it.
    """
    shapes, x = [], 0.0
    for segment in segments:
        if segment.size <= 0 or whole <= 0:
            continue
        width = max(_THINNEST, _BAR_WIDTH * segment.size / whole)
        x = min(x, _BAR_WIDTH - width)
        title = element("title", segment.title)
        shapes.append(element("rect", title, x=x, y=0, width=width, height=10, class_=segment.style))
        x += width
    track = element("rect", x=0, y=0, width=_BAR_WIDTH, height=10, class_="track")
    return element(
        "svg",
        track,
        shapes,
        viewBox=f"0 0 {_BAR_WIDTH} 10",
        preserveAspectRatio="none",
        class_=f"bar {style}".strip(),
        role="img" if label else None,
        aria_label=label or None,
        aria_hidden=None if label else "true",
    )


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to horizontal positions 0 to 1. On a logarithmic axis, what is under `first` shares one slot."""

    low: float
    high: float
    log: bool
    first: float

    @classmethod
    def over(cls, edges: Sequence[float], log: bool) -> "Axis":
        positive = [edge for edge in edges if edge > 0]
        if not log or len(positive) < 2:
            return cls(edges[0], edges[-1], False, 0)
        slot = math.log10(positive[1] / positive[0])
        low = math.log10(positive[0]) - (slot if edges[0] <= 0 else 0)
        return cls(low, math.log10(positive[-1]), True, positive[0])

    def place(self, value: float) -> float:
        """Values beyond an end of the axis are drawn at that end."""
        position = ((self._level(value) if self.log else value) - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, position))

    def ticks(self) -> list[float]:
        if not self.log:
            step = _round_step((self.high - self.low) / 4)
            return [step * n for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]
        start, stop = math.ceil(math.log10(self.first) - 1e-9), math.floor(self.high + 1e-9)
        every = max(1, math.ceil((stop - start) / 5))
        zero = [0.0] if self._level(0) >= self.low - 1e-9 and self.low < math.log10(self.first) else []
        return zero + [10.0**n for n in range(start, stop + 1, every) if n > start or every == 1 or not zero]

    def _level(self, value: float) -> float:
        if value >= self.first:
            return math.log10(value)
        slot = math.log10(self.first) - self.low
        return self.low + slot * max(0.0, value) / self.first


def _round_step(rough: float) -> float:
    """1, 2, 2.5 or 5 times a power of ten, not under `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class Frame:
    """The drawing's size and where the bars stand in it, in SVG units that are about pixels."""

    width: int = 320
    height: int = 150
    left: int = 40
    right: int = 312
    top: int = 26
    bottom: int = 128

    def x(self, position: float) -> float:
        return self.left + position * (self.right - self.left)

    def y(self, level: float) -> float:
        return self.bottom - level * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Limits:
    """The tightest bounds of a signal, infinite where there is none. `counts`: its values are whole numbers."""

    minimum: float
    maximum: float
    counts: bool

    def style(self, low: float, high: float) -> str:
        """The class of the bin [low, high). `cut`: some of its values may stay and some may not."""
        if self.counts:
            least, most = float(math.ceil(low)), float(math.ceil(high) - 1)
            removed = most < self.minimum or least > self.maximum
        else:
            least, most = low, high
            removed = high <= self.minimum or low > self.maximum or low == self.maximum > 0
        kept = least >= self.minimum and most <= self.maximum
        return "removed" if removed else "kept" if kept else "cut"

    def ends(self, edges: Sequence[float]) -> tuple[float, float]:
        """Where the lines stand: at the bounds, or at the end of a bin that the bound leaves whole."""
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
) -> Html:
    """Documents by value. What lies outside a bound is hatched, and the bars there have the colour of removal.

    The height of a bar is the square root of its documents: the tails that bounds cut off would not be seen otherwise.
    Of a bin with a bound inside nobody knows how many documents lie on which side: it is grey. `bound_signs` stand
    before a minimum and a maximum. Logarithmic signals are taken for counts.
    """
    edges, documents = _occupied(edges, documents, bounds, log)
    axis, most = Axis.over(edges, log), max(documents)
    limits = Limits(
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
        _ticks(axis, frame),
        [_bound(axis, value, end, sign, frame) for value, end, sign in lines if math.isfinite(value)],
    ]
    return element(
        "svg", drawing, viewBox=f"0 0 {frame.width} {frame.height}", class_="histogram", role="img", aria_label=label
    )


def _occupied(
    edges: Sequence[float], documents: Sequence[int], bounds: Sequence[Bound], log: bool
) -> tuple[list[float], list[int]]:
    """The bins from the first to the last that holds documents or a bound, with one more at either end."""
    inside = [i for i, number in enumerate(documents) if number]
    for value in (value for bound in bounds for value in (bound["minimum"], bound["maximum"]) if value is not None):
        inside += [i for i in range(len(documents)) if edges[i] <= value < edges[i + 1]]
    first = max(0, min(inside) - 1) if log else 0  # linear signals are fractions: they compare best from 0
    last = min(len(documents), max([*inside, first + 8]) + 2)
    return list(edges[first : last + 1]), list(documents[first:last])


def _outside(axis: Axis, ends: tuple[float, float], frame: Frame) -> Html:
    minimum, maximum = ends
    spans = [(0.0, axis.place(minimum))] if math.isfinite(minimum) else []
    if math.isfinite(maximum):
        spans.append((axis.place(maximum), 1.0))
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


def _grid(most: int, frame: Frame) -> Html:
    """Lines at all and a quarter of the highest bar: with square roots, the full and the half height."""
    marks = [(1.0, most)] + ([(0.5, round(most / 4))] if (most >= 4 and most % 4 == 0) or most >= 40 else [])
    return join(
        (
            element("line", x1=frame.left, x2=frame.right, y1=frame.y(level), y2=frame.y(level), class_="grid"),
            element("text", short(value), x=frame.left - 5, y=frame.y(level) + 4, class_="tick end"),
        )
        for level, value in marks
    )


def _column(axis: Axis, low: float, high: float, number: int, most: int, limits: Limits, frame: Frame) -> Html:
    style = limits.style(low, high)
    title = f"{decimal(low)} to {decimal(high)}: {count(number)} documents" + (
        ", on both sides" if style == "cut" else ""
    )
    left, right, top = frame.x(axis.place(low)), frame.x(axis.place(high)), frame.y(math.sqrt(number / most))
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


def _ticks(axis: Axis, frame: Frame) -> Html:
    labels = []
    for tick in axis.ticks():
        x = frame.x(axis.place(tick))
        side = "start" if x < frame.left + 12 else "end" if x > frame.right - 12 else "middle"
        labels.append(element("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
        labels.append(element("text", short(tick), x=x, y=frame.bottom + 16, class_=f"tick {side}"))
    return join(labels)


def _bound(axis: Axis, value: float, at: float, side: str, frame: Frame) -> Html:
    """The line, and above it its value."""
    x = frame.x(axis.place(at))
    line = element("line", x1=x, x2=x, y1=frame.top - 8, y2=frame.bottom, class_="bound")
    anchor = "start" if x < frame.width * 0.25 else "end" if x > frame.width * 0.75 else "middle"
    return join(
        line, element("text", f"{side} {decimal(value)}", x=x, y=frame.top - 12, class_=f"bound-label {anchor}")
    )
