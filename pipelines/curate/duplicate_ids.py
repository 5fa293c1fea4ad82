"""Ids that more than one document of a source has: how many there are, and the first of them.

A stage of one unit, run by one task. It reads the ids of all attributes twice: once to find which occur again
(candidates.py spills their hashes to local disk), once to name those. Two ids of one 64-bit hash would count as equal:
among 100 million ids that happens once in 3,700 runs. Sources without an `id` setting are left out: their documents are
named by the hash of the text, so equal ids are equal texts.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

import cluster
from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.curate.config import CurateConfig
from pipelines.dedup.candidates import shared_keys

DUPLICATE_IDS = "_work/duplicate_ids"
DUPLICATE_IDS_VERSION = "1"
_NAMED = 20  # ids of a source that are written down

DUPLICATE_IDS_SCHEMA = pa.schema([("source", pa.string()), ("id", pa.string()), ("documents", pa.int64())])


def ids_stage(config: CurateConfig, attributes: Artifact) -> Stage | None:
    """None where no source has an `id` setting."""
    sources = tuple(entry.source for entry in config.inputs if entry.id is not None)
    if not sources:
        return None
    made_from = fingerprint(
        {
            "version": [cluster.__version__, DUPLICATE_IDS_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "sources": sources,
        }
    )
    unit = {"attributes": attributes.file_uris, "documents": attributes.manifest.rows}
    outputs = (Output(DUPLICATE_IDS, DUPLICATE_IDS_SCHEMA),)
    return Stage(
        "ids", outputs, [unit], FindDuplicateIds(attributes.store, sources), made_from, attributes.store, _files
    )


def _files(unit: dict[str, Any]) -> str:
    return files_from(unit["attributes"])


@dataclass(frozen=True)
class FindDuplicateIds:
    """Counters: `ids/SOURCE`, ids that occur again, and `documents/SOURCE`, documents that have one of them."""

    store: Store
    sources: tuple[str, ...]

    def __call__(self, unit: dict[str, Any], scratch: Scratch) -> Counters:
        keys, documents = shared_keys(self._hashes(unit["attributes"]), unit["documents"])
        counts = np.bincount(keys)
        order = np.argsort(documents)
        keys, documents = keys[order], documents[order]
        seen = np.zeros(len(counts), bool)
        ids: Counter[str] = Counter()
        having: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        for first, source, table in self._tables(unit["attributes"]):
            low, high = np.searchsorted(documents, [first, first + table.num_rows])
            here, places = np.unique(keys[low:high], return_index=True)
            fresh = np.sort(places[~seen[here]])  # in the order of the documents
            seen[here] = True
            named = fresh[: max(_NAMED - ids[source], 0)]
            names = table["id"].take(pa.array(documents[low:high][named] - first)).to_pylist()
            for id, key in zip(names, keys[low:high][named], strict=True):
                rows.append({"source": source, "id": id, "documents": int(counts[key])})
            ids[source] += len(fresh)
            having[source] += int(high - low)
        scratch.write(DUPLICATE_IDS, pa.Table.from_pylist(rows, DUPLICATE_IDS_SCHEMA))
        counters: Counters = {"documents": unit["documents"]}
        for source in self.sources:
            counters |= {f"ids/{source}": ids[source], f"documents/{source}": having[source]}
        return counters

    def _tables(self, files: list[str]) -> Iterator[tuple[int, str, pa.Table]]:
        """(position of the first document, source, table) of the sources with ids of their own."""
        first = 0
        for table in read_tables(self.store, files, {"id", "source"}.__contains__):
            source = table["source"][0].as_py()  # a unit, and so each of its files, is of one source
            if source in self.sources:
                yield first, source, table
            first += table.num_rows

    def _hashes(self, files: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first, source, table in self._tables(files):
            digests = b"".join(
                hashlib.blake2b(id.encode(), digest_size=8, person=self._person(source)).digest()
                for id in table["id"].to_pylist()
            )
            yield np.frombuffer(digests, np.uint64)[:, None], np.arange(first, first + table.num_rows)

    def _person(self, source: str) -> bytes:
        """Makes equal ids of two sources differ."""
        return str(self.sources.index(source)).encode()
