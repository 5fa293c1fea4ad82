"""Two models on the same items: differences with intervals, exact tests, the items still needed, and calibration.

Letters: N items, G groups of items that are drawn together (without groups each item is one), K sums of a measure.

    interval   bootstrap over groups, percentiles expanded for small G (Hesterberg 2015, What teachers should know about
               the bootstrap). Where few differences are not 0, or all of these have one size, two further groups are
               added, one won by each model: for scores of 0 and 1 as in Bonett and Price 2012 (Adjusted Wald
               intervals for a difference of binomial proportions based on paired data). Without them the interval
               of items without any difference has the width 0.
    p          two-sided sign flips of the groups' differences; where all nonzero ones have one size, as for scores of
               0 and 1, the binomial distribution (McNemar, exact)
    needed     (z of the level + z of the power)^2 x mean square of the differences / difference^2
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom, norm, t

LEVEL, POWER = 0.05, 0.8
_DRAWS, _FLIPS, _SEED = 2000, 9999, 0
_ENUMERATED = 16  # largest number of groups that differ whose sign flips are all computed
_FEW = 20  # with fewer groups that differ, two further groups are added
_AT_ONCE = 2_000_000  # largest number of resampled values in memory
_MOST_NEEDED = 1e12  # items
_BINS = 10  # of equal width, of confidence

CorpusMeasure = Callable[[np.ndarray], float]  # float64[K], sums over items -> the measure


@dataclass(frozen=True)
class PairedDifference:
    """The difference A - B.

    Attributes:
        difference: mean over items, or the ratio of sums.
        low, high: its interval.
        p: of the exact test, not corrected for other comparisons.
        items, groups: their numbers.
        square: mean square of the groups' mean differences; None for a corpus measure.
    """

    difference: float
    low: float
    high: float
    p: float
    items: int
    groups: int
    square: float | None

    def needed(self, comparisons: int = 1) -> int | None:
        """Further items with which a difference of this size is detected with `POWER`.

        comparisons: number of tests that p is corrected for.

        Returns:
            At least 1; None if the difference is 0 or `square` is None.
        """
        enough = None if self.square is None else items_needed(self.square, self.difference, LEVEL / comparisons)
        return None if enough is None else max(1, round(enough * self.items / self.groups) - self.items)

    def verdict(self, corrected: float) -> str:
        """`A` or `B` if the interval is on one side of 0 and the corrected p at most `LEVEL`, else `undecided`."""
        if corrected > LEVEL or not (self.low > 0 or self.high < 0):
            return "undecided"
        return "A" if self.low > 0 else "B"


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    groups: Sequence[Any] | None = None,
    *,
    weights: np.ndarray | None = None,
    scale: float = 1.0,
) -> PairedDifference:
    """The difference of a measure that is a mean over items, between two models.

    Args:
        first, second: float64[N], the value of each item, such as its score or its bits.
        groups: group of each item; None: each item is a group.
        weights: float64[N], such as bytes of an item: the difference is sum(first - second) / sum(weights); None: 1.
        scale: largest possible difference per weight, used where no item differs; 0 if the measure has no bounds.
    """
    ones = np.ones(len(first)) if weights is None else weights
    sums, sizes = _by_group(np.column_stack([first - second, ones]), groups).T
    differing = sums[sums != 0]
    usual = float(sizes.mean())
    usual_size = float(np.sqrt((differing**2).mean())) if len(differing) else scale * usual
    is_sparse = len(differing) < _FEW or np.allclose(np.abs(differing), usual_size, rtol=1e-9, atol=0)
    low, high = _interval(sums, sizes, [usual_size, -usual_size] if is_sparse else [], usual)
    difference = float(sums.sum() / sizes.sum())
    square = float((sums**2).sum() / sizes.sum() / usual)  # of the mean of a group
    return PairedDifference(difference, low, high, sign_flips(sums), len(first), len(sums), square)


def corpus_difference(
    first: np.ndarray, second: np.ndarray, measure: CorpusMeasure, groups: Sequence[Any] | None = None
) -> PairedDifference:
    """The difference of a measure of a whole corpus, such as BLEU, between two models.

    first, second: float64[N, K], sums of each item. The test swaps the answers of groups (approximate randomisation,
    Riezler and Maxwell 2005).
    """
    count = first.shape[1]
    table = _by_group(np.hstack([first, second]), groups)

    def of(sums: np.ndarray) -> float:
        return measure(sums[:count]) - measure(sums[count:])

    seen = of(table.sum(axis=0))
    drawn = np.array([of(row) for rows in _resampled(table) for row in rows])
    tail = _tail(len(table))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    differs, as_extreme = table[:, :count] - table[:, count:], 0
    random, whole = np.random.default_rng(_SEED), table.sum(axis=0)
    for _ in range(_DRAWS):
        moved = differs[random.random(len(table)) < 0.5].sum(axis=0)
        as_extreme += abs(of(whole + np.concatenate([-moved, moved]))) >= abs(seen) - 1e-12
    p = (1 + as_extreme) / (1 + _DRAWS)
    return PairedDifference(seen, float(low), float(high), p, len(first), len(table), None)


def mean_interval(
    values: np.ndarray, groups: Sequence[Any] | None = None, bounds: tuple[float, float] | None = None
) -> tuple[float, float]:
    """The 95% interval of a mean.

    values: float64[N]. bounds: least and greatest possible value, each the value of one further item; None: no such
    items.
    """
    sums, sizes = _by_group(np.column_stack([values, np.ones(len(values))]), groups).T
    usual = float(sizes.mean())
    return _interval(sums, sizes, [one * usual for one in bounds or ()], usual)


def equal_groups(groups: Sequence[Any]) -> float:
    """The number of groups of equal size whose mean varies as much: (sum of sizes)^2 / sum of their squares.

    Kish 1965, Survey Sampling. groups: group of each item.
    """
    sizes = np.array([*Counter(groups).values()], float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def sign_flips(differences: np.ndarray) -> float:
    """The two-sided p of the hypothesis that each difference, float64[G], has either sign with probability 1/2."""
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    seen = abs(float(differences.sum()))
    if np.allclose(sizes, sizes[0], rtol=1e-9, atol=0):
        fewer = min(int((differences > 0).sum()), int((differences < 0).sum()))
        return min(1.0, 2 * float(binom.cdf(fewer, len(sizes), 0.5)))
    least = seen - 1e-12 * float(sizes.sum())
    if len(sizes) <= _ENUMERATED:
        signs = 1 - 2 * (np.arange(1 << len(sizes))[:, None] >> np.arange(len(sizes)) & 1)
        return float((np.abs(signs @ sizes) >= least).mean())
    random, found = np.random.default_rng(_SEED), 0
    for count in _portions(_FLIPS, len(sizes)):
        signs = random.integers(0, 2, (count, len(sizes)), dtype=np.int8) * 2 - 1
        found += int((np.abs(signs @ sizes) >= least).sum())
    return (1 + found) / (1 + _FLIPS)


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected by Holm 1979, in the order given."""
    found, largest = [0.0] * len(values), 0.0
    for number, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        found[at] = largest = max(largest, min(1.0, values[at] * (len(values) - number)))
    return found


def items_needed(square: float, difference: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """The number of items with which a difference is detected with this power; None for the difference 0, and if it is
    above 10^12.

    square: mean square of the items' differences; for scores of 0 and 1 the fraction of items that differ.
    """
    if not difference:
        return None
    root = float(norm.ppf(1 - level / 2) + norm.ppf(power)) * (math.sqrt(square) / abs(difference))
    return math.ceil(root * root) if root < _MOST_NEEDED**0.5 else None


@dataclass(frozen=True)
class Calibration:
    """Confidence of answers compared with their accuracy.

    Attributes:
        error: expected calibration error, sum over bins of n_b / n x abs(accuracy - confidence).
        low, high: its 95% interval, by the basic bootstrap, which corrects the bias of a mean of absolute values.
        brier: mean square of confidence - right.
        bins: (lower end, items, mean confidence, accuracy) of each bin that has items.
    """

    error: float
    low: float
    high: float
    brier: float
    bins: list[tuple[float, int, float, float]]


def calibration(confidence: np.ndarray, right: np.ndarray, groups: Sequence[Any] | None = None) -> Calibration:
    """Calibration in bins of equal width. confidence: float64[N], 0 to 1. right: float64[N], 0 or 1."""
    at = np.minimum((confidence * _BINS + 1e-9).astype(int), _BINS - 1)
    inside = np.eye(_BINS)[at]  # [N, B]
    table = _by_group(np.column_stack([inside * (right - confidence)[:, None], np.ones(len(at))]), groups)

    def error(sums: np.ndarray) -> np.ndarray:
        return np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]

    seen = float(error(table.sum(axis=0)))
    drawn = np.concatenate([error(rows) for rows in _resampled(table)])
    rows = [
        (one / _BINS, int((at == one).sum()), float(confidence[at == one].mean()), float(right[at == one].mean()))
        for one in np.unique(at).tolist()
    ]
    brier = float(((confidence - right) ** 2).mean())
    return Calibration(seen, *basic_interval(seen, drawn), brier, rows)


def basic_interval(seen: float, drawn: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The 95% interval of the basic bootstrap for a measure that is at least 0. drawn: its values in resamples."""
    above, below = np.quantile(drawn, [1 - LEVEL / 2, LEVEL / 2])
    return max(0.0, 2 * seen - float(above)), max(0.0, 2 * seen - float(below))


def _by_group(table: np.ndarray, groups: Sequence[Any] | None) -> np.ndarray:
    """float64[G, K]: the sums of the rows of each group; the table itself without groups. table: float64[N, K]."""
    if groups is None:
        return table
    numbers: dict[Any, int] = {}
    at = [numbers.setdefault(one, len(numbers)) for one in groups]
    found = np.zeros((len(numbers), table.shape[1]))
    np.add.at(found, at, table)
    return found


def _interval(sums: np.ndarray, sizes: np.ndarray, further: Sequence[float], usual: float) -> tuple[float, float]:
    """The interval of sum(sums) / sum(sizes). further: sums of further groups, each of the size `usual`."""
    sums, sizes = np.concatenate([sums, further]), np.concatenate([sizes, [usual] * len(further)])
    if (sizes == usual).all():
        drawn = np.concatenate(list(_resampled(sums / usual))) / len(sums)
    else:
        drawn = np.concatenate([rows[:, 0] / rows[:, 1] for rows in _resampled(np.column_stack([sums, sizes]))])
    tail = _tail(len(sums))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _tail(groups: int) -> float:
    """The fraction of draws beyond each end of an interval: LEVEL / 2, smaller for few groups."""
    if groups < 2:
        return 0.0
    return float(norm.cdf(t.ppf(LEVEL / 2, groups - 1) * (groups / (groups - 1)) ** 0.5))


def _resampled(table: np.ndarray) -> Iterator[np.ndarray]:
    """Sums float64[portion, K] over groups drawn with replacement, `_DRAWS` in all. table: float64[G, K] or [G]."""
    random = np.random.default_rng(_SEED)
    for count in _portions(_DRAWS, table.size):
        yield table[random.integers(0, len(table), (count, len(table)))].sum(axis=1)


def _portions(count: int, size: int) -> Iterator[int]:
    """Portions of `count` draws with `size` values each; a portion has at most `_AT_ONCE` values, or one draw."""
    part = max(1, _AT_ONCE // max(1, size))
    for start in range(0, count, part):
        yield min(part, count - start)
