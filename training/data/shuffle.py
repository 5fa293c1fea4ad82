"""Permutations that are the same on every machine and with every version of numpy.

A resumed run has to meet the order it began with, and numpy keeps the right to change what its generators draw.
"""

import hashlib

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)  # odd: 2^64 divided by the golden ratio


def hashes(count: int, *key: int | str) -> np.ndarray:
    """uint64[count]: pairwise different, well mixed, decided by `key` alone.

    Source of the mixing: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64).
    """
    start = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "little")
    value = np.arange(count, dtype=np.uint64) * _STEP + np.uint64(start)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def permutation(count: int, *key: int | str) -> np.ndarray:
    """int64[count]: the numbers below `count` in an order decided by `key` alone."""
    return np.argsort(hashes(count, *key), kind="stable")
