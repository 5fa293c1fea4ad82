"""Measures of bias: whom the records are of, and whether groups differ in length or in a classifier's scores."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, date
from typing import TypedDict

import numpy as np

from pipelines.prepare.assess.metrics import evenness

CONFIDENCE = 0.95
LEAST = 20  # records of a value that is compared
_SAMPLE = 2000  # records of a value
_RESAMPLES = 1000
_MOST_VALUES = 100
_MOST_MONTHS = 48  # a longer time is counted by years


class Ratio(TypedDict):
    """Geometric mean length of a value's records by that of the most frequent value. low, high: of 95% confidence."""

    value: str
    records: int
    ratio: float
    low: float
    high: float


class Lengths(TypedDict):
    """Lengths of the values of a field. against: the most frequent value."""

    against: str
    ratios: list[Ratio]


class Difference(TypedDict):
    """Mean score of a value's records, and less that of the most frequent value. low, high: of 95% confidence."""

    value: str
    records: int
    mean: float
    difference: float
    low: float
    high: float


class Scores(TypedDict):
    """Scores of the values of a field. against: the most frequent value. mean: of its records."""

    against: str
    mean: float
    differences: list[Difference]


def representation(counts: Mapping[str, int], shares: Mapping[str, float]) -> float | None:
    """How near shares of records are to wanted ones: 1 - sum |p - q| / 2 (total variation distance), in [0, 1].

    counts: records of each value; those without a value ("") are left out. shares: wanted; empty: equal ones of all
    values. None without a record, or without shares and with one value.
    """
    known = {value: number for value, number in counts.items() if value}
    total = sum(known.values())
    if not total or (not shares and len(known) < 2):
        return None
    wanted = shares or dict.fromkeys(known, 1 / len(known))
    return 1 - sum(abs(known.get(one, 0) / total - wanted.get(one, 0)) for one in known.keys() | wanted) / 2


def evenness_of_months(counts: Mapping[str, int]) -> tuple[float | None, dict[str, int]]:
    """(evenness of the months from the first to the last, records of each); of years, if there are over 48 months.

    counts: records of each date in ISO 8601, of which the day does not matter; other texts are left out, and so are the
    years 1 and 9999, which databases have in place of no date. One month has the evenness 0.
    """
    months: dict[int, int] = {}
    for text, number in counts.items():
        if (month := _month(text)) is not None:
            months[month] = months.get(month, 0) + number
    if not months:
        return None, {}
    by = 1 if max(months) - min(months) < _MOST_MONTHS else 12
    periods = dict.fromkeys(range(min(months) // by, max(months) // by + 1), 0)
    for month, number in months.items():
        periods[month // by] += number
    named = {f"{at}" if by == 12 else f"{at // 12}-{at % 12 + 1:02}": number for at, number in periods.items()}
    return evenness(named.values()), named


def _month(text: str) -> int | None:
    """Months since the year 0 of a text that begins with a date; None of another text, and of the years 1 and 9999."""
    try:
        found = date.fromisoformat(f"{text.strip()[:7]}-01")
    except ValueError:
        return None
    return None if found.year in (MINYEAR, MAXYEAR) else 12 * found.year + found.month - 1


@dataclass
class Samples:
    """Numbers of each value's records with the smallest hashes. Memory: 32 KB a value, at most 100 values."""

    values: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)

    def add(self, values: np.ndarray, hashes: np.ndarray, numbers: np.ndarray) -> None:
        """Add records. values: str[N]. hashes: uint64[N]. numbers: of one type, [N]."""
        for value in sorted(set(values.tolist()) - {""}):
            if value not in self.values and len(self.values) == _MOST_VALUES:
                continue
            here = values == value
            kept = self.values.get(value, (np.empty(0, np.uint64), np.empty(0, numbers.dtype)))
            found = [np.concatenate(pair) for pair in zip(kept, (hashes[here], numbers[here]), strict=True)]
            order = np.argsort(found[0], kind="stable")[:_SAMPLE]
            self.values[value] = found[0][order], found[1][order]
            self.records[value] = self.records.get(value, 0) + int(here.sum())

    def numbers(self, value: str) -> np.ndarray:
        """Those of a value."""
        return self.values[value][1]

    @property
    def large(self) -> list[str]:
        """Values with at least 20 records, the most frequent first; empty if there are not two."""
        ranked = sorted(self.records, key=lambda value: (-self.records[value], value))
        found = [value for value in ranked if self.records[value] >= LEAST]
        return found if len(found) > 1 else []


def compared_lengths(samples: Samples) -> Lengths | None:
    """Each large value against the most frequent one; None if there are not two. samples: of lengths."""
    if not samples.large:
        return None
    against, *others = samples.large
    ratios = []
    for value in others:
        ratio, low, high = ratio_of_means(samples.numbers(value), samples.numbers(against))
        ratios.append(Ratio(value=value, records=samples.records[value], ratio=ratio, low=low, high=high))
    return Lengths(against=against, ratios=ratios)


def compared_scores(samples: Samples) -> Scores | None:
    """Each large value against the most frequent one; None if there are not two. samples: of scores."""
    if not samples.large:
        return None
    against, *others = samples.large
    found = []
    for value in others:
        scores = samples.numbers(value)
        difference, low, high = difference_of_means(scores, samples.numbers(against))
        found.append(
            Difference(
                value=value,
                records=samples.records[value],
                mean=float(scores.mean(dtype=np.float64)),
                difference=difference,
                low=low,
                high=high,
            )
        )
    return Scores(against=against, mean=float(samples.numbers(against).mean(dtype=np.float64)), differences=found)


def ratio_of_means(lengths: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Ratio of the geometric means of lengths + 1, and its 95% confidence interval. lengths, others: int[N], int[M]."""
    ratio, low, high = difference_of_means(np.log1p(lengths), np.log1p(others))
    return math.exp(ratio), math.exp(low), math.exp(high)


def difference_of_means(numbers: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Mean of the numbers less that of the others, and its 95% confidence interval by the percentile bootstrap.

    1,000 resamples of both, with a fixed seed. Source: Efron 1979, Bootstrap methods. numbers, others: float[N], [M].
    """
    random = np.random.default_rng(0)
    both = [one.astype(np.float64) for one in (numbers, others)]
    drawn = [one[random.integers(0, len(one), (_RESAMPLES, len(one)))].mean(axis=1) for one in both]
    low, high = np.quantile(drawn[0] - drawn[1], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return float(both[0].mean() - both[1].mean()), float(low), float(high)


def length_parity(lengths: Lengths | None) -> float | None:
    """The ratio of shorter to longer where two values differ most, in [0, 1]; 1 if no interval is without 1."""
    if lengths is None:
        return None
    certain = [one["ratio"] for one in lengths["ratios"] if not one["low"] <= 1 <= one["high"]]
    return min((min(ratio, 1 / ratio) for ratio in certain), default=1.0)


def score_parity(scores: Scores | None) -> float | None:
    """1 - the greatest difference of mean scores, in [0, 1]; 1 if no interval is without 0."""
    if scores is None:
        return None
    certain = [abs(one["difference"]) for one in scores["differences"] if not one["low"] <= 0 <= one["high"]]
    return 1 - max(certain, default=0.0)
