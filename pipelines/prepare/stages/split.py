"""Which records are for training, which for validation and which for testing.

Records that belong together are one component and go to one split: those with an equal value of a group, directly or
over others. In each stratum the components are sorted by a hash, and the splits follow one another, so the result
depends neither on the order of the records nor on the number of files. Then components of several records are moved
and exchanged between splits while that brings the splits nearer to their shares. What one stratum is off is carried to
the next, so that many small strata do not all round to nothing; strata with large components come first, so that the
others make up for them.

Records that an earlier run has keep their split; the others fill up what each split lacks. So an old record is moved
neither by new ones nor by a new record that joins its component to another.

Folds are equal shares of the records that are not for testing, by the same strata and components, and are kept alike.

By time, the components are sorted by their newest record instead.
"""

from collections.abc import Sequence

import numpy as np

from cluster.examples.splits import split_places
from pipelines.prepare.records.hashes import hashes_in_order

_NONE = -1
_MOST_MOVES = 1000  # of components of a stratum between splits; a few are usual
_EPSILON = 1e-9


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
    # The smallest of many hashes is small: large components would come first, and be in train.
    places = np.where(sizes == 1, hashes[first], hashes_in_order(hashes[first], 0))
    newest = np.zeros(len(starts), np.int64) if times is None else np.maximum.reduceat(times[order], starts)
    chosen = np.full(len(starts), _NONE)
    if kept is not None:
        chosen = _kept_by_component(kept[order], starts, len(shares))
    carried = np.zeros(len(shares))
    for stratum in _largest_first(strata[first], sizes):
        here = np.flatnonzero(strata[first] == stratum)
        here = here[np.lexsort((places[here], newest[here]))]
        wanted = np.array(shares) * sizes[here].sum() + carried
        old = here[chosen[here] != _NONE]
        has = np.bincount(chosen[old], sizes[old], len(shares))
        new = here[chosen[here] == _NONE]
        chosen[new] = _fill(sizes[new], np.maximum(wanted - has, 0))
        if times is None:
            chosen[new] = _evened(sizes[new], chosen[new], wanted - has)
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
    return split_places(sizes, (np.cumsum(wanted) * total / wanted.sum())[:-1])


def _largest_first(strata: np.ndarray, sizes: np.ndarray) -> list[int]:
    """The strata by the records of their largest component, the largest first, equal ones in order.

    strata: uint64[C], of C components. sizes: int64[C], records of each.
    """
    values, inverse = np.unique(strata, return_inverse=True)
    largest = np.zeros(len(values), np.int64)
    np.maximum.at(largest, inverse, sizes)
    return values[np.argsort(-largest, kind="stable")].tolist()


def _evened(sizes: np.ndarray, chosen: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The splits of components after moves and exchanges that bring the splits nearer to their wanted records.

    Each takes a component from a split, and brings back a smaller one or none, where that lowers the sum of squares of
    what the splits are off by the most. It ends when none does. If a split is still off by a record or more, the
    largest components are also tried first, each where most is lacking, and the better result is taken: it divides
    groups of very different sizes, but gives the largest to the largest split.

    sizes, chosen: int64[C]. wanted: float64[S]. Cost: sorting C numbers for each move.
    """
    if not len(sizes) or sizes.max() == 1:  # `_fill` is exact
        return chosen
    found = _exchanged(sizes, chosen, wanted)
    if _off(sizes, found, wanted) < 1:
        return found
    lacks, largest = wanted.copy(), np.empty_like(chosen)
    for at in np.argsort(-sizes, kind="stable").tolist():
        largest[at] = lacks.argmax()
        lacks[largest[at]] -= sizes[at]
    other = _exchanged(sizes, largest, wanted)
    return other if _off(sizes, other, wanted) < _off(sizes, found, wanted) - _EPSILON else found


def _off(sizes: np.ndarray, chosen: np.ndarray, wanted: np.ndarray) -> float:
    """By how many records a split is off at the most."""
    return float(np.abs(np.bincount(chosen, sizes, len(wanted)) - wanted).max())


def _exchanged(sizes: np.ndarray, chosen: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The splits of components after moves and exchanges from this beginning, as of `_evened`."""
    chosen = chosen.copy()
    off = np.bincount(chosen, sizes, len(wanted)) - wanted
    splits = range(len(wanted))
    of_split = [np.unique(sizes[chosen == split]) for split in splits]
    for _ in range(_MOST_MOVES):
        most, best = _EPSILON, None
        for source in splits:
            for target in splits:
                gap = off[source] - off[target]
                if gap <= most / 2 or not len(of_split[source]):
                    continue
                given, back = of_split[source], np.append(0, of_split[target])
                # x records less in the source lower the sum of squares by 2x(gap - x), the most at gap / 2.
                after = np.searchsorted(back, given - gap / 2)
                for near in (np.minimum(after, len(back) - 1), np.maximum(after - 1, 0)):
                    x = given - back[near]
                    gain = 2 * x * (gap - x)
                    at = int(gain.argmax())
                    if gain[at] > most:
                        most, best = gain[at], (source, target, given[at], back[near[at]])
        if best is None:
            break
        source, target, given_size, size_back = best
        moved = np.flatnonzero((chosen == source) & (sizes == given_size))[-1]
        if size_back:
            chosen[np.flatnonzero((chosen == target) & (sizes == size_back))[-1]] = source
        chosen[moved] = target
        off = np.bincount(chosen, sizes, len(wanted)) - wanted
        for split in (source, target):
            of_split[split] = np.unique(sizes[chosen == split])
    return chosen


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
