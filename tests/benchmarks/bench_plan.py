"""`raymill plan` beside runs, and for 10^8 to 10^10 documents: python -m tests.benchmarks plan

A run is every stage in this process; processor time, bytes and units. Curate: 120 MB of the texts that the benchmark
`terabyte` has, and the technical texts, whose lines and runs are counted too. Prepare: 30,000 records of the benchmark
`prepare`. Train: packing of technical texts. The plans of larger inputs are of files on an S3 server of this machine,
so that they have requests.
"""

import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from pytest import MonkeyPatch

from raymill.cluster.artifact import Artifact
from raymill.cluster.frame.kinds import kind_of
from raymill.cluster.plan.plan import load_prices, plan_of, plan_settings
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.pipelines.all_kernels import compile_kernels
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import curate
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import prepare
from raymill.pipelines.text.texts import Texts
from raymill.training.pack import job as pack_job
from raymill.training.plan.data import find_data
from tests.benchmarks import bench_prepare
from tests.benchmarks.bench_terabyte import write_documents
from tests.benchmarks.local_s3 import KEYS, local_s3
from tests.benchmarks.timing import machine
from tests.support.inline import InlineEngine, without_ray
from tests.support.plan_cases import TINY
from tests.support.plan_cases import config as train_config

_BYTES, _RECORDS, _PACKED = 120_000_000, 30_000, 1500


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
        _packing_beside_a_run(folder, texts)
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
    run: Any = curate if config.kind == "curate" else prepare
    with MonkeyPatch.context() as patch:
        without_ray(patch, _Timed)
        run(config, Session(), Progress())
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


def _packing_beside_a_run(folder: Path, texts: Texts) -> None:
    """Tokens and rows to train on, planned with the tokenizer that a first packing has fitted, and guessed without."""
    written = texts.to_arrow().slice(0, _PACKED).to_pylist()
    (folder / "packed.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in written))
    corpus = {"corpus": f"{folder}/packed.jsonl", "execution": {"unit_mib": 2}, "sequence_length": 512}
    model = TINY | {"vocab_size": 2000}
    fitted = train_config(**corpus, model={"config": model, "tokenizer": "train"}, output=f"{folder}/fitted")
    guessed = find_data(fitted, model["vocab_size"])
    with mock.patch.object(pack_job, "Engine", InlineEngine):
        pack_job.PackJob.of(fitted, replace=False).run(Session(), Progress())
        tokenizer = {"config": model, "tokenizer": f"{folder}/fitted/packed/tokenizer"}
        config = train_config(**corpus, model=tokenizer, output=f"{folder}/trained")
        planned = find_data(config, model["vocab_size"])
        pack_job.PackJob.of(config, replace=False).run(Session(), Progress())
    found = find_data(config, model["vocab_size"])
    print(f"packing of {sum(map(len, written)) / 1e6:.0f} MB, planned / run, and guessed without a tokenizer")
    for what in ("tokens", "rows"):
        of = [getattr(one, what)["corpus-0"] for one in (planned, found, guessed)]
        print(f"  {what}: {of[0]:,} / {of[1]:,}; {of[2]:,}")


def _of_larger_inputs(files: list[Path]) -> None:
    with local_s3() as url:
        config = _config("s3://crawl/*.parquet", "s3://crawl/run", storage={"endpoint_url": url, **KEYS})
        for file in files:
            config.store.upload(file, f"s3://crawl/{file.name}")
        for documents in (1e8, 1e9, 1e10):
            print(f"\nraymill plan curate.yaml --documents {documents:.0e}")
            print(plan_settings(config, documents=documents))
