"""`generate` in this process, without Ray."""

from pathlib import Path

import pyarrow.parquet as pq

from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob, GenerateRun
from tests.support import inline


def generate_inline(settings: dict, monkeypatch, *, replace: bool = False, engine=None) -> GenerateRun:
    """A run of a config given as plain settings."""
    config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings)
    with monkeypatch.context() as patch:
        inline.without_ray(patch, engine)
        patch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
        return GenerateJob(config).run(Session(), Progress(), replace=replace)


def rows(run: GenerateRun | Path, name: str) -> list[dict]:
    """The rows of an artifact."""
    if isinstance(run, Path):
        return [row for file in sorted((run / name).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return run.artifact(name).table().to_pylist()
