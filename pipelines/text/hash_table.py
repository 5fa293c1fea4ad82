"""Hash tables for kernels: open addressing over arrays.

`claim` works on arrays that serve one document after the other. A slot belongs to the present user only where its stamp
is the present stamp, so nothing is ever cleared. Each document uses only the first `mask + 1` slots, as many as it
needs, so that short documents stay in the cache. `hash_slots` makes a table once, for `find_slot`.
"""

import numpy as np
from numba import njit

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing, Knuth, TAOCP 6.4
_HIGH = np.uint64(29)


@njit(cache=True, nogil=True)
def slots_for(items):
    """The power of two that holds so many items at most half full."""
    slots = 16
    while slots < 2 * items:
        slots *= 2
    return slots


@njit(inline="always")
def claim(keys, stamps, mask, stamp, key):
    """(slot of `key`: int64, whether it is new). There must be a free slot among the first mask + 1."""
    slot = np.int64((key * _SPREAD) >> _HIGH) & mask
    while stamps[slot] == stamp:
        if keys[slot] == key:
            return slot, False
        slot = (slot + 1) & mask
    stamps[slot] = stamp
    keys[slot] = key
    return slot, True


@njit(cache=True, nogil=True)
def hash_slots(hashes, size):
    """A table that never changes: (uint64[size] with each hash in its slot and 0 elsewhere, the slot of each hash).

    size: a power of two, well above the number of hashes.
    """
    table, slots = np.zeros(size, np.uint64), np.empty(len(hashes), np.int64)
    for number, hashed in enumerate(hashes):
        slot = np.int64(hashed & np.uint64(size - 1))
        while table[slot]:
            slot = (slot + 1) & (size - 1)
        table[slot] = hashed
        slots[number] = slot
    return table, slots


@njit(cache=True, nogil=True)
def find_slot(table, hashed):
    """Where the hash is in a table of `hash_slots`; -1: it is not."""
    slot = np.int64(hashed & np.uint64(len(table) - 1))
    while table[slot]:
        if table[slot] == hashed:
            return slot
        slot = (slot + 1) & (len(table) - 1)
    return -1
