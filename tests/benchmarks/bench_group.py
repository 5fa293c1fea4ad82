"""Grouping alone, of generated signatures with known duplicates, on two processes: documents/s, memory, requests.

Of a hundred documents 56 are like no other, 20 are near-duplicates in groups of five, 12 are copies in groups of three,
and 12 are short. With GROUP_COPIES=0.9, ninety are copies in groups of ten. Two sizes in one call, of which the second
should take at most eleven times as long; beside the first datasketch's index over the same signatures, of as many
documents as it does in a minute.

    python -m tests.benchmarks group                                 # 2 and 20 million documents, 20 GB of disk
    GROUP_DOCUMENTS=3000000 python -m tests.benchmarks group
    GROUP_BLOCKS=1 python -m tests.benchmarks group      # all candidates in one batch, compared in blocks
    GROUP_COPIES=0.9 python -m tests.benchmarks group    # most documents are exact copies
    GROUP_COUNTED=0 python -m tests.benchmarks group     # the local disk as it is; requests are not counted

Requests are those that an object store would get: every process reads and writes on a disk that counts them, with
footers, records, listings and uploads. A pair is a key and a document, of which a document has as many as bands; an
exact copy has none. Times per pair are processor time of the stages keys and merge; the time to read attributes is
taken around the reading itself.

Predicted 2026-11-24, two quiet cores: 2 million in 6 s, 20 million in 60 s (330,000 documents/s), 10 times as long
(goal: at most 11); each process under 1.6 GB; keys and merge 110 ns a pair with reading, 60 without (goal 100,
all told); 20 million documents: 8,000 GET and 6,000 PUT.
"""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import numpy as np
import pyarrow as pa
from datasketch import LeanMinHash, MinHashLSH

from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.progress import Progress
from raymill.cluster.readers.inputs import Input
from raymill.cluster.session import WORKER_ENVIRONMENT, Session
from raymill.cluster.stage import CommitRecord, Output, Scratch, Stage, run_unit
from raymill.cluster.store.store import Store
from raymill.pipelines.dedup import group
from raymill.pipelines.dedup.documents import judged
from raymill.pipelines.dedup.group import GROUPS, Sizes, group_stage
from raymill.pipelines.dedup.settings import Dedup
from raymill.pipelines.dedup.signatures import SKETCH_TYPE, Sketches
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import forget_peak, machine, memory_of_process
from tests.support.counted_disk import CountedDisk, counted_disk, shown

DOCUMENTS = [int(number) for number in os.environ.get("GROUP_DOCUMENTS", "2000000,20000000").split(",")]
COUNTED = os.environ.get("GROUP_COUNTED") != "0"
BLOCKS = os.environ.get("GROUP_BLOCKS") == "1"
OF_A_UNIT = 100_000
PROCESSES = 2
DEDUP = Dedup(component_documents=1) if BLOCKS else Dedup()
SIZES = Sizes(batch=1 << 40) if BLOCKS else Sizes()
BANDS, ROWS = DEDUP.banding
COLUMNS = BANDS * ROWS
COPIES = float(os.environ.get("GROUP_COPIES", "0.12"))
UNIQUE, NEAR = (0.56, 0.20) if COPIES < 0.5 else (0.05, 0.02)  # the others are short
NEAR_GROUP, COPY_GROUP = 5, 3 if COPIES < 0.5 else 10
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
    taken = [_group(documents, beside_peer=number == 0) for number, documents in enumerate(DOCUMENTS)]
    for documents, seconds in zip(DOCUMENTS[1:], taken[1:], strict=True):
        times = f"{seconds / taken[0]:.2f} times the time of {DOCUMENTS[0]:,}"
        print(f"{documents:,} documents are {documents / DOCUMENTS[0]:.1f} times as many and take {times}")


def _group(documents: int, beside_peer: bool) -> float:
    """Seconds of the grouping of `documents` generated documents; prints what each stage took."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _disk() as disk,
        Processes(folder, Session(), Progress(), disk=disk) as engine,
    ):
        attributes, stage = generated(engine, documents)
        before = Counter(disk.requests if disk else ())
        began = time.perf_counter()
        groups = engine.run(stage)[GROUPS]
        took = time.perf_counter() - began
        sent = Counter(disk.requests if disk else ()) - before
        print(f"{documents:,} documents, {attributes.manifest.bytes / 1e9:.2f} GB of attributes, {PROCESSES} processes")
        print(
            f"  {'stage':<20}{'units':>7}{'s':>8}{'core-s':>8}  {'GB of each process':<20}{'GB written':>10}  requests"
        )
        for one in engine.stages:
            memory = ", ".join(f"{most / 1e9:.2f}" for most in one.memory)
            row = f"{one.units:>7}{one.seconds:>8.1f}{one.core_seconds:>8.1f}  {memory:<20}{one.written / 1e9:>10.2f}"
            print(f"  {one.name:<20}{row}  {shown(one.requests)}")
            sent += one.requests
        print(f"  whole: {took:.1f} s, {documents / took:,.0f} documents/s, {shown(sent)} with the driver's")
        _pairs(engine.stages, documents)
        _check(groups, documents)
        if beside_peer:
            _peer(attributes)
    return took


def generated(engine: "Processes", documents: int) -> tuple[Artifact, Stage]:
    """(attributes of `documents` documents, the stage that groups them); the engine's list of stages is empty again."""
    units = range(max(1, documents // OF_A_UNIT))
    generate = _stage("measure", Output("attributes", ATTRIBUTES), units, Generate(documents))
    attributes = engine.run(generate)["attributes"]
    decide = _stage("decide", Output("verdicts", pa.schema([("row", pa.int64())])), [documents], _nothing)
    verdicts = engine.run(decide)["verdicts"]
    engine.stages.clear()
    return attributes, group_stage(DEDUP, [Input(source="s", path="s")], attributes, verdicts, len(units), SIZES)


def _disk() -> AbstractContextManager[CountedDisk | None]:
    return counted_disk() if COUNTED else nullcontext()


def _pairs(stages: list["_Done"], documents: int) -> None:
    """Print the processor time of a pair, in nanoseconds, with and without reading attributes."""
    some = [one for one in stages if one.name in ("group.keys", "group.merge")]
    pairs = int(documents * (1 - COPIES * (COPY_GROUP - 1) / COPY_GROUP)) * BANDS
    whole, reading = (sum(getattr(one, name) for one in some) / pairs * 1e9 for name in ("core_seconds", "reading"))
    print(f"  keys and merge: {whole:.0f} ns a pair, {whole - reading:.0f} without reading attributes, {pairs:,} pairs")


def _stage(name: str, output: Output, units: Any, work: Any) -> Stage:
    return Stage(name, (output,), list(units), work, name, Store())


def _nothing(documents: int, scratch: Scratch) -> dict[str, float]:
    return {"passed": float(documents)}


@dataclass(frozen=True)
class Generate:
    """The work of a stage that writes attributes; a duplicate lies anywhere in the run, not beside its original.

    documents: of the whole run.
    """

    documents: int

    def __call__(self, unit: int, scratch: Scratch) -> dict[str, float]:
        first = unit * OF_A_UNIT
        numbers = np.arange(first, min(first + OF_A_UNIT, self.documents))
        originals, changed, short = _structure(numbers, self.documents)
        words, lengths = _words(originals, changed, short)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        texts = 2 * (originals * NEAR_GROUP + changed)  # a number for each different text
        hashes = np.stack([_mixed(texts), _mixed(texts + 1)], axis=1)
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


def _structure(numbers: np.ndarray, documents: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(original int64, which change of it int64, short bool) of each document.

    Documents n, n + g, n + 2 g, .. with g a fifth or a third of those of the kind are one group.
    """
    place = (numbers * 7919 + 13) % documents  # 7919 is prime, so each document has a place of its own
    ends = np.cumsum([UNIQUE, NEAR, COPIES]) * documents
    kind = np.searchsorted(ends, place, side="right")
    near, copies = (int(share * documents) for share in (NEAR / NEAR_GROUP, COPIES / COPY_GROUP))
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


def _check(groups: Artifact, documents: int) -> None:
    counters = groups.manifest.counters
    found = {name: int(counters.get(f"reason/{name}", 0)) for name in ("near_duplicate", "exact_duplicate")}
    near = int(NEAR * documents * (NEAR_GROUP - 1) / NEAR_GROUP)
    copies = int(COPIES * documents * (COPY_GROUP - 1) / COPY_GROUP)
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
        sketches = Sketches.from_column(table["signature"], COLUMNS)
        for start, end in zip(sketches.starts[:-1], sketches.starts[1:], strict=True):
            if end - start == COLUMNS:
                yield sketches.words[start:end]


@dataclass
class _Done:
    """What a stage took. memory: peak of each process in bytes. reading: processor seconds in reading attributes."""

    name: str
    units: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0
    reading: float = 0.0
    memory: list[int] = field(default_factory=list)
    written: int = 0
    requests: Counter[str] = field(default_factory=Counter)


@dataclass
class Processes(Engine):
    """An engine over plain processes that records what each stage took. Use it in a `with`.

    The processes stay from one stage to the next, as Ray's do. disk: counts the requests of this process, the driver's.
    """

    stages: list[_Done] = field(default_factory=list)
    disk: CountedDisk | None = None

    def __enter__(self) -> Self:
        os.environ |= WORKER_ENVIRONMENT
        self.pool = ProcessPoolExecutor(PROCESSES, get_context("spawn"))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)

    def _start_ray(self) -> None: ...

    def _round(self, stage: Stage, missing: list[int], records: dict[int, CommitRecord], failures: dict) -> None:
        done, bare = _Done(stage.name, len(missing)), replace(stage, units=())
        began = time.perf_counter()
        memory: dict[int, int] = {}
        for one in [self.pool.submit(_do, bare, self.root, index, stage.units[index]) for index in missing]:
            unit = one.result()
            records[unit.record.unit] = unit.record
            memory[unit.process] = max(unit.memory, memory.get(unit.process, 0))
            done.core_seconds += unit.seconds
            done.reading += unit.reading
            done.requests += unit.requests
        done.written = sum(f.bytes for record in records.values() for files in record.files.values() for f in files)
        done.seconds, done.memory = time.perf_counter() - began, sorted(memory.values(), reverse=True)
        self.stages.append(done)


@dataclass
class _Unit:
    """What a unit took: the process that did it and its peak of memory in bytes, processor seconds, requests."""

    record: CommitRecord
    process: int
    memory: int
    seconds: float
    reading: float
    requests: Counter[str]


def _do(stage: Stage, root: str, index: int, unit: Any) -> _Unit:
    reading = 0.0

    def timed(*arguments: Any) -> Iterator[Any]:
        """As `judged`, and adds up its processor time, without the caller's between tables."""
        nonlocal reading
        tables = judged(*arguments)
        while True:
            began = time.process_time()
            table = next(tables, None)
            reading += time.process_time() - began
            if table is None:
                return
            yield table

    forget_peak()
    began = time.process_time()
    with patch.object(group, "judged", timed), _disk() as disk:
        record = run_unit(stage, root, index, unit)
    seconds, memory = time.process_time() - began, memory_of_process("VmHWM")
    return _Unit(record, os.getpid(), memory, seconds, reading, Counter(disk.requests if disk else ()))
