"""How many records are taken: shares are kept as far as the sources allow, and classes get equal numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.prepare.stages.split import copies, first_by_hash, sizes_by_share


@pytest.mark.parametrize(
    ("counts", "shares", "size", "fill", "taken"),
    [
        ([100, 100], [0.5, 0.5], None, True, [100, 100]),
        ([100, 30], [0.75, 0.25], None, True, [90, 30]),
        ([100, 30], [0.5, 0.5], 100, True, [70, 30]),
        ([100, 30], [0.5, 0.5], 100, False, [50, 30]),
        ([100, 30, 10], [0.2, 0.4, 0.4], 120, True, [80, 30, 10]),
        ([5, 5, 100], [0.3, 0.3, 0.4], 60, True, [5, 5, 50]),
        ([10, 10], [0.5, 0.5], 100, True, [10, 10]),
        ([7, 7, 7], [1 / 3, 1 / 3, 1 / 3], 10, True, [4, 3, 3]),
        ([0, 10], [0.5, 0.5], None, True, [0, 10]),  # a source without records leaves no empty data set
        ([0, 100, 30], [0.2, 0.6, 0.2], None, False, [0, 90, 30]),
        ([0, 0], [0.5, 0.5], None, True, [0, 0]),
        ([57, 43], [0.57, 0.43], None, True, [57, 43]),  # 57 / 0.57 is 99.99999999999999 or 100
        ([29, 71], [0.29, 0.71], None, True, [29, 71]),
        ([58, 42], [0.58, 0.42], None, True, [58, 42]),
        ([5, 5], [0.55, 0.45], 9, True, [5, 4]),
    ],
)
def test_sizes(counts, shares, size, fill, taken):
    assert sizes_by_share(counts, shares, size, fill=fill) == taken


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 9)), min_size=1, max_size=5), st.integers(1, 800))
def test_the_wanted_number_is_taken_if_there_are_so_many(sources, size):
    counts, parts = zip(*sources, strict=True)
    shares = [part / sum(parts) for part in parts]
    taken = sizes_by_share(counts, shares, size, fill=True)
    assert sum(taken) == min(size, sum(counts))
    assert all(0 <= one <= count for one, count in zip(taken, counts, strict=True))


def test_the_first_by_hash_are_taken():
    hashes = np.array([5, 3, 9, 1, 7], np.uint64)
    assert first_by_hash(hashes, np.array([0, 0, 0, 1, 1]), {0: 2, 1: 0}).tolist() == [True, True, False, False, False]
    assert first_by_hash(hashes, np.array([0, 0, 0, 1, 1]), {0: 5}).all()
    assert first_by_hash(hashes, np.array([0, 0, 0, 1, 1]), {1: 1}).tolist() == [True, True, True, True, False]


def test_every_class_gets_the_number():
    classes = np.array([1] * 10 + [2] * 3 + [3], np.uint64)
    hashes = np.arange(14)[::-1].astype(np.uint64)
    found = copies(hashes, classes, 5, 4)
    assert found[:10].tolist() == [0] * 5 + [1] * 5, "the last by hash are left out"
    assert found[10:13].tolist() == [1, 2, 2]
    assert found[13:].tolist() == [4], "at most four times"


def test_a_class_with_a_number_of_its_own_gets_it_and_others_stay_as_they_are():
    classes = np.repeat(np.array([7, 8, 9], np.uint64), [4, 6, 2])
    times = copies(np.arange(1, 13).astype(np.uint64), classes, {7: 2, 9: 5, 1: 3}, 5)
    assert times.tolist() == [1, 1, 0, 0] + [1] * 6 + [3, 2]
