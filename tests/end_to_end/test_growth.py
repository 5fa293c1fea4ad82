"""A training with a range of workers, on a cluster that gets a node while it runs."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from raymill.cluster.config import load_values
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.training.driver import growth
from raymill.training.driver.launch import fit_on_ray
from tests.support.fit_jobs import column, fit_alone, lines, pack_tiny, settings, tiny_job
from tests.support.processes import wait_until
from tests.support.ray_cluster import RayCluster

pytestmark = pytest.mark.cluster

STEPS = 40
MODULE = """
import os, time

def slow_at_first(record):
    if len(os.listdir("{attempts}")) == 1:
        time.sleep(3)
"""


def test_a_training_goes_on_with_a_worker_on_an_added_node_and_no_step_is_trained_twice(tmp_path, monkeypatch):
    root = str(tmp_path)
    pack_tiny(root)
    alone = tiny_job(root, output=f"{root}/alone", steps=STEPS)
    fit_alone(alone)
    more = {"workers": {"count": {"min": 1, "max": 2}}, "checkpoint": {"every_steps": None}}
    more |= {"output": f"{root}/grown", "steps": STEPS}
    modules, attempts = tmp_path / "modules", tmp_path / "grown" / "attempts"
    modules.mkdir()
    (modules / "slow_steps.py").write_text(MODULE.format(attempts=attempts))
    monkeypatch.syspath_prepend(str(modules))
    given = settings(root, **more).model_dump(mode="json", exclude_unset=True)
    config = load_values(given | {"callbacks": ["slow_steps:slow_at_first"]}, "train")
    job = replace(tiny_job(root, **more), config=config)
    monkeypatch.setattr(growth, "GROW_EVERY_S", 2.0)
    with RayCluster(workers=1, environment={"PYTHONPATH": f"{Path(__file__).parents[2]}:{modules}"}) as cluster:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)

        def add_node() -> None:
            assert wait_until(lambda: attempts.exists() and any(attempts.iterdir()), 120)
            cluster.add_node()

        adding = threading.Thread(target=add_node)
        adding.start()
        with Session(address=cluster.gcs) as session:
            fit_on_ray(job, session, Progress())
        adding.join()
    first, second = (json.loads(path.read_text()) for path in sorted(attempts.iterdir()))
    assert (first["workers"], first["step"], second["workers"]) == (1, 0, 2) and 0 < second["step"] < STEPS
    assert column(job, "step") == column(alone, "step")
    losses = [one["loss"] for one in lines(job) if "loss" in one]
    assert losses == pytest.approx([one["loss"] for one in lines(alone) if "loss" in one], rel=1e-5)
