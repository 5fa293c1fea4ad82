"""Gaps between groups: by hand, as Fairlearn has them, with intervals that cover them, planted and absent."""

import tracemalloc

import numpy as np
import pytest

from raymill.pipelines.compare.fairness import _draws, gap, group_gaps, odds_gap

# Two groups of five: their right answers and the answers, 1 for the label.
TRUE = np.array([1, 1, 1, 0, 0, 1, 1, 0, 0, 0], bool)
GIVEN = np.array([1, 1, 0, 1, 0, 1, 0, 1, 0, 0], bool)
GROUPS = np.array([0] * 5 + [1] * 5)


def test_demographic_parity_and_equalised_odds_by_hand():
    """3/5 and 2/5 of the answers are the label; TPR 2/3 and 1/2, FPR 1/2 and 1/3."""
    assert gap(GIVEN.astype(float), GROUPS) == pytest.approx(0.2, abs=1e-9)
    assert odds_gap(TRUE, GIVEN, GROUPS) == pytest.approx(1 / 6, abs=1e-9)


@pytest.mark.parametrize(
    ("seed", "parity", "odds"),
    [
        (0, 0.02400960384153661, 0.15555555555555556),
        (1, 0.09165424739195233, 0.13076923076923075),
        (2, 0.17727272727272725, 0.2705882352941177),
        (3, 0.15141514151415142, 0.09997183891861447),
        (4, 0.1280578206078577, 0.30443548387096775),
        (5, 0.15694789081885857, 0.21241830065359468),
    ],
)
def test_gaps_are_those_of_fairlearn(seed, parity, odds):
    """Of two to four groups of 200 items; numbers of Fairlearn 0.15, whose 300 first seeds were equal to 1e-15."""
    random = np.random.RandomState(seed)  # its numbers are the same in every version of numpy
    true = random.rand(200) < 0.4
    groups = random.randint(0, 2 + seed % 3, 200)
    given = random.rand(200) < np.where(true, 0.7, 0.2) + 0.1 * groups / 4
    assert gap(given.astype(float), groups) == pytest.approx(parity, abs=1e-12)
    assert odds_gap(true, given, groups) == pytest.approx(odds, abs=1e-12)


@pytest.mark.parametrize(
    ("rates", "most"),
    [((0.75, 0.65), 0.985), ((0.75, 0.6), 0.97), ((0.7, 0.7), 0.985), ((0.7, 0.65, 0.6), 1), ((0.7, 0.7, 0.7), 0.98)],
)
def test_the_intervals_of_gaps_cover_them(monkeypatch, rates, most):
    """Of groups of 100. Two groups near a gap of 0 and three groups are covered more often than 95%."""
    monkeypatch.setattr("raymill.pipelines.compare.fairness._DRAWS", 300)
    random, held, times = np.random.default_rng(3), 0, 300
    groups = [str(number) for number in range(len(rates)) for _ in range(100)]
    for _ in range(times):
        values = np.concatenate([random.random(100) < rate for rate in rates]).astype(float)
        (row,) = group_gaps({"score": values}, [], groups)
        held += row["low"] <= max(rates) - min(rates) + 1e-9 and max(rates) - min(rates) <= row["high"] + 1e-9
    assert 0.93 <= held / times <= most, held / times


def test_the_intervals_of_equalised_odds_cover_them(monkeypatch):
    """Rates of 0.8 and 0.6 of right labels, 0.3 and 0.2 of wrong ones, each of 100 items: the gap is 0.2."""
    monkeypatch.setattr("raymill.pipelines.compare.fairness._DRAWS", 300)
    random, held, times = np.random.default_rng(4), 0, 200
    groups, true = ["a"] * 200 + ["b"] * 200, np.tile([True, False], 200)
    chances = np.where(np.arange(400) < 200, np.where(true, 0.8, 0.3), np.where(true, 0.6, 0.2))
    for _ in range(times):
        _, odds = group_gaps({}, [("yes", true, random.random(400) < chances)], groups)
        held += odds["low"] <= 0.2 <= odds["high"]
    assert held / times >= 0.93, held / times


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([1, 1, 0, 0, 1, 0, 0, 0], 0.5),  # TPR 1 and 1/2
        ([1, 1, 0, 0, 1, 1, 1, 0], 0.5),  # FPR 0 and 1/2
    ],
)
def test_equalised_odds_are_the_larger_gap_of_both_rates(given, seen):
    true, groups = np.array([1, 1, 0, 0] * 2, bool), np.array([0] * 4 + [1] * 4)
    assert odds_gap(true, np.array(given, bool), groups) == seen


def test_a_group_without_items_of_a_rate_is_left_out_of_it():
    """No item of `a` has the label; of `b` it is found, of `c` it is not."""
    true, given = np.array([0, 0, 1, 0, 1, 0], bool), np.array([0, 0, 1, 0, 0, 0], bool)
    assert odds_gap(true, given, np.array([0, 0, 1, 1, 2, 2])) == 1


def test_items_without_a_group_are_left_out_and_groups_are_drawn_apart():
    """All items of `a` have 1 and all of `b` 0, so each draw has the gap 1."""
    groups, values = [None] * 20 + ["a"] * 20 + ["b"] * 20, np.array([0.0] * 20 + [1.0] * 20 + [0.0] * 20)
    score, parity, odds = group_gaps({"score": values}, [("yes", np.ones(60, bool), values == 1)], groups)
    for row in (score, parity, odds):
        assert (row["gap"], row["low"], row["high"]) == (1, 1, 1)
    assert score["groups"] == parity["groups"] == {"a": 1, "b": 0}


def test_items_without_a_value_are_left_out_and_a_group_needs_20_with_one():
    """Refusals are not known where a request failed: of `a` 20 items are, of `b` 20, of `c` 19."""
    groups = ["a"] * 25 + ["b"] * 20 + ["c"] * 20
    values = np.array([np.nan] * 5 + [0.5] * 20 + [0.25] * 20 + [np.nan] + [9.0] * 19)
    (row,) = group_gaps({"refused": values}, [], groups)
    assert (row["gap"], row["groups"]) == (0.25, {"a": 0.5, "b": 0.25})
    values[5] = np.nan
    assert group_gaps({"refused": values}, [], groups) == []


def test_each_group_is_drawn_from_itself_and_one_resample_is_in_memory():
    named = np.tile([2, 0, 1, 2], 1000)
    tracemalloc.start()
    means = []
    for at in _draws(named):
        assert np.bincount(named[at]).tolist() == [1000, 1000, 2000]
        means.append(np.bincount(at, minlength=4000))
    assert tracemalloc.get_traced_memory()[1] - sum(one.nbytes for one in means) < 1 << 20
    tracemalloc.stop()
    counts = np.mean(means, axis=0)
    assert abs(counts - 1).max() < 0.2, "each item is drawn once on average"


def test_groups_of_few_items_are_not_compared():
    assert group_gaps({"score": np.ones(10)}, [], [*GROUPS]) == []
    assert group_gaps({"score": np.ones(60)}, [], ["a"] * 40 + [None] * 20) == []


def test_a_planted_gap_has_an_interval_above_0_and_none_without_it():
    random, above, planted = np.random.default_rng(6), 0, 0
    groups = ["a"] * 150 + ["b"] * 150
    for _ in range(60):
        equal = (random.random(300) < 0.7).astype(float)
        above += group_gaps({"score": equal}, [], groups)[0]["low"] > 0
        biased = np.concatenate([random.random(150) < 0.9, random.random(150) < 0.6]).astype(float)
        (row,) = group_gaps({"score": biased}, [], groups)
        planted += row["low"] > 0.1 and row["groups"]["a"] > row["groups"]["b"]
    assert above <= 6 and planted >= 57


def test_labels_have_parity_and_odds():
    true, given = np.tile(TRUE, 8), np.tile(GIVEN, 8)
    found = group_gaps({}, [("yes", true, given)], [*GROUPS] * 8)
    assert [(one["measure"], one["gap"]) for one in found] == [
        ("parity of yes", pytest.approx(0.2)), ("equalised odds of yes", pytest.approx(1 / 6)),
    ]  # fmt: skip


def test_long_values_are_no_groups_and_cost_no_more_than_short_ones():
    """As a list of numbers of groups the values take 8 bytes an item; as an array of texts 8 GB."""
    groups = ["a"] * 30 + ["b"] * 30 + ["x" * 30_000_000] * 30
    (row,) = group_gaps({"score": np.array([1.0] * 30 + [0.5] * 30 + [0.0] * 30)}, [], groups)
    assert row["groups"] == {"a": 1, "b": 0.5} and row["gap"] == 0.5
