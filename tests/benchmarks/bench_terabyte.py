"""Core-hours to curate a terabyte: python -m tests.benchmarks terabyte

Every stage of `curate` with its default settings, unit by unit in one process, on 500 MB of texts of 3.3 kB in Parquet
on the local disk; processor time of all threads. A text is made of paragraphs of the technical texts in a seeded random
order, so that few are near-duplicates. Ray and the object store are not in it.
"""

import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.artifact import Artifact
from raymill.cluster.progress import Progress
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.pipelines.all_kernels import compile_kernels
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import run_stages
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine
from tests.benchmarks.web_texts import LENGTHS
from tests.support.inline import InlineEngine

_BYTES = 500_000_000
_FILES = 4


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        size, documents = write_documents(Path(folder, "texts"), texts, _BYTES)
        config = CurateConfig.model_validate(
            {"kind": "curate", "name": "terabyte", "inputs": [{"path": f"{folder}/texts/*.parquet"}],
             "output": f"{folder}/run"}
        )  # fmt: skip
        engine = TimedEngine(f"{folder}/run", Session(), Progress())
        compile_kernels()  # and load models and tables
        inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
        artifacts = run_stages(config, inputs, engine.run)
        kept = artifacts["corpus"].manifest.rows
    print(f"{documents:,} documents, {size / 1e6:.0f} MB, {kept:,} kept; processor time by stage")
    for name, seconds in engine.seconds.items():
        print(f"  {name:<12}{seconds:8.1f} s{seconds / size * 1e12 / 3600:10.1f} core-hours a terabyte")
    total = sum(engine.seconds.values())
    print(f"  {'all':<12}{total:8.1f} s{total / size * 1e12 / 3600:10.1f} core-hours a terabyte")


class TimedEngine(InlineEngine):
    """Adds up the processor time of each stage."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.seconds: dict[str, float] = defaultdict(float)

    def run(self, stage: Stage) -> dict[str, Artifact]:
        began = time.process_time()
        made = super().run(stage)
        self.seconds[stage.name] += time.process_time() - began
        return made


def write_documents(folder: Path, texts: Texts, most: int) -> tuple[int, int]:
    """(bytes, documents) written to four Parquet files, which have about `most` bytes."""
    folder.mkdir()
    random = np.random.default_rng(1)
    paragraphs = [one for text in texts.to_arrow().to_pylist() for one in text.split("\n\n") if len(one) >= 40]
    mu, sigma, shortest, longest = LENGTHS["3.3 kB"]
    size = documents = 0
    for number in range(_FILES):
        rows, written = [], 0
        while written < most / _FILES:
            wanted, parts, length = np.clip(random.lognormal(mu, sigma), shortest, longest), [], 0
            while length < wanted:
                parts.append(paragraphs[random.integers(len(paragraphs))])
                length += len(parts[-1]) + 2
            rows.append("\n\n".join(parts))
            written += length
        pq.write_table(pa.table({"text": rows}), folder / f"{number}.parquet", row_group_size=2000)
        size, documents = size + sum(len(row.encode()) for row in rows), documents + len(rows)
    return size, documents
