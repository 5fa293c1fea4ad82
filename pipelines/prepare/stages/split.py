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

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from raymill.cluster.examples.splits import split_places
from raymill.cluster.store import paths

# What a record is classed by besides its metadata: its length (each class up to twice as long as the one before), and
# its stage of the curriculum. Metadata with such a name is used instead.
FOUND = ("length", "complexity")
MOST_COPIES = 1000  # of a record that balancing repeats
_NONE = -1
_MOST_MOVES = 1000  # of components of a stratum between splits; a few are usual
_EPSILON = 1e-9
_64_BITS = (1 << 64) - 1


class Mixture(BaseModel, extra="forbid", frozen=True):
    """How many records of each source are taken, where inputs have a `share`."""

    records: int | None = Field(
        None, ge=1, description="Number of records from all sources together; null: as many as the shares permit"
    )
    fill: bool = Field(
        True,
        description="Whether records that a source lacks are taken from the others; false: the data set is smaller",
    )


class Balance(BaseModel, extra="forbid", frozen=True):
    """Numbers of records of each class, by leaving some out and repeating others."""

    by: tuple[str, ...] = Field(
        min_length=1,
        description="Metadata fields whose values together are the class of a record; also length and complexity",
    )
    to: Literal["smallest", "largest"] | Annotated[int, Field(ge=1)] | dict[str, Annotated[int, Field(ge=0)]] = Field(
        "largest",
        description="Number of records of each class: as many as the smallest or the largest class has, a number, or "
        "{VALUE: NUMBER} for one field, where other values stay as they are",
    )
    most_copies: int = Field(5, ge=1, le=MOST_COPIES, description="Maximum number of times that a record is written")

    @field_validator("to", mode="before")
    @classmethod
    def _values_are_texts(cls, to: Any) -> Any:
        return {str(value): number for value, number in to.items()} if isinstance(to, dict) else to

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.to, dict) and (len(self.by) > 1 or not self.to):
            raise ValueError(
                f"to: {', '.join(self.to) or 'no value'} named, and by has {', '.join(self.by)}; values have numbers "
                "with one field in `by`"
            )
        if isinstance(self.to, dict) and self.by == ("complexity",) and not all(one.isdigit() for one in self.to):
            raise ValueError("to: complexity is a stage of the curriculum; name the numbers of stages, from 1")
        return self


class Synthetic(BaseModel, extra="forbid", frozen=True):
    """Maximum fractions of synthetic records: those that a model (`generate`) or augmentation made."""

    train: float = Field(
        1, ge=0, le=1, description="Maximum fraction of the training split that a model or augmentation made"
    )
    validation: float = Field(
        0, ge=0, le=1, description="Maximum fraction of the validation split that a model or augmentation made"
    )
    test: float = Field(
        0, ge=0, le=1, description="Maximum fraction of the test split that a model or augmentation made"
    )

    @property
    def fractions(self) -> tuple[float, float, float]:
        return self.train, self.validation, self.test


class Split(BaseModel, extra="forbid", frozen=True):
    """Shares of records. Records that belong together are in one split."""

    train: float = Field(0.8, gt=0, le=1, description="Fraction of the records for training")
    validation: float = Field(0.1, ge=0, lt=1, description="Fraction of the records for validation")
    test: float = Field(0.1, ge=0, lt=1, description="Fraction of the records for testing")
    stratify: tuple[str, ...] = Field(
        (),
        description="Metadata fields whose values have the same fractions in every split; also length and complexity",
    )
    group: tuple[str, ...] = Field((), description="Metadata fields whose equal values keep records in one split")
    keep: tuple[paths.AbsolutePath, ...] = Field(
        (), description="Outputs of earlier runs whose records stay in their split"
    )
    stable: bool = Field(
        True,
        description="Whether records of a data set that is replaced (--replace) stay in their split and fold; with "
        "other fractions, groups, strata or seed, all records are divided anew",
    )
    by_time: str | None = Field(
        None,
        description="Metadata field with a date or time: the oldest records are for training, the newest for "
        "testing; null: time plays no part",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="Number of cross-validation folds of the records that are not for testing; null: none",
    )
    balance: Balance | None = Field(None, description="Balance of classes in the training split; null: none")
    synthetic: Synthetic = Field(
        Synthetic(),
        description="Maximum fractions of synthetic records in the splits; by default only training has any",
    )
    seed: int = Field(1, ge=0, lt=1 << 32, description="Random seed of the division into splits and folds")

    @property
    def shares(self) -> tuple[float, float, float]:
        return self.train, self.validation, self.test

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if abs(sum(self.shares) - 1) > 1e-9:
            raise ValueError(f"train, validation and test sum to {sum(self.shares):g}; wanted 1")
        if both := sorted(set(self.stratify) & set(self.group)):
            raise ValueError(f"{', '.join(both)}: in stratify and in group; records of one group have one split")
        if self.by_time and (self.stratify or self.folds):
            raise ValueError("by_time: time alone decides the split; leave stratify and folds out")
        return self


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
        # The split of most kept records of a component, the first of equals.
        counts = np.stack([np.add.reduceat(kept[order] == split, starts) for split in range(len(shares))])
        chosen = np.where(counts.any(axis=0), counts.argmax(axis=0), _NONE)
    values, inverse = np.unique(strata[first], return_inverse=True)
    largest = np.zeros(len(values), np.int64)  # the records of the largest component of each stratum
    np.maximum.at(largest, inverse, sizes)
    carried = np.zeros(len(shares))
    for stratum in values[np.argsort(-largest, kind="stable")].tolist():
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


def _fill(sizes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The split of each component, in order, so that each split has about `wanted` records, of which one lacks some."""
    total = sizes.sum()
    if not total:
        return np.empty(0, np.int64)
    return split_places(sizes, (np.cumsum(wanted) * total / wanted.sum())[:-1])


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


def relatives(ids: np.ndarray, rows: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """uint64[N]: a number for the records that are related by parents, directly or over others, 0 for one without
    relatives. A parent that is no record relates its children.

    ids: uint64[N], hashes. rows, parents: int64[P], uint64[P], a record and the hash of a parent's id, for each parent.
    """
    found = np.zeros(len(ids), np.uint64)
    if not len(parents):
        return found
    own = np.flatnonzero(np.isin(ids, parents))
    record = np.concatenate([rows, own])
    _, name = np.unique(np.concatenate([parents, ids[own]]), return_inverse=True)
    label = np.arange(len(ids))
    while True:
        before = label
        smallest = np.full(name.max() + 1, len(ids))
        np.minimum.at(smallest, name, label[record])
        label = label.copy()
        np.minimum.at(label, record, smallest[name])
        label = label[label]
        if np.array_equal(label, before):
            break
    found[record] = label[record].astype(np.uint64) + np.uint64(1)
    return found


def hashes_in_order(hashes: np.ndarray, seed: int) -> np.ndarray:
    """uint64[N]: other hashes for each seed, by which records are sorted. hashes: uint64[N]. Source: splitmix64."""
    mixed = hashes + np.uint64(seed * 0x9E3779B97F4A7C15 & _64_BITS)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


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
    """bool[N]: the records that are taken: of each source or class the first by hash, as many as in `sizes`.

    hashes: uint64[N]. of: int64[N], the source or class of each record. Others than those in `sizes` are all taken.
    """
    taken = np.ones(len(hashes), bool)
    for number, size in sizes.items():
        here = np.flatnonzero(of == number)
        taken[here[np.argsort(hashes[here], kind="stable")][size:]] = False
    return taken


def most_synthetic(others: int, fraction: float) -> int | None:
    """The largest number of synthetic records whose fraction, beside `others`, is at most this; None: any number."""
    return None if fraction >= 1 else int(others * fraction / (1 - fraction) + _EPSILON)


def numbers_of_variants(
    hashes: np.ndarray,
    classes: np.ndarray,
    written: np.ndarray,
    each: int,
    to: Literal["largest"] | int | float | Mapping[int, int] | None,
    most: int | None = None,
) -> np.ndarray:
    """int64[N]: how many variants are made of each record; a limit favours rare classes and first variants.

    Args:
        hashes: uint64[N].
        classes: uint64[N], hashes of the classes.
        written: int64[N], how often each record is written.
        each: number of variants of each record; with `to`, the maximum.
        to: wanted records of each class: as many as the largest has, a number (int), a fraction of the largest (float),
            or numbers by class, where other classes get no variants; None: `each` variants of every record.
        most: maximum number of variants of all records; None: any number.
    """
    names, of = np.unique(classes, return_inverse=True)
    has = np.bincount(of, written, len(names)).astype(np.int64)
    found = np.zeros(len(hashes), np.int64)
    if to is None:
        found[:] = each
    else:
        for number, name in enumerate(names.tolist()):
            largest = float(has.max())
            if isinstance(to, Mapping):
                wanted: float = to.get(name, 0)
            else:
                wanted = largest if to == "largest" else largest * to if isinstance(to, float) else to
            here = np.flatnonzero(of == number)
            here = here[np.argsort(hashes[here], kind="stable")]
            lacks = min(max(int(wanted + _EPSILON) - int(has[number]), 0), each * len(here))
            found[here] = lacks // len(here)
            found[here[: lacks % len(here)]] += 1
    if most is not None and found.sum() > most:
        record = np.repeat(np.arange(len(found)), found)
        place = np.arange(len(record)) - np.repeat(np.cumsum(found) - found, found)  # among those of the record
        size = np.zeros(len(record), np.int64) if to is None else has[of[record]]
        kept = np.lexsort((hashes[record], place, size))[:most]
        found = np.bincount(record[kept], minlength=len(found))
    return found


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
