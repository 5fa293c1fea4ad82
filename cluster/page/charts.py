"""Charts as inline SVG: bars of segments, line charts, and the axes that they share.

Colours are classes of the style sheet, so light, dark and print have their own. Charts need no script and no library.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.formats import short
from cluster.page.markup import Markup, element, join

Point = tuple[float, float]

_COLUMNS = 600
_WIDTH = 1000  # of the stretching part, in units of its own
_TOP, _BELOW = 18, 24  # pixels for the numbers of marks, and for ticks
_NUMBERED = 20  # more marks than this would overlap
_TICK_EVERY = 32  # pixels down, about
_BAR_WIDTH = 1000
_THINNEST = 2.0  # of 1000, so that every segment is visible


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
            step = _round_step((self.high - self.low) / about)
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
    """The smallest of 1, 2, 2.5 and 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))


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


def ticks(axis: Axis, frame: Frame) -> Markup:
    """The tick marks of a horizontal axis with their numbers."""
    labels = []
    for tick in axis.ticks():
        x = frame.x(axis.fraction(tick))
        side = "start" if x < frame.left + 12 else "end" if x > frame.right - 12 else "middle"
        labels.append(element("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
        labels.append(element("text", short(tick), x=x, y=frame.bottom + 16, class_=f"tick {side}"))
    return join(labels)


@dataclass(frozen=True, slots=True)
class BarSegment:
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
class Line:
    """`style` is a class of the style sheet. `dots`: each point is drawn and can be pointed at."""

    name: str
    style: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
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

    def path(points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{_WIDTH * across.fraction(a):.1f} {y(b)}" for a, b in points)

    drawn = [element("path", d=path(line.points), class_=line.style) for line in lines if len(line.points) > 1]
    dots = [
        element("circle", element("title", f"{line.name}, {short(a)}: {show(b)}"), cx=x(a), cy=y(b), r=3,
                class_=line.style)
        for line in lines
        if line.dots or len(line.points) == 1
        for a, b in line.points
    ]  # fmt: skip
    stretched = element(
        "svg",
        drawn,
        viewBox=f"0 0 {_WIDTH} {height}",
        preserveAspectRatio="none",
        width="100%",
        height=height,
    )
    return element(
        "svg",
        [
            (
                element("line", x1="0", x2="100%", y1=y(tick), y2=y(tick), class_="grid"),
                element("text", show(tick), x=-6, y=y(tick) + 4, class_="tick end"),
            )
            for tick in _vertical_ticks(down, (bottom - _TOP) // _TICK_EVERY)
        ],
        element("line", x1="0", x2="100%", y1=bottom, y2=bottom, class_="axis"),
        _across_ticks(across, bottom, x),
        _marks(marks, bottom, x),
        stretched,
        dots,
        class_="lines",
        height=height,
        role="img",
        aria_label=label,
    )


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


def _across_ticks(axis: Axis, bottom: int, x: Callable[[float], str]) -> Markup:
    drawn = []
    for tick in axis.ticks():
        if tick != int(tick):
            continue
        fraction = axis.fraction(tick)
        side = "start" if fraction < 0.03 else "end" if fraction > 0.97 else "middle"
        drawn.append(element("line", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4, class_="axis"))
        drawn.append(element("text", short(tick), x=x(tick), y=bottom + 17, class_=f"tick {side}"))
    return join(drawn)


def _marks(marks: Sequence[Mark], bottom: int, x: Callable[[float], str]) -> Markup:
    drawn = []
    for number, mark in enumerate(marks, 1):
        words = element("title", f"{short(mark.x)}: {mark.words}")
        drawn.append(element("line", words, x1=x(mark.x), x2=x(mark.x), y1=_TOP - 4, y2=bottom, class_="mark"))
        if len(marks) <= _NUMBERED:
            drawn.append(element("text", number, x=x(mark.x), y=_TOP - 8, class_="tick middle"))
    return join(drawn)
