"""Gaps between groups of items, such as customers by language, within one model.

    gap                  largest minus smallest rate of the groups
    demographic parity   gap of the fraction of answers that are a label
    equalised odds       the larger of the gaps of true positive and false positive rates of a label

As Fairlearn's `demographic_parity_difference` and `equalized_odds_difference` (agg worst_case). The 95% intervals are
gap +- the 95% quantile of the gap of (resampled - measured) rates, resampled within groups. A gap is a seminorm of the
rates, so it differs from the true one by at most the gap of their errors, as in Tukey's intervals of all pairs: the
interval of two groups has 95%, of more groups more. Percentiles of the gap itself held 78% for two groups of 100 with
rates of 0.75 and 0.65.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raymill.pipelines.paired import LEVEL

_LEAST = 20  # items of a group that is compared
_LONGEST = 100  # characters of a value that is a group, as of a slice
_DRAWS, _SEED = 1000, 0


def gap(values: np.ndarray, groups: np.ndarray) -> float:
    """The gap between the means of groups. values: float64[N]. groups: int64[N], the number of each value's group."""
    counts = np.bincount(groups)
    means = np.bincount(groups, values)[counts > 0] / counts[counts > 0]
    return float(means.max() - means.min()) if len(means) else 0.0


def odds_gap(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> float:
    """Equalised odds of a label. A group without items for a rate is left out of it.

    true: bool[N]. predicted: bool or float64[N].
    """
    return max(gap(predicted[cases], groups[cases]) for cases in (true, ~true))


def group_gaps(
    measures: Mapping[str, np.ndarray], labels: Sequence[tuple[str, np.ndarray, np.ndarray]], groups: Sequence[Any]
) -> list[dict[str, Any]]:
    """The gap of each measure between the groups with enough items, with its interval; none with fewer than two groups.

    Args:
        measures: name -> float64[N]; items with NaN are left out. labels: (label, bool[N] the right answer, bool[N] the
            answer).
        groups: group of each item; None, or longer than 100 characters: in no group.
    """
    found = []
    for name, values in measures.items():
        if compared := _compared_groups(groups, np.isfinite(values)):
            kept, there, named = compared
            inside = values[there]
            errors = _without_means(inside, named)
            drawn = [gap(errors[at], named[at]) for at in _draws(named)]
            found.append(_row(name, gap(inside, named), drawn) | {"groups": _means(inside, named, kept)})
    if labels and (compared := _compared_groups(groups, np.ones(len(groups), bool))):
        kept, there, named = compared
        for label, true, answered in labels:
            right, given = true[there], answered[there].astype(float)
            errors, errors_of_rates = _without_means(given, named), _without_means(given, 2 * named + right)
            parity, odds = [], []
            for at in _draws(named):
                parity.append(gap(errors[at], named[at]))
                odds.append(odds_gap(right[at], errors_of_rates[at], named[at]))
            row = _row(f"parity of {label}", gap(given, named), parity, most=1)
            found.append(row | {"groups": _means(given, named, kept)})
            odds_row = _row(f"equalised odds of {label}", odds_gap(right, given, named), odds, most=1)
            found.append(odds_row | {"groups": {}})
    return found


def _compared_groups(groups: Sequence[Any], measured: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """The groups with enough measured items; None with fewer than two.

    Returns:
        (names; bool[N], the items of these groups; the number of the group of each of these items)
    """
    counts = Counter(str(one) for one, is_there in zip(groups, measured, strict=True) if is_there and one is not None)
    kept = sorted(name for name, count in counts.items() if count >= _LEAST and len(name) <= _LONGEST)
    if len(kept) < 2:
        return None
    numbers = {name: number for number, name in enumerate(kept)}
    numbered = np.array([-1 if one is None else numbers.get(str(one), -1) for one in groups])
    there = measured & (numbered >= 0)
    return kept, there, numbered[there]


def _draws(named: np.ndarray) -> Iterator[np.ndarray]:
    """The items, int64[N], of each resample: as many of each group as there are, drawn from it with replacement.

    named: int64[N], the number of each item's group. One resample is in memory at a time.
    """
    random, ordered = np.random.default_rng(_SEED), np.argsort(named, kind="stable")
    sizes = np.bincount(named)
    firsts, counts = np.repeat(np.cumsum(sizes) - sizes, sizes), np.repeat(sizes, sizes)
    for _ in range(_DRAWS):
        yield ordered[firsts + random.integers(0, counts)]


def _means(values: np.ndarray, named: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {name: float(values[named == number].mean()) for number, name in enumerate(names)}


def _without_means(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Values minus the mean of their group. values: float64[N]. groups: int64[N]."""
    return values - (np.bincount(groups, values) / np.maximum(np.bincount(groups), 1))[groups]


def _row(measure: str, seen: float, errors: Sequence[float], most: float = np.inf) -> dict[str, Any]:
    """A gap with its interval. errors: gaps of the errors of resampled rates. most: the largest possible gap."""
    half = float(np.quantile(errors, 1 - LEVEL))
    return {"measure": measure, "gap": seen, "low": max(0.0, seen - half), "high": min(most, seen + half)}
