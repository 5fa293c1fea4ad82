"""One label of each item from the votes of several annotators, its probability, and the skill of each annotator."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from raymill.pipelines.annotate.votes import Votes

_MOST_STEPS = 5000
_TINY = 1e-300  # in place of 0 in a logarithm
_SMALLEST_SKILL = 1e-6
# Of the bootstrap of skills: draws, and votes x labels of all draws together.
_FEWEST_DRAWS, _MOST_DRAWS, _MOST_WORK = 20, 200, 2e7
_SKILL_TOLERANCE = 1e-3
Model = Literal["full", "one_coin"]


@dataclass(frozen=True)
class Consensus:
    """Probabilities of the labels of each item.

    Attributes:
        posterior: float64[I, L]; rows sum to 1. Without any evidence about an item: the shares of the labels.
        confusion: float64[A, L, L], probability that an annotator votes for the second label where the first is right;
            None of methods that have none.
        shares: float64[L], share of each label.
        steps: number of steps until it converged.
        log_likelihood: of the votes, natural logarithm; None of methods that have none.
    """

    posterior: np.ndarray
    confusion: np.ndarray | None
    shares: np.ndarray
    steps: int = 0
    log_likelihood: float | None = None

    @property
    def label(self) -> np.ndarray:
        """int64[I]: the most probable label of each item; of equal ones the first."""
        return self.posterior.argmax(axis=1)

    def is_tied(self) -> np.ndarray:
        """bool[I]: whether two labels of an item are most probable."""
        best = self.posterior.max(axis=1, keepdims=True)
        return (np.isclose(self.posterior, best, rtol=1e-9, atol=0)).sum(axis=1) > 1


def majority(votes: Votes, weights: np.ndarray | None = None, number: np.ndarray | None = None) -> Consensus:
    """The share of votes for each label.

    weights: float64[A], weight of the votes of an annotator. number: int64[I], how often an item is there. None: equal.
    """
    of_vote = None if weights is None else weights[votes.annotator]
    cells = np.bincount(votes.item * votes.labels + votes.label, of_vote, votes.items * votes.labels)
    counts = cells.reshape(votes.items, votes.labels).astype(float)
    whole = counts if number is None else counts * number[:, None]
    total = whole.sum()
    shares = whole.sum(axis=0) / total if total else np.full(votes.labels, 1 / max(1, votes.labels))
    of_item = counts.sum(axis=1, keepdims=True)
    posterior = np.where(of_item > 0, counts / np.where(of_item > 0, of_item, 1), shares)
    return Consensus(posterior, None, shares)


def dawid_skene(
    votes: Votes, model: Model = "full", gold: Mapping[int, int] | None = None, tolerance: float = 1e-9
) -> Consensus:
    """Labels and skills by expectation maximization, until no probability changes by more than `tolerance`.

    model: `full` has a table of confusions for each annotator; `one_coin` one probability of the right label, and the
    others equal. gold: item -> known label, which stays.

    Source: Dawid and Skene 1979; starts from the shares of votes.
    """
    patterns = _Patterns.of(votes, gold)
    found = patterns.fit(np.bincount(patterns.of_item), model, tolerance)
    return replace(found, posterior=found.posterior[patterns.of_item])


def annotator_skill(votes: Votes, gold: Mapping[int, int] | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(float64[A], float64[A], float64[A]): chance of a right vote of each annotator, and its 95% interval.

    By the model with one skill each, whose interval is a bootstrap over items; a majority would count each vote as
    evidence for itself. NaN of an annotator without votes.
    """
    patterns = _Patterns.of(votes, gold)
    number = np.bincount(patterns.of_item)
    cost = max(1, len(patterns.votes.item) * votes.labels)
    count = int(np.clip(_MOST_WORK / cost, _FEWEST_DRAWS, _MOST_DRAWS)) if len(number) else 0
    random, share = np.random.default_rng(0), number / max(1, votes.items)
    draws = [patterns.skill(random.multinomial(votes.items, share)) for _ in range(count)]
    draws_of = np.array(draws).reshape(-1, votes.annotators).T
    seen = [one[~np.isnan(one)] for one in draws_of]  # in some draws an annotator has no votes
    bounds = [np.percentile(one, (2.5, 97.5)) if len(one) else (np.nan, np.nan) for one in seen]
    low, high = np.array(bounds).reshape(-1, 2).T
    return patterns.skill(number), low, high


@dataclass(frozen=True)
class _Patterns:
    """The different sets of votes that items have, since a step takes time for each of these and not for each item.

    Attributes:
        votes: with a pattern in place of an item. known: int64[K, 2], pattern and its gold label.
        of_item: int64[I], the pattern of each item.
    """

    votes: Votes
    known: np.ndarray
    of_item: np.ndarray

    @classmethod
    def of(cls, votes: Votes, gold: Mapping[int, int] | None) -> "_Patterns":
        gold, order = gold or {}, np.lexsort((votes.label, votes.annotator, votes.item))
        starts = np.searchsorted(votes.item[order], np.arange(votes.items + 1))
        cells = (votes.annotator * votes.labels + votes.label)[order].tolist()
        spans = pairwise(starts.tolist())
        keys = [(gold.get(item, -1), *cells[start:end]) for item, (start, end) in enumerate(spans)]
        different = sorted(set(keys))
        number = {key: at for at, key in enumerate(different)}
        rows = [(at, *divmod(cell, votes.labels)) for at, (_, *some) in enumerate(different) for cell in some]
        known = [(at, label) for at, (label, *_) in enumerate(different) if label >= 0]
        return cls(
            Votes.of(rows, len(different), votes.annotators, votes.labels),
            np.array(known, np.int64).reshape(-1, 2),
            np.array([number[key] for key in keys], np.int64),
        )

    def fit(self, number: np.ndarray, model: Model, tolerance: float) -> Consensus:
        """The labels of the patterns, as of `dawid_skene`. number: int64[P], items with each pattern."""
        votes, known = self.votes, self.known
        voted = np.bincount(votes.item, minlength=votes.items) > 0
        counted = voted.copy()
        counted[known[:, 0]] = True
        counted &= number > 0
        start = majority(votes, number=number)
        if not counted.any():
            return start
        posterior = _fixed(start.posterior, known)
        skill = _full_confusion if model == "full" else _one_coin_confusion
        steps, changed = 0, 1.0
        while changed > tolerance and steps < _MOST_STEPS:
            steps += 1
            shares = np.average(posterior[counted], axis=0, weights=number[counted])
            confusion = skill(votes, posterior, number)
            logs = np.log(np.maximum(confusion, _TINY))
            evidence = np.tile(np.log(np.maximum(shares, _TINY)), (votes.items, 1))
            for label in range(votes.labels):
                evidence[:, label] += np.bincount(votes.item, logs[votes.annotator, label, votes.label], votes.items)
            most = evidence.max(axis=1, keepdims=True)
            likelihood = np.exp(evidence - most)
            total = likelihood.sum(axis=1, keepdims=True)
            found = _fixed(likelihood / total, known)
            changed = float(np.abs(found - posterior)[counted].max())
            posterior = found
        log_likelihood = float(((most + np.log(total))[:, 0] * number)[voted].sum())
        return Consensus(posterior, confusion, shares, steps, log_likelihood)

    def skill(self, number: np.ndarray) -> np.ndarray:
        """float64[A]: chance of a right vote. number: int64[P], items with each pattern."""
        votes = self.votes
        right = self.fit(number, "one_coin", _SKILL_TOLERANCE).posterior[votes.item, votes.label]
        total = np.bincount(votes.annotator, number[votes.item], votes.annotators)
        found = np.bincount(votes.annotator, right * number[votes.item], votes.annotators)
        return np.where(total > 0, found / np.maximum(total, 1), np.nan)


def _fixed(posterior: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The probabilities with those of known items at 0 and 1. known: int64[K, 2], item and label."""
    posterior[known[:, 0]] = 0
    posterior[known[:, 0], known[:, 1]] = 1
    return posterior


def _full_confusion(votes: Votes, posterior: np.ndarray, number: np.ndarray) -> np.ndarray:
    """float64[A, L, L]; the row of a label that an annotator never met is uniform."""
    labels, cells = votes.labels, votes.annotator * votes.labels + votes.label
    counts = np.empty((votes.annotators, labels, labels))
    for label in range(labels):
        weights = posterior[votes.item, label] * number[votes.item]
        counts[:, label] = np.bincount(cells, weights, votes.annotators * labels).reshape(-1, labels)
    total = counts.sum(axis=2, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / labels)


def _one_coin_confusion(votes: Votes, posterior: np.ndarray, number: np.ndarray) -> np.ndarray:
    """float64[A, L, L]: one probability of the right label for each annotator."""
    of_vote = number[votes.item]
    right = np.bincount(votes.annotator, posterior[votes.item, votes.label] * of_vote, votes.annotators)
    total = np.bincount(votes.annotator, of_vote, votes.annotators)
    skill = np.where(total > 0, right / np.maximum(total, 1), 1 / votes.labels)
    others = (1 - skill) / max(1, votes.labels - 1)
    return np.where(np.eye(votes.labels, dtype=bool), skill[:, None, None], others[:, None, None])


def gold_weights(votes: Votes, gold: Mapping[int, int]) -> np.ndarray:
    """float64[A]: weight of the votes of each annotator, by their skill on items with a known label.

    The weight is the logarithm of the odds of the skill against those of a random vote, at least 0; the skill has one
    right vote in `labels` added. An annotator without a vote on such an item has the mean weight of the others.
    """
    known = np.full(votes.items, -1, np.int64)
    for item, label in gold.items():
        known[item] = label
    judged = known[votes.item] >= 0
    total = np.bincount(votes.annotator[judged], minlength=votes.annotators)
    right = np.bincount(votes.annotator[judged], votes.label[judged] == known[votes.item[judged]], votes.annotators)
    skill = (right + 1) / (total + votes.labels)
    weights = np.maximum(0, np.log(skill / (1 - skill)) + np.log(max(1, votes.labels - 1)))
    seen = total > 0
    weights[~seen] = weights[seen].mean() if seen.any() else 1.0
    return weights if weights.any() else np.ones(votes.annotators)


def crowdlab(votes: Votes, probabilities: np.ndarray) -> Consensus:
    """The votes together with probabilities of a model that was not trained on these items.

    probabilities: float64[I, L]. Annotators and model are weighted by how much better they are than the guess of the
    most frequent label, measured against the majority. Source: Goh, Tkachenko and Mueller 2022 (CROWDLAB).
    """
    counts = votes.counts()
    number = counts.sum(axis=1)
    several = number > 1
    if not several.any():
        return majority(votes)
    pairs, shared = _agreement_with_others(votes, counts), counts[several]
    # Of equal numbers of votes, the label that the model finds more probable.
    posterior = counts + probabilities / 2
    for _ in range(2):  # the second time against what the first has found
        consensus = posterior[several].argmax(axis=1)
        base_error = max(_SMALLEST_SKILL, float((consensus != np.bincount(consensus).argmax()).mean()))
        model_error = float((probabilities[several].argmax(axis=1) != consensus).mean())
        weights = np.maximum(_SMALLEST_SKILL, 1 - (1 - pairs) / base_error)
        of_model = max(_SMALLEST_SKILL, 1 - model_error / base_error) * float(np.sqrt(number[number > 0].mean()))
        agreed = float((shared[np.arange(len(shared)), consensus] / number[several]).mean())
        other = (1 - agreed) / max(1, votes.labels - 1)
        of_item = np.bincount(votes.item, weights[votes.annotator], votes.items)
        evidence = np.repeat((of_item * other)[:, None], votes.labels, axis=1)
        np.add.at(evidence, (votes.item, votes.label), weights[votes.annotator] * (agreed - other))
        posterior = (evidence + of_model * probabilities) / (of_item + of_model)[:, None]
    return Consensus(posterior, None, posterior.mean(axis=0))


def _agreement_with_others(votes: Votes, counts: np.ndarray) -> np.ndarray:
    """float64[A]: fraction of the other votes on the same items that equal those of an annotator.

    An annotator without other votes on the same items has the mean of those with some.
    """
    others = counts.sum(axis=1)[votes.item] - 1
    equal = counts[votes.item, votes.label] - 1
    pairs = np.bincount(votes.annotator, others, votes.annotators)
    found = np.bincount(votes.annotator, equal, votes.annotators) / np.maximum(pairs, 1)
    return np.where(pairs > 0, found, found[pairs > 0].mean())
