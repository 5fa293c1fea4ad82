"""Ids: an index of all of them, and those that several documents of a source have.

    index   attributes            ->  id_index (hash and position, sorted by hash in each file)
    ids     attributes, id_index  ->  duplicate_ids (source, id, number of documents), the first 20 of each source

A position is the row of a document in the attributes. With the index `explain` finds a document by its id: it reads
the footer and at most one row group of 128 KB of each file, in 16 threads. A unit indexes some 200,000 documents, so
the index of 100 million has 500 files.

`ids` compares hashes. The stage `ids.ranges` prepares it: each of its units reads one range of the hashes from every
file of the index, so about four million documents are in memory at a time. Ids with equal 64-bit hashes count as equal;
in one of 3,700 runs of 100 million documents two different ids have equal hashes. Sources without an `id` setting are
left out: their ids are hashes of the texts, so documents with equal ids have equal texts.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, DataFile, fingerprint, open_parquet, read_tables
from raymill.cluster.errors import DataError
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.reader import few_rows
from raymill.cluster.readers.units import Unit
from raymill.cluster.stage import Output, RunStage, Scratch, Stage, files_from
from raymill.cluster.store.store import Store
from raymill.pipelines.memory import NUMBERS_MEMORY

ID_INDEX = "_work/id_index"
DUPLICATE_IDS = "_work/duplicate_ids"
ID_INDEX_VERSION, DUPLICATE_IDS_VERSION = "1", "2"

DOCUMENTS_OF_A_UNIT, DOCUMENTS_OF_A_RANGE = 200_000, 4_000_000
_RANGES = "_work/ids/ranges"
_WRITTEN = 20  # ids of each source that are written
_SMALL = 500_000  # documents that are indexed or compared faster than Ray starts
_THREADS = 16

ID_INDEX_SCHEMA = pa.schema([("hash", pa.uint64()), ("position", pa.int64())])
DUPLICATE_IDS_SCHEMA = pa.schema([("source", pa.string()), ("id", pa.string()), ("documents", pa.int64())])
_FOUND_SCHEMA = pa.schema([("source", pa.string()), ("position", pa.int64()), ("documents", pa.int64())])


@dataclass(frozen=True)
class AttributeFiles:
    """Neighbouring files of the attributes. first: position of their first document."""

    first: int
    uris: list[str]


def index_stage(attributes: Artifact) -> Stage:
    """The stage that makes the index by which `explain` finds a document and `ids` finds repeated ones.

    Reads: the column `id` of the attributes.
    Writes: ID_INDEX, sorted hashes of ids with the positions of their documents.
    Cost: about 1 core-second for a million documents; 0.5 GiB (NUMBERS_MEMORY).
    """
    units: list[AttributeFiles] = []
    rows = [file.rows for file in attributes.manifest.files]
    for uri, first in zip(attributes.file_uris, accumulate(rows, initial=0), strict=False):
        if not units or first - units[-1].first >= DOCUMENTS_OF_A_UNIT:
            units.append(AttributeFiles(first, []))
        units[-1].uris.append(uri)
    return Stage(
        "index",
        (Output(ID_INDEX, ID_INDEX_SCHEMA, row_group_bytes=128 << 10),),
        units,
        IndexIds(attributes.store),
        fingerprint([ID_INDEX_VERSION, attributes.manifest.fingerprint]),
        attributes.store,
        _files,
        small=attributes.manifest.rows <= _SMALL,
        memory=NUMBERS_MEMORY,
        per_input=True,
    )


def _files(unit: AttributeFiles) -> str:
    return files_from(unit.uris)


@dataclass(frozen=True)
class IndexIds:
    """The work of a unit of `index`. Counters: `documents`."""

    store: Store

    def __call__(self, unit: AttributeFiles, scratch: Scratch) -> Counters:
        tables = list(read_tables(self.store, unit.uris, "id".__eq__))
        hashes = np.array([id_hash(id) for table in tables for id in table["id"].to_pylist()], np.uint64)
        order = np.argsort(hashes, kind="stable")
        scratch.write(ID_INDEX, pa.table({"hash": hashes[order], "position": unit.first + order}))
        return {"documents": len(hashes)}


def id_hash(id: str) -> int:
    """The first 64 bits of the id's BLAKE2b hash."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest(), "little")


def positions_of(index: Artifact, id: str) -> list[int]:
    """Positions of the documents whose ids have the hash of this id, sorted. Other ids may have the same hash."""
    wanted = id_hash(id)
    found = _in_threads(lambda uri: list(between(index.store, uri, wanted, wanted)), index.file_uris)
    return sorted(position for parts in found for _, positions in parts for position in positions.tolist())


def between(store: Store, uri: str, first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(hashes, positions) from `first` to `last`, by row group of a file of the index, which is sorted by hash."""
    with open_parquet(store, uri) as parquet:
        column = parquet.schema_arrow.names.index("hash")
        bounds = [parquet.metadata.row_group(n).column(column).statistics for n in range(parquet.num_row_groups)]
        groups = [number for number, one in enumerate(bounds) if one.min <= last and one.max >= first]
        parquet.fetch_ahead(groups)
        for number in groups:
            table = parquet.read_row_group(number, use_threads=False)
            hashes = table["hash"].to_numpy()
            here = (hashes >= np.uint64(first)) & (hashes <= np.uint64(last))
            yield hashes[here], table["position"].to_numpy()[here]


def _in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(work, items))


# --- ids that several documents have


def ids_stage(inputs: Sequence[Input], units: Sequence[Unit], attributes: Artifact, index: Artifact) -> Stage | None:
    """The stage that finds ids that several documents have; None if no input has an `id` setting. units: of `measure`.

    Reads: the index of ids, and the ids of documents whose hashes are equal.
    Writes: DUPLICATE_IDS, a row for each such id; below it the parts that ranges of hashes find.
    Cost: 0.5 GiB (NUMBERS_MEMORY) for ranges of four million documents.
    """
    sources = tuple(entry.source for entry in inputs if entry.id is not None)
    if not sources:
        return None
    made_from = fingerprint(
        {
            "version": [DUPLICATE_IDS_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "sources": sources,
        }
    )
    rows = attributes.manifest.rows
    ends = np.cumsum(attributes.rows_by_unit(len(units)))
    numbers = np.array([sources.index(unit.source) if unit.source in sources else -1 for unit in units], np.int64)
    compare = Stage(
        "ids.ranges",
        (Output(_RANGES, _FOUND_SCHEMA),),
        ranges(max(1, -(-rows // DOCUMENTS_OF_A_RANGE))),
        FindRepeated(index.store, tuple(index.file_uris), sources, ends, numbers),
        made_from,
        index.store,
        small=rows <= _SMALL,
        memory=NUMBERS_MEMORY,
    )

    def prepare(run: RunStage) -> list[tuple[pa.Table, Counters]]:
        found = run(compare)[_RANGES]
        return [(_first(found.table(), sources), found.manifest.counters)]

    return Stage(
        "ids",
        (Output(DUPLICATE_IDS, DUPLICATE_IDS_SCHEMA),),
        (),
        WriteIds(attributes),
        made_from,
        index.store,
        small=True,
        prepare=prepare,
        per_file=True,
    )


def ranges(count: int) -> list[tuple[int, int]]:
    """(first, last) of equal parts of the 64-bit numbers."""
    bounds = [(number << 64) // count for number in range(count + 1)]
    return [(first, end - 1) for first, end in pairwise(bounds)]


@dataclass(frozen=True)
class FindRepeated:
    """The work of a unit of `ids.ranges`: the hashes that several documents of a source have.

    index: URIs of the index's files. ends: int64[U], the position after the last document of each unit of `measure`.
    numbers: int64[U], the index of the unit's source in `sources`, or -1.
    Counters: `documents`; `ids/SOURCE`, ids with several documents; `documents/SOURCE`, documents with one of them.
    """

    store: Store
    index: tuple[str, ...]
    sources: tuple[str, ...]
    ends: np.ndarray
    numbers: np.ndarray

    def __call__(self, span: tuple[int, int], scratch: Scratch) -> Counters:
        found = _in_threads(lambda uri: list(between(self.store, uri, *span)), self.index)
        none = np.empty(0, np.uint64), np.empty(0, np.int64)
        columns = zip(none, *(part for parts in found for part in parts), strict=True)
        hashes, positions = (np.concatenate(column) for column in columns)
        source = self.numbers[np.searchsorted(self.ends, positions, side="right")]
        order = np.lexsort((positions, source, hashes))
        hashes, positions, source = hashes[order], positions[order], source[order]
        is_first = np.ones(len(hashes), bool)
        is_first[1:] = (hashes[1:] != hashes[:-1]) | (source[1:] != source[:-1])
        starts = np.flatnonzero(is_first)
        counts = np.diff(starts, append=len(hashes))
        repeated = (counts > 1) & (source[starts] >= 0)
        starts, counts = starts[repeated], counts[repeated]
        counters: Counters = {"documents": float(len(hashes))}
        for number, name in enumerate(self.sources):
            of_source = source[starts] == number
            counters |= {f"ids/{name}": int(of_source.sum()), f"documents/{name}": int(counts[of_source].sum())}
        named = pa.array(self.sources, pa.string()).take(pa.array(source[starts]))
        table = pa.table([named, positions[starts], counts], schema=_FOUND_SCHEMA)
        scratch.write(_RANGES, _first(table, self.sources))
        return counters


def _first(found: pa.Table, sources: Sequence[str]) -> pa.Table:
    """The first _WRITTEN rows of each source, by position. found: a table of _FOUND_SCHEMA."""
    rows = found.sort_by("position")
    parts = [rows.filter(pc.equal(rows["source"], name)).slice(0, _WRITTEN) for name in sources]
    return pa.concat_tables([_FOUND_SCHEMA.empty_table(), *parts])


@dataclass(frozen=True)
class WriteIds:
    """The work of the unit of `ids`: reads the ids at the positions found. Returns the counters of `ids.ranges`."""

    attributes: Artifact

    def __call__(self, unit: tuple[pa.Table, Counters], scratch: Scratch) -> Counters:
        found, counters = unit
        rows = _in_threads(lambda at: row_at(self.attributes, at, "id".__eq__)[1], found["position"].to_pylist())
        columns = {"source": found["source"], "id": pa.array([row["id"] for row in rows], pa.string())}
        scratch.write(DUPLICATE_IDS, pa.table(columns | {"documents": found["documents"]}))
        return counters


def row_at(artifact: Artifact, row: int, wanted: Callable[[str], bool]) -> tuple[DataFile, dict[str, Any]]:
    """The file of this row of an artifact, and the row. wanted: whether to read a column. Reads one row group.

    Raises:
        DataError: the artifact has fewer rows.
    """
    for file in artifact.manifest.files:
        if row < file.rows:
            break
        row -= file.rows
    else:
        raise DataError(
            f"{artifact.uri}: has fewer rows than the run names. It was changed after it was written: run the run's "
            "command again at another output."
        )
    with open_parquet(artifact.store, artifact.file_uri(file)) as parquet:
        columns, group = [name for name in parquet.schema_arrow.names if wanted(name)], 0
        while row >= (rows := parquet.metadata.row_group(group).num_rows):
            row, group = row - rows, group + 1
        table = parquet.read_row_group(group, columns=columns, use_threads=False).slice(row, 1)
        return file, few_rows(table, parquet.uri)[0]
