"""Bars of inline SVG: segments side by side, as wide as the page lets them be.

Colours are classes of the style sheet, so both colour schemes and print have their own. A bar has no text inside and
stretches (`preserveAspectRatio="none"`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.page.markup import Html, element

_BAR_WIDTH = 1000
_THINNEST = 2.0  # of 1000: what is there must be seen


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
