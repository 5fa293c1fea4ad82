"""The documents that take part in deduplication: those that passed the rules, read from attributes by position.

A position is the row of a document in the attributes artifact, from 0. Here the positions of earlier runs come first,
and each run starts with a new range. A range is 2^19 positions: the documents that one unit of the first stages reads.

New documents are compared with those that earlier runs (`dedup.against`) kept, by sketches, without text.
"""

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, open_parquet, read_tables
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.readers.inputs import Input
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import SIGNATURES_VERSION, Sketches, permutations
from raymill.pipelines.text.normalize import NORMALIZE_VERSION

KEY_COLUMNS = frozenset({"row", "signature", "source"})

# Odd, with well mixed bits (2^64 divided by the golden ratio), so keys of different scopes differ in many bits.
_SCOPE_FACTOR = np.uint64(0x9E3779B97F4A7C15)


SKETCHES = "sketches"  # the entry of a run's manifest with sketch_settings
_ATTRIBUTES, _LEDGER = "attributes", "removed"


def sketch_settings(dedup: Dedup) -> dict[str, Any]:
    """The settings and versions that must be equal in two runs, so that their sketches can be compared."""
    return {
        "ngram_words": dedup.ngram_words,
        "columns": math.prod(dedup.banding),
        "seed": dedup.seed,
        "symbols": dedup.symbols,
        "versions": [SIGNATURES_VERSION, NORMALIZE_VERSION],
    }


@dataclass(frozen=True)
class EarlierRun:
    """A finished run. digest: of its content. sources: of its inputs."""

    uri: str
    digest: str
    sources: tuple[str, ...]
    attributes: Artifact
    ledger: Artifact


def open_runs(dedup: Dedup | None, store: Store) -> list[EarlierRun]:
    """The runs of `dedup.against`. Reads three manifests of each.

    Raises:
        ConfigError: names each run that is not finished there, or whose sketches were made with other settings.
    """
    runs, errors = [], []
    for number, uri in enumerate(dedup.against if dedup else ()):
        try:
            runs.append(_open(dedup, store, uri))  # type: ignore[arg-type]
        except UserError as error:
            errors.append(f"dedup.against[{number}]: {error}")
    if errors:
        raise ConfigError("\n".join(errors))
    return runs


def _open(dedup: Dedup, store: Store, uri: str) -> EarlierRun:
    manifest = RunFolder(store, uri).require("curate")
    wanted, there = sketch_settings(dedup), manifest.get(SKETCHES)
    if there is None:
        raise DataError(
            f"{uri}: this run has no sketches to compare with: it was made without dedup, or by an earlier version. "
            "Run it again with dedup."
        )
    pairs = ((name, there.get(name, False), here) for name, here in wanted.items())
    differing = [f"{name} is {old} there and {here} here" for name, old, here in pairs if old != here]
    if differing:
        raise DataError(
            f"{uri}: its sketches were made with other settings: {'; '.join(differing)} (columns: bands x "
            "rows_per_band). Use the same here, or run it again."
        )
    sources = tuple(entry["source"] for entry in manifest["config"]["inputs"])
    artifacts = (Artifact.load(store, paths.join(uri, name)) for name in (_ATTRIBUTES, _LEDGER))
    return EarlierRun(uri, manifest["digest"], sources, *artifacts)


@dataclass(frozen=True)
class UnitPart:
    """The part of one unit of input that is in a range.

    unit: its index. first: position of the first row of the first file. files: (URI, rows) of files of attributes.
    verdicts: URIs of the verdicts on the unit.
    """

    unit: int
    first: int
    files: tuple[tuple[str, int], ...]
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """The positions from `start` to `end`, and the units that have them.

    An earlier run counts as one unit. run_start: position of the run's first document. ledger: URIs of the
    earlier run's ledger, which names the documents that it removed; None for this run.
    """

    start: int
    end: int
    parts: tuple[UnitPart, ...]
    run_start: int = 0
    ledger: tuple[str, ...] | None = None

    @property
    def uris(self) -> list[str]:
        """URIs of the attributes' files with documents of the range; they may also have other documents."""
        return [uri for part in self.parts for uri, _ in part.files]


def ranges(attributes: Artifact, verdicts: Artifact, units: int, documents: int, first: int = 0) -> list[Range]:
    """The ranges of all positions. There is at least one.

    units: number of units of both artifacts. documents: positions of a range. first: position of the first document, a
    multiple of `documents`.
    """
    judged = verdicts.files_by_unit(units)
    rows = iter(attributes.manifest.files)
    files = [[(uri, next(rows).rows) for uri in of_unit] for of_unit in attributes.files_by_unit(units)]
    return [
        Range(start, end, tuple(UnitPart(unit, at, some, tuple(judged[unit])) for unit, at, some in parts), first)
        for start, end, parts in _cut(files, documents, first)
    ]


def earlier_ranges(run: EarlierRun, documents: int, first: int) -> list[Range]:
    """As `ranges`, of the documents of an earlier run."""
    rows = [file.rows for file in run.attributes.manifest.files]
    files = [list(zip(run.attributes.file_uris, rows, strict=True))]
    return [
        Range(
            start,
            end,
            tuple(UnitPart(unit, at, some, ()) for unit, at, some in parts),
            first,
            tuple(run.ledger.file_uris),
        )
        for start, end, parts in _cut(files, documents, first)
    ]


_Part = tuple[int, int, tuple[tuple[str, int], ...]]


def _cut(
    files: Sequence[Sequence[tuple[str, int]]], documents: int, first: int
) -> Iterator[tuple[int, int, list[_Part]]]:
    """(start, end, [(unit, position of the first row of its files here, files)]) of each range.

    files: URIs with their rows, by unit.
    """
    placed, at = [], first
    for unit, of_unit in enumerate(files):
        for uri, rows in of_unit:
            placed.append((unit, at, uri, rows))
            at += rows
    end, low = at, 0
    for start in range(first, max(end, first + 1), documents):
        while low < len(placed) and placed[low][1] + placed[low][3] <= start:
            low += 1
        here = takewhile(lambda one, stop=start + documents: one[1] < stop, placed[low:])  # type: ignore[misc]
        by_unit = ((unit, list(some)) for unit, some in groupby(here, key=itemgetter(0)))
        parts = [(unit, some[0][1], tuple((uri, rows) for _, _, uri, rows in some)) for unit, some in by_unit]
        yield start, min(start + documents, end), parts


def judged(
    store: Store, documents: Range, columns: frozenset[str]
) -> Iterator[tuple[int, np.ndarray, pa.Table, np.ndarray]]:
    """(unit, positions int64[D], attributes of these columns, passed bool[D]) of the documents, by row group.

    passed: those that passed the rules; documents of an earlier run passed if it kept them. columns: with `row`.
    """
    gone = np.empty(0, np.int64)
    if documents.ledger is not None:
        start, end = documents.start - documents.run_start, documents.end - documents.run_start
        gone = documents.run_start + _positions_between(store, documents.ledger, start, end)
    for part in documents.parts:
        found = [table["row"].to_numpy() for table in read_tables(store, part.verdicts, "row".__eq__)]
        removed = np.concatenate([np.empty(0, np.int64), *found])
        at = part.first
        for uri, rows in part.files:
            for first, table in _rows(store, uri, columns, documents.start - at, documents.end - at):
                positions = at + first + np.arange(table.num_rows)
                stays = ~np.isin(table["row"].to_numpy(), removed) & ~np.isin(positions, gone, assume_unique=True)
                yield part.unit, positions, table, stays
            at += rows


def passed(
    store: Store, documents: Range, columns: frozenset[str], wanted: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
    """(unit, positions int64[D], attributes of these columns) of the documents that passed, by row group.

    columns: as for `judged`. wanted: only these, bool[N], by number in the range.
    """
    for unit, positions, table, stays in judged(store, documents, columns):
        if wanted is not None:
            stays &= wanted[positions - documents.start]
        if stays.all():
            yield unit, positions, table
        elif stays.any():
            yield unit, positions[stays], table.filter(pa.array(stays))


def _positions_between(store: Store, uris: Sequence[str], start: int, end: int) -> np.ndarray:
    """int64[N]: the positions from `start` to `end` in the files of a ledger, which are sorted by position."""

    def first_position(uri: str) -> int:
        return next((table["position"][0].as_py() for table in _positions(store, uri)), 0)

    found = [np.empty(0, np.int64)]
    for uri in uris[max(bisect_right(uris, start, key=first_position) - 1, 0) :]:
        tables = [table["position"].to_numpy() for table in _positions(store, uri)]
        found += [positions[(positions >= start) & (positions < end)] for positions in tables]
        if tables and tables[-1][-1] >= end:
            break
    return np.concatenate(found)


def _positions(store: Store, uri: str) -> Iterator[pa.Table]:
    return (table for table in read_tables(store, [uri], "position".__eq__) if table.num_rows)


def _rows(store: Store, uri: str, columns: frozenset[str], start: int, end: int) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first row, table) of each row group of a file with rows from `start` to `end`, cut to these."""
    with open_parquet(store, uri) as parquet:
        names = [name for name in parquet.schema_arrow.names if name in columns]
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        firsts = [sum(counts[:group]) for group in range(len(counts))]
        wanted = [group for group, first in enumerate(firsts) if first < end and first + counts[group] > start]
        parquet.fetch_ahead(wanted, names)
        for group in wanted:
            low, high = max(start, firsts[group]), min(end, firsts[group] + counts[group])
            table = parquet.read_row_group(group, columns=names, use_threads=False)
            yield low, table.slice(low - firsts[group], high - low)


@dataclass(frozen=True)
class Keys:
    """Makes the keys of documents: two documents of one scope that share a key may be near-duplicates.

    scopes: the number of each source's scope.
    """

    dedup: Dedup
    scopes: dict[str, int]

    def of(self, table: pa.Table, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(keys uint64[S, bands], numbers int64[S]): a key for each band of the wanted documents that have a shingle.

        wanted: bool[D], documents of the table. numbers: of those with keys in it. table: KEY_COLUMNS.
        """
        sketches = Sketches.from_column(table["signature"], math.prod(self.dedup.banding))
        numbers = np.flatnonzero(wanted & sketches.signed)
        return self.of_sketches(table, sketches, numbers), numbers

    def of_sketches(self, table: pa.Table, sketches: Sketches, numbers: np.ndarray) -> np.ndarray:
        """uint64[N, bands]: the keys of N documents. numbers: theirs in the table, which has `source`."""
        keys = sketches.band_keys(numbers, self.dedup.banding[0], *self._permutations())
        keys ^= self._masks(table)[numbers, None]
        return keys

    def texts(self, table: pa.Table) -> np.ndarray:
        """uint64[D, 2]: the 128 bits of each text hash, with its scope. table: with `source` and `text_hash`."""
        return hash_words(table["text_hash"]) ^ self._masks(table)[:, None]

    def _masks(self, table: pa.Table) -> np.ndarray:
        return self.scopes_of(table) * _SCOPE_FACTOR

    def write_signatures(self, sketches: Sketches, found: np.ndarray) -> None:
        """Write the signatures of D documents to `found`, uint32[D, H]."""
        sketches.signatures(*self._permutations(), found)

    def _permutations(self) -> tuple[np.ndarray, np.ndarray]:
        return permutations(math.prod(self.dedup.banding), self.dedup.seed)

    def scopes_of(self, table: pa.Table) -> np.ndarray:
        """uint64[D]: the number of each document's scope. table: the column `source`."""
        different = set(self.scopes.values())
        if len(different) == 1:
            return np.full(table.num_rows, different.pop(), np.uint64)
        sources = table["source"].combine_chunks().dictionary_encode()
        numbers = np.array([self.scopes[source] for source in sources.dictionary.to_pylist()], np.uint64)
        return numbers[sources.indices.to_numpy()] if len(numbers) else np.empty(0, np.uint64)


def scopes(scope: str, inputs: Sequence[Input], earlier: Sequence[EarlierRun] = ()) -> dict[str, int]:
    """The number of each source's scope, a hash of the scope's name.

    scope: the setting: all, source or snapshot; not snapshot if there are earlier runs.
    """
    names = {source: {"all": "", "source": source}.get(scope, "") for run in earlier for source in run.sources}
    names |= {
        entry.source: {"all": "", "source": entry.source, "snapshot": entry.snapshot or ""}[scope] for entry in inputs
    }
    return {
        source: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") for source, name in names.items()
    }


def hash_words(hashes: pa.ChunkedArray) -> np.ndarray:
    """uint64[D, 2]: the 128 bits of each text hash, as two numbers."""
    parts = [
        np.frombuffer(chunk.buffers()[1], "<u8", 2 * len(chunk), chunk.offset * 16)
        for chunk in hashes.chunks
        if len(chunk)
    ]
    flat = np.concatenate(parts) if parts else np.empty(0, np.uint64)
    return flat.reshape(len(hashes), 2)
