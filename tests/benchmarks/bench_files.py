"""100,000 files: freezing them, curating them, and the second call: python -m tests.benchmarks files

Every file is a Parquet file of one page of 0.5 kB. Freezing and listing happen in this process, on a local disk. Then
`raymill curate` runs as a process of its own with default settings, and again on the finished run, which it recognises
from listings alone. FILES in the environment: another number of files.

Predicted 2026-11-24, two quiet cores: freezing 20 s of wall time (goal: under 30) and 30
core-seconds; the first run 4 minutes; the second call 6 s (goal 10).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.listing import list_inputs
from raymill.cluster.store.store import Store
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.bench_scale import Driver
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import cut

FILES = int(os.environ.get("FILES", 100_000))
CALLS = 3


def run(texts: Texts) -> None:
    print(machine("ray", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder, "pages")
        _write(pages, texts)
        driver, inputs = Driver(), [Input(path=str(pages))]
        manifest = driver(f"freeze {FILES:,} files", lambda: freeze(Store(), inputs))
        assert len(manifest.files) == FILES
        listed = driver("list them", lambda: list_inputs(Store(), inputs))
        assert listed.fingerprint == manifest.fingerprint
        config = Path(folder, "curate.yaml")
        config.write_text(f"kind: curate\nname: files\ninputs: [{{path: {pages}}}]\noutput: {folder}/run\n")
        print(f"  raymill curate, the first run: {_curate(config):.1f} s", flush=True)
        again = [_curate(config) for _ in range(CALLS)]
        print(f"  the same command again: median {median(again):.2f} s of {', '.join(f'{s:.2f}' for s in again)}")


def _write(folder: Path, texts: Texts) -> None:
    """FILES files of one page each, in folders of 1,000; pages come again if the texts have fewer."""
    pages = cut(texts, "0.5 kB").to_arrow()
    for number in range(FILES):
        path = folder / f"{number // 1000:03}" / f"{number:06}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": pages.slice(number % len(pages), 1)}), path)


def _curate(config: Path) -> float:
    """Wall seconds of the whole command."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "raymill.cluster.cli", "curate", str(config)], capture_output=True, text=True
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"curate failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - began
