"""The whole command on local Parquet, as a user runs it: a process of its own, Ray's start included.

500 MB are made of the given documents: every copy after the first has its paragraphs in another order and some left
out, so that the copies are neither equal nor all duplicates. Prints MB/s end to end, stage by stage, the largest
resident memory of any worker, and what a second run on the finished output takes.

With an empty cache the workers compile the kernels in their first units, each those of other parts of the work. The
alternative, to compile before the workers start, takes what `raymill warm` takes and then a run with a full cache.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

_MEGABYTES = (125, 500)
_SAMPLE_S = 0.25


def run(texts: Texts) -> None:
    print(machine("ray", "pyarrow", "numba"))
    with tempfile.TemporaryDirectory() as folder:
        print(f"raymill warm in an empty cache: {_warm(Path(folder, 'kernels-warm')):.1f} s")
        for megabytes in _MEGABYTES:
            source = Path(folder, f"input-{megabytes}.parquet")
            size = write_input(texts, source, megabytes * 1_000_000)
            for cache in ("empty", "full"):
                kernels = Path(folder, f"kernels-{megabytes}")
                _one(Path(folder, f"{megabytes}-{cache}"), source, size, kernels, f"{cache} cache of kernels")


def _warm(kernels: Path) -> float:
    """Seconds to compile all kernels in one process before a run."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "raymill.cluster.cli", "warm"]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"NUMBA_CACHE_DIR": str(kernels)})
    return time.perf_counter() - start


def write_input(texts: Texts, path: Path, size: int) -> int:
    """Bytes of text written: whole rounds through the documents until there is enough, row groups of 16 MB."""
    generator = np.random.default_rng(1)
    strings = texts.to_arrow().to_pylist()
    written = row = 0
    with pq.ParquetWriter(path, pa.schema([("id", pa.string()), ("text", pa.string())])) as writer:
        ids: list[str] = []
        group: list[str] = []
        held = 0
        while written < size:
            text = strings[row % len(strings)]
            if row >= len(strings):
                paragraphs = np.array(text.split("\n\n"), dtype=object)
                kept = generator.permutation(len(paragraphs))[: max(1, int(len(paragraphs) * 0.8))]
                text = "\n\n".join(paragraphs[kept])
            ids.append(f"d{row}")
            group.append(text)
            held += len(text.encode())
            row += 1
            if held > 16 << 20 or written + held >= size:
                writer.write_table(pa.table({"id": ids, "text": group}))
                written, held = written + held, 0
                ids, group = [], []
    return written


def _one(folder: Path, source: Path, size: int, kernels: Path, name: str) -> None:
    folder.mkdir()
    output = folder / "run"
    config = folder / "curate.yaml"
    config.write_text(
        f"kind: curate\nname: bench\ninputs: [{{path: {source}, id: id}}]\noutput: {output}\n"
        "language: {keep: [en], min_score: 0.65}\n"
    )
    command = [sys.executable, "-m", "raymill.cluster.cli", "curate", str(config)]
    peaks: dict[str, int] = {}
    start = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"NUMBA_CACHE_DIR": str(kernels)}
    process = subprocess.Popen(command, **pipes, text=True, env=environment, start_new_session=True)
    watcher = threading.Thread(target=watch_workers, args=(process, peaks), daemon=True)
    watcher.start()
    said, complained = process.communicate()
    took = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"curate failed:\n{said}\n{complained}")
    report = json.loads((output / "report.json").read_text())
    speed = f"{took:.1f} s, {size / 1e6 / took:.1f} MB/s"
    print(f"curate, {size / 1e6:.0f} MB of text, {os.cpu_count()} cores, {name}: {speed}")
    for stage in report["stages"]:
        print(f"    {stage['stage']:<10}{stage['wall_s'] or 0:8.1f} s wall {stage['core_s']:8.1f} s in workers")
    corpus = report["totals"]["corpus"]["documents"] / report["totals"]["input"]["documents"]
    largest = max(peaks.values(), default=0) / 1e6
    print(f"    {corpus:.0%} of the documents stay; largest worker {largest:.2f} GB resident")
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    print(f"    the same command again: {time.perf_counter() - start:.2f} s")


def watch_workers(process: subprocess.Popen, peaks: dict[str, int]) -> None:
    """Peak resident kilobytes of every Ray worker of the command's session."""
    while process.poll() is None:
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                if os.getsid(int(status.parent.name)) != process.pid:
                    continue
                title = (status.parent / "cmdline").read_bytes()
                peak = re.search(r"VmHWM:\s+(\d+)", status.read_text())
            except (OSError, ValueError):
                continue
            if title.startswith(b"ray::") and peak:
                peaks[status.parent.name] = max(peaks.get(status.parent.name, 0), int(peak[1]))
        time.sleep(_SAMPLE_S)
