"""`raymill plan` beside runs, and for 10^8 to 10^10 documents: python -m tests.benchmarks plan

A run is every stage in this process; processor time, bytes and units. Curate: 120 MB of the texts that the benchmark
`terabyte` has, and the technical texts, whose lines and runs are counted too. Prepare: 30,000 records of the benchmark
`prepare`. The plans of larger inputs are of files on an S3 server of this machine, so that they have requests.
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import Artifact
from cluster.frame.kinds import kind_of
from cluster.plan.command import print_plan
from cluster.plan.prices import load_prices
from cluster.plan.subject import plan_of
from cluster.progress import Silent
from cluster.session import Session
from cluster.stage import Stage
from pipelines.all_kernels import compile_kernels
from pipelines.curate import job as curate_job
from pipelines.curate.config import CurateConfig
from pipelines.prepare import job as prepare_job
from pipelines.prepare.config import PrepareConfig
from pipelines.text.texts import Texts
from tests.benchmarks import bench_prepare
from tests.benchmarks.bench_terabyte import write_documents
from tests.benchmarks.local_s3 import KEYS, local_s3
from tests.benchmarks.timing import machine
from tests.support.inline import InlineEngine

_BYTES, _RECORDS = 120_000_000, 30_000


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_kernels()
        write_documents(folder / "web", texts, _BYTES)
        pq.write_table(pa.table({"text": texts.to_arrow()}), folder / "technical.parquet", row_group_size=500)
        _beside_a_run("web texts", _config(f"{folder}/web/*.parquet", f"{folder}/run-1"))
        cut = {"boilerplate": {}, "repeats": {}, "execution": {"unit_mib": 2}, "corpus": {"file_mib": 4}}
        _beside_a_run("technical texts", _config(f"{folder}/technical.parquet", f"{folder}/run-2", **cut))
        _beside_a_run("records", _records(folder, texts))
        _of_larger_inputs(sorted((folder / "web").iterdir()))


def _config(path: str, output: str, **more: Any) -> CurateConfig:
    return CurateConfig.model_validate(
        {"kind": "curate", "name": "web", "inputs": [{"path": path}], "output": output} | more
    )


def _records(folder: Path, texts: Texts) -> PrepareConfig:
    with mock.patch.object(bench_prepare, "RECORDS", _RECORDS):
        bench_prepare._write(folder / "pairs.jsonl", texts)
    columns = {name: name for name in ("prompt", "completion", "queue", "account")}
    inputs = [{"path": f"{folder}/pairs.jsonl", "columns": columns}]
    settings = {"kind": "prepare", "name": "pairs", "inputs": inputs, "output": f"{folder}/run-3"}
    return PrepareConfig.model_validate(settings | bench_prepare.SETTINGS)


class _Timed(InlineEngine):
    """Notes processor time, units and bytes of each stage, also of those that prepare another."""

    found: ClassVar[dict[str, tuple[float, int, int]]] = {}

    def run(self, stage: Stage) -> dict[str, Artifact]:
        if stage.prepare is not None:
            stage = dataclasses.replace(stage, units=stage.prepare(self.run), prepare=None)
        began = time.process_time()
        made = super().run(stage)
        written = sum(artifact.manifest.bytes for artifact in made.values())
        self.found[f"{self.prefix}{stage.name}"] = time.process_time() - began, len(stage.units), written
        return made


def _beside_a_run(what: str, config: CurateConfig | PrepareConfig) -> None:
    plan = plan_of(kind_of(config.kind).plan(config), (2,), load_prices(None))
    planned = {one["name"]: one for one in plan["stages"]}
    _Timed.found.clear()
    job: Any = curate_job if config.kind == "curate" else prepare_job
    with mock.patch.object(job, "Engine", _Timed):
        (job.curate if config.kind == "curate" else job.prepare)(config, Session(), Silent())
    print(f"{what + ', planned / run':<32}{'core seconds':>22}{'units':>16}{'MB written':>20}")
    for name, (seconds, units, written) in _Timed.found.items():
        one = planned.get(name, {"core_s": 0, "units": 0, "written": 0})
        print(
            f"  {name:<30}{one['core_s']:>14.2f} /{seconds:>6.2f}{one['units']:>9} /{units:>5}"
            f"{one['written'] / 1e6:>12.2f} /{written / 1e6:>6.2f}"
        )
    seconds, written = (sum(one[at] for one in _Timed.found.values()) for at in (0, 2))
    sums = [sum(one[key] for one in plan["stages"]) for key in ("core_s", "written")]
    print(f"  all: {sums[0] / seconds:.2f} of the processor time, {sums[1] / written:.2f} of the bytes")


def _of_larger_inputs(files: list[Path]) -> None:
    with local_s3() as url:
        config = _config("s3://crawl/*.parquet", "s3://crawl/run", storage={"endpoint_url": url, **KEYS})
        for file in files:
            config.store.upload(file, f"s3://crawl/{file.name}")
        for documents in (1e8, 1e9, 1e10):
            print(f"\nraymill plan curate.yaml --documents {documents:.0e}")
            print_plan(config, documents=documents)
