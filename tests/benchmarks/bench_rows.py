"""Packing and loading, one core: how fast, how full the rows are, and how long a run waits for a step it jumps to.

Lengths are those of the input's documents at 4 bytes a token, and of GSM8K's conversations where that is at hand; the
documents are repeated until there are a few million tokens. Tokens are made up: packing does not look at them.
"""

import json
import tempfile
import time

import numpy as np
import pyarrow as pa

from raymill.cluster import stage as stages
from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.stage import Output, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.text.texts import Texts
from raymill.training.data.batch import Loader
from raymill.training.data.order import Order, hashes
from raymill.training.data.packed import EXAMPLES, PackedRows, rows_per_group
from raymill.training.pack.best_fit import best_fit
from raymill.training.pack.job import packing_rule
from raymill.training.pack.packing import pack_stage
from tests.benchmarks.timing import REAL, machine, processor_seconds
from tests.support.packed_examples import config
from tests.support.stages import run_inline

_BYTES_PER_TOKEN = 4
_TOKENS = 8_000_000
_STEPS = 40


def examples_of(root: str, sizes: np.ndarray) -> Artifact:
    place = np.sort(hashes(len(sizes), "benchmark"))
    ends = np.concatenate([[0], np.cumsum(sizes)])
    labels = np.ones(ends[-1], np.bool_)
    table = pa.table(
        [
            pa.array(np.zeros(len(sizes), np.int8)),
            pa.array(place),
            pa.array([f"{number:032x}" for number in range(len(sizes))]),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.arange(ends[-1]) % 32000, pa.int32())),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(labels)),
            pa.nulls(len(sizes), pa.int32()),
        ],
        schema=EXAMPLES,
    )

    def work(_: int, scratch: Scratch) -> Counters:
        scratch.write("examples", table)
        return {"tokens/train": int(ends[-1])}

    stage = Stage("examples", (Output("examples", EXAMPLES, row_group_bytes=1 << 20),), [0], work, "b" * 32, Store())
    return run_inline(stage, root)["examples"]


def measure(name: str, lengths: np.ndarray, length: int) -> None:
    sizes = np.resize(lengths, max(1, int(_TOKENS / lengths.mean())))
    settings = config(sequence_length=length, tokens_per_step=64 * length)
    with tempfile.TemporaryDirectory() as root:
        examples = examples_of(root, sizes)
        stage = pack_stage("test", packing_rule(settings, settings.columns.form), examples)
        train = stage.units[0]

        def pack() -> None:
            with Scratch(stage.outputs) as scratch:
                stage.work(train, scratch)
                scratch.finish()

        packing_s = processor_seconds(pack, 3)
        clipped = np.minimum(sizes, length)
        fitting_s = processor_seconds(lambda: best_fit(clipped, length), 3)
        packed = stages.run_unit(stage, root, 0, train)
        counters = packed.counters
        made = run_inline(stage, root)["test/train"]
        filled = counters["tokens/train"] / (counters["rows/train"] * length)
        order = Order([made.manifest.rows], [made.manifest.rows], 64, rows_per_group(length), 1)

        def load() -> None:
            loader = Loader(order, [PackedRows(made)], 0, 1, settings.micro_rows(1), length, 0)
            for step in range(_STEPS):
                loader.micro_batches(step)
            loader.close()

        loading_s = processor_seconds(load, 3)
        started = time.perf_counter()
        loader = Loader(order, [PackedRows(made)], 0, 1, settings.micro_rows(1), length, 0)
        loader.micro_batches(1_000_003)
        seek_s = time.perf_counter() - started
        loader.close()
    tokens = counters["tokens/train"]
    print(
        f"  {name:<24}{length:>7}{len(sizes):>10,}{filled:>9.2%}{tokens / packing_s / 1e6:>12.1f}"
        f"{len(sizes) / fitting_s / 1e6:>12.1f}{_STEPS * 64 * length / loading_s / 1e6:>12.1f}{seek_s * 1e3:>10.1f}"
    )


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow"))
    inputs = {"the input's documents": np.maximum(texts.byte_lengths // _BYTES_PER_TOKEN, 2).astype(np.int64)}
    chats = REAL.parent / "gsm8k_train.jsonl"
    if chats.is_file():
        lines = chats.read_bytes().splitlines()
        inputs["GSM8K"] = np.array([sum(map(len, json.loads(line).values())) // _BYTES_PER_TOKEN for line in lines])
    print("  lengths of                 row  documents   filled  pack, Mtok/s  fit, Mdoc/s  load, Mtok/s  seek, ms")
    for name, lengths in inputs.items():
        for length in (1024, 4096):
            measure(name, lengths, length)
    started = time.perf_counter()
    Order([3_000_000_000], [3_000_000_000], 64, rows_per_group(1024), 1).step(10**9)
    print(f"  a step far into an order of 3,000,000,000 rows: {time.perf_counter() - started:.2f} s")
