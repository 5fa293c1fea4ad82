"""Agreement of two raters on scores, and measures of a decision, with intervals.

All are functions of a table of counts, so a bootstrap over documents draws tables from a multinomial distribution with
the fractions of its cells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Cells:
    """The cells of a table of two raters that have documents, which are few where the labels are any texts.

    Attributes:
        first, second: int64[C], row and column of each cell, in the order of the table; its last cell is always there.
        documents: int64[C], how many documents each cell has.
        labels: number of rows and of columns of the table.
    """

    first: np.ndarray
    second: np.ndarray
    documents: np.ndarray
    labels: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, labels: int, documents: np.ndarray | None = None) -> "Cells":
        """The cells of pairs of labels. first, second: int64[P], from 0 to labels - 1.

        documents: int64[P], how many documents have each pair; None: one.
        """
        cells, pair = np.unique(np.append(first * labels + second, labels**2 - 1), return_inverse=True)
        given = np.ones(len(first), np.int64) if documents is None else documents
        counted = np.zeros(len(cells), np.int64)
        np.add.at(counted, pair[:-1], given)
        return cls(*np.divmod(cells, labels), counted, labels)

    @classmethod
    def of_table(cls, table: np.ndarray) -> "Cells":
        """table: int64[S, S]."""
        first, second = table.nonzero()
        return cls.of(first, second, len(table), table[first, second])

    def table(self, documents: np.ndarray) -> np.ndarray:
        """int64[S, S]: the table with these documents in the cells. documents: int64[C]."""
        found = np.zeros((self.labels, self.labels), np.int64)
        found[self.first, self.second] = documents
        return found

    def kappa(self, documents: np.ndarray) -> float | None:
        """Cohen's kappa with nominal weights, from the sums of the rows and columns and the diagonal alone.

        documents: int64[C]. None if only one label was given.
        """
        total, equal = float(documents.sum()), float(documents[self.first == self.second].sum())
        rows, columns = (np.bincount(at, documents, self.labels) for at in (self.first, self.second))
        if not (chance := total**2 - float(rows @ columns)):
            return None
        return 1 - total * (total - equal) / chance

    def interval(self, measure: Callable[[np.ndarray], float | None]) -> tuple[float, float] | None:
        """The 95% interval of a measure of the documents in the cells, as of `interval`."""
        total = int(self.documents.sum())
        if not total or measure(self.documents) is None:
            return None
        random, shares = np.random.default_rng(_SEED), self.documents / total
        # The last cell of the table takes the rest of a draw, so that the random numbers are those of all its cells.
        drawn = (measure(random.multinomial(total, shares)) for _ in range(_DRAWS))
        low, high = np.percentile([value for value in drawn if value is not None], _INTERVAL)
        return float(low), float(high)


def kappa(table: np.ndarray, weights: Weights | np.ndarray = "quadratic") -> float | None:
    """Cohen's kappa of a table of two raters; None if only one score was given.

    Source: Cohen 1960 and 1968: 1 - sum of w x observed / sum of w x expected, where w is the weight of a disagreement:
    1, the distance of the scores, its square, or those of a matrix.
    """
    if isinstance(weights, str) and weights == "nominal":
        cells = Cells.of_table(table)
        return cells.kappa(cells.documents)
    amounts = weights if isinstance(weights, np.ndarray) else _disagreement(len(table), weights)
    total = table.sum()
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / total if total else np.zeros(table.shape)
    if not (chance := float((amounts * expected).sum())):
        return None
    return 1 - float((amounts * table).sum()) / chance


def _disagreement(scores: int, weights: Weights) -> np.ndarray:
    rows, columns = np.indices((scores, scores))
    distance = np.abs(rows - columns).astype(float)
    return distance**2 if weights == "quadratic" else distance


def f1(table: np.ndarray) -> float | None:
    """F1 of a table [[true negatives, false positives], [false negatives, true positives]]; None without positives."""
    errors = table[0, 1] + table[1, 0]
    return float(2 * table[1, 1] / (2 * table[1, 1] + errors)) if table[1, 1] + errors else None


def interval(table: np.ndarray, measure: Callable[[np.ndarray], float | None]) -> tuple[float, float] | None:
    """The 95% interval of a measure of a table, by a percentile bootstrap over its documents; None if it has none."""
    cells = Cells.of_table(table)
    return cells.interval(lambda documents: measure(cells.table(documents)))


def agreement(between: str, table: np.ndarray | Cells, weights: Weights = "quadratic") -> dict[str, Any]:
    """The agreement of two raters as a row of a report: kappa and the fraction of equal scores, with intervals.

    between: names of the raters. table: as `cross_table` returns it, or its cells.
    """
    cells = table if isinstance(table, Cells) else Cells.of_table(table)

    def measure(documents: np.ndarray) -> float | None:
        return cells.kappa(documents) if weights == "nominal" else kappa(cells.table(documents), weights)

    equal, total = int(cells.documents[cells.first == cells.second].sum()), int(cells.documents.sum())
    low, high = cells.interval(measure) or (None, None)
    equal_low, equal_high = wilson(equal, total)
    return {
        "between": between,
        "documents": total,
        "kappa": measure(cells.documents),
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
