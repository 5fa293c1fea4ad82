"""The stage `ids`: counts the ids that several documents of a source have, and writes the first 20 of each source.

    attributes, id_index  ->  duplicate_ids (source, id, number of documents)

Hashes of ids are compared. The stage `ids.ranges` prepares this one: each of its units reads one range of the hashes
from every file of the index, so about four million documents are in memory at a time. Ids with equal 64-bit hashes
count as equal; in one of 3,700 runs of 100 million documents two different ids have equal hashes. Sources without an
`id` setting are left out: their ids are hashes of the texts, so documents with equal ids have equal texts.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, open_parquet
from cluster.readers.inputs import Input
from cluster.readers.units import Unit
from cluster.stage import Output, RunStage, Scratch, Stage
from cluster.store.store import Store
from pipelines.curate.questions.run_reader import row_at
from pipelines.memory import NUMBERS_MEMORY

DUPLICATE_IDS = "_work/duplicate_ids"
DUPLICATE_IDS_VERSION = "2"
_RANGES = "_work/ids/ranges"
_WRITTEN = 20  # ids of each source that are written
DOCUMENTS_OF_A_RANGE = 4_000_000
_SMALL = 500_000  # documents that are compared faster than Ray starts
_THREADS = 16

DUPLICATE_IDS_SCHEMA = pa.schema([("source", pa.string()), ("id", pa.string()), ("documents", pa.int64())])
_FOUND_SCHEMA = pa.schema([("source", pa.string()), ("position", pa.int64()), ("documents", pa.int64())])


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
    rows, small = attributes.manifest.rows, attributes.manifest.rows <= _SMALL
    ends = np.cumsum(attributes.rows_by_unit(len(units)))
    numbers = np.array([sources.index(unit.source) if unit.source in sources else -1 for unit in units], np.int64)
    work = FindRepeated(index.store, tuple(index.file_uris), sources, ends, numbers)
    ranges = _ranges(max(1, -(-rows // DOCUMENTS_OF_A_RANGE)))
    outputs = (Output(_RANGES, _FOUND_SCHEMA),)
    compare = Stage("ids.ranges", outputs, ranges, work, made_from, index.store, small=small, memory=NUMBERS_MEMORY)

    def prepare(run: RunStage) -> list[tuple[pa.Table, Counters]]:
        found = run(compare)[_RANGES]
        return [(_first(found.table(), sources), found.manifest.counters)]

    outputs = (Output(DUPLICATE_IDS, DUPLICATE_IDS_SCHEMA),)
    return Stage(
        "ids", outputs, (), WriteIds(attributes), made_from, index.store, small=True, prepare=prepare, per_file=True
    )


def _ranges(count: int) -> list[tuple[int, int]]:
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
        with ThreadPoolExecutor(_THREADS) as pool:
            parts = [part for some in pool.map(lambda uri: list(self._read(uri, *span)), self.index) for part in some]
        none = np.empty(0, np.uint64), np.empty(0, np.int64)
        hashes, positions = (np.concatenate(columns) for columns in zip(none, *parts, strict=True))
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
        found = pa.table([named, positions[starts], counts], schema=_FOUND_SCHEMA)
        scratch.write(_RANGES, _first(found, self.sources))
        return counters

    def _read(self, uri: str, first: int, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(hashes, positions) from `first` to `last`, by row group of a file, which is sorted by hash."""
        with open_parquet(self.store, uri) as parquet:
            column = parquet.schema_arrow.names.index("hash")
            found = [parquet.metadata.row_group(n).column(column).statistics for n in range(parquet.num_row_groups)]
            groups = [number for number, one in enumerate(found) if one.min <= last and one.max >= first]
            parquet.fetch_ahead(groups)
            for number in groups:
                table = parquet.read_row_group(number, use_threads=False)
                hashes = table["hash"].to_numpy()
                here = (hashes >= np.uint64(first)) & (hashes <= np.uint64(last))
                yield hashes[here], table["position"].to_numpy()[here]


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
        read = partial(_id_at, self.attributes)
        with ThreadPoolExecutor(_THREADS) as pool:
            ids = list(pool.map(read, found["position"].to_pylist()))
        columns: dict[str, Any] = {"source": found["source"], "id": pa.array(ids, pa.string())}
        scratch.write(DUPLICATE_IDS, pa.table(columns | {"documents": found["documents"]}))
        return counters


def _id_at(attributes: Artifact, position: int) -> str:
    return row_at(attributes, position, "id".__eq__)[1]["id"]
