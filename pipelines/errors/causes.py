"""Why items are wrong, by the training records nearest to them. Only workers import this module.

    missing         no training record is near
    label_error     the nearest records have the model's answer, not the expected one: the expected one is suspected
    contradictory   near records have almost equal prompts and different answers
    model_error     none of these; the model is wrong although records near the item could have taught it

A record is near if its cosine is at least three quarters of the 5th percentile of the cosines of training records with
their own nearest neighbour, so the bound follows from the data and the vectors. Records with an almost equal prompt
share 70% of its word triples. An expected answer that is a user's correction is never suspected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raymill.pipelines.errors.items import EvaluatedItem
from raymill.pipelines.errors.runs import TrainingRecord
from raymill.pipelines.prepare.assess.labels import better_than_chance, label_errors, predict
from raymill.pipelines.prepare.stages.duplicates import same
from raymill.pipelines.prompting.choose import word_triples

NEIGHBOURS = 10
CAUSES = ("missing", "label_error", "contradictory", "model_error")
_ROWS = 1000  # items whose cosines with all records are in memory
_CALIBRATED = 2000  # records whose nearest neighbour is looked for
_PERCENTILE, _OF_PERCENTILE = 5, 0.75
_AGREEING, _MOST_AGAINST, _LEAST_NEAR = 0.8, 0.2, 3  # neighbours that make a label error
_CONFIDENT = 0.5  # of the model, where its confidence is known
_ALMOST_EQUAL = 0.7  # word triples of two prompts
_WORDS_OF_ONE_ANSWER = 0.5  # words that two answers share which say the same
MOST_CLASSES = 100
_LEAST_OF_A_CLASS = 5


@dataclass(frozen=True)
class Nearest:
    """rows: int64[N, K], training records of each item, the nearest first. cosines: float32[N, K]."""

    rows: np.ndarray
    cosines: np.ndarray


@dataclass(frozen=True)
class Cause:
    """cause: one of CAUSES. agreeing: neighbours with the model's answer. near: neighbours that are near."""

    cause: str
    agreeing: int
    near: int


def nearest(items: np.ndarray, records: np.ndarray, count: int = NEIGHBOURS) -> Nearest:
    """The nearest records of items by cosine; of equal ones the first.

    items: float32[N, D], records: float32[M, D], of length 1 or 0.
    """
    count = min(count, len(records))
    rows, cosines = [np.zeros((0, count), np.int64)], [np.zeros((0, count), np.float32)]
    for start in range(0, len(items), _ROWS):
        # Last bits of a product depend on how many rows it has.
        found = np.round(items[start : start + _ROWS] @ records.T, 4)
        best = np.argsort(-found, axis=1, kind="stable")[:, :count]
        rows.append(best)
        cosines.append(np.take_along_axis(found, best, axis=1))
    return Nearest(np.concatenate(rows), np.concatenate(cosines))


def near_bound(records: np.ndarray, keys: np.ndarray) -> float:
    """The cosine from which a record is near. keys: uint64[M], hashes, of which the smallest are a sample."""
    if len(records) < 2:
        return 0.5
    sample = np.sort(np.argsort(keys, kind="stable")[:_CALIBRATED])
    own = records[sample]
    found = nearest(own, records, 2)
    # The record itself is the first, or one that equals it.
    bounds = np.where(found.rows[:, 0] == sample, found.cosines[:, 1], found.cosines[:, 0])
    return max(0.05, float(np.round(_OF_PERCENTILE * np.percentile(bounds, _PERCENTILE), 4)))


def cause_of(
    item: EvaluatedItem, records: Sequence[TrainingRecord], rows: np.ndarray, cosines: np.ndarray, bound: float
) -> Cause:
    """The cause of an error. rows, cosines: [K], its nearest records."""
    near = [records[at] for at in rows[cosines >= bound].tolist()]
    if not near:
        return Cause("missing", 0, 0)
    agreeing = sum(same(one.answer) == same(item.answer) for one in near)
    against = sum(item.expected is not None and same(one.answer) == same(item.expected) for one in near)
    suspected = (
        item.expected is not None
        and not item.corrected
        and len(near) >= _LEAST_NEAR
        and agreeing >= _AGREEING * len(near)
        and against <= _MOST_AGAINST * len(near)
        and (item.confidence is None or item.confidence >= _CONFIDENT)
    )
    if suspected:
        return Cause("label_error", agreeing, len(near))
    own = word_triples(item.prompt)
    alike = [one for one in near if _is_alike(own, word_triples(one.question))]
    if contradictions(alike):
        return Cause("contradictory", agreeing, len(near))
    return Cause("model_error", agreeing, len(near))


def contradictions(records: Sequence[TrainingRecord]) -> list[tuple[TrainingRecord, TrainingRecord]]:
    """Pairs of records with almost equal prompts and different answers."""
    triples = [word_triples(one.question) for one in records]
    return [
        (one, other)
        for at, one in enumerate(records)
        for further, other in enumerate(records[at + 1 :], at + 1)
        if _is_alike(triples[at], triples[further]) and _differ(one.answer, other.answer)
    ]


def _is_alike(one: frozenset[tuple[str, ...]], other: frozenset[tuple[str, ...]]) -> bool:
    return len(one & other) >= _ALMOST_EQUAL * len(one | other)


def _differ(one: str, other: str) -> bool:
    """Whether two answers say something else: few words are in both."""
    words, others = set(same(one).split()), set(same(other).split())
    return len(words & others) < _WORDS_OF_ONE_ANSWER * max(1, len(words | others))


def classes_of(answers: Sequence[str]) -> list[str]:
    """The different answers, if they are labels: at most 100, a fifth of the answers and 100 characters each."""
    found = sorted(set(answers))
    few = 2 <= len(found) <= min(MOST_CLASSES, len(answers) // 5)
    return found if few and max(map(len, found)) <= 100 else []


def suspected_records(records: Sequence[TrainingRecord], vectors: np.ndarray, keys: np.ndarray) -> dict[int, str]:
    """Training record -> the label that it probably has instead, by confident learning; empty without classes.

    vectors: float32[M, D]. keys: uint64[M], hashes of the questions: records of one question are in one fold.
    """
    frequent = classes_of([one.answer for one in records])
    counts = {name: sum(one.answer == name for one in records) for name in frequent}
    names = [name for name in frequent if counts[name] >= _LEAST_OF_A_CLASS]
    if len(names) < 2:
        return {}
    rows = np.array([at for at, one in enumerate(records) if counts[one.answer] >= _LEAST_OF_A_CLASS])
    labels = np.array([names.index(records[at].answer) for at in rows.tolist()])
    folds = (keys[rows] % np.uint64(5)).astype(np.int64)
    predicted = predict(vectors[rows], labels, folds, keys[rows], len(names))
    if not better_than_chance(predicted, labels):
        return {}
    found = label_errors(predicted, labels)
    return {int(rows[at]): names[int(predicted.probabilities[at].argmax())] for at in found.tolist()}
