"""Gaps between groups of items, such as customers by language, within one model.

    gap                  largest minus smallest rate of the groups
    demographic parity   gap of the fraction of answers that are a label
    equalised odds       the larger of the gaps of true positive and false positive rates of a label

As Fairlearn's `demographic_parity_difference` and `equalized_odds_difference` (agg worst_case). The 95% intervals are
of the basic bootstrap within groups, which corrects the bias of a maximum.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raymill.pipelines.paired import basic_interval

_LEAST = 20  # items of a group that is compared
_DRAWS, _SEED = 1000, 0


def gap(values: np.ndarray, groups: np.ndarray) -> float:
    """The gap between the means of groups. values: float64[N]. groups: group of each value."""
    means = [values[groups == one].mean() for one in np.unique(groups)]
    return float(max(means) - min(means))


def odds_gap(true: np.ndarray, predicted: np.ndarray, groups: np.ndarray) -> float:
    """Equalised odds of a label. true, predicted: bool[N]. A group without items for a rate is left out of it."""
    found = [0.0]
    for cases in (true, ~true):
        rates = [
            predicted[cases & (groups == one)].mean() for one in np.unique(groups) if (cases & (groups == one)).any()
        ]
        found.append(float(max(rates) - min(rates)) if len(rates) > 1 else 0.0)
    return max(found)


def group_gaps(
    measures: Mapping[str, np.ndarray], labels: Sequence[tuple[str, np.ndarray, np.ndarray]], groups: Sequence[Any]
) -> list[dict[str, Any]]:
    """The gap of each measure between the groups with enough items, with its interval; empty with fewer than two.

    Args:
        measures: name -> float64[N]. labels: (label, bool[N] the right answer, bool[N] the answer).
        groups: group of each item; None: in no group.
    """
    named = np.array([str(one) for one in groups])
    names, counts = np.unique(named, return_counts=True)
    kept = names[counts >= _LEAST]
    there = np.isin(named, kept) & np.array([one is not None for one in groups])
    kept, named = np.unique(named[there]), named[there]
    if len(kept) < 2:
        return []
    random, places = np.random.default_rng(_SEED), [np.flatnonzero(named == one) for one in kept]
    draws = [np.concatenate([random.choice(some, len(some)) for some in places]) for _ in range(_DRAWS)]
    found = []
    for name, values in measures.items():
        inside = values[there]
        of_groups = {str(one): float(inside[named == one].mean()) for one in kept}
        drawn = [gap(inside[at], named[at]) for at in draws]
        found.append(_row(name, gap(inside, named), drawn) | {"groups": of_groups})
    for label, true, answered in labels:
        right, given = true[there], answered[there]
        of_groups = {str(one): float(given[named == one].mean()) for one in kept}
        parity = [gap(given[at].astype(float), named[at]) for at in draws]
        found.append(_row(f"parity of {label}", gap(given.astype(float), named), parity) | {"groups": of_groups})
        odds = [odds_gap(right[at], given[at], named[at]) for at in draws]
        found.append(_row(f"equalised odds of {label}", odds_gap(right, given, named), odds) | {"groups": {}})
    return found


def _row(measure: str, seen: float, drawn: Sequence[float]) -> dict[str, Any]:
    low, high = basic_interval(seen, drawn)
    return {"measure": measure, "gap": seen, "low": low, "high": high}
