"""The order of samples: a pure function in which every row comes once an epoch, whoever asks and from where."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.training.data.order import HeldOut, MixtureOrder, Order, limited, permutation, shares, whole_counts
from tests.support.packed_examples import config

SMALL = {"rows_per_step": 4, "block_rows": 3, "seed": 1}


def stream(order: Order, steps: int, first: int = 0) -> list[tuple[int, int]]:
    return [row for step in range(first, first + steps) for row in order.step(step)]


@settings(max_examples=60)
@given(
    rows=st.integers(1, 200),
    block_rows=st.integers(1, 30),
    rows_per_step=st.integers(1, 40),
    seed=st.integers(0, 5),
)
def test_an_epoch_is_a_permutation_and_epochs_follow_without_a_gap(rows, block_rows, rows_per_step, seed):
    order = Order([rows], [rows], rows_per_step, block_rows, seed)
    samples = stream(order, -(-3 * rows // rows_per_step))
    for epoch in range(3):
        assert sorted(samples[epoch * rows : (epoch + 1) * rows]) == [(0, row) for row in range(rows)]


def test_epochs_and_seeds_differ():
    first = Order([500], [500], 500, 8, 1)
    other = Order([500], [500], 500, 8, 2)
    assert len({tuple(first.step(0)), tuple(first.step(1)), tuple(other.step(0))}) == 3


def test_the_first_rows_of_an_order_are_those_of_every_version_of_this_program():
    """A run that was begun with an older release goes on in the order that it began with."""
    assert permutation(8, "blocks", 1, 0, 0).tolist() == [3, 0, 2, 4, 6, 1, 5, 7]
    assert [row for _, row in Order([100], [100], 8, 4, 1).step(0)] == [79, 1, 12, 41, 96, 76, 77, 48]
    assert "".join(str(corpus) for corpus, _ in Order([9, 9], [10, 20], 15, 4, 1).step(0)) == "101101101101110"


def test_rows_that_are_neighbours_on_disk_are_read_within_one_window():
    """What makes one request serve many rows; the cache of a reader has to hold a window."""
    order = Order([10_000], [10_000], 80, 10, 1)
    for step in range(100):
        assert len({row // 10 for _, row in order.step(step)}) <= 8


@settings(max_examples=20)
@given(step=st.integers(0, 10**12))
def test_any_step_is_found_without_those_before_it(step):
    order = Order([3, 1000], [100, 250], 4, 16, 1)
    whole, rows = order.step(step), [3, 1000]
    order.step(0)
    assert whole == order.step(step) == Order([3, 1000], [100, 250], 4, 16, 1).step(step)
    assert all(0 <= row < rows[corpus] for corpus, row in whole)


def test_three_billion_rows_are_as_easy_as_three():
    order = Order([3_000_000_000], [3_000_000_000], 4, 1 << 14, 1)
    assert len(set(stream(order, 3, first=10**9))) == 12


# --- mixtures


@settings(max_examples=10)
@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.integers(1, 3000))
def test_every_stretch_of_a_mixture_has_each_corpus_in_its_share(weights, count):
    mixture = MixtureOrder(weights, 1)
    corpora, _ = mixture.at(np.arange(count))
    for corpus, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs((corpora == corpus).sum() - share * count) <= len(weights) + 1


def test_a_period_holds_exactly_the_counts_that_were_asked_for():
    corpora, indices = MixtureOrder([700, 200, 100], 1).at(np.arange(5000))
    assert Counter(corpora.tolist()) == {0: 3500, 1: 1000, 2: 500}
    for corpus, count in ((0, 3500), (1, 1000), (2, 500)):
        assert indices[corpora == corpus].tolist() == list(range(count)), "each corpus goes through its own epochs"


@pytest.mark.parametrize(
    ("samples", "counts"),
    [([3, 1], [3, 1]), ([1.5, 0.5], [786432, 262144]), ([1e12, 1], [(1 << 20) - 1, 1]), ([5.0], [5])],
)
def test_whole_counts_keep_the_shares(samples, counts):
    assert whole_counts(samples) == counts


@settings(max_examples=40)
@given(st.lists(st.floats(0.01, 1000), min_size=2, max_size=6))
def test_shares_that_are_no_whole_numbers_are_rounded_to_a_sample_of_the_largest_period(samples):
    counts = whole_counts([*samples, 0.5])
    assert sum(counts) == 1 << 20
    exact = [share / (sum(samples) + 0.5) * (1 << 20) for share in [*samples, 0.5]]
    assert all(abs(count - wanted) < 1 for count, wanted in zip(counts, exact, strict=True) if wanted >= 1)
    up = [wanted % 1 for count, wanted in zip(counts, exact, strict=True) if count > wanted >= 1]
    down = [wanted % 1 for count, wanted in zip(counts, exact, strict=True) if 1 <= count <= wanted]
    assert not up or not down or min(up) >= max(down) - 1e-6, "those of the largest remainders are rounded up"


def test_a_weight_is_a_share_of_tokens_and_not_of_rows():
    """Rows of the second corpus are half empty, so it gives twice as many of them."""
    given_ = config(corpus=[{"path": "a", "weight": 1}, {"path": "b", "weight": 1}])
    samples = shares(given_.corpus, [60, 30], [16, 8])
    assert samples == pytest.approx([30, 60])
    assert samples[0] * 16 == pytest.approx(samples[1] * 8)


def test_epochs_and_tokens_of_a_corpus_say_how_much_of_it_one_pass_takes():
    by_epochs = config(corpus=[{"path": "a", "epochs": 2}, {"path": "b", "epochs": 0.5}])
    assert shares(by_epochs.corpus, [60, 30], [16, 16]) == [120, 15]
    by_tokens = config(corpus=[{"path": "a", "tokens": 160}, {"path": "b", "tokens": 320}])
    assert shares(by_tokens.corpus, [60, 30], [16, 8]) == [10, 40]
    neither = config(corpus=["a", "b"])
    assert shares(neither.corpus, [60, 30], [16, 8]) == [60, 30]


# --- length of a training


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"steps": 7}, 7),
        ({"epochs": 1}, 25),
        ({"epochs": 1.5}, 38),
        ({"epochs": 0.001}, 1),
        ({"tokens": 1600}, 25),
        ({"tokens": 1601}, 26),
    ],
)
def test_steps_epochs_and_tokens_give_the_number_of_steps(length, steps):
    given_ = config(**{"steps": None} | length)
    assert Order([100], [100], 4, 8, 1, tokens_per_row=[16]).steps(given_) == steps


def test_a_whole_number_of_steps_is_not_rounded_up_for_what_floating_point_added():
    """Of 100 rows 1.1 epochs are 110.00000000000001 samples: 11 steps of 10, and no twelfth."""
    assert 1.1 * 100 / 10 > 11
    assert Order([100], [100], 10, 8, 1).steps(config(steps=None, epochs=1.1)) == 11
    assert Order([100], [100], 10, 8, 1).steps(config(steps=None, epochs=1.101)) == 12


def test_tokens_are_real_ones_so_emptier_rows_make_more_steps():
    assert Order([100], [100], 4, 8, 1, tokens_per_row=[8]).steps(config(steps=None, tokens=1600)) == 50


# --- evaluation


def test_held_out_rows_come_once_each_in_their_order():
    held_out = HeldOut([5, 2], rows_per_step=3)
    steps = [held_out.step(step) for step in range(len(held_out))]
    assert steps == [[(0, 0), (0, 1), (0, 2)], [(0, 3), (0, 4), (1, 0)], [(1, 1)]]


def test_a_limit_takes_from_every_corpus_its_share_and_one_row_at_least():
    held_out = HeldOut(limited([90, 10, 1], 20), rows_per_step=100)
    counts = Counter(corpus for corpus, _ in held_out.step(0))
    assert counts == {0: 17, 1: 1, 2: 1}
    assert len(HeldOut([0, 0], 4)) == 0


@pytest.mark.parametrize(("limit", "count"), [(None, 100), (50, 50), (99, 99), (100, 100), (101, 100), (1000, 100)])
def test_a_limit_above_the_rows_takes_all_of_them_once(limit, count):
    held_out = HeldOut(limited([70, 30], limit), rows_per_step=200)
    assert len(held_out.step(0)) == len(set(held_out.step(0))) == pytest.approx(count, abs=1)


# --- stages of a curriculum


def staged(how: str, counts=(30, 7, 50), rows_per_step: int = 10) -> Order:
    return Order([sum(counts)], [sum(counts)], rows_per_step, 4, 1, how=how, stages=[counts])


def stages_of(rows: list[tuple[int, int]], counts=(30, 7, 50)) -> list[int]:
    return np.searchsorted(np.cumsum(counts), [row for _, row in rows], "right").tolist()


@pytest.mark.parametrize(("how", "sequence"), [("curriculum", [0, 1, 2]), ("reverse", [2, 1, 0])])
def test_an_epoch_of_a_curriculum_has_the_stages_one_after_the_other(how, sequence):
    rows = stream(staged(how), 27)
    for epoch in range(3):
        one = rows[epoch * 87 : (epoch + 1) * 87]
        assert sorted(one) == [(0, row) for row in range(87)]
        assert stages_of(one) == [stage for stage in sequence for _ in range((30, 7, 50)[stage])]
    assert rows[:30] != rows[87:117], "a stage has another order in the next epoch"
    assert sorted(rows[:7]) != rows[:7], "and is shuffled"


def test_mixed_stages_are_spread_evenly():
    rows = stream(staged("mixed"), 27)
    for epoch in range(3):
        one = rows[epoch * 87 : (epoch + 1) * 87]
        assert sorted(one) == [(0, row) for row in range(87)]
        for end in range(1, 88):
            seen = np.bincount(stages_of(one[:end]), minlength=3)
            assert (abs(seen - np.array([30, 7, 50]) * end / 87) <= 1.5).all()


@settings(max_examples=20)
@given(step=st.integers(0, 10**9), how=st.sampled_from(["curriculum", "reverse", "mixed"]))
def test_any_step_of_a_curriculum_is_found_without_those_before_it(step, how):
    order = staged(how)
    order.step(0)
    assert order.step(step) == staged(how).step(step)
