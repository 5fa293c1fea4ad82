"""Which candidates are chosen, by hand and against other programs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.pipelines.annotate.choose import (
    TaskCandidates,
    assigned,
    at_random,
    choose,
    divided,
    entropy,
    farthest_first,
    nearest_to_topics,
    priorities,
    uncertainty,
)

PROBABILITIES = np.array([[0.5, 0.5, 0], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05], [1, 0, 0]])


def candidates(size: int, seed: int = 0, strata: int = 1, **more) -> TaskCandidates:
    random = np.random.default_rng(seed)
    given = {
        "draw": random.permutation(size).astype(np.uint64),
        "stratum": random.integers(0, strata, size),
        "scores": {"uncertainty": random.random(size), "disagreement": random.random(size)},
        "spread": random.random(size),
        "pool": np.empty(0, np.int64),
        "vectors": np.empty((0, 1), np.float32),
        "topics": np.empty((0, 1), np.float32),
    }
    given |= {"cluster": np.zeros(len((given | more)["pool"]), np.int64)}
    return TaskCandidates(**given | more)


def test_measures_of_uncertainty_by_hand():
    assert uncertainty(PROBABILITIES, "least_confidence") == pytest.approx([0.5, 0.6, 0.1, 0])
    assert uncertainty(PROBABILITIES, "margin") == pytest.approx([1, 0.9, 0.15, 0])
    assert uncertainty(PROBABILITIES, "entropy") == pytest.approx([np.log(2), 1.0889, 0.3944, 0], abs=5e-5)
    assert entropy(np.array([[1.0, 0.0]])).tolist() == [0]


def test_the_most_uncertain_are_chosen_and_the_rest_at_random_with_known_chances():
    some = candidates(1000)
    found = choose(some, {"uncertainty": 0.8, "random": 0.2}, 200, "proportional")
    by = {name: found.index[found.strategy == name] for name in ("uncertainty", "random")}
    assert {name: len(one) for name, one in by.items()} == {"uncertainty": 160, "random": 40}
    assert set(by["uncertainty"]) == set(np.argsort(-some.scores["uncertainty"])[:160])
    assert len(set(found.index)) == 200
    assert found.probability[found.strategy == "random"] == pytest.approx(np.full(40, 40 / 840))
    assert (found.probability[found.strategy == "uncertainty"] == 1).all()


def test_priorities_begin_with_the_best_of_each_strategy_and_keep_their_fractions():
    some = candidates(1000, strata=2)
    found = choose(some, {"uncertainty": 0.6, "disagreement": 0.2, "random": 0.2}, 100, "proportional")
    order = np.argsort(priorities(found.strategy))
    assert sorted(priorities(found.strategy)) == list(range(1, 101))
    for prefix in (10, 25, 50):
        of = dict(zip(*np.unique(found.strategy[order[:prefix]].astype(str), return_counts=True), strict=True))
        wanted = {"uncertainty": prefix * 0.6, "disagreement": prefix * 0.2, "random": prefix * 0.2}
        assert of == pytest.approx(wanted, abs=1)
    for name in ("uncertainty", "disagreement"):
        scores = found.score[order][found.strategy[order] == name]
        assert (np.diff(scores) <= 0).all()
    random = some.stratum[found.index[order][found.strategy[order] == "random"]]
    assert abs(int(random[:10].sum()) - int(random[10:].sum())) <= 1  # strata are mixed too
    assert priorities(np.empty(0, object)).tolist() == []


def test_two_strategies_do_not_choose_the_same():
    found = choose(candidates(50), {"uncertainty": 0.5, "disagreement": 0.5}, 50, "proportional")
    assert sorted(found.index) == list(range(50))


def test_what_a_strategy_cannot_fill_is_drawn_at_random():
    scores = {"uncertainty": np.r_[np.ones(3), np.full(97, np.nan)]}
    found = choose(candidates(100, scores=scores), {"uncertainty": 1.0}, 10, "proportional")
    assert sorted(found.strategy.tolist()) == ["random"] * 7 + ["uncertainty"] * 3


def test_random_candidates_are_like_all_that_are_left_whatever_strategies_took_of_the_pool():
    """Half of 10,000 candidates are of a kind that diversity takes out of a pool of 500, almost all of them."""
    size, draw = 10_000, np.random.default_rng(0).permutation(10_000).astype(np.uint64)
    pool = np.flatnonzero(draw < 500)
    is_other = np.arange(size) % 2 == 0
    vectors = np.where(is_other[pool, None], np.random.default_rng(1).normal(size=(len(pool), 8)), [1.0] + [0] * 7)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    some = candidates(size, draw=draw, pool=pool, vectors=vectors)
    found = choose(some, {"diversity": 0.5, "random": 0.5}, 480, "proportional")
    assert is_other[found.index[found.strategy == "diversity"]].sum() > 230
    assert is_other[found.index[found.strategy == "random"]].mean() == pytest.approx(0.5, abs=0.1)


def test_each_cluster_has_an_equal_part_of_the_diverse_ones():
    """A cluster of 90 far from each other, one of 6 nearly equal ones, and one of 2, which has all of these."""
    angle = np.r_[np.linspace(0, 1.2, 90), np.linspace(2, 2.01, 6), [3, 3.01]]
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    cluster = np.repeat([5, 7, 9], [90, 6, 2])
    more = {"pool": np.arange(98), "vectors": vectors, "draw": np.arange(98).astype(np.uint64)}
    found = choose(candidates(98, cluster=cluster, **more), {"diversity": 1.0}, 12, "proportional")
    assert np.unique(cluster[found.index], return_counts=True)[1].tolist() == [5, 5, 2]
    wide = found.index[cluster[found.index] == 5]
    assert {0, 89} <= set(wide)  # k-centre within the cluster has its ends
    alone = choose(candidates(98, **more), {"diversity": 1.0}, 12, "proportional")
    assert (cluster[alone.index] == 5).sum() > 5


def test_the_order_of_the_candidates_changes_nothing():
    some, order = candidates(300, strata=3), np.random.default_rng(1).permutation(300)
    scores = {name: one[order] for name, one in some.scores.items()}
    moved = some.draw[order], some.stratum[order], scores, some.spread[order]
    other = TaskCandidates(*moved, some.pool, some.vectors, some.topics, some.cluster)
    one = choose(some, {"uncertainty": 0.5, "random": 0.5}, 60, "proportional")
    two = choose(other, {"uncertainty": 0.5, "random": 0.5}, 60, "proportional")
    assert some.draw[one.index].tolist() == other.draw[two.index].tolist()


@pytest.mark.parametrize(
    ("allocation", "wanted"), [("proportional", [60, 30, 10]), ("equal", [34, 33, 33]), ("neyman", [47, 47, 6])]
)
def test_allocations_by_hand(allocation, wanted):
    """Strata of 600, 300 and 100, with spreads of .1, .2 and .1: Neyman's shares are 60, 60 and 10 of 130."""
    stratum = np.repeat([0, 1, 2], [600, 300, 100])
    some = candidates(1000, stratum=stratum, spread=np.array([0.1, 0.2, 0.1])[stratum])
    index, probability = at_random(some, np.arange(1000), 100, allocation)
    found = np.bincount(stratum[index], minlength=3)
    assert found.sum() == 100
    assert np.abs(found - wanted).max() <= 2
    assert probability == pytest.approx(found[stratum[index]] / np.bincount(stratum)[stratum[index]])


@given(
    st.integers(0, 300),
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 10, allow_nan=False)), min_size=1, max_size=20),
    st.integers(0, 2),
)
def test_divided_gives_everything_away_and_nobody_too_much(count, parts, least):
    most = np.array([size for size, _ in parts])
    weights = np.array([weight for _, weight in parts])
    found = divided(count, weights, most, least)
    assert found.sum() == min(count, most.sum())
    assert (found <= most).all()
    assert (found >= 0).all()
    if count >= least * len(parts):
        assert (found >= np.minimum(most, least)).all()


def test_farthest_first_by_hand():
    """On a line of angles: the middle first, then the ends."""
    angles = np.radians([0, 10, 45, 80, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert farthest_first(vectors, np.ones(5, bool), 3).tolist() == [2, 0, 4]
    free = np.array([False, True, True, True, True])  # 0 degrees is a centre already
    assert farthest_first(vectors, free, 2).tolist() == [4, 2]


def test_topics_with_few_candidates_come_first():
    vectors = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 2]]
    found = nearest_to_topics(vectors, np.eye(3, dtype=np.float32)[:2], np.ones(5, bool), 3)
    assert found[0] == 3  # the second topic has one candidate
    assert sorted(found[1:2].tolist()) == [0]


def test_tasks_are_divided_equally():
    found = assigned([None] * 90, [("a", frozenset()), ("b", frozenset()), ("c", frozenset())], 2)
    load = {name: sum(name in one for one in found) for name in "abc"}
    assert load == {"a": 60, "b": 60, "c": 60}
    assert all(len(set(one)) == 2 for one in found)
    pairs = {tuple(sorted(one)) for one in found}
    assert pairs == {("a", "b"), ("a", "c"), ("b", "c")}


def test_experts_of_a_topic_are_given_its_tasks_first():
    people = [("a", frozenset({"law"})), ("b", frozenset()), ("c", frozenset({"tax"}))]
    found = assigned(["law", "law", "tax", None], people, 1)
    assert found == [("a",), ("a",), ("c",), ("b",)]


# Computed by scikit-activeml 1.0.1: `uncertainty_scores` of `OF_SCIKIT`, and `CoreSet` on `POINTS`, of which the
# third is labelled. Points are of length 1, so its Euclidean distances have the order of ours.
OF_SCIKIT = [
    [0.027, 0.095, 0.341, 0.537], [0.302, 0.226, 0.382, 0.09], [0.206, 0.014, 0.093, 0.687],
    [0.065, 0.313, 0.126, 0.496],
    [0.317, 0.519, 0.101, 0.063], [0.001, 0.355, 0.273, 0.371], [0.272, 0.239, 0.246, 0.243],
    [0.011, 0.586, 0.385, 0.018],
]  # fmt: skip
POINTS = [
    [-0.363, -0.0973, 0.9267], [0.3727, -0.928, -0.0029], [-0.3601, 0.0859, -0.9289], [0.15, 0.1461, 0.9778],
    [0.1967, 0.3172, -0.9277], [0.7139, -0.607, 0.3491], [-0.2877, -0.7679, -0.5723], [-0.8617, 0.4875, -0.1411],
    [0.6296, -0.7769, -0.0013], [-0.3678, 0.3199, -0.8732], [-0.2235, 0.1367, -0.9651], [0.6938, 0.1259, 0.7091],
]  # fmt: skip


@pytest.mark.parametrize(
    ("measure", "wanted"),
    [
        ("least_confidence", [0.463, 0.618, 0.313, 0.504, 0.481, 0.629, 0.728, 0.414]),
        ("margin", [0.804, 0.92, 0.519, 0.817, 0.798, 0.984, 0.974, 0.799]),
        ("entropy", [1.021896, 1.282032, 0.864021, 1.150025, 1.110301, 1.096857, 1.384977, 0.802588]),
    ],
)
def test_uncertainties_are_those_of_scikit_activeml(measure, wanted):
    assert uncertainty(np.array(OF_SCIKIT), measure) == pytest.approx(wanted, abs=1e-6)


def test_the_farthest_first_are_those_of_scikit_activeml():
    free = np.arange(len(POINTS)) != 2
    assert farthest_first(np.array(POINTS, np.float32), free, 5).tolist() == [3, 1, 7, 6, 11]
