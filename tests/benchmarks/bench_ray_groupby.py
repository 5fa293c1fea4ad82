"""Documents that share a key, found by raymill's stages and by Ray Data: python -m tests.benchmarks ray_groupby

The generated documents of bench_group, 15 keys each, on two CPUs. Ray Data reads (key, position) pairs from Parquet
files, which are written before the clock starts; raymill's stages read attributes and make the keys from signatures.
The bytes are those of the pairs on their way: of raymill's files, 8 for a pair; of Ray's rows, 16, before compression.
Ray Data does it two ways: `repartition` by key, then the keys of each partition with several documents are found by
pyarrow; and `groupby` with a count, which finds the keys but not the documents. Ray's start is not counted. A way that
does not end within RAY_GROUPBY_S seconds is tried again with a quarter of the documents.

GROUP_DOCUMENTS (the first number), RAY_GROUPBY_S: in the environment.

Predicted 2026-11-24, two quiet cores, 2 million documents: raymill 500,000 documents/s of wall time, each process under
1 GB; repartition 90,000 documents/s, the workers 3 GB together; groupby 60,000.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data

from raymill.cluster.artifact import Artifact
from raymill.cluster.progress import Progress
from raymill.cluster.readers.inputs import Input
from raymill.cluster.session import Session
from raymill.pipelines.dedup.documents import Keys, scopes
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.bench_curate import watch_workers
from tests.benchmarks.bench_group import DEDUP, DOCUMENTS, Processes, generated
from tests.benchmarks.timing import machine

LIMIT_S = float(os.environ.get("RAY_GROUPBY_S", 600))
CPUS = 2
PARTITIONS = 16
WAYS = ("repartition", "groupby")
LEAST = 50_000  # documents, below which a way is given up


def run(texts: Texts) -> None:
    print(machine("ray", "pyarrow"))
    print(
        f"  {'':<36}{'documents':>12}{'s':>8}{'documents/s':>13}{'GB, largest and all workers':>29}{'GB of pairs':>13}"
    )
    _raymill(DOCUMENTS[0])
    for way in WAYS:
        documents = DOCUMENTS[0]
        while not _ray(way, documents) and documents // 4 >= LEAST:
            documents //= 4


def _raymill(documents: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with Processes(folder, Session(), Progress()) as engine:
            _, stage = generated(engine, documents)
            engine.run(stage)
        some = [one for one in engine.stages if one.name in ("group.keys", "group.merge", "group.mark")]
    if len(some) < 3:
        print(f"  raymill groups {documents:,} documents in one task: give more")
        return
    memory = max(one.memory[0] for one in some), max(sum(one.memory) for one in some)
    _line("raymill: keys, merge, mark", documents, sum(one.seconds for one in some), memory, some[0].written)


def _ray(way: str, documents: int) -> bool:
    """Whether Ray Data found the keys within the limit. It runs in a process of its own, which is ended with Ray's."""
    with tempfile.TemporaryDirectory() as folder:
        keys, holders = _write_pairs(Path(folder), documents)
        peaks: dict[str, int] = {}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "tests.benchmarks.bench_ray_groupby", way, f"{folder}/pairs"]
        process = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
        threading.Thread(target=watch_workers, args=(process, peaks), daemon=True).start()
        try:
            said, complained = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"  Ray Data, {way:<26}{documents:>12,}  not done after {LIMIT_S:g} s")
            return False
        if process.returncode:
            print(f"  Ray Data, {way:<26}{documents:>12,}  failed: {complained.strip().splitlines()[-1:]}")
            return False
        found = json.loads(said.splitlines()[-1])
        memory = max(peaks.values(), default=0) * 1024, sum(peaks.values()) * 1024
        _line(f"Ray Data, {way}", documents, found["seconds"], memory, found["bytes"])
        wanted = {"keys": keys, "holders": holders}
        wrong = {name: found[name] for name in wanted if name in found and found[name] != wanted[name]}
        assert not wrong, f"{way}: found {wrong}, wanted {wanted}"
        return True


def _write_pairs(folder: Path, documents: int) -> tuple[int, int]:
    """(keys that several documents have, documents that have one); writes the pairs, in files of attributes' size."""
    with Processes(f"{folder}/run", Session(), Progress()) as engine:
        attributes, _ = generated(engine, documents)
    inputs = [Input(source="s", path="s")]
    make = Keys(DEDUP, scopes(DEDUP.scope, inputs))
    folder.joinpath("pairs").mkdir()
    first, every = 0, []
    for number, table in enumerate(_tables(attributes)):
        keys, numbers = make.of(table, np.ones(table.num_rows, bool))
        positions = np.repeat(first + numbers, keys.shape[1])
        pairs = pa.table({"key": keys.ravel(), "position": positions})
        pq.write_table(pairs, folder / "pairs" / f"{number:05}.parquet", compression="zstd")
        first += table.num_rows
        every.append(keys)
    return _shared(np.concatenate(every))


def _tables(attributes: Artifact) -> Any:
    return attributes.tables(["row", "text_hash", "signature", "source"])


def _shared(keys: np.ndarray) -> tuple[int, int]:
    """(keys that several rows have, rows that have one)."""
    values, counts = np.unique(keys, return_counts=True)
    shared = values[counts > 1]
    return len(shared), int(np.isin(keys, shared, kind="sort").any(axis=1).sum())


def _holders(pairs: pa.Table) -> pa.Table:
    """The pairs of a partition whose key stands in several of them."""
    counts = pairs.group_by("key").aggregate([("position", "count")])
    shared = counts.filter(pc.greater(counts["position_count"], 1))["key"]
    return pairs.filter(pc.is_in(pairs["key"], shared.combine_chunks()))


def _line(name: str, documents: int, seconds: float, memory: tuple[int, int], moved: int) -> None:
    gigabytes = ", ".join(f"{one / 1e9:.2f}" for one in memory)
    rate = documents / seconds
    print(f"  {name:<36}{documents:>12,}{seconds:>8.1f}{rate:>13,.0f}{gigabytes:>29}{moved / 1e9:>13.2f}", flush=True)


def main(way: str, pairs: str) -> None:
    """Print one line of JSON: what Ray Data found, in how many seconds, and the bytes of its shuffle."""
    ray.init(num_cpus=CPUS, include_dashboard=False, log_to_driver=False)
    began = time.perf_counter()
    data = ray.data.read_parquet(pairs)
    if way == "repartition":
        moved = data.repartition(PARTITIONS, keys=["key"])
        found = moved.map_batches(_holders, batch_size=None, batch_format="pyarrow").materialize()
        tables = [ray.get(reference) for reference in found.to_arrow_refs()]
        seconds = time.perf_counter() - began
        whole = pa.concat_tables([table for table in tables if table.num_rows])
        result = {"keys": len(pc.unique(whole["key"])), "holders": len(pc.unique(whole["position"]))}
    else:
        counted = data.groupby("key").count().materialize()
        tables = [ray.get(reference) for reference in counted.to_arrow_refs()]
        seconds = time.perf_counter() - began
        whole = pa.concat_tables(tables)
        result = {"keys": int(pc.sum(pc.greater(whole["count()"], 1)).as_py())}
    rows = sum(pq.read_metadata(path).num_rows for path in Path(pairs).iterdir())
    print(json.dumps(result | {"seconds": seconds, "bytes": rows * 16}))


if __name__ == "__main__":
    main(*sys.argv[1:])
