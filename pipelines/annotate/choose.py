"""Which candidates are labelled.

    uncertainty    the largest, of the probabilities of a classifier
    disagreement   the largest entropy of the labels by several models
    label_errors   the smallest probability of the label that a candidate has
    diversity      each the farthest from those chosen before it (k-centre, Gonzalez 1985), of each cluster of a pool
    coverage       the nearest to each topic, or record of a reference set, in turn, first of those with the fewest near
                   candidates, of a pool
    random         from all that are left, divided over strata

The random ones come last, so that each candidate that no strategy chose has a known chance, by which estimates weight
the labels. A choice depends on the candidates and the seed alone, not on their order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Measure = Literal["least_confidence", "margin", "entropy"]
Allocation = Literal["proportional", "equal", "neyman"]


@dataclass(frozen=True)
class TaskCandidates:
    """Records that can be chosen.

    Attributes:
        draw: uint64[N], different random numbers that depend on the seed and the id.
        stratum: int64[N], number of the stratum.
        scores: strategy -> float64[N], larger is chosen first; NaN where there is none.
        spread: float64[N], standard deviation of the answer of the classifier, for Neyman's allocation.
        pool: int64[P], candidates with a vector.
        vectors: float32[P, D], of length 1 or 0.
        topics: float32[T, D], vectors of the topics.
        cluster: int64[P], number of the cluster of each of the pool.
    """

    draw: np.ndarray
    stratum: np.ndarray
    scores: Mapping[str, np.ndarray]
    spread: np.ndarray
    pool: np.ndarray
    vectors: np.ndarray
    topics: np.ndarray
    cluster: np.ndarray


@dataclass(frozen=True)
class Chosen:
    """TaskCandidates to label, those of a strategy in the order in which it chose them. All arrays have equal lengths.

    Attributes:
        index: int64[C], of the candidates.
        strategy: name of the strategy of each.
        probability: float64[C], chance that it was chosen.
        score: float64[C], by its strategy; NaN of random ones.
    """

    index: np.ndarray
    strategy: np.ndarray
    probability: np.ndarray
    score: np.ndarray


def uncertainty(probabilities: np.ndarray, measure: Measure) -> np.ndarray:
    """float64[N]: how uncertain a classifier is; larger is less certain. probabilities: float64[N, L]."""
    if measure == "least_confidence":
        return 1 - probabilities.max(axis=1)
    if measure == "margin":
        best = -np.partition(-probabilities, 1, axis=1)[:, :2]
        return 1 - (best[:, 0] - best[:, 1])
    return entropy(probabilities)


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """float64[N]: entropy of each row, in nats."""
    return -(probabilities * np.log(np.where(probabilities > 0, probabilities, 1))).sum(axis=1)


def choose(candidates: TaskCandidates, shares: Mapping[str, float], count: int, allocation: Allocation) -> Chosen:
    """The candidates to label; fewer than `count` if there are no more.

    shares: strategy -> fraction. What a strategy cannot fill, as where too few have a score, random ones fill.
    """
    total = len(candidates.draw)
    taken = np.zeros(total, bool)
    strategies = list(shares)
    wanted = dict(zip(strategies, divided(min(count, total), np.array([*shares.values()])), strict=True))
    parts = []
    for name in strategies:
        if name == "random":
            continue
        if name in ("diversity", "coverage"):
            index = _of_pool(candidates, taken, int(wanted[name]), name)
            score = np.full(len(index), np.nan)
        else:
            scores = np.where(taken, np.nan, candidates.scores[name])
            usable = np.flatnonzero(np.isfinite(scores))
            index = usable[np.lexsort((candidates.draw[usable], -scores[usable]))][: wanted[name]]
            score = scores[index]
        taken[index] = True
        parts.append((index, name, np.ones(len(index)), score))
    left = min(count, total) - sum(len(part[0]) for part in parts)
    index, probability = at_random(candidates, np.flatnonzero(~taken), left, allocation)
    parts.append((index, "random", probability, np.full(len(index), np.nan)))
    return Chosen(
        np.concatenate([part[0] for part in parts]).astype(np.int64),
        np.concatenate([np.full(len(part[0]), part[1], object) for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([part[3] for part in parts]),
    )


def at_random(
    candidates: TaskCandidates, index: np.ndarray, count: int, allocation: Allocation
) -> tuple[np.ndarray, np.ndarray]:
    """(int64[C], float64[C]): random candidates of `index`, and the chance of each.

    Each stratum has at least one, if there are as many random candidates as strata. The strata are mixed evenly.
    """
    if not len(index) or count <= 0:
        return np.empty(0, np.int64), np.empty(0)
    ordered = index[np.lexsort((_other_draw(candidates.draw[index]), candidates.stratum[index]))]
    _, starts, sizes = np.unique(candidates.stratum[ordered], return_index=True, return_counts=True)
    weights = sizes.astype(float)
    if allocation == "equal":
        weights = np.ones(len(sizes))
    elif allocation == "neyman":
        spread = np.add.reduceat(np.nan_to_num(candidates.spread[ordered]), starts) / sizes
        weights = sizes * spread if (sizes * spread).any() else weights
    of_stratum = divided(count, weights, sizes, least=1)
    found = np.concatenate([ordered[start : start + n] for start, n in zip(starts, of_stratum, strict=True)])
    mixed = _evenly(of_stratum)
    return found[mixed], np.repeat(of_stratum / sizes, of_stratum)[mixed]


def _evenly(sizes: np.ndarray) -> np.ndarray:
    """int64[sum of sizes]: numbers of elements that stand group by group, mixed so that each prefix has all groups by
    their sizes. sizes: int64[G], of each group.
    """
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.argsort((within + 0.5) / np.repeat(sizes, sizes), kind="stable")


def priorities(strategies: np.ndarray) -> np.ndarray:
    """int64[C]: from 1, the order in which to label tasks if not all will be labelled.

    First what each strategy chose first, and up to any number the strategies have their fractions. strategies: of each
    task, those of a strategy in the order in which it chose them.
    """
    _, number = np.unique(strategies.astype(str), return_inverse=True)
    by_strategy = np.argsort(number, kind="stable")
    found = np.empty(len(strategies), np.int64)
    found[by_strategy[_evenly(np.bincount(number))]] = np.arange(1, len(strategies) + 1)
    return found


def _other_draw(draw: np.ndarray) -> np.ndarray:
    """uint64[N]: other random numbers, different ones for different draws (the finalizer of SplitMix64).

    The pool has the candidates with the smallest draws. By these, random candidates would come from what strategies
    leave of the pool, which is not like what they leave of all candidates.
    """
    found = draw.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    return found ^ (found >> np.uint64(31))


def divided(count: int, weights: np.ndarray, most: np.ndarray | None = None, least: int = 0) -> np.ndarray:
    """int64[S] that sum to `count`, in proportion to the weights: by largest remainders, at most `most` each.

    least: of each part, if `count` suffices for all of them.
    """
    bound = np.full(len(weights), count) if most is None else np.minimum(most, count)
    floor = np.minimum(bound, least) if count >= least * len(weights) else np.zeros(len(weights), np.int64)
    found = floor.astype(np.int64)
    while (left := min(count, int(bound.sum())) - int(found.sum())) > 0:
        free = found < bound
        share = np.where(free, weights, 0.0)
        share = share if share.any() else free.astype(float)
        # The wanted total of each part, given what it has: so that a floor counts towards its share.
        wanted = np.maximum(share / share.sum() * (left + found[free].sum()) - found, 0) * free
        wanted = wanted / wanted.sum() * left if wanted.any() else share / share.sum() * left
        whole = np.minimum(np.floor(wanted + 1e-9).astype(np.int64), bound - found)
        if not whole.any():
            order = np.argsort(-np.where(free, wanted - np.floor(wanted), -1), kind="stable")[:left]
            whole = np.zeros(len(weights), np.int64)
            whole[order[free[order]]] = 1
        found += whole
    return found


def _of_pool(candidates: TaskCandidates, taken: np.ndarray, count: int, strategy: str) -> np.ndarray:
    """int64[C]: candidates of the pool, by their vectors."""
    order = np.argsort(candidates.draw[candidates.pool], kind="stable")  # of equal distances the smaller draw
    pool, vectors = candidates.pool[order], candidates.vectors[order]
    free = ~taken[pool]
    if strategy == "coverage":
        return pool[nearest_to_topics(vectors, candidates.topics, free, min(count, int(free.sum())))]
    numbers, cluster = np.unique(candidates.cluster[order], return_inverse=True)
    sizes = np.bincount(cluster, free, len(numbers)).astype(np.int64)
    found, of_cluster = [np.empty(0, np.int64)], divided(count, np.ones(len(numbers)), sizes)
    for number, wanted in enumerate(of_cluster.tolist()):
        here = np.flatnonzero(cluster == number)
        found.append(pool[here[farthest_first(vectors[here], free[here], wanted)]])
    return np.concatenate(found)[_evenly(of_cluster)]


def farthest_first(vectors: np.ndarray, free: np.ndarray, count: int) -> np.ndarray:
    """int64[C]: each the vector with the smallest similarity to those that are not free and those before it.

    free: bool[P], which can be chosen; the others are centres from the beginning. The first is the one nearest to the
    mean, if there is no centre.
    """
    found = np.empty(count, np.int64)
    free, nearest = free.copy(), np.full(len(vectors), -2.0, np.float32)
    for centre in np.flatnonzero(~free):
        nearest = np.maximum(nearest, vectors @ vectors[centre])
    for number in range(count):
        if number == 0 and free.all():
            at = int(np.argmax(vectors @ vectors.mean(axis=0)))
        else:
            at = int(np.argmin(np.where(free, nearest, np.inf)))
        found[number], free[at] = at, False
        nearest = np.maximum(nearest, vectors @ vectors[at])
    return found


def nearest_to_topics(vectors: np.ndarray, topics: np.ndarray, free: np.ndarray, count: int) -> np.ndarray:
    """int64[C]: the free vector that is nearest to each topic, in turns, beginning with the topic that has the fewest.

    A vector belongs to the topic that it is nearest to. topics: float32[T, D].
    """
    similar = vectors @ topics.T
    sizes = np.bincount(similar.argmax(axis=1), minlength=len(topics))
    free, found = free.copy(), np.empty(count, np.int64)
    turns = np.argsort(sizes, kind="stable")
    for number in range(count):
        topic = turns[number % len(turns)]
        at = int(np.argmax(np.where(free, similar[:, topic], -np.inf)))
        found[number], free[at] = at, False
    return found


def assigned(
    topics: list[str | None], annotators: list[tuple[str, frozenset[str]]], overlap: int
) -> list[tuple[str, ...]]:
    """The annotators of each task: `overlap` different ones, with as equal numbers of tasks as expertise allows.

    Args:
        topics: of each task. annotators: name and topics of each; those without topics take any.
    """
    load = {name: 0 for name, _ in annotators}
    found = []
    for number, topic in enumerate(topics):

        def order(one: tuple[int, tuple[str, frozenset[str]]], topic: str | None = topic, number: int = number) -> Any:
            at, (name, known) = one
            fits = 0 if topic in known else 1 if not known else 2
            return fits, load[name], (at - number) % len(annotators)

        chosen = [name for _, (name, _) in sorted(enumerate(annotators), key=order)[:overlap]]
        for name in chosen:
            load[name] += 1
        found.append(tuple(chosen))
    return found
