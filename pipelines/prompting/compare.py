"""Scores of variants on the same items, with intervals of their differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raymill.cluster.entry import Entry

_scores = Entry("raymill.training.evaluation.scores:scores")
# Kind of answers -> the score by which variants are ranked, and the function that computes it.
_RANKED = {
    "text": ("f1", Entry("raymill.training.evaluation.scores:word_f1")),
    "label": ("exact_match", Entry("raymill.training.evaluation.scores:exact_match")),
    "number": ("number_match", Entry("raymill.training.evaluation.scores:numbers")),
}
_DRAWS = 2000
_INTERVAL = (2.5, 97.5)  # percentiles


@dataclass(frozen=True)
class Compared:
    """A variant beside the best one.

    score: mean of the ranking score over all items. interval: 95% of it. behind: score of the best variant minus this
    one. behind_interval: 95% of the difference, paired by items. scores: all scores, of the items with an answer.
    """

    score: float
    interval: tuple[float, float]
    behind: float
    behind_interval: tuple[float, float]
    scores: dict[str, float]


def ranked_by(kind: str) -> str:
    """The name of the score by which variants are ranked. kind: of the setting `answer`."""
    return _RANKED[kind][0]


def by_item(kind: str, references: Sequence[str], answers: Sequence[str | None]) -> np.ndarray:
    """float64[N]: the ranking score of each item; 0 without an answer."""
    name, score = _RANKED[kind][0], _RANKED[kind][1].load()

    def of_item(reference: str, answer: str | None) -> float:
        found = 0.0 if answer is None else score([reference], [answer])
        return found[name] if isinstance(found, dict) else found

    return np.array([of_item(*pair) for pair in zip(references, answers, strict=True)])


def compared(kind: str, references: Sequence[str], answers: Sequence[Sequence[str | None]]) -> list[Compared]:
    """Each variant beside the best. answers: of each variant to all items, None without one.

    Intervals are percentiles of a bootstrap over items with a fixed seed; all variants have the same draws.
    """
    each = np.array([by_item(kind, references, one) for one in answers])  # [V, N]
    count = each.shape[1]
    draws = np.random.default_rng(0).integers(0, count, (_DRAWS, count))
    means = np.array([one[draws].mean(axis=1) for one in each])  # [V, draws]
    best = int(np.argmax(each.mean(axis=1)))
    found = []
    for variant, given in enumerate(answers):
        pairs = [(one, two) for one, two in zip(references, given, strict=True) if two is not None]
        behind = means[best] - means[variant]
        found.append(
            Compared(
                float(each[variant].mean()),
                _percentiles(means[variant]),
                float(each[best].mean() - each[variant].mean()),
                _percentiles(behind),
                _scores.load()([one for one, _ in pairs], [two for _, two in pairs], kind),
            )
        )
    return found


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)
