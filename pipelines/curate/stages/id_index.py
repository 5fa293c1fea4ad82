"""The stage `index`: sorted hashes of the ids of all documents, with which `explain` finds a document by its id.

    attributes  ->  id_index (hash and position, sorted by hash in each file)

A position is the row of a document in the attributes. A unit indexes some 200,000 documents, so the index of 100
million has 500 files. A search reads the footer and at most one row group of 128 KB of each file, in 16 threads.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, Counters, fingerprint, open_parquet, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.memory import NUMBERS_MEMORY

ID_INDEX = "_work/id_index"
ID_INDEX_VERSION = "1"

DOCUMENTS_OF_A_UNIT = 200_000
_SMALL = 500_000  # documents that are indexed faster than Ray starts
_THREADS = 16

ID_INDEX_SCHEMA = pa.schema([("hash", pa.uint64()), ("position", pa.int64())])


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
    outputs = (Output(ID_INDEX, ID_INDEX_SCHEMA, row_group_bytes=128 << 10),)
    units = _units(attributes)
    stage_fingerprint = fingerprint([ID_INDEX_VERSION, attributes.manifest.fingerprint])
    work, small = IndexIds(attributes.store), attributes.manifest.rows <= _SMALL
    return Stage(
        "index",
        outputs,
        units,
        work,
        stage_fingerprint,
        attributes.store,
        _files,
        small,
        memory=NUMBERS_MEMORY,
        per_input=True,
    )


def _files(unit: AttributeFiles) -> str:
    return files_from(unit.uris)


def _units(attributes: Artifact) -> list[AttributeFiles]:
    rows = [file.rows for file in attributes.manifest.files]
    units: list[AttributeFiles] = []
    for uri, first in zip(attributes.file_uris, accumulate(rows, initial=0), strict=False):
        if not units or first - units[-1].first >= DOCUMENTS_OF_A_UNIT:
            units.append(AttributeFiles(first, []))
        units[-1].uris.append(uri)
    return units


@dataclass(frozen=True)
class IndexIds:
    """The work of a unit. Counters: `documents`."""

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

    def positions(uri: str) -> Iterable[int]:
        with open_parquet(index.store, uri) as parquet:
            column = parquet.schema_arrow.names.index("hash")
            for group in range(parquet.num_row_groups):
                statistics = parquet.metadata.row_group(group).column(column).statistics
                if statistics.min <= wanted <= statistics.max:
                    table = parquet.read_row_group(group, use_threads=False)
                    yield from table["position"].to_numpy()[table["hash"].to_numpy() == np.uint64(wanted)].tolist()

    with ThreadPoolExecutor(_THREADS) as pool:
        return sorted(found for some in pool.map(lambda uri: list(positions(uri)), index.file_uris) for found in some)
