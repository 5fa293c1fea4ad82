"""Agreement of two raters on scores, and measures of a decision, with intervals.

All are functions of a table of counts, so a bootstrap over documents draws tables from a multinomial distribution with
the fractions of its cells.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from raymill.cluster.proportions import wilson

_DRAWS, _SEED, _INTERVAL = 2000, 0, (2.5, 97.5)
Weights = Literal["nominal", "linear", "quadratic"]


def cross_table(first: np.ndarray, second: np.ndarray, scores: int) -> np.ndarray:
    """int64[S, S]: how many documents have each pair of scores. first, second: int64[D], from 0 to scores - 1."""
    found = np.zeros((scores, scores), np.int64)
    np.add.at(found, (first, second), 1)
    return found


def kappa(table: np.ndarray, weights: Weights | np.ndarray = "quadratic") -> float | None:
    """Cohen's kappa of a table of two raters; None if only one score was given.

    Source: Cohen 1960 and 1968: 1 - sum of w x observed / sum of w x expected, where w is the weight of a disagreement:
    1, the distance of the scores, its square, or those of a matrix.
    """
    amounts = weights if isinstance(weights, np.ndarray) else _disagreement(len(table), weights)
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total if total else np.zeros(table.shape)
    if not (chance := float((amounts * expected).sum())):
        return None
    return 1 - float((amounts * table).sum()) / chance


def _disagreement(scores: int, weights: Weights) -> np.ndarray:
    rows, columns = np.indices((scores, scores))
    distance = np.abs(rows - columns).astype(float)
    return distance**2 if weights == "quadratic" else distance if weights == "linear" else np.sign(distance)


def f1(table: np.ndarray) -> float | None:
    """F1 of a table [[true negatives, false positives], [false negatives, true positives]]; None without positives."""
    errors = table[0, 1] + table[1, 0]
    return float(2 * table[1, 1] / (2 * table[1, 1] + errors)) if table[1, 1] + errors else None


def interval(table: np.ndarray, measure: Callable[[np.ndarray], float | None]) -> tuple[float, float] | None:
    """The 95% interval of a measure of a table, by a percentile bootstrap over its documents; None if it has none."""
    total = int(table.sum())
    if not total or measure(table) is None:
        return None
    random = np.random.default_rng(_SEED)
    # Cells without a document, of which a table of many scores has millions, are not drawn. The last one takes the rest
    # of a draw, so that the random numbers are those of all cells.
    cells = np.union1d(np.flatnonzero(table), table.size - 1)
    values, one = [], np.zeros(table.size, np.int64)
    for drawn in random.multinomial(total, table.reshape(-1)[cells] / total, _DRAWS):
        one[cells] = drawn
        if (value := measure(one.reshape(table.shape))) is not None:
            values.append(value)
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)


def agreement(between: str, table: np.ndarray, weights: Weights = "quadratic") -> dict[str, Any]:
    """The agreement of two raters as a row of a report: kappa and the fraction of equal scores, with intervals.

    between: names of the raters. table: as `cross_table` returns it.
    """
    equal, total = int(np.trace(table)), int(table.sum())
    low, high = interval(table, partial(kappa, weights=weights)) or (None, None)
    equal_low, equal_high = wilson(equal, total)
    return {
        "between": between,
        "documents": total,
        "kappa": kappa(table, weights),
        "kappa_low": low,
        "kappa_high": high,
        "equal_share": equal / total if total else None,
        "equal_low": equal_low,
        "equal_high": equal_high,
        "weights": weights,
    }


def agreement_text(row: Mapping[str, Any]) -> str:
    """A row of `agreement` as a sentence."""
    if row["kappa"] is None:
        return f"agreement of {row['between']}: not defined, as only one score was given"
    return (
        f"agreement of {row['between']}: kappa {row['kappa']:.3f} ({row['kappa_low']:.3f} to {row['kappa_high']:.3f}), "
        f"equal {row['equal_share']:.1%}"
    )
