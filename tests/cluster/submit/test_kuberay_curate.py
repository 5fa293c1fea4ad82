"""A real curate run submitted to Kubernetes: its head is lost, and the run continues and finishes."""

import json
import sys
import time
from dataclasses import replace

import pytest
import yaml

from raymill.cluster.frame.work import work_of
from raymill.cluster.submit.backend import State
from raymill.cluster.submit.submit import Submitted, decide, submit
from raymill.cluster.submit.work import GIB, Machines

pytestmark = pytest.mark.cluster

DOCUMENTS = 300


def test_a_curate_run_finishes_although_its_head_is_lost(kubernetes, tmp_path):
    kubernetes.operator.command = (sys.executable, "-m", "raymill.cluster.cli")
    (tmp_path / "raw").mkdir()
    for part in range(3):
        texts = [
            {"text": f"Document {part}-{number}. " + "A sentence that is long enough. " * 20} for number in range(100)
        ]
        (tmp_path / "raw" / f"{part}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in texts))
    config = {"kind": "curate", "name": "web", "inputs": [{"path": str(tmp_path / "raw")}]}
    (tmp_path / "curate.yaml").write_text(yaml.safe_dump(config | {"output": str(tmp_path / "out")}))
    work = work_of(str(tmp_path / "curate.yaml"), [], None, None)
    work = replace(work, head=Machines("head", cpus=1, memory=GIB, disk=GIB))
    done = submit(kubernetes.backend(), work)
    follower = kubernetes.backend().logs(done.attempt, True)
    first = next(follower)
    kubernetes.operator.replace_head(done.attempt.name)
    lines = [first, *follower]
    found = kubernetes.backend().attempt(done.attempt.name)
    assert (found.state, found.exit_code) == (State.SUCCEEDED, 0), "\n".join(lines)
    assert decide(work_of(str(tmp_path / "curate.yaml"), [], None, None), []) == Submitted(None)
    assert time.time() - found.ended < 60
