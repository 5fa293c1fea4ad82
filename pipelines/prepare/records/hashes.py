"""Hashes of records: ids of those without one, and numbers that stand for texts."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.examples import splits

_64_BITS = (1 << 64) - 1


def id_of(columns: Mapping[str, Any]) -> str:
    """The id of a record to which the source gives none: 32 hex digits of its columns."""
    return hash_of_text(json.dumps(columns, ensure_ascii=False, sort_keys=True))


def hash_of_text(text: str) -> str:
    """32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hash64(*parts: str) -> int:
    """A 64-bit hash of texts, never 0."""
    return splits.hash64(*(part.encode() for part in parts)) or 1


def hashes_in_order(hashes: np.ndarray, seed: int) -> np.ndarray:
    """uint64[N]: other hashes for each seed, by which records are sorted. hashes: uint64[N]. Source: splitmix64."""
    mixed = hashes + np.uint64(seed * 0x9E3779B97F4A7C15 & _64_BITS)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
