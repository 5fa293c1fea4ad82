"""Hash tables of kernels: their size, and what is found in a table of any number of entries."""

import numpy as np
import pytest

from raymill.pipelines.text.instructions import empty_table, find_or_insert, find_slot, hash_slots, slots_for


@pytest.mark.parametrize("items", [0, 1, 8, 9, 16, 17, 32, 33, 1000])
def test_a_table_is_the_smallest_power_of_two_that_is_at_most_half_full(items):
    size = slots_for(items)
    assert size & (size - 1) == 0 and size >= max(16, 2 * items) and (size == 16 or size // 2 < 2 * items)
    assert len(empty_table(items)[0]) == len(empty_table(items)[1]) == size


@pytest.mark.parametrize("items", [0, 1, 16, 17])
def test_hashes_that_share_a_slot_are_all_found_and_others_are_not(items):
    size = slots_for(items)
    hashes = np.arange(1, items + 1, dtype=np.uint64) * np.uint64(size) + np.uint64(size - 1)  # the last slot
    table, slots = hash_slots(hashes, size)
    assert (
        [find_slot(table, hashed) for hashed in hashes]
        == slots.tolist()
        == sorted(set(slots), key=slots.tolist().index)
    )
    assert find_slot(table, np.uint64(size * (items + 1) + size - 1)) == -1


def test_a_key_is_inserted_once_for_each_stamp():
    keys, stamps = empty_table(8)
    for stamp in (1, 2):
        with np.errstate(over="ignore"):  # as kernels multiply
            found = [find_or_insert(keys, stamps, 15, stamp, np.uint64(key)) for key in (5, 7, 5, 9, 7)]
        assert [new for _, new in found] == [True, True, False, True, False]
        assert found[0][0] == found[2][0] and found[1][0] == found[4][0]
