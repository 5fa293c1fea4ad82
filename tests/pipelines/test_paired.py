"""Paired differences: hand cases, the coverage of intervals by simulation, and planted differences."""

import math

import numpy as np
import pytest
from scipy.stats import norm, permutation_test

from raymill.pipelines.paired import (
    PairedDifference,
    _tail,
    calibration,
    corpus_difference,
    holm,
    items_needed,
    mean_interval,
    paired_difference,
    sign_flips,
)


def outcomes(only_a, only_b, both=0, neither=0):
    """(scores of A, scores of B) of 0 and 1 with these numbers of items."""
    a = [1.0] * only_a + [0.0] * only_b + [1.0] * both + [0.0] * neither
    b = [0.0] * only_a + [1.0] * only_b + [1.0] * both + [0.0] * neither
    return np.array(a), np.array(b)


# --- hand cases


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1] * 8 + [-1] * 2, 0.109375),  # 2 (1 + 10 + 45) / 1024
        ([1] * 5, 0.0625),
        ([1, -1], 1.0),
        ([0, 0], 1.0),
        ([0.1, 0.2, 0.3], 0.25),  # 2 of the 8 sign flips
        ([0.1, 0.2, -0.3], 1.0),
        ([0.5, 0.25, 0.25, -0.5], 0.75),  # the sum is 0.5 or more in 12 of 16
    ],
)
def test_exact_tests_by_hand(differences, p):
    assert sign_flips(np.array(differences, float)) == pytest.approx(p, abs=1e-9)


def test_mcnemar_of_60_to_40():
    assert sign_flips(np.array([1.0] * 60 + [-1.0] * 40)) == pytest.approx(0.05688793364098078, abs=1e-9)


def test_sixteen_differences_are_enumerated_and_more_are_drawn_9999_times():
    """Of one sign, none of the other signs is as extreme but the opposite one."""
    assert sign_flips(np.arange(1.0, 17)) == 2 / 2**16
    assert sign_flips(np.arange(1.0, 21)) == 1 / 10_000, "the signs that are seen count"


def test_sign_flips_of_many_items_are_near_those_of_scipy():
    differences = np.random.default_rng(3).normal(0.15, 1, 120)
    found = permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=1).pvalue
    assert sign_flips(differences) == pytest.approx(found, abs=0.015)


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06], abs=1e-9)
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@pytest.mark.parametrize(("difference", "items"), [(0.01, 7849), (0.02, 1963), (0.05, 314), (0.0, None)])
def test_items_needed_with_a_tenth_that_differ(difference, items):
    assert items_needed(0.10, difference) == items


def test_calibration_of_copies_in_groups_is_as_certain_as_without_the_copies():
    random = np.random.default_rng(3)
    confidence = random.random(60)
    right = (random.random(60) < confidence).astype(float)
    once = calibration(confidence, right)
    copies, numbers = [np.repeat(one, 4) for one in (confidence, right)], np.repeat(np.arange(60), 4).tolist()
    grouped, apart = calibration(*copies, numbers), calibration(*copies)
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high))
    assert apart.high - apart.low < 0.8 * (once.high - once.low)


def test_calibration_by_hand():
    confidence = np.array([0.9] * 5 + [0.6] * 5)
    right = np.array([1, 1, 1, 1, 0, 1, 1, 1, 0, 0], float)
    found = calibration(confidence, right)
    assert (found.error, found.brier) == pytest.approx((0.05, 0.205), abs=1e-9)
    assert found.bins == [(0.6, 5, pytest.approx(0.6), 0.6), (0.9, 5, pytest.approx(0.9), 0.8)]
    assert found.low == 0.0 < found.high


def test_deviations_of_bins_do_not_cancel_and_the_last_bin_has_confidence_1():
    """0.9 sure and 0.8 right, 0.6 sure and 0.8 right; a tenth that is a last bit too low is in its bin."""
    confidence = np.array([0.9 - 1e-12] * 5 + [0.6] * 5)
    found = calibration(confidence, np.array([1, 1, 1, 1, 0] * 2, float))
    assert found.error == pytest.approx(0.15) and [one[0] for one in found.bins] == [0.6, 0.9]
    assert calibration(np.ones(4), np.array([1.0, 1, 1, 0])).bins == [(0.9, 4, 1.0, 0.75)]


def test_groups_are_one_observation_each():
    a, b = outcomes(8, 2)
    each, together = paired_difference(a, b), paired_difference(a, b, ["x"] * 4 + ["y"] * 6)
    assert each.difference == together.difference == pytest.approx(0.6, abs=1e-9)
    assert (together.groups, together.p) == (2, 0.5), "4 and 2: the sum is as large in 2 of 4 flips of signs"
    assert together.high - together.low > each.high - each.low


def test_a_group_of_two_equal_items_says_as_much_as_one_item():
    a, b = outcomes(60, 40, 500, 400)
    one, two = paired_difference(a, b), paired_difference(a.repeat(2), b.repeat(2), np.arange(1000).repeat(2))
    assert (two.low, two.high, two.p, two.square) == pytest.approx((one.low, one.high, one.p, one.square), abs=1e-9)
    assert two.needed() == 2 * one.needed() == 1926
    bounded = [mean_interval(*arguments, (0, 1)) for arguments in ((a, None), (a.repeat(2), np.arange(1000).repeat(2)))]
    assert bounded[0] == pytest.approx(bounded[1], abs=1e-9)
    sure = np.linspace(0.5, 1, 1000)
    twice, once = calibration(sure.repeat(2), a.repeat(2), np.arange(1000).repeat(2)), calibration(sure, a)
    assert (twice.error, twice.low, twice.high) == pytest.approx((once.error, once.low, once.high))
    none, same = paired_difference(a, a), paired_difference(a.repeat(2), a.repeat(2), np.arange(1000).repeat(2))
    assert (same.low, same.high) == pytest.approx((none.low, none.high), abs=1e-9)


def test_groups_of_other_sizes_have_a_ratio_of_sums_in_every_draw():
    """40 groups of 1 or 2 items, of which each differs by 1: so does each mean that is drawn."""
    groups = np.repeat(np.arange(40), [1, 2] * 20)
    found = paired_difference(np.ones(60), np.zeros(60), groups)
    assert (found.difference, found.low, found.high) == (1, 1, 1)


def test_weights_make_a_ratio_of_sums():
    found = paired_difference(np.array([3.0, 8.0]), np.array([1.0, 9.0]), weights=np.array([2.0, 8.0]), scale=0)
    assert found.difference == pytest.approx(0.1, abs=1e-9)


def test_the_percentiles_of_few_groups_are_expanded():
    """Of 5: the quantile -2.7764 of t with 4 degrees of freedom, by the root of 5 / 4: -3.1042 of a normal one."""
    assert _tail(5) == pytest.approx(0.000954, abs=1e-6)
    assert _tail(100_000) == pytest.approx(0.025, abs=1e-5) and _tail(1) == 0


# --- against an unpaired test


def test_paired_and_unpaired_on_the_same_items():
    """60 items that only A has right and 40 that only B has, of 1,000: the numbers in pipelines/compare/README.md."""
    a, b = outcomes(60, 40, 500, 400)
    paired = paired_difference(a, b)
    assert (paired.low, paired.high) == pytest.approx((0.0004, 0.0396), abs=0.001)
    error = np.sqrt(a.var(ddof=1) / 1000 + b.var(ddof=1) / 1000)
    unpaired = 0.02 - 1.959964 * error, 0.02 + 1.959964 * error
    assert unpaired == pytest.approx((-0.0235, 0.0635), abs=0.0005)


def test_a_difference_that_only_the_paired_test_finds():
    a, b = outcomes(30, 8, 700, 262)
    error = np.sqrt(a.var(ddof=1) / 1000 + b.var(ddof=1) / 1000)
    unpaired = 2 * norm.sf(0.022 / error)
    paired = paired_difference(a, b)
    assert unpaired == pytest.approx(0.28, abs=0.01)
    assert paired.p == pytest.approx(0.0005, abs=0.0001) and paired.verdict(paired.p) == "A"


# --- coverage


@pytest.fixture
def few_draws(monkeypatch):
    """A quarter of the draws, for thousands of intervals."""
    monkeypatch.setattr("raymill.pipelines.paired._DRAWS", 500)
    monkeypatch.setattr("raymill.pipelines.paired._FLIPS", 199)


def of_zero_and_one(random, count):
    drawn = random.random(count)
    return np.where(drawn < 0.10, 1.0, np.where(drawn < 0.25, -1.0, 0.0)), -0.05


def of_few_that_differ(random, count):
    drawn = random.random(count)
    return np.where(drawn < 0.03, 1.0, np.where(drawn < 0.05, -1.0, 0.0)), 0.01


def of_f1(random, count):
    a, b = random.beta(2, 1, count), random.beta(1, 1, count)
    return np.where(random.random(count) < 0.5, 0.0, a - b), 0.5 * (2 / 3 - 1 / 2)


def of_large(random, count):
    return random.normal(3, 1, count), 3


def of_few_graded(random, count):
    return np.where(random.random(count) < 0.15, random.uniform(-0.5, 1, count), 0.0), 0.15 * 0.25


def of_skewed(random, count):
    return random.exponential(1, count) - 0.7, 0.3


@pytest.mark.parametrize(
    ("draw", "count"), [(of_zero_and_one, 60), (of_zero_and_one, 400), (of_few_that_differ, 200), (of_f1, 50),
                        (of_skewed, 60), (of_large, 50), (of_few_graded, 250)],
)  # fmt: skip
def test_intervals_cover_the_difference(draw, count, few_draws):
    random, held, times = np.random.default_rng(11), 0, 2000
    for _ in range(times):
        differences, true = draw(random, count)
        found = paired_difference(differences, np.zeros(count))
        held += found.low <= true <= found.high
    assert 0.93 <= held / times <= 0.97, held / times


def test_intervals_of_groups_cover_the_difference(few_draws):
    """40 documents with 1 to 6 questions each, whose differences have the document's in common."""
    random, held, times = np.random.default_rng(5), 0, 2000
    for _ in range(times):
        sizes = random.integers(1, 7, 40)
        groups = np.repeat(np.arange(40), sizes)
        differences = random.normal(0.2, 1, 40)[groups] + random.normal(0, 0.5, len(groups))
        found = paired_difference(differences, np.zeros(len(groups)), groups)
        held += found.low <= 0.2 <= found.high
    assert 0.93 <= held / times <= 0.97, held / times


def test_intervals_of_means_cover_them(few_draws):
    random, held, times = np.random.default_rng(2), 0, 2000
    for _ in range(times):
        low, high = mean_interval((random.random(80) < 0.9).astype(float), bounds=(0, 1))
        held += low <= 0.9 <= high
    assert 0.93 <= held / times <= 0.97, held / times


def test_a_mean_at_its_bound_has_an_interval_by_two_further_items():
    low, high = mean_interval(np.ones(20), bounds=(0, 1))
    assert 0.7 < low < 0.95 and high == 1 and mean_interval(np.ones(20)) == (1, 1)


def test_the_interval_of_a_calibrated_model_begins_at_0_and_one_of_an_overconfident_model_does_not(few_draws):
    random, calibrated, overconfident = np.random.default_rng(4), 0, 0
    for _ in range(200):
        sure = random.uniform(0.5, 1, 500)
        calibrated += calibration(sure, (random.random(500) < sure).astype(float)).low < 0.02
        overconfident += calibration(sure, (random.random(500) < sure - 0.2).astype(float)).low > 0.1
    assert calibrated >= 195 and overconfident >= 195


# --- planted


def decided(random, gain, times=400, count=300):
    """How often A, B and neither is found better, of scores of 0 and 1 where a fifth of the items differ."""
    found = {"A": 0, "B": 0, "undecided": 0}
    for _ in range(times):
        drawn = random.random(count)
        a, b = drawn < 0.1 + gain / 2, drawn > 0.9 + gain / 2
        one = paired_difference(a.astype(float), b.astype(float))
        found[one.verdict(one.p)] += 1
    return found


def test_planted_better_worse_and_equal_models(few_draws):
    better, worse, equal = (decided(np.random.default_rng(7), gain) for gain in (0.12, -0.12, 0.0))
    assert better["A"] > 380 and not better["B"]
    assert worse["B"] > 380 and not worse["A"]
    assert equal["undecided"] >= 0.95 * 400


def test_the_number_of_items_needed_finds_the_difference_in_80_of_100(few_draws):
    count = items_needed(0.2, 0.06)
    found = decided(np.random.default_rng(9), 0.06, times=300, count=count)
    assert 0.7 < found["A"] / 300 < 0.9


@pytest.mark.parametrize("scores", [np.ones(3), np.zeros(500), np.random.default_rng(1).random(40)])
def test_a_model_against_itself_is_never_decided(scores):
    found = paired_difference(scores, scores)
    assert (found.difference, found.p, found.verdict(found.p)) == (0, 1, "undecided")
    assert found.low < 0 < found.high and found.needed() is None, "few items show little"


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [(0.01, 0.2, 0.05, "A"), (-0.2, -0.01, 0.05, "B"), (0.01, 0.2, 0.051, "undecided"), (0.0, 0.2, 0.01, "undecided"),
     (-0.2, 0.0, 0.01, "undecided"), (math.nan, math.nan, 0.01, "undecided")],
)  # fmt: skip
def test_a_model_is_better_if_both_the_interval_and_p_decide(low, high, p, verdict):
    assert PairedDifference(0.1, low, high, 0.01, 1000, 1000, 0.1).verdict(p) == verdict


def test_at_least_one_more_item_is_needed():
    """79 items find a difference of 0.1 where a tenth differ."""
    assert PairedDifference(0.1, -0.1, 0.2, 0.3, 1000, 1000, 0.1).needed() == 1


def test_an_undecided_difference_needs_more_items():
    found = paired_difference(*outcomes(60, 40, 500, 400))
    assert found.verdict(found.p) == "undecided" and found.needed() == 963 < found.needed(2)


def test_a_corpus_measure_is_paired_by_item():
    """A ratio of sums: matches of 10 words each, where B has one match more in each item."""
    a = np.array([[at % 10, 10.0] for at in range(50)])
    b = a + np.array([1.0, 0.0])
    found = corpus_difference(a, b, lambda sums: sums[0] / sums[1])
    assert found.difference == pytest.approx(-0.1, abs=1e-9) and found.high < 0 and found.p == 1 / 2001
    same = corpus_difference(a, a, lambda sums: sums[0] / sums[1])
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_mean_as_a_corpus_measure_has_the_interval_of_a_mean():
    drawn = np.random.default_rng(8).random((60, 2))
    a, b = (np.column_stack([one, np.ones(60)]) for one in drawn.T)
    mean = paired_difference(*drawn.T)
    pairs = np.arange(60).repeat(2)
    for found in (
        corpus_difference(a, b, lambda sums: sums[0] / sums[1]),
        corpus_difference(a.repeat(2, 0), b.repeat(2, 0), lambda sums: sums[0] / sums[1], pairs),
    ):
        assert (found.difference, found.low, found.high) == pytest.approx((mean.difference, mean.low, mean.high))
        assert found.p == pytest.approx(mean.p, abs=0.02) and found.groups == 60


@pytest.mark.parametrize(
    ("square", "difference", "needed"),
    [
        (0.25, 0.1, 197),
        (1e200, 1e-60, None),
        (1e-340, 1e-170, 0),
        (0.25, 1e-7, None),
        (0.0, 1e-170, 0),
        (1.0, 0.0, None),
    ],
)
def test_items_needed_of_values_of_any_size(square, difference, needed):
    """(1.95996 + 0.84162)^2 x 0.25 / 0.01 = 196.2; above 10^12 none are stated, and squares of 1e-170 are 0."""
    assert items_needed(square, difference) == needed
