"""The documents that take part in deduplication: those that passed the rules, read from attributes by position.

A position is the row of a document in the attributes artifact, from 0. A range is 2^19 positions: the documents that
one unit of the first stages reads.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, open_parquet, read_tables
from cluster.store.store import Store
from pipelines.dedup.settings import Dedup
from pipelines.dedup.signatures import band_keys, permutations
from pipelines.dedup.sketches import Sketches
from pipelines.readers.inputs import Input

KEY_COLUMNS = frozenset({"row", "text_hash", "signature", "source"})

# Odd, with well mixed bits (2^64 divided by the golden ratio), so keys of different scopes differ in many bits.
_SCOPE_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class UnitPart:
    """What a range has of one unit of input.

    unit: its index. first: position of the first row of the first file. files: URIs of attributes with their rows.
    verdicts: URIs of the verdicts on the unit.
    """

    unit: int
    first: int
    files: tuple[tuple[str, int], ...]
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """The positions from `start` to `end`, and the units that have them."""

    start: int
    end: int
    parts: tuple[UnitPart, ...]

    @property
    def uris(self) -> list[str]:
        """The files of attributes, which may have other documents too."""
        return [uri for part in self.parts for uri, _ in part.files]


def ranges(attributes: Artifact, verdicts: Artifact, units: int, documents: int) -> list[Range]:
    """The ranges of all positions, of so many documents each. units: number of units of both artifacts."""
    total = attributes.manifest.rows
    parts: list[list[UnitPart]] = [[] for _ in range(max(1, -(-total // documents)))]
    rows = [file.rows for file in attributes.manifest.files]
    uris = iter(zip(attributes.file_uris, rows, strict=True))
    at = 0
    for unit, (of_unit, judged) in enumerate(
        zip(attributes.files_by_unit(units), verdicts.files_by_unit(units), strict=True)
    ):
        for uri, count in (next(uris) for _ in of_unit):
            for number in range(at // documents, -(-(at + count) // documents)):
                here = parts[number]
                if here and here[-1].unit == unit:
                    files = (*here[-1].files, (uri, count))
                    here[-1] = UnitPart(unit, here[-1].first, files, here[-1].verdicts)
                else:
                    here.append(UnitPart(unit, at, ((uri, count),), tuple(judged)))
            at += count
    assert at == total, f"{at} rows of units in an artifact of {total}"
    return [
        Range(number * documents, min((number + 1) * documents, total), tuple(found))
        for number, found in enumerate(parts)
    ]


def passed(store: Store, documents: Range, columns: frozenset[str]) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
    """(unit, positions int64[D], attributes of these columns) of the documents that passed the rules, by row group.

    columns: `row` is among them.
    """
    for part in documents.parts:
        tables = [table["row"].to_numpy() for table in read_tables(store, part.verdicts, "row".__eq__)]
        removed = np.concatenate(tables) if tables else np.empty(0, np.int64)
        at = part.first
        for uri, rows in part.files:
            for first, table in _rows(store, uri, columns, documents.start - at, documents.end - at):
                stays = ~np.isin(table["row"].to_numpy(), removed)
                yield part.unit, at + first + np.flatnonzero(stays), table.filter(pa.array(stays))
            at += rows


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
    """Makes the keys of documents: two documents of one scope that share a key may be duplicates.

    scopes: the number of each source's scope.
    """

    dedup: Dedup
    scopes: dict[str, int]

    def of(self, table: pa.Table) -> np.ndarray:
        """uint64[D, bands + 1]: a key of the exact text, and one of each band.

        A document without a shingle repeats the key of its text. table: KEY_COLUMNS.
        """
        sketches = Sketches.from_column(table["signature"])
        text = hash_words(table["text_hash"])[:, :1] ^ self._masks(table)
        near = band_keys(self.signatures(sketches), *self.dedup.banding) ^ self._masks(table)
        near[~sketches.signed] = text[~sketches.signed]
        return np.concatenate([text, near], axis=1)

    def signatures(self, sketches: Sketches) -> np.ndarray:
        """uint32[D, H]: the signatures of D documents."""
        return sketches.signatures(*permutations(math.prod(self.dedup.banding), self.dedup.seed))

    def scopes_of(self, table: pa.Table) -> np.ndarray:
        """uint64[D]: the number of each document's scope. table: the column `source`."""
        sources = table["source"].combine_chunks().dictionary_encode()
        numbers = np.array([self.scopes[source] for source in sources.dictionary.to_pylist()], np.uint64)
        return numbers[sources.indices.to_numpy()] if len(numbers) else np.empty(0, np.uint64)

    def _masks(self, table: pa.Table) -> np.ndarray:
        return self.scopes_of(table)[:, None] * _SCOPE_FACTOR


def scopes(scope: str, inputs: Sequence[Input]) -> dict[str, int]:
    """The number of each source's scope, a hash of the scope's name. scope: the setting, all, source or snapshot."""
    names = {
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
