"""Names of splits, and the places between them."""

import numpy as np
import pytest

from raymill.cluster.examples.splits import hash64, split_name, split_places


@pytest.mark.parametrize(
    ("sizes", "ends", "splits"),
    [
        ([1, 1, 1, 1], [2.0, 3.0], [0, 0, 1, 2]),
        ([3, 3], [2.0, 4.0], [0, 2]),  # nearest to the end, before or behind it
        ([2, 2], [1.0, 1.0], [2, 2]),  # an end in the middle of a group is before it
        ([1, 1], [-1.0, 5.0], [1, 1]),
        ([1, 1], [2.0, 1.0], [0, 0]),  # a split never ends before the one before it
        ([], [0.0, 0.0], []),
    ],
)
def test_a_split_ends_between_the_two_groups_that_are_nearest_to_its_end(sizes, ends, splits):
    assert split_places(np.array(sizes, np.int64), np.array(ends)).tolist() == splits


def test_usual_names_of_splits_are_those_of_a_training():
    assert [split_name(name) for name in ("train", "Training", "dev", "valid", "testing", "other")] == [
        "train", "train", "validation", "validation", "test", None,
    ]  # fmt: skip


def test_the_hash_of_several_texts_tells_where_each_ends():
    assert len({hash64(b"ab", b"c"), hash64(b"a", b"bc"), hash64(b"abc")}) == 3
    assert hash64(b"content", b"x") == 0xEDA4456A2D47C2E8, "ids of packed runs stay"
