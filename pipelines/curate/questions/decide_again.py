"""Decides measured documents by two settings and counts both results: the work of `raymill what-if` on some files.

Only the columns of attributes that can change the result are read. The first failed check of each document by the
earlier settings is in the verdicts of the run. So the signals of checks that differ are read for all documents. The
signals of other checks are read only in row groups with a document that a differing check removed before and not now.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import open_parquet, read_tables
from cluster.store.store import Store
from pipelines.rules.filters import Filters, Name, all_reasons, check_results, check_settings, needed_columns

BEFORE, AFTER = "before", "after"

# (`total`, `sources`, `languages`, `first` or `alone`; name; side; `documents` or `characters`). Names of `first` and
# `alone` are `rule/reason`.
Count = tuple[str, str, str, str]
Counts = Counter[Count]


@dataclass(frozen=True)
class UnitFiles:
    """The index, number of documents, and files of a unit of `measure`."""

    index: int
    documents: int
    attributes: Sequence[str]
    verdicts: Sequence[str]


@dataclass(frozen=True)
class DecideAgain:
    """Counts the documents of units by two settings.

    known: whether the verdicts of the run are those of `before`. every: whether the documents that fail a check are
    counted for every check, or only for the checks that differ.
    """

    store: Store
    before: Filters
    after: Filters
    known: bool
    every: bool

    def __call__(self, units: Iterable[UnitFiles]) -> Counts:
        counts: Counts = Counter()
        for unit in units:
            codes = self._codes(unit.verdicts) if self.known else None
            for uri in unit.attributes:
                with open_parquet(self.store, uri) as parquet:
                    for group in range(parquet.num_row_groups):
                        self._add(counts, parquet, group, codes)
        return counts

    @cached_property
    def changed(self) -> frozenset[Name]:
        """The checks that differ, or are in one of the settings only; with `every`, all of them."""
        before, after = check_settings(self.before), check_settings(self.after)
        return frozenset(name for name in before | after if self.every or before.get(name) != after.get(name))

    @cached_property
    def names(self) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
        """The checks before and after, in order."""
        return all_reasons(self.before), all_reasons(self.after)

    @cached_property
    def in_order(self) -> bool:
        """Whether the checks that stay have the same order before and after."""
        before, after = self.names
        return [name for name in before if name in after] == [name for name in after if name in before]

    def _codes(self, verdicts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(rows int64[R], index of the failed check int16[R]) of the removed documents of a unit."""
        codes = {name: code for code, name in enumerate(self.names[0])}
        tables = list(read_tables(self.store, verdicts, {"row", "stage", "reason"}.__contains__))
        if not tables:
            return np.empty(0, np.int64), np.empty(0, np.int16)
        table = pa.concat_tables(tables)
        stages, reasons = (table[name].combine_chunks().dictionary_encode() for name in ("stage", "reason"))
        pairs = np.array(
            [[codes.get((s, r), -1) for r in reasons.dictionary.to_pylist()] for s in stages.dictionary.to_pylist()],
            np.int16,
        )
        return table["row"].to_numpy(), pairs[stages.indices.to_numpy(), reasons.indices.to_numpy()]

    def _add(
        self, counts: Counts, parquet: pq.ParquetFile, group: int, codes: tuple[np.ndarray, np.ndarray] | None
    ) -> None:
        def read(columns: Iterable[str]) -> pa.Table:
            there = [name for name in parquet.schema_arrow.names if name in set(columns)]
            return parquet.read_row_group(group, columns=there, use_threads=False)

        if codes is None or not self.in_order:
            everything = {*needed_columns(self.before), *needed_columns(self.after)}
            table = read({"characters", "source", "language"} | everything)
            before, after = self._first_of(table, self.before), self._first_of(table, self.after)
        else:
            signals = {*needed_columns(self.before, self.changed), *needed_columns(self.after, self.changed)}
            table = read({"row", "characters", "source", "language"} | signals)
            before = _lookup(table["row"].to_numpy(), *codes)
            after = self._after(table, before, read)
        self._count(counts, table, before, after)

    def _first_of(self, table: pa.Table, filters: Filters) -> np.ndarray:
        """int16[D]: the index of the first failed check, -1 for documents that stay."""
        return _first(all_reasons(filters), table, filters, None)

    def _after(self, table: pa.Table, before: np.ndarray, read: Callable[[Iterable[str]], pa.Table]) -> np.ndarray:
        """int16[D]: the first failed check by the later settings, from `before` and the checks that differ."""
        old, new = self.names
        # For each check before, and for -1: its index after, or -1 if there is none; and whether it differs.
        index_after = np.array([new.index(name) if name in new else -1 for name in old] + [-1], np.int16)
        differs = np.array([name in self.changed for name in old] + [False])
        first = _first(new, table, self.after, self.changed)
        released = differs[before]
        kept = np.where(released, -1, index_after[before])
        after = np.where((kept >= 0) & ((first < 0) | (kept < first)), kept, first)
        # Released documents may fail an unchanged check that follows the one that removed them.
        unknown = released & ((first < 0) | (first > index_after[before]))
        later = (
            {name for name in old[before[unknown].min() + 1 :] if name in new} - self.changed if unknown.any() else ()
        )
        if later:
            others = read(needed_columns(self.after, later)).filter(pa.array(unknown))
            second = _first(new, others, self.after, later)
            here = after[unknown]
            after[unknown] = np.where((second >= 0) & ((here < 0) | (second < here)), second, here)
        return after

    def _count(self, counts: Counts, table: pa.Table, before: np.ndarray, after: np.ndarray) -> None:
        characters = table["characters"].to_numpy()

        def add(kind: str, name: str, side: str, mask: np.ndarray) -> None:
            counts[kind, name, side, "documents"] += int(mask.sum())
            counts[kind, name, side, "characters"] += int(characters[mask].sum())

        groups: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        for kind, column in (("sources", "source"), ("languages", "language")):
            if column in table.column_names:
                values = table[column].combine_chunks().dictionary_encode()
                indices = values.indices.to_numpy()
                groups[kind] = {name: indices == at for at, name in enumerate(values.dictionary.to_pylist())}
        for side, first, filters in ((BEFORE, before, self.before), (AFTER, after, self.after)):
            for code, (rule, reason) in enumerate(all_reasons(filters)):
                add("first", f"{rule}/{reason}", side, first == code)
            for check in check_results(table, filters, self.changed):
                add("alone", f"{check.rule}/{check.reason}", side, check.fails)
            stays = first < 0
            add("total", "", side, stays)
            for kind, masks in groups.items():
                for name, mask in masks.items():
                    add(kind, name, side, stays & mask)


def _first(names: Sequence[Name], table: pa.Table, filters: Filters, only: Collection[Name] | None) -> np.ndarray:
    """int16[D]: the index in `names` of the first failed check among those in `only`; -1 if none fails."""
    first = np.full(table.num_rows, -1, np.int16)
    for check in check_results(table, filters, only):
        first[check.fails & (first < 0)] = names.index((check.rule, check.reason))
    return first


def _lookup(rows: np.ndarray, removed: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """int16[D]: the code of each row; -1 for rows that are not among `removed`, which is sorted."""
    if not len(removed):
        return np.full(len(rows), -1, np.int16)
    at = np.minimum(np.searchsorted(removed, rows), len(removed) - 1)
    return np.where(removed[at] == rows, codes[at], np.int16(-1))
