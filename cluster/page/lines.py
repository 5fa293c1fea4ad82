"""Line charts of inline SVG, as wide as the page lets them be: the lines stretch, the text keeps its size.

Places across are percentages and places down are pixels, so nothing needs a script. A million points are drawn as a
few hundred columns, each by its lowest and its highest point, so that no spike is lost.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.page.axes import Axis
from cluster.page.formats import short
from cluster.page.markup import Html, element, join

Point = tuple[float, float]

_COLUMNS = 600
_WIDTH = 1000  # of the stretching part, in units of its own
_TOP, _BELOW = 18, 24  # room for the marks' words and for the ticks, in pixels
_NUMBERED = 20  # marks: more would stand on each other
_TICK_EVERY = 32  # pixels down, about


@dataclass(frozen=True, slots=True)
class Line:
    """`style` is a class of the style sheet. `dots`: each point is drawn and can be pointed at."""

    name: str
    style: str
    points: Sequence[Point]
    dots: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened at `x`. Charts number their marks from 1, for a list that has room for the words."""

    x: float
    words: str


def thinned(points: Iterable[Point], columns: int = _COLUMNS) -> list[Point]:
    """At most two points a column, its lowest and its highest, in their order. What is not finite is left out."""
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
    """Whether only a logarithmic axis shows both ends."""
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
) -> Html:
    """`label` is what a screen reader says; `span` is where the horizontal axis begins and ends.

    log: the vertical axis is logarithmic; every value has to be above 0.
    """
    values = [y for line in lines for _, y in line.points]
    across = Axis(span[0], span[1] if span[1] > span[0] else span[0] + 1, False, 0)
    down = _vertical(values, log, from_zero)
    bottom = height - _BELOW

    def x(value: float) -> str:
        return f"{100 * across.place(value):.2f}%"

    def y(value: float) -> float:
        return round(bottom - down.place(value) * (bottom - _TOP), 1)

    def path(points: Sequence[Point]) -> str:
        return "M" + "L".join(f"{_WIDTH * across.place(a):.1f} {y(b)}" for a, b in points)

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


def _across_ticks(axis: Axis, bottom: int, x: Callable[[float], str]) -> Html:
    drawn = []
    for tick in axis.ticks():
        if tick != int(tick):
            continue
        place = axis.place(tick)
        side = "start" if place < 0.03 else "end" if place > 0.97 else "middle"
        drawn.append(element("line", x1=x(tick), x2=x(tick), y1=bottom, y2=bottom + 4, class_="axis"))
        drawn.append(element("text", short(tick), x=x(tick), y=bottom + 17, class_=f"tick {side}"))
    return join(drawn)


def _marks(marks: Sequence[Mark], bottom: int, x: Callable[[float], str]) -> Html:
    drawn = []
    for number, mark in enumerate(marks, 1):
        words = element("title", f"{short(mark.x)}: {mark.words}")
        drawn.append(element("line", words, x1=x(mark.x), x2=x(mark.x), y1=_TOP - 4, y2=bottom, class_="mark"))
        if len(marks) <= _NUMBERED:
            drawn.append(element("text", number, x=x(mark.x), y=_TOP - 8, class_="tick middle"))
    return join(drawn)
