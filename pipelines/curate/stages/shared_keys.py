"""Shared keys: keys that more than a number of documents have, counted over all units by a shuffle of sliced files.

    KeyCounter    in a unit of input: each key once, with the number of documents that have it  -> slices by key
    shared_keys   of one slice: the keys that more than the allowed documents have              -> slices by unit
    read_shared   the shared keys of a unit

`KeyStages` runs these stages. With many units, those of cluster/exchange.py run between them.

A key has 96 bits, `key` and `check`. Two different texts have equal keys with a probability of 2^-96: with 10^12 texts,
in one of 10^5 runs. Both stages sort and add, so the result does not depend on the order of units.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters, fingerprint
from raymill.cluster.cost import Cost, Planning
from raymill.cluster.exchange import MEMORY as EXCHANGE_MEMORY
from raymill.cluster.exchange import Slice, SlicedFiles, exchange
from raymill.cluster.output import array_of
from raymill.cluster.stage import Output, RunStage, Scratch, Stage
from raymill.cluster.store.store import Store

Work = Callable[[Any, Scratch], Counters]

# A key in a unit of input. documents: how many of the unit have it. first: number of the first of them in the unit.
COUNTED = np.dtype([("key", "<u8"), ("check", "<u4"), ("documents", "<u4"), ("first", "<u4")])
# A shared key. documents: how many of all units have it. first: position of the first of them.
SHARED = np.dtype([("key", "<u8"), ("check", "<u4"), ("documents", "<i8"), ("first", "<i8")])

KEYS_OF_A_SLICE = 1 << 22
SLICE_MEMORY = 1 << 30  # bytes of a unit that counts a slice (measured with twice as many keys: 0.6 GB)

_HALF = np.uint64(32)
_WAITING = 1 << 20  # keys that are collected before they are added up

# Of counting a slice: seconds for each byte, and the share of the bytes that comes back to the units, at most. Source:
# `python -m tests.benchmarks boilerplate repeats` (AMD EPYC, 2026-11-23).
_BYTE_S, _SHARED_PART = 10e-9, 0.3


class KeyCounter:
    """Counts the documents of a unit that have each key. Memory: 70 bytes for each different key."""

    def __init__(self) -> None:
        self._sum = np.empty(0, COUNTED)
        self._waiting: list[np.ndarray] = []
        self._count = 0

    def add(self, keys: np.ndarray, checks: np.ndarray, documents: np.ndarray) -> None:
        """Add N keys: all keys of some documents.

        keys: uint64[N]. checks: uint32[N]. documents: int64[N], their numbers in the unit, not decreasing.
        """
        order = _sorted(keys, checks)
        keys, checks, documents = keys[order], checks[order], documents[order]
        is_first = _differ(keys, checks)
        starts = np.flatnonzero(is_first)
        is_first[1:] |= documents[1:] != documents[:-1]
        counted = np.empty(len(starts), COUNTED)
        counted["key"], counted["check"], counted["first"] = keys[starts], checks[starts], documents[starts]
        counted["documents"] = np.add.reduceat(is_first, starts, dtype=np.uint32) if len(starts) else 0
        self._waiting.append(counted)
        self._count += len(counted)
        if self._count > max(_WAITING, len(self._sum)):
            self._add_up()

    def slices(self, count: int) -> list[np.ndarray]:
        """The counts, COUNTED[N] sorted by key, cut into `count` slices, which are equal parts of the space of keys."""
        self._add_up()
        slice_of_key = (self._sum["key"] >> _HALF) * np.uint64(count) >> _HALF
        ends = np.searchsorted(slice_of_key, np.arange(count, dtype=np.uint64), side="right")
        return [self._sum[start:end] for start, end in pairwise([0, *ends.tolist()])]

    def _add_up(self) -> None:
        found = np.concatenate([self._sum, *self._waiting])
        self._waiting, self._count = [], 0
        found = found[_sorted(found["key"], found["check"])]
        starts = np.flatnonzero(_differ(found["key"], found["check"]))
        self._sum = found[starts]
        if len(starts):
            self._sum["documents"] = np.add.reduceat(found["documents"], starts)


def slices_for(keys: float) -> int:
    """The number of slices for an estimated number of keys of all units."""
    return max(1, int(-(-keys // KEYS_OF_A_SLICE)))


def shared_keys(counted: Sequence[np.ndarray], firsts: Sequence[int], most: int) -> list[np.ndarray]:
    """For each unit, its keys that more than `most` documents of all units have: SHARED[N], sorted by key.

    counted: COUNTED[N] of one slice, for each unit. firsts: position of each unit's first document.
    """
    found = np.concatenate([np.empty(0, COUNTED), *counted])
    units = np.repeat(np.arange(len(counted)), [len(one) for one in counted])
    order = _sorted(found["key"], found["check"])  # stable: of a key, the first unit comes first
    starts = np.flatnonzero(_differ(found["key"][order], found["check"][order]))
    lengths = np.diff(starts, append=len(order))
    documents = np.add.reduceat(found["documents"][order].astype(np.int64), starts) if len(starts) else starts
    first = np.array(firsts, np.int64)[units[order[starts]]] + found["first"][order[starts]]
    wanted = documents > most
    chosen = order[np.repeat(wanted, lengths)]
    shared = np.empty(len(chosen), SHARED)
    shared["key"], shared["check"] = found["key"][chosen], found["check"][chosen]
    shared["documents"] = np.repeat(documents[wanted], lengths[wanted])
    shared["first"] = np.repeat(first[wanted], lengths[wanted])
    in_units = np.argsort(chosen, kind="stable")  # of a unit they stay sorted by key
    ends = np.searchsorted(units[chosen[in_units]], np.arange(len(counted)), side="right")
    shared = shared[in_units]
    return [shared[start:end] for start, end in pairwise([0, *ends.tolist()])]


def read_shared(store: Store, slices: Slice | None) -> np.ndarray:
    """SHARED[N], sorted by key: the shared keys of a unit. slices: of the unit; None: nothing was counted.

    Raises:
        StorageError, DataError: as of `read_slice`.
    """
    return np.concatenate([np.empty(0, SHARED), *(slices.read(store, array_of(SHARED)) if slices else [])])


def find_shared(shared: np.ndarray, keys: np.ndarray, checks: np.ndarray) -> np.ndarray:
    """int64[N]: the index of each key in `shared`, -1 for others. shared: SHARED[M], sorted by key."""
    found = np.full(len(keys), -1)
    if len(shared):
        sorted_keys, sorted_checks = np.ascontiguousarray(shared["key"]), np.ascontiguousarray(shared["check"])
        # Most keys are not there. A table of their lowest bits finds that out in a tenth of the time.
        lowest = np.uint64((1 << (16 * len(shared)).bit_length()) - 1)
        may_be_there = np.zeros(int(lowest) + 1, bool)
        may_be_there[sorted_keys & lowest] = True
        open_ = np.flatnonzero(may_be_there[keys & lowest])
        at = np.full(len(keys), len(shared))
        at[open_] = np.searchsorted(sorted_keys, keys[open_])
        open_ = open_[at[open_] < len(shared)]
        while len(open_):  # once, unless two texts have equal keys and different checks
            open_ = open_[sorted_keys[at[open_]] == keys[open_]]
            equal = sorted_checks[at[open_]] == checks[open_]
            found[open_[equal]] = at[open_[equal]]
            open_ = open_[~equal]
            at[open_] += 1
            open_ = open_[at[open_] < len(shared)]
    return found


@dataclass(frozen=True)
class KeyStages:
    """Runs stages that prepare `select`, with sliced outputs.

    units: all units of input, with `first`, the position of their first document (kept_texts.MeasuredUnit). made_from:
    fingerprint of what else the result depends on. fan: see cluster/exchange.py. of: the stage that needs them.
    """

    run: RunStage
    store: Store
    units: Sequence[Any]
    made_from: str
    fan: int
    of: str = "select"

    def count(self, name: str, output: str, work: Work, memory: int, least: float = 0.0) -> Artifact:
        """Count the keys of every unit. memory: bytes of a unit. least: bytes of all keys that a plan assumes."""

        def planned(planning: Planning, sampled: Cost | None) -> list[Cost]:
            # Keys far apart in the input are not in a sample.
            assert sampled is not None
            return [replace(sampled, written=max(sampled.written, least))]

        return self.run(replace(self._stage(name, output, self.units, work, memory), model=planned))[output]

    def share(self, name: str, counted: Artifact, output: str, slices: int, most: int) -> tuple[SlicedFiles, float]:
        """(the keys that more than `most` documents have, by unit of input; their number).

        counted: from `count`. slices: number of slices of each of its files.
        """
        by_key = self._exchange(counted, slices, f"{name}-keys")

        def planned(planning: Planning, sampled: Cost | None) -> list[Cost]:
            size = planning.bytes_of(by_key.uris)
            written, gets = size * _SHARED_PART, 2 * by_key.levels.reads(by_key.levels.count)
            keys = {"keys": written / SHARED.itemsize}
            return [
                Cost(
                    core_s=size * _BYTE_S,
                    read=size,
                    written=written,
                    gets=gets,
                    puts=2 * slices,
                    scratch=written / slices,
                    counters=keys,
                )
            ]

        work = ShareKeys(self.store, by_key, tuple(one.first for one in self.units), most, output)
        stage = self._stage(name, output, range(slices), work, SLICE_MEMORY)
        found = self.run(replace(stage, model=planned))[output]
        by_unit = self._exchange(found, len(self.units), f"{name}-units")
        return by_unit, found.manifest.counters.get("keys", 0)

    def _exchange(self, made: Artifact, slices: int, name: str) -> SlicedFiles:
        def stage(name: str, output: str, units: Sequence[Any], work: Work) -> Stage:
            return self._stage(name, output, units, work, EXCHANGE_MEMORY)

        files = SlicedFiles.of(made.file_uris, slices, self.fan)
        return exchange(self.run, self.store, files, name, made.manifest.kind, stage)

    def _stage(self, name: str, output: str, units: Sequence[Any], work: Work, memory: int) -> Stage:
        made = fingerprint([self.made_from, name, len(units)])
        return Stage(
            f"{self.of}.{name}", (Output(output, pa.schema([])),), units, work, made, self.store, memory=memory
        )


@dataclass(frozen=True)
class ShareKeys:
    """The work of a unit that counts a slice.

    files: counts of each unit of input. firsts: position of its first document. most: see `shared_keys`. output: its
    name. Counters: `keys`, the sum over the units of their shared keys.
    """

    store: Store
    files: SlicedFiles
    firsts: tuple[int, ...]
    most: int
    output: str

    def __call__(self, number: int, scratch: Scratch) -> Counters:
        found = shared_keys(self.files.slice(number).read(self.store, array_of(COUNTED)), self.firsts, self.most)
        scratch.write_slices(self.output, found)
        return {"keys": sum(map(len, found))}


def _sorted(keys: np.ndarray, checks: np.ndarray) -> np.ndarray:
    """int64[N]: the order by key, then check. Equal keys keep their order."""
    order = np.argsort(keys, kind="stable")
    by_key, ordered = keys[order], checks[order]
    if np.any((by_key[1:] == by_key[:-1]) & (ordered[1:] != ordered[:-1])):
        return np.lexsort((checks, keys))  # takes twice as long
    return order


def _differ(keys: np.ndarray, checks: np.ndarray) -> np.ndarray:
    """bool[N]: whether each key differs from the one before it."""
    found = np.ones(len(keys), bool)
    found[1:] = (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])
    return found
