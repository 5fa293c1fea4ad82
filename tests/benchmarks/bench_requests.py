"""Requests and bytes of every stage of `curate` on an S3 server: python -m tests.benchmarks requests

120 MB of the texts that the benchmark `terabyte` has, in four files and units of 8 MiB, every stage in this process; a
proxy before the server counts. The units of a large run are larger, so it sends fewer requests for a gigabyte.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raymill.cluster.artifact import Artifact
from raymill.cluster.progress import Progress
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.session import Session
from raymill.cluster.stage import Stage
from raymill.pipelines.all_kernels import compile_kernels
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import run_stages
from raymill.pipelines.text.texts import Texts
from tests.benchmarks.bench_terabyte import write_documents
from tests.benchmarks.local_s3 import KEYS, local_s3
from tests.benchmarks.timing import machine
from tests.support.counting_s3 import CountingS3, Request
from tests.support.inline import InlineEngine

_BYTES = 120_000_000
_UNIT_MIB = 8


def run(texts: Texts) -> None:
    print(machine("pyarrow"))
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder, local_s3() as url, CountingS3(url) as counter:
        size, documents = write_documents(Path(folder, "texts"), texts, _BYTES)
        settings = {
            "kind": "curate",
            "name": "requests",
            "inputs": [{"path": "s3://crawl/texts"}],
            "output": "s3://crawl/run",
            "storage": {"endpoint_url": counter.url, **KEYS},
            "execution": {"unit_mib": _UNIT_MIB},
        }
        config = CurateConfig.model_validate(settings)
        for file in sorted(Path(folder, "texts").iterdir()):
            config.store.upload(file, f"s3://crawl/texts/{file.name}")
        counter.requests.clear()
        inputs = freeze(config.store, config.inputs, config.execution.unit_bytes)
        engine = CountedEngine("s3://crawl/run", Session(), Progress()).counting(counter)
        engine.stages["inputs"] = Traffic.of(1, counter.requests)
        run_stages(config, inputs, engine.run)
    print(f"{documents:,} documents, {size / 1e6:.0f} MB of text")
    print("  stage               units     GET     PUT   other   MB read   MB written")
    for name, traffic in engine.stages.items():
        print(f"  {name:<18}{traffic.units:>7,}{traffic.line()}")


@dataclass
class Traffic:
    """The requests of a stage, its driver's and its units'. Bytes: of bodies."""

    units: int
    methods: dict[str, int] = field(default_factory=dict)
    read: int = 0
    written: int = 0

    @classmethod
    def of(cls, units: int, requests: list[Request]) -> "Traffic":
        methods = dict.fromkeys(("GET", "PUT", "other"), 0)
        for request in requests:
            methods[request.method if request.method in methods else "other"] += 1
        return cls(units, methods, sum(one.sent for one in requests), sum(len(one.body) for one in requests))

    def line(self) -> str:
        counts = "".join(f"{count:>8,}" for count in self.methods.values())
        return f"{counts}{self.read / 1e6:>10.1f}{self.written / 1e6:>13.1f}"


class CountedEngine(InlineEngine):
    """Counts the requests of each stage."""

    def counting(self, counter: CountingS3) -> "CountedEngine":
        self.counter, self.stages = counter, dict[str, Traffic]()
        return self

    def run(self, stage: Stage, *arguments: Any) -> dict[str, Artifact]:
        self.counter.requests.clear()
        made = super().run(stage, *arguments)
        self.stages[stage.name] = Traffic.of(len(stage.units), self.counter.requests)
        return made
