"""Splits of data sets: their names, and the places between them.

`prepare` divides records that it has in memory: it keeps the splits of earlier runs, follows times and evens splits out
(pipelines/prepare/stages/split.py). `train` divides corpora of any size by two hashes for each stratum
(training/pack/split.py). Both place the ends of splits by `split_places`.
"""

import hashlib

import numpy as np

SPLITS = ("train", "validation", "test")

# Other usual names of the splits.
_USUAL = {
    "training": "train",
    **dict.fromkeys(("valid", "val", "dev", "eval", "evaluation"), "validation"),
    "testing": "test",
}


def split_name(value: str) -> str | None:
    """The split that a value of a column names, also by another usual name; None if it names none."""
    found = _USUAL.get(value.lower(), value.lower())
    return found if found in SPLITS else None


def hash64(*parts: bytes) -> int:
    """A 64-bit hash of byte strings."""
    framed = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "little"), part)])
    return int.from_bytes(hashlib.blake2b(framed, digest_size=8).digest(), "little")


def split_places(sizes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """int64[C]: the split of each of C groups in order: each split ends between the two groups nearest to its end.

    sizes: int64[C], records of each group. ends: float64[S - 1], records before the end of each split but the last.
    """
    return np.searchsorted(np.maximum.accumulate(ends), np.cumsum(sizes) - sizes / 2, side="right")
