"""Which records are for training, which for validation and which for testing.

Records that belong together are one component and go to one split: those with an equal value of a group, directly or
over others. In each stratum the components are sorted by a hash, and the splits follow one another, so shares are exact
to a component and the result depends neither on the order of the records nor on the number of files. The rounding of
one stratum is carried to the next, so that many small strata do not all round to nothing.

Records that an earlier run has keep their split; the others fill up what each split lacks. So an old record is moved
neither by new ones nor by a new record that joins its component to another.

Folds are equal shares of the records that are not for testing, by the same strata and components, and are kept alike.

By time, the components are sorted by their newest record instead.
"""

from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")
_NONE = -1


def components(count: int, groups: Sequence[np.ndarray]) -> np.ndarray:
    """int64[N]: the smallest record of the component of each of N records.

    groups: uint64[N] each, hashes of a group's value; 0 for a record without one.
    """
    label = np.arange(count)
    sorted_groups = []
    for values in groups:
        order = np.argsort(values, kind="stable")
        order = order[values[order] != 0]
        if len(order):
            starts = np.flatnonzero(np.append(True, values[order][1:] != values[order][:-1]))
            sorted_groups.append((order, starts, np.diff(starts, append=len(order))))
    while True:
        before = label
        for order, starts, lengths in sorted_groups:
            label = label.copy()
            label[order] = np.repeat(np.minimum.reduceat(label[order], starts), lengths)
        label = label[label]  # the smallest record that is known of a record's smallest record
        if np.array_equal(label, before):
            return label


def assign(
    hashes: np.ndarray,
    strata: np.ndarray,
    component: np.ndarray,
    shares: Sequence[float],
    kept: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> np.ndarray:
    """int8[N]: index of the split of each of N records.

    Args:
        hashes: uint64[N], by which components are sorted. strata: uint64[N]. A component has those of its record with
            the smallest hash.
        component: int64[N], as of `components`.
        shares: of the splits, which sum to 1.
        kept: int8[N], the split of a record in an earlier run, -1 for new ones.
        times: int64[N], by which components are sorted instead: each by its newest record, so that no training record
            is newer than those of components for testing.
    """
    count = len(hashes)
    if not count:
        return np.empty(0, np.int8)
    order = np.lexsort((hashes, component))
    starts = np.flatnonzero(np.append(True, component[order][1:] != component[order][:-1]))
    first, sizes = order[starts], np.diff(starts, append=count)
    newest = np.zeros(len(starts), np.int64) if times is None else np.maximum.reduceat(times[order], starts)
    chosen = np.full(len(starts), _NONE)
    if kept is not None:
        chosen = _kept_by_component(kept[order], starts, len(shares))
    carried = np.zeros(len(shares))
    for stratum in np.unique(strata[first]).tolist():
        here = np.flatnonzero(strata[first] == stratum)
        here = here[np.lexsort((hashes[first[here]], newest[here]))]
        wanted = np.array(shares) * sizes[here].sum() + carried
        old = here[chosen[here] != _NONE]
        has = np.bincount(chosen[old], sizes[old], len(shares))
        new = here[chosen[here] == _NONE]
        chosen[new] = _fill(sizes[new], np.maximum(wanted - has, 0))
        carried = wanted - np.bincount(chosen[here], sizes[here], len(shares))
    found = np.empty(count, np.int8)
    found[order] = np.repeat(chosen, sizes)
    if kept is not None:
        found = np.where(kept >= 0, kept, found).astype(np.int8)
    return found


def _kept_by_component(kept: np.ndarray, starts: np.ndarray, splits: int) -> np.ndarray:
    """The split of each component that has kept records: that of the most of them, the first of equals."""
    counts = np.stack([np.add.reduceat(kept == split, starts) for split in range(splits)])
    return np.where(counts.any(axis=0), counts.argmax(axis=0), _NONE)


def _fill(sizes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The split of each component, in order, so that each split has about `wanted` records, of which one lacks some."""
    total = sizes.sum()
    if not total:
        return np.empty(0, np.int64)
    ends = np.cumsum(wanted) * total / wanted.sum()
    middles = np.cumsum(sizes) - sizes / 2
    return np.minimum(np.searchsorted(ends, middles, side="right"), len(wanted) - 1)


def folds(
    hashes: np.ndarray, strata: np.ndarray, component: np.ndarray, count: int, kept: np.ndarray | None = None
) -> np.ndarray:
    """int8[N]: the fold of each of N records, 0 to count - 1, of equal sizes in each stratum, as of `assign`.

    kept: int8[N], the fold of a record in an earlier run, -1 for new ones.
    """
    return assign(hashes, strata, component, [1 / count] * count, kept)


def older_than_training(splits: np.ndarray, times: np.ndarray) -> int:
    """How many records for validation or testing are older than the newest training record. times: int64[N]."""
    trained = splits == 0
    return int((times[splits > 0] < times[trained].max()).sum()) if trained.any() else 0


def straddling(splits: np.ndarray, group: np.ndarray) -> int:
    """How many values of a group are in more than one split. group: uint64[N]; 0 for a record without a value."""
    has = group != 0
    pairs = np.unique(np.stack([group[has], splits[has].astype(np.uint64)]), axis=1)
    _, counts = np.unique(pairs[0], return_counts=True)
    return int((counts > 1).sum())
