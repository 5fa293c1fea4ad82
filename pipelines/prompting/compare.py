"""Scores of variants on the same items, with intervals of their differences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raymill.cluster.entry import Entry
from raymill.cluster.plugins import Plugin
from raymill.cluster.score_plugins import custom_score
from raymill.pipelines.prompting.variants import Item

_scores = Entry("raymill.training.evaluation.scores:scores")
# Kind of answers -> the score by which variants are ranked, and the function that computes it.
_RANKED = {
    "text": ("f1", Entry("raymill.training.evaluation.scores:word_f1")),
    "label": ("exact_match", Entry("raymill.training.evaluation.scores:exact_match")),
    "number": ("number_match", Entry("raymill.training.evaluation.scores:numbers")),
}
_DRAWS = 2000
_FIX = "Correct the score, and run the same command again: stored answers are used again."
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


def own_scores(
    plugins: Sequence[Plugin], items: Sequence[Item], answers: Sequence[str | None]
) -> dict[str, np.ndarray]:
    """Score of the user -> float64[N], its values for the items; 0 without an answer.

    Raises:
        DataError: a score raised an exception, or returned something else than a finite number.
    """

    def of_item(plugin: Plugin, item: Item, answer: str | None) -> float:
        if answer is None:
            return 0.0
        about = {"document": item.id, "prompt": item.question, "reference": item.answer, "generated": answer}
        return custom_score(plugin, about, "custom", _FIX)

    return {one.name: np.array([of_item(one, *pair) for pair in zip(items, answers, strict=True)]) for one in plugins}


def compared(
    kind: str,
    items: Sequence[Item],
    answers: Sequence[Sequence[str | None]],
    plugins: Sequence[Plugin] = (),
    rank_by: str | None = None,
) -> list[Compared]:
    """Each variant beside the best.

    Intervals are percentiles of a bootstrap over items with a fixed seed; all variants have the same draws.

    Args:
        answers: of each variant to all items, None without one.
        plugins: scores of the user. rank_by: the one by which variants are ranked; None: the score of `kind`.
    """
    references = [one.answer for one in items]
    of_own = [own_scores(plugins, items, one) for one in answers]
    each = np.array(  # [V, N]
        [by_item(kind, references, one) for one in answers] if rank_by is None else [one[rank_by] for one in of_own]
    )
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
                _scores.load()([one for one, _ in pairs], [two for _, two in pairs], kind)
                | {name: _of_answers(values, given) for name, values in of_own[variant].items()},
            )
        )
    return found


def _of_answers(values: np.ndarray, answers: Sequence[str | None]) -> float:
    """The mean over the items with an answer, as of the other scores."""
    there = np.array([one is not None for one in answers])
    return float(values[there].mean()) if there.any() else 0.0


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, _INTERVAL)
    return float(low), float(high)
