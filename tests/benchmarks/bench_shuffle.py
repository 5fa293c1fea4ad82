"""Examples to their ranges: how often files are read, the requests, and the processor time of each level.

Prediction, before levels were built: reading every file for every range, 30,000 files need 9e8 reads of at least two
requests each, of row groups of 1 MiB for 1.4 KB. With three levels of 32 files 2.7 million reads, and 50 ns a token
more than reading 64 files, 3% of tokenising.

Found: 2.7 million reads. Of 30,000 files 55 ns a token for the first level, 9 for the second and 50 for the last with
packing (a busy machine): 114 in all, less than packing from 64 files takes (128), whose row groups have 2.6 times as
much as is used. Tokenising takes 1,700.

Counted: small files on a local disk through a store that counts. Each Parquet file is opened by one request, which
brings small ones whole; of large ones the row groups take one more.
Processor time: one unit of each level over files of 8 million tokens, which are one file under many names.

    python -m tests.benchmarks shuffle
"""

import dataclasses
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.exchange import FAN, Levels
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Output, Scratch, Stage, run_unit
from raymill.cluster.store.store import Store
from raymill.training.data.packed import EXAMPLES
from raymill.training.pack.job import packing_rule
from raymill.training.pack.packing import UNIT_TOKENS, PackingRule, pack_stage, ranges, read_examples
from tests.benchmarks.timing import machine
from tests.support.inline import InlineEngine
from tests.support.packed_examples import config, document, write_examples
from tests.support.stages import run_inline

_FILES = (10, 64, 100, 1000, 4096, 10_000, 30_000)
_EVERY_FILE = 1 << 40  # as `fan`: each range reads every file
_COUNTED = (50, 100, 200)
_RUNS = 3
_COUNTS: Counter[str] = Counter()


class CountingStore(Store):
    """A store that counts requests, as an object store would get them."""

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        _COUNTS["read"] += 1
        return super().read_range(uri, start, end)

    def open_parts(self, uri: str) -> pa.NativeFile:
        _COUNTS["read"] += 1
        return super().open_parts(uri)

    def upload(self, path: Path, uri: str, *, new: bool = False) -> None:
        _COUNTS["written"] += 1
        super().upload(path, uri, new=new)


def run(texts: object) -> None:
    print(machine("pyarrow", "numba"))
    settings = config(sequence_length=2048, tokens_per_step=2048 * 64)
    rule = packing_rule(settings, settings.columns.form)
    print("  files and ranges   levels  files a unit  every file for every range   by levels")
    for files in _FILES:
        levels = Levels.of(files, files)
        reads = sum(levels.reads(level) for level in range(1, levels.count + 1))
        print(f"  {files:>16,}{levels.count:>9}{levels.fan_in:>14}{files * files:>28,}{reads:>12,}")
    print(f"  counted, at most 8 files a unit\n  {'files':>5}{'ranges':>8}   requests of every file     by levels")
    for files in _COUNTED:
        every, levelled = (_counted(files, fan) for fan in (_EVERY_FILE, 8))
        assert every[:2] == levelled[:2], "the same rows"
        print(f"  {files:>5}{every[1]:>8}{sum(every[2].values()):>25,}{sum(levelled[2].values()):>14,}")
    for files in (64, 1000, 30_000):
        _levels_of(files, rule)


def _counted(files: int, fan: int) -> tuple[list[str], int, Counter[str]]:
    """(digests of the rows, number of ranges, requests of packing)."""
    documents = [document(f"d{n}", 20, split=int(n % 10 == 0)) for n in range(files * 10)]
    with tempfile.TemporaryDirectory() as root:
        examples = write_examples(root, documents, files, store=CountingStore())
        rule = packing_rule(config(), config().columns.form)
        _COUNTS.clear()
        stage = pack_stage("test", rule, examples, 200, fan)
        made = InlineEngine(root, Session(), Progress()).run(stage)
        count = len(list(ranges(examples.manifest.counters, 200)))
        return [made[f"test/{split}"].manifest.digest for split in SPLITS], count, Counter(_COUNTS)


def _levels_of(files: int, rule: PackingRule) -> None:
    with tempfile.TemporaryDirectory() as root:
        examples = _repeated(_one_file(root), files)
        levels = Levels.of(files, len(list(ranges(examples.manifest.counters, UNIT_TOKENS))), FAN)
        stages = [pack_stage("test", rule, examples)]
        made: list[Artifact] = [examples]

        def one_unit_of(stage: Stage) -> dict[str, Artifact]:
            stages.append(stage)
            output = stage.outputs[0].name
            record = run_unit(stage, root, 0, stage.units[0])
            manifest = dataclasses.replace(examples.manifest, files=record.files[output] * len(stage.units), digest="")
            made.append(Artifact(Store(), f"{root}/{output}", manifest))
            return {output: made[-1]}

        last = stages[0]
        units = last.units or (last.prepare and last.prepare(one_unit_of)) or ()
        each = [*stages[1:], dataclasses.replace(last, units=units, prepare=None)]
        print(f"  {files:,} files, {levels.ranges:,} ranges")
        for number, stage in enumerate(each, 1):
            taken_ns = _seconds(stage) / _tokens(stage) * 1e9
            print(f"    level {number}: {taken_ns:5.0f} ns a token, {stage.memory >> 20} MiB stated")


def _seconds(stage: Stage) -> float:
    """The least processor time of the first unit."""

    def once() -> float:
        started = time.process_time()
        with Scratch(stage.outputs) as scratch:
            stage.work(stage.units[0], scratch)
            scratch.finish()
        return time.process_time() - started

    return min(once() for _ in range(_RUNS + 1))


def _tokens(stage: Stage) -> int:
    """Tokens that the first unit reads."""
    unit = stage.units[0]
    found = read_examples(Store(), unit, stage.work.ranges[unit.first : unit.end], stage.memory)  # type: ignore[attr-defined]
    return sum(len(chunk.flatten()) for chunk in found["ids"].chunks)


def _one_file(root: str) -> Artifact:
    """Examples of 8 million tokens, 700 each, in one file."""
    random = np.random.default_rng(1)
    count = UNIT_TOKENS // 700
    split = np.sort(random.choice(3, count, p=[0.8, 0.1, 0.1])).astype(np.int8)
    place = random.integers(0, 1 << 64, count, np.uint64)
    ends = pa.array(np.arange(count + 1) * 700, pa.int32())
    ids = np.minimum(random.pareto(0.8, count * 700) * 3, 31999).astype(np.int32)
    columns: list[Any] = [
        pa.array(split),
        pa.array(place[np.lexsort((place, split))]),
        pa.array([f"{number:032x}" for number in range(count)]),
        pa.ListArray.from_arrays(ends, pa.array(ids)),
        pa.ListArray.from_arrays(ends, pa.array(np.ones(count * 700, np.bool_))),
        pa.nulls(count, pa.int32()),
    ]
    table = pa.table(columns, schema=EXAMPLES)

    def work(_: int, scratch: Scratch) -> Counters:
        scratch.write("_work/examples/test", table)
        return {f"tokens/{name}": int(700 * (split == index).sum()) for index, name in enumerate(SPLITS)}

    output = Output("_work/examples/test", EXAMPLES, row_group_bytes=1 << 20)
    return run_inline(Stage("examples", (output,), [0], work, "b" * 32, Store()), root)["_work/examples/test"]


def _repeated(examples: Artifact, files: int) -> Artifact:
    """The artifact with its file `files` times."""
    manifest = examples.manifest
    counters = {name: value * files for name, value in manifest.counters.items()}
    many = dataclasses.replace(manifest, files=manifest.files * files, counters=counters, digest="")
    return Artifact(examples.store, examples.uri, many)
