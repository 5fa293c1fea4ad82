"""Works: of configs, as `submit` and `render` compute them, and of small jobs that run for a second or two."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from raymill.cluster.artifact import fingerprint
from raymill.cluster.submit.work import GIB, Machines, Work, head_machine

IMAGE = "registry.example.com/raymill@sha256:" + "0" * 64

CURATE = Work(
    kind="curate",
    verb="curate",
    name="web",
    config={"kind": "curate", "name": "web", "inputs": [{"path": "s3://raw/web"}], "output": "s3://corpora/web"},
    result="abc",
    output="s3://corpora/web",
    finished=False,
    head=head_machine(1000),
    workers=(Machines("cpu", 16, 40 * GIB, 60 * GIB, largest_task=10 * GIB, least=1, most=8,
                      reasons={"cpus": "16 of 128 cores", "most": "8: 100 GB of text"}),),
    must_exist=("s3://raw/web/0.parquet",),
)  # fmt: skip

TRAIN = replace(
    CURATE,
    kind="train",
    verb="train",
    name="lora",
    config={"kind": "train", "name": "lora", "output": "s3://models/lora"},
    output="s3://models/lora",
    workers=(Machines("gpu", 32, 200 * GIB, 300 * GIB, gpus=8, largest_task=20 * GIB, least=1, most=2),),
    must_exist=("s3://corpora/web/corpus/_manifest.json",),
    all_at_once=True,
)

# The command of a small job, in place of `raymill`.
SMALL_JOB = (sys.executable, "-m", "tests.support.small_job")


def small_work(tmp_path: Path, name: str = "small", execution: int = 1, **config: Any) -> Work:
    """The work of a small job. execution: a setting that does not decide the result."""
    return Work(
        kind="curate",
        verb="curate",
        name=name,
        config={**config, "execution": execution},
        result=fingerprint(config),
        output=str(tmp_path / "output"),
        finished=False,
        head=Machines("head", cpus=1, memory=GIB, disk=GIB),
        workers=(Machines("cpu", cpus=1, memory=GIB, disk=GIB),),
    )


def finished(work: Work) -> Work:
    return replace(work, finished=True)
