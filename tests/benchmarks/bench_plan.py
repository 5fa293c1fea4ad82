"""`raymill plan` beside a run, and for 10^8 to 10^10 documents: python -m tests.benchmarks plan

The run is every stage in this process; processor time. The plans are of the same files on an S3 server of this machine,
so that they have requests: 120 MB of the texts that the benchmark `terabyte` has.
"""

import json
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from cluster.progress import Silent
from cluster.readers.freeze import freeze
from cluster.session import Session
from pipelines.all_kernels import compile_kernels
from pipelines.curate.config import CurateConfig
from pipelines.curate.job import run_stages
from pipelines.curate.plan.command import print_plan
from pipelines.text.texts import Texts
from tests.benchmarks.bench_terabyte import TimedEngine, write_documents
from tests.benchmarks.local_s3 import KEYS, local_s3
from tests.benchmarks.timing import machine

_BYTES = 120_000_000


def run(texts: Texts) -> None:
    print(machine("numba", "pyarrow"))
    with tempfile.TemporaryDirectory() as folder:
        compile_kernels()
        write_documents(Path(folder, "texts"), texts, _BYTES)
        _beside_a_run(_config(f"{folder}/texts/*.parquet", f"{folder}/run"))
        _of_larger_inputs(sorted(Path(folder, "texts").iterdir()))


def _config(path: str, output: str, **more: Any) -> CurateConfig:
    return CurateConfig.model_validate(
        {"kind": "curate", "name": "web", "inputs": [{"path": path}], "output": output} | more
    )


def _beside_a_run(config: CurateConfig) -> None:
    shown = StringIO()
    with redirect_stdout(shown):
        print_plan(config, as_json=True)
    planned = {stage["name"]: stage["core_s"] for stage in json.loads(shown.getvalue())["stages"]}
    engine = TimedEngine(config.output, Session(), Silent())
    run_stages(config, freeze(config.store, config.inputs), engine.run)
    print("processor seconds     planned      run    planned / run")
    for name, seconds in {**engine.seconds, "all": sum(engine.seconds.values())}.items():
        expected = planned.get(name, sum(planned.values()))
        print(f"  {name:<16}{expected:>11.2f}{seconds:>9.2f}{expected / seconds:>17.2f}")


def _of_larger_inputs(files: list[Path]) -> None:
    with local_s3() as url:
        config = _config("s3://crawl/*.parquet", "s3://crawl/run", storage={"endpoint_url": url, **KEYS})
        for file in files:
            config.store.upload(file, f"s3://crawl/{file.name}")
        for documents in (1e8, 1e9, 1e10):
            print(f"\nraymill plan curate.yaml --documents {documents:.0e}")
            print_plan(config, documents=documents)
