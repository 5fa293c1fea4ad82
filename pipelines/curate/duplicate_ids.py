"""The stage `ids`: counts the ids that several documents of a source have, and writes the first of them.

    attributes  ->  duplicate_ids (source, id, number of documents)

One unit, run by one task. It reads the ids of all documents twice: to find the hashes that occur more than once (with
the scratch disk of dedup/spilled_keys.py), and to write their ids. Ids with equal 64-bit hashes count as equal, which
happens to different ids in one of 3,700 runs of 100 million documents. Sources without an `id` setting are left out:
their ids are hashes of the texts, so documents with equal ids have equal texts.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.stage import Output, Scratch, Stage, files_from
from cluster.store.store import Store
from pipelines.dedup.spilled_keys import repeated_keys
from pipelines.readers.inputs import Input

DUPLICATE_IDS = "_work/duplicate_ids"
DUPLICATE_IDS_VERSION = "1"
_WRITTEN = 20  # ids of a source

DUPLICATE_IDS_SCHEMA = pa.schema([("source", pa.string()), ("id", pa.string()), ("documents", pa.int64())])


def ids_stage(inputs: Sequence[Input], attributes: Artifact) -> Stage | None:
    """The stage that writes the artifact DUPLICATE_IDS from attributes; None if no input has an `id` setting."""
    sources = tuple(entry.source for entry in inputs if entry.id is not None)
    if not sources:
        return None
    stage_fingerprint = fingerprint(
        {
            "version": [DUPLICATE_IDS_VERSION],
            "attributes": attributes.manifest.fingerprint,
            "sources": sources,
        }
    )
    unit = {"attributes": attributes.file_uris, "documents": attributes.manifest.rows}
    outputs = (Output(DUPLICATE_IDS, DUPLICATE_IDS_SCHEMA),)
    work = FindDuplicateIds(attributes.store, sources)
    return Stage("ids", outputs, [unit], work, stage_fingerprint, attributes.store, _files)


def _files(unit: dict[str, Any]) -> str:
    return files_from(unit["attributes"])


@dataclass(frozen=True)
class FindDuplicateIds:
    """The work of the stage's unit.

    Counters: `documents`; `ids/SOURCE`, ids with several documents; `documents/SOURCE`, documents with one of them.
    """

    store: Store
    sources: tuple[str, ...]

    def __call__(self, unit: dict[str, Any], scratch: Scratch) -> Counters:
        keys, documents = repeated_keys(self._hashes(unit["attributes"]), unit["documents"])
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
            named = fresh[: max(_WRITTEN - ids[source], 0)]
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
        """(position of the first document, source, columns id and source), by table, of `self.sources`."""
        first = 0
        for table in read_tables(self.store, files, {"id", "source"}.__contains__):
            source = table["source"][0].as_py()  # a unit has one source
            if source in self.sources:
                yield first, source, table
            first += table.num_rows

    def _hashes(self, files: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(hashes of the ids uint64[D, 1], positions int64[D]), by table."""
        for first, source, table in self._tables(files):
            digests = b"".join(
                hashlib.blake2b(id.encode(), digest_size=8, person=self._person(source)).digest()
                for id in table["id"].to_pylist()
            )
            yield np.frombuffer(digests, np.uint64)[:, None], np.arange(first, first + table.num_rows)

    def _person(self, source: str) -> bytes:
        """BLAKE2b's personalisation: equal ids of different sources have different hashes."""
        return str(self.sources.index(source)).encode()
