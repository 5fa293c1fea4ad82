"""Hash tables for kernels: open addressing over numpy arrays.

`find_or_insert` uses one pair of arrays for one document after the other. A slot is in use if its stamp is the current
stamp, so a new stamp empties the table without clearing it. A document uses only the first `mask + 1` slots, which
keeps the table of a short document in the processor's cache.

`hash_slots` builds a constant table, which `find_slot` searches.
"""

import numpy as np

from pipelines.text.kernel import inner_kernel

_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: Fibonacci hashing, Knuth, TAOCP 6.4
_HIGH = np.uint64(29)


def empty_table(items: int) -> tuple[np.ndarray, np.ndarray]:
    """(keys uint64[N], stamps int64[N]) for `find_or_insert`, with room for so many items. Only stamp 0 is in use."""
    slots = slots_for(items)
    return np.empty(slots, np.uint64), np.zeros(slots, np.int64)


@inner_kernel
def slots_for(items):
    """Size of a table for so many items: the smallest power of two, at least 16, that they fill at most by half."""
    slots = 16
    while slots < 2 * items:
        slots *= 2
    return slots


@inner_kernel
def find_or_insert(keys, stamps, mask, stamp, key):
    """(slot of `key`: int64, whether this call inserted it).

    keys: uint64[N]; stamps: int64[N]; mask: slots in use - 1, where that number is a power of two, at most N. At least
    one of these slots must be free.
    """
    slot = np.int64((key * _SPREAD) >> _HIGH) & mask
    while stamps[slot] == stamp:
        if keys[slot] == key:
            return slot, False
        slot = (slot + 1) & mask
    stamps[slot] = stamp
    keys[slot] = key
    return slot, True


def hash_slots(hashes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A constant table: (uint64[size] with each hash in its slot and 0 elsewhere; int64[N], the slot of each hash).

    hashes: uint64[N], none is 0. size: a power of two, at least twice the number of hashes.
    """
    table, slots = np.zeros(size, np.uint64), np.empty(len(hashes), np.int64)
    for number, hashed in enumerate(hashes.tolist()):
        slot = hashed & (size - 1)
        while table[slot]:
            slot = (slot + 1) & (size - 1)
        table[slot] = hashed
        slots[number] = slot
    return table, slots


@inner_kernel
def find_slot(table, hashed):
    """Slot of a hash in a table of `hash_slots`; -1 if the table does not hold it."""
    slot = np.int64(hashed & np.uint64(len(table) - 1))
    while table[slot]:
        if table[slot] == hashed:
            return slot
        slot = (slot + 1) & (len(table) - 1)
    return -1
