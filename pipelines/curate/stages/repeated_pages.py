"""Pages of web archives that an earlier page repeats, by URL or payload digest, for the rule `repeated_pages`.

    archives        ->  pages: place, URL and digest of each page that would be extracted, read without extraction
    pages           ->  keys of URLs that several pages have, by the shuffle of shared_keys.py
    pages, these    ->  keys of digests that several pages have, of those whose URL is not repeated

A page is repeated if another one with its key is before it in the input, which does not depend on workers.
"""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Counters, fingerprint, read_tables
from raymill.cluster.cost import Cost
from raymill.cluster.exchange import SlicedFiles
from raymill.cluster.guard import processor_seconds
from raymill.cluster.plan.sample import spread
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit
from raymill.cluster.stage import Output, RunStage, Scratch, Stage, files_from
from raymill.cluster.store.copies import local_file, sha256_of
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.shared_keys import KeyCounter, KeyStages, find_shared, read_shared, slices_for
from raymill.pipelines.memory import NUMBERS_MEMORY, files_memory, task_memory
from raymill.pipelines.rules.custom import plain_settings
from raymill.pipelines.rules.filters import Filters, RemovedByUrl
from raymill.pipelines.rules.repeated_pages import PageKey, RepeatedPages
from raymill.pipelines.rules.rule import files_read_by

PAGES = "_work/pages/found"
PAGES_VERSION = "1"

# The keys are hashes of 96 bits; null: the archive states none.
PAGES_SCHEMA = pa.schema([("where", pa.string()), ("url", pa.binary(12)), ("payload_digest", pa.binary(12))])
_KEYS: tuple[PageKey, ...] = ("url", "payload_digest")  # in the order in which pages are compared
_OF_A_UNIT = 1 << 32  # positions of a unit, more than it has pages
_BYTES_OF_A_PAGE = 20_000  # estimated
# Of a plan: archives that are timed, pages of each, and of a page the processor seconds of both kinds of keys and the
# bytes of all artifacts (40,000 pages in four archives, 2026-11-27: 2.7 us, 95 bytes).
_TIMED, _TIMED_PAGES = 4, 512
_KEYS_S, _WRITTEN = 3e-6, 95


@dataclass(frozen=True)
class PageUnit:
    """A unit of input with its files of PAGES."""

    unit: Unit
    files: list[str]

    @property
    def first(self) -> int:
        """The position of its first page; positions are in the order of the input, with gaps."""
        return self.unit.index * _OF_A_UNIT


@dataclass(frozen=True)
class Repeated:
    """The repeated pages of a run, as far as they are found. shared: the keys that several pages have."""

    store: Store
    units: tuple[PageUnit, ...]
    shared: tuple[tuple[PageKey, SlicedFiles], ...] = ()

    def in_unit(self, index: int) -> dict[str, str]:
        """Place -> the key that an earlier page has, of the repeated pages of a unit."""
        pages, repeats = self.pages(self.units[index])
        places = pages["where"].to_pylist()
        return {place: _KEYS[key] for place, key in zip(places, repeats.tolist(), strict=True) if key >= 0}

    def pages(self, unit: PageUnit) -> tuple[pa.Table, np.ndarray]:
        """(the pages of a unit, int8[N]: the index in _KEYS of what each repeats, -1 if it repeats nothing)."""
        pages = pa.concat_tables([PAGES_SCHEMA.empty_table(), *read_tables(self.store, unit.files)]).combine_chunks()
        repeats = np.full(pages.num_rows, -1, np.int8)
        for name, files in self.shared:
            rows, keys, checks = keys_of(pages, name, repeats)
            shared = read_shared(self.store, files.slice(unit.unit.index))
            at = find_shared(shared, keys, checks)
            first = np.append(shared["first"], -1)[at]
            repeats[rows[(at >= 0) & (first != unit.first + rows)]] = _KEYS.index(name)
        return pages, repeats


def rule_of(filters: Filters, inputs: InputManifest) -> RepeatedPages | None:
    """The rule `repeated_pages`, if it is set and the input has archives."""
    for rule in filters.rules:
        if isinstance(rule, RepeatedPages) and any(map(inputs.reading.leaves_out, inputs.units)):
            return rule
    return None


def made_from(config: CurateConfig, filters: Filters, inputs: InputManifest) -> str:
    """Fingerprint of all on which it depends which pages are repeated: all files, and the other rules of the URL."""
    store = inputs.reading.store
    lists = [sha256_of(local_file(store, path, "rules")) for rule in filters.of_url for path in files_read_by(rule)]
    of_url = [[rule.name, plain_settings(rule)] for rule in filters.of_url]
    return fingerprint(
        [PAGES_VERSION, inputs.fingerprint, len(inputs.units), config.limits.model_dump(), of_url, lists]
    )


def find_repeated(
    config: CurateConfig, filters: Filters, inputs: InputManifest, run: RunStage, fan: int
) -> Repeated | None:
    """Find the repeated pages of a run; None without the rule, or without archives."""
    if (rule := rule_of(filters, inputs)) is None:
        return None
    store, made = inputs.reading.store, made_from(config, filters, inputs)
    others = Filters(None, tuple(one for one in filters.of_url if one is not rule), filters.dialect)
    stage = Stage(
        "pages",
        (Output(PAGES, PAGES_SCHEMA),),
        inputs.units,
        FindPages(others, inputs.reading, config.limits),
        made,
        store,
        _files,
        memory=task_memory(config.limits) + files_memory(store, others.rules),
    )
    files = run(stage)[PAGES].files_by_unit(len(inputs.units))
    repeated = Repeated(store, tuple(PageUnit(*pair) for pair in zip(inputs.units, files, strict=True)))
    stages = KeyStages(run, store, repeated.units, made, fan, of="pages")
    slices = slices_for(sum(unit.bytes for unit in inputs.units) / _BYTES_OF_A_PAGE)
    for name in _KEYS:
        if name in rule.by:
            keys, shared = (f"_work/pages/{name}_{part}" for part in ("keys", "shared"))
            counted = stages.count(f"{name}_keys", keys, CountPages(repeated, name, slices, keys), NUMBERS_MEMORY)
            found, _ = stages.share(f"{name}_shared", counted, shared, slices, 1)
            repeated = replace(repeated, shared=(*repeated.shared, (name, found)))
    return repeated


def _files(unit: Unit) -> str:
    return files_from(unit.uris)


@dataclass(frozen=True)
class FindPages:
    """The work of a unit: the pages of its archives that no other rule of the URL removes. Counters: `documents`."""

    filters: Filters
    reading: Reading
    limits: Limits

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        documents = 0
        if self.reading.leaves_out(unit):
            removed_pages = RemovedByUrl(self.filters, self.reading.store)
            for table in read_unit(unit, self.reading_of(unit), self.limits, unwanted=_Everything(removed_pages)):
                pages = table.filter(pc.and_(pc.is_null(table["text"]), pc.is_null(table["problem"])))
                if self.filters.rules:
                    removed = removed_pages(pages)
                    pages = pages.filter(pa.array(~removed))
                hashes = [_hashes(pages[name].to_pylist()) for name in _KEYS]
                scratch.write(PAGES, pa.table([pages["where"], *hashes], PAGES_SCHEMA))
                documents += pages.num_rows
        return {"documents": documents}

    def reading_of(self, unit: Unit) -> Reading:
        """The reading in which the unit's pages also have the columns that are compared."""
        input, carried = self.reading.input_of(unit.source), self.reading.carried
        input = input.model_copy(update={"columns": tuple(dict.fromkeys((*input.columns, *_KEYS)))})
        missing = [pa.field(name, pa.string()) for name in _KEYS if name not in carried.names]
        return replace(self.reading, inputs=(input,), carried=pa.schema([*carried, *missing]))


@dataclass(frozen=True)
class _Everything:
    """No text is needed. removed_pages: is shown the beginnings of pages."""

    removed_pages: RemovedByUrl

    @property
    def reads_page_start(self) -> bool:
        return self.removed_pages.reads_page_start

    def __call__(self, columns: pa.Table) -> np.ndarray:
        if self.reads_page_start:
            self.removed_pages(columns)
        return np.ones(columns.num_rows, bool)


def _hashes(values: Sequence[str | None]) -> pa.Array:
    hashed = [hashlib.blake2b(one.encode(), digest_size=12).digest() if one else None for one in values]
    return pa.array(hashed, pa.binary(12))


@dataclass(frozen=True)
class CountPages:
    """The work of a unit that counts a kind of keys of the pages that repeat none of the kinds before."""

    repeated: Repeated
    name: PageKey
    slices: int
    output: str

    def __call__(self, unit: PageUnit, scratch: Scratch) -> Counters:
        pages, repeats = self.repeated.pages(unit)
        rows, keys, checks = keys_of(pages, self.name, repeats)
        counter = KeyCounter()
        counter.add(keys, checks, rows)
        scratch.write_slices(self.output, counter.slices(self.slices))
        return {"documents": pages.num_rows}


def keys_of(pages: pa.Table, name: PageKey, repeats: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows int64[N], keys uint64[N], checks uint32[N]) of the pages that have this key and repeat nothing so far."""
    hashes = pages[name].combine_chunks()
    rows = np.flatnonzero(pc.is_valid(hashes).to_numpy(zero_copy_only=False) & (repeats < 0))
    data = b"".join(hashes.take(pa.array(rows, pa.int64())).to_pylist())
    pairs = np.frombuffer(data, np.dtype([("key", "<u8"), ("check", "<u4")]))
    return rows, np.ascontiguousarray(pairs["key"]), np.ascontiguousarray(pairs["check"])


# --- plan


def planned_pages(config: CurateConfig, filters: Filters, inputs: InputManifest, pages: float) -> Cost:
    """What the stages of this module take. Reads the first pages of some archives without extraction, to time it.

    pages: those of all archives. filters: without `repeated_pages`.
    """
    units = [unit for unit in inputs.units if inputs.reading.leaves_out(unit)]
    seconds = timed = 0.0
    for index in spread([unit.bytes for unit in units], _TIMED):
        find = FindPages(filters, inputs.reading, config.limits)
        first = _FirstPages(RemovedByUrl(filters, inputs.reading.store))
        began = processor_seconds()
        with suppress(_Enough):
            for _ in read_unit(units[index], find.reading_of(units[index]), config.limits, unwanted=first):
                pass
        seconds, timed = seconds + processor_seconds() - began, timed + first.pages
    return Cost(
        "pages",
        len(units),
        pages * (seconds / max(timed, 1) + _KEYS_S),
        written=pages * _WRITTEN,
        memory=task_memory(config.limits) + files_memory(inputs.reading.store, filters.rules),
    )


class _Enough(Exception):
    """Enough pages were read."""


@dataclass
class _FirstPages:
    """No text is needed, and after _TIMED_PAGES pages nothing more is read. removed_pages: as of _Everything."""

    removed_pages: RemovedByUrl
    pages: int = 0
    everything: _Everything = field(init=False)

    def __post_init__(self) -> None:
        self.everything = _Everything(self.removed_pages)

    @property
    def reads_page_start(self) -> bool:
        return self.everything.reads_page_start

    def __call__(self, columns: pa.Table) -> np.ndarray:
        self.pages += columns.num_rows
        if self.pages >= _TIMED_PAGES:
            raise _Enough
        return self.everything(columns)
