"""A cluster without machines for work, whose autoscaler adds them when a submitted job waits and takes them away again.

Ray's own autoscaler, with its provider of pretended machines: each is a node of this machine.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Command, end_commands, wait_until
from tests.support.ray_cluster import RayCluster
from tests.support.submitted import SMALL_UNITS, raymill, write_demo

pytestmark = pytest.mark.cluster

WAIT_S = 500
QUICK = ["-o", "steps=2", "-o", "optimizer.warmup_steps=1", "-o", "evaluate.every_steps=2"]
TRAIN = [*QUICK, "-o", "checkpoint.every_steps=2"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(workers=0, autoscaled=2) as ray:
        yield ray


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("autoscaled") / "demo", documents=1500)


@pytest.fixture(autouse=True)
def no_command_left() -> Iterator[None]:
    yield
    end_commands()


def most_nodes(cluster: RayCluster, job: Command) -> int:
    """The largest number of nodes that were there at once until the command ended, with the head."""
    most = 0

    def ended() -> bool:
        nonlocal most
        most = max(most, cluster.alive())
        return job.process.poll() is not None

    assert wait_until(ended, WAIT_S)
    return most


def test_machines_come_for_curate_and_train_and_go_when_they_are_idle(cluster, demo):
    assert wait_until(lambda: cluster.alive() == 1, WAIT_S), "the head reports itself some seconds after its start"
    job = raymill(cluster, "submit", str(demo / "curate.yaml"), *SMALL_UNITS)
    most = most_nodes(cluster, job)
    code, out, err = job.wait(60)
    assert code == 0, out + err
    assert f"corpus  {demo}/corpus" in out
    assert most > 1
    assert wait_until(lambda: cluster.alive() == 1, WAIT_S), "idle machines go"

    too_many = ["-o", "workers.count=8", "-o", "tokens_per_step=16384", "--name", "many"]
    code, out, err = raymill(cluster, "submit", str(demo / "train.yaml"), *TRAIN, *too_many).wait(WAIT_S)
    assert code == 2, out + err
    assert "8 CPUs needed: the cluster has 0, and no autoscaler can add the others" in err
    assert cluster.alive() == 1 and not (demo / "tune-lora").exists()

    job = raymill(cluster, "submit", str(demo / "train.yaml"), *TRAIN)
    most = most_nodes(cluster, job)
    code, out, err = job.wait(60)
    assert code == 0, out + err
    assert most == 3, "its two workers run at once"
    assert json.loads((demo / "tune-lora" / "manifest.json").read_text())["name"] == "demo-lora"
    assert wait_until(lambda: cluster.alive() == 1, WAIT_S), "idle machines go"
