"""How many records of each source the data set has, and how many of each class its training split."""

from collections.abc import Mapping, Sequence

import numpy as np


def sizes_by_share(counts: Sequence[int], shares: Sequence[float], size: int | None, *, fill: bool) -> list[int]:
    """How many records are taken of each source.

    Args:
        counts: records that each source has. shares: wanted of each, which sum to 1.
        size: wanted in all; None: as many as keep the shares of the sources that have records.
        fill: what a source lacks is taken from the others, in proportion to their shares, as far as they have it.
    """
    has = np.array(counts, np.int64)
    share = np.array(shares)
    if size is None:
        share = np.where(has > 0, share, 0) / max(share[has > 0].sum(), 1e-300)
        size = int(min((count / part for count, part in zip(has, share, strict=True) if count), default=0) + 1e-9)
    wanted = _whole(size * share, size)
    taken = np.minimum(wanted, has)
    while fill and (left := size - int(taken.sum())) and (taken < has).any():
        room = has - taken
        part = np.where(room > 0, share, 0)
        taken = taken + np.minimum(_whole(left * part / part.sum(), left), room)
    return taken.tolist()


def _whole(parts: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers near these, which sum to `total`; the largest fractions are rounded up."""
    down = np.floor(parts + 1e-9).astype(np.int64)
    up = np.argsort(-(parts - down), kind="stable")[: max(total - int(down.sum()), 0)]
    down[up] += 1
    return down


def first_by_hash(hashes: np.ndarray, of: np.ndarray, sizes: Mapping[int, int]) -> np.ndarray:
    """bool[N]: the records that are taken: of each source or class the first by hash, so many as in `sizes`.

    hashes: uint64[N]. of: int64[N], the source or class of each record. Others than those in `sizes` are all taken.
    """
    taken = np.ones(len(hashes), bool)
    for number, size in sizes.items():
        here = np.flatnonzero(of == number)
        taken[here[np.argsort(hashes[here], kind="stable")][size:]] = False
    return taken


def copies(hashes: np.ndarray, classes: np.ndarray, to: int | Mapping[int, int], most: int) -> np.ndarray:
    """int64[N]: how often each record is written, 0 or more, so that every class has about `to` records.

    A class with more loses the last by hash; of a class with fewer, records are repeated, at most `most` times each.

    hashes: uint64[N]. classes: uint64[N], a hash of the class's name. to: also by class; others stay as they are.
    """
    found = np.ones(len(hashes), np.int64)
    for one in np.unique(classes).tolist():
        here = np.flatnonzero(classes == one)
        here = here[np.argsort(hashes[here], kind="stable")]
        wanted = to if isinstance(to, int) else to.get(one, len(here))
        size = min(wanted, most * len(here))
        found[here] = size // len(here)
        found[here[: size % len(here)]] += 1
    return found
