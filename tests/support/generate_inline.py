"""`generate` in this process, without Ray."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq

from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob, GenerateRun
from tests.support import inline


def generate_inline(settings: dict, monkeypatch, *, replace: bool = False, engine=None, session=None) -> GenerateRun:
    """A run of a config given as plain settings."""
    config = GenerateConfig.model_validate({"kind": "generate", "name": "test"} | settings)
    with monkeypatch.context() as patch:
        inline.without_ray(patch, engine, session)
        patch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
        return GenerateJob(config).run(session or Session(), Progress(), replace=replace)


def rows(run: GenerateRun | Path, name: str) -> list[dict]:
    """The rows of an artifact."""
    if isinstance(run, Path):
        return [row for file in sorted((run / name).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    return run.artifact(name).table().to_pylist()


@contextmanager
def endpoint(share: float) -> Iterator[str]:
    """The address of a server that fails, in a process of its own."""
    words = [sys.executable, "-m", "raymill.cluster.asking.faulty_server", "--port", "0", "--share", str(share)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0]
    finally:
        process.kill()
        process.wait()
