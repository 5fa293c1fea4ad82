"""Lists of millions of entries as sorted 64-bit hashes, 8 bytes an entry, and the search in them.

The hash is FNV-1a with mixed bits. A text that is compared with a list of n entries is found there by accident with
probability n / 2**64.
"""

import numpy as np

from raymill.pipelines.text.kernel import inner_kernel, kernel
from raymill.pipelines.text.texts import Texts

START = np.uint64(0xCBF29CE484222325)


@inner_kernel
def add(hashed, byte):
    """One step of FNV-1a, 64 bits; the first one is of START."""
    return (hashed ^ np.uint64(byte)) * np.uint64(0x100000001B3)


@inner_kernel
def finish(hashed):
    """Mix the bits of a hash (the finaliser of splitmix64)."""
    hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashed ^ (hashed >> np.uint64(31))


@inner_kernel
def contains(hashed, hashes):
    """Whether the sorted `hashes` hold `hashed`."""
    low, high = 0, len(hashes)
    while low < high:
        middle = (low + high) >> 1
        if hashes[middle] < hashed:
            low = middle + 1
        else:
            high = middle
    return low < len(hashes) and hashes[low] == hashed


def hashes_of(texts: Texts, *, backward: bool = False) -> np.ndarray:
    """uint64[D]: hash of each document, from its end if `backward`.

    Domains are hashed from their end: one pass over a host then gives the hashes of all its parent domains.
    """
    hashes = np.empty(len(texts), np.uint64)
    _fill_hashes(texts.data, texts.offsets, backward, hashes)
    return hashes


@kernel
def _fill_hashes(data, offsets, backward, hashes):
    for entry in range(len(hashes)):
        first, last = offsets[entry], offsets[entry + 1]
        hashed = START
        for at in range(last - first):
            hashed = add(hashed, data[last - 1 - at] if backward else data[first + at])
        hashes[entry] = finish(hashed)
