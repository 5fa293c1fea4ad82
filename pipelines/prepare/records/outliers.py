"""Records whose lengths, or share of letters, are far from those of the other records of their group.

The distance from the median is in scaled median absolute deviations (MAD): 1.4826 MAD, the standard deviation of
normally distributed values, or 1.2533 mean absolute deviations where more than half of the values are equal. Lengths
are compared by their logarithm. Source: Iglewicz and Hoaglin 1993, How to Detect and Handle Outliers.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from raymill.cluster.examples.content import Sides

Measure = Literal["question_chars", "answer_chars", "text_chars", "letters"]
_OF_MEDIAN, _OF_MEAN = 1.4826, 1.2533
_LEAST_RECORDS = 10  # of a group; of fewer none is an outlier


class Outliers(BaseModel, extra="forbid", frozen=True):
    """Records that are far from the others of their group."""

    measures: tuple[Measure, ...] = Field(
        ("question_chars", "answer_chars", "text_chars"),
        min_length=1,
        description="Measures by which records are compared: lengths in characters, on a logarithmic scale, and the "
        "fraction of letters",
    )
    by: tuple[str, ...] = Field(
        ("source",),
        description="Metadata fields whose values together define the groups within which records are compared",
    )
    deviations: float = Field(
        5.0,
        gt=0,
        description="Maximum distance of a record from its group's median, in scaled median absolute deviations",
    )
    found: Literal["list", "remove"] = Field(
        "list", description="Treatment of records that are outliers: list (they stay and are listed), or remove"
    )


def measure(name: Measure, sides: Sequence[Sides]) -> np.ndarray:
    """float64[N]: the measure of each record; NaN for one without such a text."""
    if name == "letters":
        texts = [one.text for one in sides]
        return np.array([sum(map(str.isalpha, text)) / max(len(text), 1) for text in texts], np.float64)
    if name == "text_chars":
        return np.array([np.nan if one.turns else len(one.question) for one in sides], np.float64)
    chosen = [one.question if name == "question_chars" else one.answer for one in sides]
    return np.array([len(text) if one.turns else np.nan for one, text in zip(sides, chosen, strict=True)], np.float64)


def bounds(name: Measure, values: np.ndarray, groups: np.ndarray, deviations: float) -> tuple[np.ndarray, np.ndarray]:
    """(float64[N], float64[N]): the least and the greatest value that is no outlier, of each record's group.

    values: float64[N]; NaN is left out. groups: uint64[N]. deviations: the greatest distance from the median. Without
    bounds (-inf, inf): groups of fewer than ten values, or of equal ones.
    """
    with np.errstate(divide="ignore"):
        scaled = values if name == "letters" else np.log(values)
    low, high = np.full(len(values), -np.inf), np.full(len(values), np.inf)
    order = np.argsort(groups, kind="stable")
    ends = np.flatnonzero(groups[order][1:] != groups[order][:-1]) + 1
    for here in np.split(order, ends):
        known = scaled[here][np.isfinite(scaled[here])]
        if len(known) < _LEAST_RECORDS:
            continue
        median = float(np.median(known))
        distance = np.abs(known - median)
        spread = _OF_MEDIAN * float(np.median(distance)) or _OF_MEAN * float(distance.mean())
        if spread:
            low[here], high[here] = median - deviations * spread, median + deviations * spread
    return (low, high) if name == "letters" else (np.exp(low), np.exp(high))
