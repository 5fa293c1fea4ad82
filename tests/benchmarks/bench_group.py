"""Grouping alone, of generated signatures with known duplicates, on two processes: documents/s, memory, bytes.

Of a hundred documents 56 are like no other, 20 are near-duplicates in groups of five, 12 are copies in groups of three,
and 12 are short. Beside it datasketch's index over the same signatures, of as many documents as it does in a minute.

    GROUP_DOCUMENTS=20000000 python -m tests.benchmarks group
    GROUP_BLOCKS=1 python -m tests.benchmarks group      # all candidates in one batch, compared in blocks
"""

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from datasketch import LeanMinHash, MinHashLSH

from cluster.artifact import Artifact
from cluster.engine import Engine
from cluster.progress import Silent
from cluster.session import Session
from cluster.stage import Output, Record, Scratch, Stage, run_unit
from cluster.store.store import Store
from pipelines.dedup.group import GROUPS, Sizes, group_stage
from pipelines.dedup.settings import Dedup
from pipelines.dedup.sketches import SKETCH_TYPE, Sketches
from pipelines.readers.inputs import Input
from pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

DOCUMENTS = int(os.environ.get("GROUP_DOCUMENTS", 2_000_000))
BLOCKS = os.environ.get("GROUP_BLOCKS") == "1"
OF_A_UNIT = 100_000
PROCESSES = 2
DEDUP = Dedup(component_documents=1) if BLOCKS else Dedup()
SIZES = Sizes(batch=1 << 40) if BLOCKS else Sizes()
BANDS, ROWS = DEDUP.banding
COLUMNS = BANDS * ROWS
UNIQUE, NEAR, COPIES = 0.56, 0.20, 0.12  # the others are short
NEAR_GROUP, COPY_GROUP = 5, 3
CHANGED = 5  # columns of a near-duplicate
SHINGLES = 40  # of a short document
PEER_SECONDS = 60

ATTRIBUTES = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("text_hash", pa.binary(16)),
        ("characters", pa.int64()),
        ("language", pa.string()),
        ("signature", SKETCH_TYPE),
    ]
)


def run(texts: Texts) -> None:
    print(machine("pyarrow", "numba", "numpy", "datasketch"))
    with tempfile.TemporaryDirectory() as folder:
        engine = Processes(folder, Session(), Silent())
        units = range(DOCUMENTS // OF_A_UNIT)
        attributes = engine.run(_stage("measure", Output("attributes", ATTRIBUTES), units, Generate()))["attributes"]
        verdicts = engine.run(_stage("decide", Output("verdicts", pa.schema([("row", pa.int64())])), [0], _nothing))
        inputs = [Input(source="s", path="s")]
        stage = group_stage(DEDUP, inputs, attributes, verdicts["verdicts"], len(units), SIZES)
        engine.stages.clear()
        began = time.perf_counter()
        groups = engine.run(stage)[GROUPS]
        took = time.perf_counter() - began
        print(f"{DOCUMENTS:,} documents, {attributes.manifest.bytes / 1e9:.2f} GB of attributes, {PROCESSES} processes")
        print(f"  {'stage':<20}{'units':>7}{'s':>8}{'core-s':>8}{'GB of a process':>17}{'GB written':>12}{'reads':>8}")
        for one in engine.stages:
            row = f"{one.units:>7}{one.seconds:>8.1f}{one.core_seconds:>8.1f}{one.memory / 1e9:>17.2f}"
            print(f"  {one.name:<20}{row}{one.written / 1e9:>12.2f}{one.reads:>8,}")
        print(f"  whole: {took:.1f} s, {DOCUMENTS / took:,.0f} documents/s")
        _check(groups)
        _peer(attributes)


def _stage(name: str, output: Output, units: Any, work: Any) -> Stage:
    return Stage(name, (output,), list(units), work, name, Store())


def _nothing(unit: int, scratch: Scratch) -> dict[str, float]:
    return {"passed": float(DOCUMENTS)}


@dataclass(frozen=True)
class Generate:
    """The work of a stage that writes attributes; a duplicate lies anywhere in the run, not beside its original."""

    def __call__(self, unit: int, scratch: Scratch) -> dict[str, float]:
        first = unit * OF_A_UNIT
        numbers = np.arange(first, first + OF_A_UNIT)
        originals, changed, short = _structure(numbers)
        words, lengths = _words(originals, changed, short)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        hashes = np.stack([_mixed(originals), _mixed(originals + 7) ^ _mixed(changed)], axis=1)
        columns = {
            "row": numbers - first,
            "id": pa.array([f"document-{number:012}" for number in numbers.tolist()]),
            "source": pa.array(["s"] * len(numbers)),
            "text_hash": pa.Array.from_buffers(pa.binary(16), len(numbers), [None, pa.py_buffer(hashes)]),
            "characters": np.full(len(numbers), 3300),
            "language": pa.array(["en"] * len(numbers)),
            "signature": Sketches(words, starts).to_column(),
        }
        scratch.write("attributes", pa.table(columns))
        return {}


def _structure(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(original int64, which change of it int64, short bool) of each document.

    Documents n, n + g, n + 2 g, .. with g a fifth or a third of those of the kind are one group.
    """
    place = (numbers * 7919 + 13) % DOCUMENTS  # 7919 is prime, so each document has a place of its own
    ends = np.cumsum([UNIQUE, NEAR, COPIES]) * DOCUMENTS
    kind = np.searchsorted(ends, place, side="right")
    near, copies = (int(share * DOCUMENTS) for share in (NEAR / NEAR_GROUP, COPIES / COPY_GROUP))
    originals = place.copy()
    of_near, of_copies = kind == 1, kind == 2
    begins = ends.astype(np.int64)
    originals[of_near] = begins[0] + (place[of_near] - begins[0]) % max(near, 1)
    originals[of_copies] = begins[1] + (place[of_copies] - begins[1]) % max(copies, 1)
    changed = np.where(of_near, (place - begins[0]) // max(near, 1), 0)
    return originals, changed, kind == 3


def _words(originals: np.ndarray, changed: np.ndarray, short: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signatures and sets, one after the other, and their lengths."""
    columns = np.arange(COLUMNS, dtype=np.int64)
    values = (_mixed(originals[:, None] * 1009 + columns) >> np.uint64(32)).astype(np.uint32)
    # A change replaces columns of one band, so near-duplicates share the other bands.
    at = np.flatnonzero(changed)
    for step in range(CHANGED):
        values[at, changed[at] * ROWS + step] += changed[at].astype(np.uint32)
    lengths = np.where(short, SHINGLES, COLUMNS)
    values[short, :SHINGLES] = np.sort(values[short, :SHINGLES], axis=1)
    return values[columns < lengths[:, None]], lengths


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """uint64: well mixed, different for different numbers (the finaliser of splitmix64)."""
    value = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))


def _check(groups: Artifact) -> None:
    counters = groups.manifest.counters
    found = {name: int(counters.get(f"reason/{name}", 0)) for name in ("near_duplicate", "exact_duplicate")}
    near = int(NEAR * DOCUMENTS * (NEAR_GROUP - 1) / NEAR_GROUP)
    copies = int(COPIES * DOCUMENTS * (COPY_GROUP - 1) / COPY_GROUP)
    print(f"  found {found}, planted {near:,} near-duplicates and {copies:,} copies")


def _peer(attributes: Artifact) -> None:
    """datasketch's index: query and insert, with verification, in one process."""
    index = MinHashLSH(num_perm=COLUMNS, params=(BANDS, ROWS))
    kept: dict[int, LeanMinHash] = {}
    done, removed, began = 0, 0, time.perf_counter()
    for signature in _signatures(attributes):
        sketch = LeanMinHash(seed=1, hashvalues=signature.astype(np.uint64), scheme="affine32")
        if any(sketch.jaccard(kept[other]) >= DEDUP.threshold for other in index.query(sketch)):
            removed += 1
        else:
            index.insert(done, sketch)
            kept[done] = sketch
        done += 1
        if time.perf_counter() - began > PEER_SECONDS:
            break
    rate = done / (time.perf_counter() - began)
    print(f"  datasketch.MinHashLSH, one process: {rate:,.0f} documents/s over the first {done:,}, {removed:,} removed")


def _signatures(attributes: Artifact) -> Iterator[np.ndarray]:
    for table in attributes.tables(["signature"]):
        sketches = Sketches.from_column(table["signature"])
        for start, end in zip(sketches.starts[:-1], sketches.starts[1:], strict=True):
            if end - start == COLUMNS:
                yield sketches.words[start:end]


@dataclass
class _Done:
    name: str
    units: int
    seconds: float
    core_seconds: float
    memory: int
    written: int
    reads: int


@dataclass
class Processes(Engine):
    """An engine over plain processes, new ones for each stage, that records the memory of the largest."""

    stages: list[_Done] = field(default_factory=list)

    def _start_ray(self) -> None: ...

    def _round(self, stage: Stage, missing: list[int], records: dict[int, Record], failures: dict) -> None:
        began, most, core, reads = time.perf_counter(), 0, 0.0, 0
        bare = replace(stage, units=())
        with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
            waiting = [pool.submit(_do, bare, self.root, index, stage.units[index]) for index in missing]
            for one in waiting:
                record, memory, seconds, of_unit = one.result()
                records[record.unit] = record
                most, core, reads = max(most, memory), core + seconds, reads + of_unit
        written = sum(file.bytes for record in records.values() for files in record.files.values() for file in files)
        took = time.perf_counter() - began
        self.stages.append(_Done(stage.name, len(missing), took, core, most, written, reads))


def _do(stage: Stage, root: str, index: int, unit: Any) -> tuple[Record, int, float, int]:
    """(record, most memory of the process in bytes, processor seconds, reads of slices, which are requests on S3)."""
    began = time.process_time()
    with patch.object(Store, "read_range", autospec=True, side_effect=Store.read_range) as reads:
        record = run_unit(stage, root, index, unit)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return record, memory, time.process_time() - began, reads.call_count
