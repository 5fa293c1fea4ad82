"""Agreement of annotators: observed, Fleiss' and Randolph's kappa, Krippendorff's alpha, Gwet's AC1, with intervals.

All are functions of counts, int64[I, L]: the number of votes for each label of each item. The intervals are percentile
bootstraps over items: items with the same counts are one row with a weight, and weights are drawn from a multinomial
distribution. Where a task has several items, as one for each word, `tasks`, int64[I], is the task of each item, and the
bootstrap draws tasks. Cohen's kappa of two annotators is in `pipelines/agreement.py`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Level = Literal["nominal", "ordinal", "interval", "ratio"]

_DRAWS, _SEED, _PERCENTILES = 2000, 0, (2.5, 97.5)

# Weights of the rows of counts, float64[R] -> the coefficient; NaN where it is not defined.
_Weighted = Callable[[np.ndarray], float]
_Tasks = np.ndarray | None


@dataclass(frozen=True)
class Coefficient:
    """A coefficient with its 95% interval.

    Attributes:
        value: None if it is not defined, for the reason in `problem`.
        low, high: bounds of the interval; None if there is none.
        items: number of items that it was computed from.
        problem: a sentence; empty if the value is defined.
    """

    value: float | None
    low: float | None
    high: float | None
    items: int
    problem: str = ""


ONE_VOTE = "no item has votes of two annotators"
ONE_LABEL = "all votes are for the same label, so agreement by chance is not known"
ANY_LABEL = "the labels are any texts, so agreement by chance is not known"
UNEQUAL = "items have different numbers of votes; see Krippendorff's alpha"


def observed(counts: np.ndarray, tasks: _Tasks = None) -> Coefficient:
    """The fraction of pairs of votes on an item that are equal, as a mean over the items with at least two votes."""
    rows, weights, draws = _distinct(counts, 2, tasks)
    if not weights.size:
        return Coefficient(None, None, None, 0, ONE_VOTE)
    equal = _equal_pairs(rows)
    return _with_interval(lambda weight: float(_mean(equal, weight)), weights, draws, "")


def fleiss_kappa(counts: np.ndarray, tasks: _Tasks = None) -> Coefficient:
    """Fleiss' kappa; not defined where items have different numbers of votes. Items without votes are left out.

    Source: Fleiss 1971.
    """
    rows, weights, draws = _distinct(counts, 1, tasks)
    votes = rows.sum(axis=1)
    if not weights.size or votes.max() < 2:
        return Coefficient(None, None, None, 0, ONE_VOTE)
    if votes.min() != votes.max():
        return Coefficient(None, None, None, int(weights.sum()), UNEQUAL)
    equal, shares = _equal_pairs(rows), rows / votes[:, None]

    def kappa(weight: np.ndarray) -> float:
        chance = float((_mean(shares, weight) ** 2).sum())
        return float((_mean(equal, weight) - chance) / (1 - chance)) if chance < 1 - 1e-12 else np.nan

    return _with_interval(kappa, weights, draws, ONE_LABEL)


def randolph_kappa(counts: np.ndarray, tasks: _Tasks = None) -> Coefficient:
    """Randolph's free-marginal kappa: agreement beyond random votes with equal chances for all labels.

    Annotators need not know how frequent the labels are. Source: Randolph 2005, Brennan and Prediger 1981. Agreement is
    a mean over the items with at least two votes.
    """
    rows, weights, draws = _distinct(counts, 2, tasks)
    if not weights.size:
        return Coefficient(None, None, None, 0, ONE_VOTE)
    if (labels := rows.shape[1]) < 2:
        return Coefficient(None, None, None, int(weights.sum()), ONE_LABEL)
    equal = _equal_pairs(rows)
    return _with_interval(lambda weight: float(_mean(equal, weight) * labels - 1) / (labels - 1), weights, draws, "")


def gwet_ac1(counts: np.ndarray, tasks: _Tasks = None) -> Coefficient:
    """Gwet's AC1, which stays near the observed agreement where almost all votes are for one label.

    Source: Gwet 2008; with missing votes, Gwet 2014: shares of labels over all items, agreement over those with two.
    """
    rows, weights, draws = _distinct(counts, 1, tasks)
    votes, labels = rows.sum(axis=1), rows.shape[1]
    several = votes >= 2
    if not several.any():
        return Coefficient(None, None, None, 0, ONE_VOTE)
    if labels < 2:
        return Coefficient(None, None, None, int(weights[several].sum()), ONE_LABEL)
    shares, equal = rows / votes[:, None], np.where(several, _equal_pairs(rows), 0.0)

    def ac1(weight: np.ndarray) -> float:
        if not (of_several := float(weight[several].sum())):
            return np.nan
        share = _mean(shares, weight)
        chance = float((share * (1 - share)).sum()) / (labels - 1)
        return (float(weight @ equal) / of_several - chance) / (1 - chance)

    return _with_interval(ac1, weights, draws, "", int(weights[several].sum()))


def krippendorff_alpha(
    counts: np.ndarray, level: Level = "nominal", values: np.ndarray | None = None, tasks: _Tasks = None
) -> Coefficient:
    """Krippendorff's alpha. Items with less than two votes are left out.

    level: how far two labels are from each other. `ordinal` takes the order of the labels; `interval` and `ratio` their
    values. values: float64[L]; None: 1, 2, 3 and so on.

    Source: Krippendorff 2011, Computing Krippendorff's Alpha-Reliability.
    """
    rows, weights, draws = _distinct(counts, 2, tasks)
    if not weights.size:
        return Coefficient(None, None, None, 0, ONE_VOTE)
    given = np.arange(1, rows.shape[1] + 1, dtype=float) if values is None else values.astype(float)
    pairs, of_label = rows.sum(axis=1) - 1, rows.astype(float)
    # The nominal distance needs no matrix, which would be large for labels that are any texts.
    fixed = _ratio_distances(given) if level == "ratio" else None
    disagreement = None
    if level == "nominal":
        disagreement = (of_label.sum(axis=1) ** 2 - (of_label**2).sum(axis=1)) / pairs
    elif fixed is not None:
        disagreement = ((of_label @ fixed) * of_label).sum(axis=1) / pairs

    def alpha(weight: np.ndarray) -> float:
        margins = weight @ of_label
        total = margins.sum()
        if disagreement is not None:
            seen = float(weight @ disagreement)
            chance = float(total**2 - margins @ margins if fixed is None else margins @ fixed @ margins)
        else:
            # The ordinal distance of two labels is the squared distance of their mean ranks.
            places = np.cumsum(margins) - margins / 2 if level == "ordinal" else given
            seen = float(weight @ (_squared_distances(of_label, places) / pairs))
            chance = float(_squared_distances(margins[None], places)[0])
        return 1 - (total - 1) * seen / chance if chance > 0 else np.nan

    return _with_interval(alpha, weights, draws, ONE_LABEL)


def items_needed(coefficient: Coefficient, width: float) -> int | None:
    """Number of further items with as many votes each, after which the 95% interval has this width; None if unknown.

    The width of an interval falls with the square root of the number of items.
    """
    if coefficient.low is None or coefficient.high is None or coefficient.high <= coefficient.low:
        return None
    wanted = coefficient.items * ((coefficient.high - coefficient.low) / width) ** 2
    return max(0, int(np.ceil(wanted - coefficient.items)))


def _distinct(counts: np.ndarray, least: int, tasks: _Tasks) -> tuple[np.ndarray, np.ndarray, Iterator[np.ndarray]]:
    """(int64[R, L], int64[R], draws): rows with at least `least` votes, how many items have each, and this number in
    each draw of the bootstrap, float64[R].
    """
    usable = counts.sum(axis=1) >= least
    random = np.random.default_rng(_SEED)
    if tasks is None:
        rows, weights = np.unique(counts[usable], axis=0, return_counts=True)
        total = int(weights.sum())
        drawn = (random.multinomial(total, weights / total) for _ in range(_DRAWS))
    else:
        rows, (_, task) = counts[usable], np.unique(tasks[usable], return_inverse=True)
        weights, total = np.ones(len(rows), np.int64), int(task.max(initial=-1)) + 1
        drawn = (random.multinomial(total, np.full(total, 1 / total))[task] for _ in range(_DRAWS))
    return rows, weights, (one.astype(float) for one in drawn)


def _equal_pairs(rows: np.ndarray) -> np.ndarray:
    """float64[R]: fraction of the pairs of votes that are equal; NaN of a row with one vote."""
    votes = rows.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rows * (rows - 1)).sum(axis=1) / (votes * (votes - 1))


def _mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return weight @ values / weight.sum()


def _ratio_distances(values: np.ndarray) -> np.ndarray:
    """float64[L, L]: distance of two labels at the level `ratio`."""
    first, second = np.meshgrid(values, values, indexing="ij")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(first == second, 0.0, ((first - second) / (first + second)) ** 2)


def _squared_distances(counts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """float64[R]: sum of squared distances over all ordered pairs of votes of a row. places: float64[L]."""
    centred = places - places.mean()  # smaller numbers lose fewer digits
    return 2 * (counts.sum(axis=1) * (counts @ centred**2) - (counts @ centred) ** 2)


def _with_interval(
    measure: _Weighted, weights: np.ndarray, draws: Iterator[np.ndarray], problem: str, items: int | None = None
) -> Coefficient:
    """The measure at these weights, with its interval. problem: why it is not defined, if it is not."""
    value = float(measure(weights.astype(float)))
    counted = int(weights.sum()) if items is None else items
    if not np.isfinite(value):
        return Coefficient(None, None, None, counted, problem)
    found = np.fromiter(map(measure, draws), float, _DRAWS)
    low, high = np.percentile(found[np.isfinite(found)], _PERCENTILES)
    return Coefficient(value, float(low), float(high), counted)
