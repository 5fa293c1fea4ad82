"""The threshold, the parts of the sample, and what is measured of a classifier."""

from itertools import pairwise

import numpy as np
import pytest

from raymill.pipelines.agreement import cross_table, f1
from raymill.pipelines.distil.classifier import Scored, best_threshold, rounded, share_threshold
from raymill.pipelines.text.texts import Texts


def f1_at(scores, good, threshold) -> float:
    return f1(cross_table(good.astype(int), (scores >= threshold).astype(int), 2)) or 0.0


def test_the_best_threshold_has_the_best_f1_of_all():
    random = np.random.default_rng(0)
    for _ in range(50):
        count = int(random.integers(2, 40))
        scores = np.round(random.uniform(0, 5, count), int(random.integers(0, 3))).astype(np.float32)
        good = (scores + random.normal(0, 1.5, count)) >= 3
        good[0] = True
        found = f1_at(scores, good, best_threshold(scores, good))
        assert found == max(f1_at(scores, good, bound) for bound in scores)


def test_the_best_threshold_stands_between_two_scores():
    assert best_threshold(np.array([4.0, 3.0, 1.0, 0.5]), np.array([True, True, False, False])) == 2.0
    assert best_threshold(np.array([2.0, 2.0, 1.0]), np.array([True, False, True])) == 0.5


def test_a_threshold_by_share_keeps_this_share():
    scores = np.random.default_rng(1).uniform(0, 5, 200).astype(np.float32)
    for share in (0.1, 0.25, 0.5, 0.99):
        assert (scores >= share_threshold(scores, share)).mean() == pytest.approx(share)


def test_halves_are_rounded_upwards():
    assert rounded(np.array([0.49, 0.5, 1.5, 2.5, 2.51])).tolist() == [0, 1, 2, 3, 3]


def scored(by_judge: dict[str, list[float]]) -> Scored:
    random = np.random.default_rng(2)
    count = len(next(iter(by_judge.values())))
    ids = [random.bytes(16).hex() for _ in range(count)]
    nobody = np.full(count, np.nan)
    return Scored(ids, Texts.from_strings(["a"] * count), {n: np.array(s) for n, s in by_judge.items()}, nobody)


def test_the_score_is_the_mean_of_the_judges_that_gave_one():
    found = scored({"a": [1, np.nan, np.nan], "b": [4, 3, np.nan]}).score
    np.testing.assert_array_equal(found, [2.5, 3, np.nan])


def test_parts_are_drawn_by_the_hash_and_grow_with_the_share():
    sample = scored({"a": [1.0] * 4000})
    parts = {share: np.array(sample.parts(share)) for share in (0.1, 0.2, 0.4)}
    for share, of_documents in parts.items():
        assert (of_documents != "train").mean() == pytest.approx(share, abs=0.02)
        assert (of_documents == "test").mean() == pytest.approx(share / 2, abs=0.02)
    for small, large in pairwise(parts.values()):
        assert ((small == "train") | (large != "train")).all()
    assert scored({"a": [np.nan, 1.0]}).parts(0.2)[0] is None
