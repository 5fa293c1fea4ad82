"""A hash table for kernels: open addressing over arrays that serve one document after the other.

A slot belongs to the present user only where its stamp is the present stamp, so nothing is ever cleared. Each document
uses only the first `mask + 1` slots, as many as it needs, so that short documents stay in the cache.
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
