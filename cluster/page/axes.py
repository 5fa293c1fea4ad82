"""What drawings with axes share: from values to places on the paper, and round numbers along them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.page.formats import short
from cluster.page.markup import Html, element, join


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

    def ticks(self, about: int = 4) -> list[float]:
        """Round numbers; on a linear axis about so many."""
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


def ticks(axis: Axis, frame: Frame) -> Html:
    labels = []
    for tick in axis.ticks():
        x = frame.x(axis.place(tick))
        side = "start" if x < frame.left + 12 else "end" if x > frame.right - 12 else "middle"
        labels.append(element("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
        labels.append(element("text", short(tick), x=x, y=frame.bottom + 16, class_=f"tick {side}"))
    return join(labels)
