"""Charts as inline SVG: bars of segments, histograms, line charts, and the axes that they share.

Places are computed here and drawn by templates/charts.html. Colours are classes of the style sheet, so light, dark and
print have their own. Charts need no script and no library.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from markupsafe import Markup

from raymill.cluster.formats import decimal, short
from raymill.cluster.report.sections import macro

Point = tuple[float, float]

_COLUMNS = 600
_WIDTH = 1000  # of the stretching part, in units of its own
_TOP, _BELOW = 18, 24  # pixels for the numbers of marks, and for ticks
_TICK_EVERY = 32  # pixels down, about
_BAR_WIDTH = 1000
_THINNEST = 2.0  # of 1000, so that every segment is visible

_draw = partial(macro, "charts.html")


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to positions from 0 to 1. On a logarithmic axis, values below `first` share one slot."""

    low: float
    high: float
    log: bool
    first: float

    @classmethod
    def over(cls, edges: Sequence[float], log: bool) -> "Axis":
        """The axis of a histogram with these edges. It is linear if fewer than two edges are positive."""
        positive = [edge for edge in edges if edge > 0]
        if not log or len(positive) < 2:
            return cls(edges[0], edges[-1], False, 0)
        slot = math.log10(positive[1] / positive[0])
        low = math.log10(positive[0]) - (slot if edges[0] <= 0 else 0)
        return cls(low, math.log10(positive[-1]), True, positive[0])

    def fraction(self, value: float) -> float:
        """The position of a value; values beyond an end of the axis are placed at that end."""
        position = ((self._level(value) if self.log else value) - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, position))

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers along the axis; on a linear axis approximately `about` of them."""
        if not self.log:
            # The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least as large.
            rough = (self.high - self.low) / about
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= rough * (1 - 1e-9))
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


@dataclass(frozen=True, slots=True)
class Frame:
    """Size of a drawing and the area of its plot, in SVG units of about one pixel."""

    width: int = 320
    height: int = 150
    left: int = 40
    right: int = 312
    top: int = 26
    bottom: int = 128

    def x(self, position: float) -> float:
        """Horizontal coordinate of a position from 0 to 1."""
        return self.left + position * (self.right - self.left)

    def y(self, level: float) -> float:
        """Vertical coordinate of a level from 0 (bottom) to 1 (top)."""
        return self.bottom - level * (self.bottom - self.top)


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


def ticks(axis: Axis, frame: Frame) -> list[tuple[float, str, str]]:
    """The tick marks of a horizontal axis: place, side to which the number leans, number."""
    places = [(frame.x(axis.fraction(tick)), short(tick)) for tick in axis.ticks()]
    return [
        (x, "start" if x < frame.left + 12 else "end" if x > frame.right - 12 else "middle", number)
        for x, number in places
    ]


class BarSegment(NamedTuple):
    """A piece of a bar: its size in the bar's unit, its style class, and the text shown on hovering."""

    size: float
    style: str
    title: str


def bar(segments: Sequence[BarSegment], whole: float, label: str, style: str = "") -> Markup:
    """Segments side by side on a track of size `whole`, as wide as the page allows.

    label: for screen readers; without one they skip the bar, as its numbers stand beside it.
    """
    shapes, x = [], 0.0
    for segment in segments:
        if segment.size <= 0 or whole <= 0:
            continue
        width = max(_THINNEST, _BAR_WIDTH * segment.size / whole)
        x = min(x, _BAR_WIDTH - width)
        shapes.append((x, width, segment))
        x += width
    return _draw("bar", shapes, label, style)


def histogram(
    edges: Sequence[float],
    documents: Sequence[int],
    bounds: Sequence[Mapping[str, Any]],
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
        documents: number of values in each bin, [edges[i], edges[i + 1]).
        bounds: `minimum` and `maximum` of each, one of them None.
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

    def x(value: float) -> float:
        return frame.x(axis.fraction(value))

    low_end, high_end = limits.ends(edges)
    outside = [(frame.x(0), x(low_end) - frame.x(0))] if math.isfinite(low_end) else []
    outside += [(x(high_end), frame.x(1) - x(high_end))] if math.isfinite(high_end) else []
    # Lines at the highest bar and, with enough documents, at a quarter of its number, which is half the height.
    halved = [(frame.y(0.5), short(round(most / 4)))] if (most >= 4 and most % 4 == 0) or most >= 40 else []
    columns = []
    for (low, high), number in zip(pairwise(edges), documents, strict=True):
        if number:
            style, left = limits.style(low, high), x(low)
            gap = 0.8 if x(high) - left > 2 else 0.0
            title = f"{decimal(low)} to {decimal(high)}: {number:,} documents"
            title += ", on both sides" if style == "cut" else ""
            columns.append((left, frame.y(math.sqrt(number / most)), x(high) - left - gap, style, title))
    lines = [
        (at, "start" if at < frame.width * 0.25 else "end" if at > frame.width * 0.75 else "middle",
         f"{sign} {decimal(value)}")
        for value, end, sign in zip((limits.minimum, limits.maximum), (low_end, high_end), bound_signs, strict=True)
        if math.isfinite(value)
        for at in [x(end)]
    ]  # fmt: skip
    return _draw(
        "histogram", frame, label, outside, [(frame.y(1), short(most)), *halved], columns, ticks(axis, frame), lines
    )


def hatch() -> Markup:
    """The pattern of all histograms; a page contains it once."""
    return _draw("hatch")


def _occupied(
    edges: Sequence[float], documents: Sequence[int], bounds: Sequence[Mapping[str, Any]], log: bool
) -> tuple[list[float], list[int]]:
    """The bins from the first to the last with documents or a bound, and one more at either end."""
    inside = [i for i, number in enumerate(documents) if number]
    for value in (value for bound in bounds for value in (bound["minimum"], bound["maximum"]) if value is not None):
        inside += [i for i in range(len(documents)) if edges[i] <= value < edges[i + 1]]
    first = max(0, min(inside) - 1) if log else 0  # linear signals are fractions, shown from 0
    last = min(len(documents), max([*inside, first + 8]) + 2)
    return list(edges[first : last + 1]), list(documents[first:last])


class Line(NamedTuple):
    """`style` is a class of the style sheet. `dots`: each point is drawn and can be pointed at."""

    name: str
    style: str
    points: Sequence[Point]
    dots: bool = False


class Mark(NamedTuple):
    """An event at `x`. Charts number their marks from 1; `words` is shown on hovering."""

    x: float
    words: str


def thinned(points: Iterable[Point], columns: int = _COLUMNS) -> list[Point]:
    """The lowest and the highest point of each column, in their order. Values that are not finite are left out."""
    found = [point for point in points if math.isfinite(point[1])]
    if len(found) <= 2 * columns:
        return found
    first, last = found[0][0], found[-1][0]
    kept: list[Point] = []
    column, low, high = -1, found[0], found[0]
    for point in found:
        at = min(columns - 1, int(columns * (point[0] - first) / (last - first)))
        if at != column:
            kept += _ordered(low, high) if column >= 0 else []
            column, low, high = at, point, point
        elif point[1] < low[1]:
            low = point
        elif point[1] > high[1]:
            high = point
    return kept + _ordered(low, high)


def is_spread(values: Iterable[float], ratio: float = 50) -> bool:
    """Whether the largest value is more than `ratio` times the smallest, so that a logarithmic axis is needed."""
    positive = [value for value in values if math.isfinite(value)]
    return bool(positive) and min(positive) > 0 and max(positive) / min(positive) > ratio


def line_chart(
    lines: Sequence[Line],
    label: str,
    *,
    span: Point,
    marks: Sequence[Mark] = (),
    log: bool = False,
    from_zero: bool = False,
    height: int = 190,
    show: Callable[[float], str] = short,
) -> Markup:
    """A line chart, as wide as the page allows. Lines stretch with the page; text keeps its size.

    label: for screen readers. span: first and last value of the horizontal axis.
    log: the vertical axis is logarithmic; every value has to be above 0.
    """
    values = [y for line in lines for _, y in line.points]
    across = Axis(span[0], span[1] if span[1] > span[0] else span[0] + 1, False, 0)
    down = _vertical(values, log, from_zero)
    bottom = height - _BELOW

    def x(value: float) -> str:
        return f"{100 * across.fraction(value):.2f}%"

    def y(value: float) -> float:
        return round(bottom - down.fraction(value) * (bottom - _TOP), 1)

    places = [
        (x(tick), "start" if at < 0.03 else "end" if at > 0.97 else "middle", short(tick))
        for tick in across.ticks()
        if tick == int(tick)
        for at in [across.fraction(tick)]
    ]
    paths = [
        (line.style, "M" + "L".join(f"{_WIDTH * across.fraction(a):.1f} {y(b)}" for a, b in line.points))
        for line in lines
        if len(line.points) > 1
    ]
    dots = [
        (x(a), y(b), line.style, f"{line.name}, {short(a)}: {show(b)}")
        for line in lines
        if line.dots or len(line.points) == 1
        for a, b in line.points
    ]
    grid = [(y(tick), show(tick)) for tick in _vertical_ticks(down, (bottom - _TOP) // _TICK_EVERY)]
    events = [(x(mark.x), f"{short(mark.x)}: {mark.words}") for mark in marks]
    return _draw("lines", height, label, bottom, _TOP, grid, places, events, paths, dots)


def line_key(line: Line) -> Markup:
    """A short piece of a line, for the key of a chart."""
    return _draw("key", line)


def _ordered(low: Point, high: Point) -> list[Point]:
    return [low] if low == high else sorted((low, high))


def _vertical(values: Sequence[float], log: bool, from_zero: bool) -> Axis:
    low, high = min(values), max(values)
    if log:
        low, high = low / 1.1, high * 1.1
        return Axis(math.log10(low), math.log10(high), True, low)
    room = 0.05 * (high - low) or abs(high) * 0.05 or 0.05
    return Axis(0.0 if from_zero else low - room, high + room, False, 0)


def _vertical_ticks(axis: Axis, about: int) -> list[float]:
    if not axis.log:
        return axis.ticks(about)
    whole = axis.ticks()
    if len(whole) > 2:
        return whole
    exponents = range(math.floor(axis.low), math.ceil(axis.high) + 1)
    finer = [digit * 10.0**n for n in exponents for digit in (1, 2, 5)]
    return [value for value in finer if axis.low <= math.log10(value) <= axis.high]
