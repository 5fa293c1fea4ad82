"""`raymill curate` and `raymill train` with the address of a Ray cluster of several nodes, as a user would."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Command, end_commands, wait_until
from tests.support.ray_cluster import RayCluster
from tests.support.submitted import SMALL_UNITS, digest, losses, records, write_demo

pytestmark = pytest.mark.cluster

# On a busy machine; a whole curate takes a tenth of it.
WAIT_S = 500
# What the tasks that run units, and the workers of a training, are called by Ray.
UNITS, WORKERS = "_in_task", "RayTrainWorker"
STEPS = 12
TRAIN = [
    word
    for setting in (
        "workers.count=3",
        "tokens_per_step=6144",
        f"steps={STEPS}",
        "optimizer.warmup_steps=1",
        f"evaluate.every_steps={STEPS}",
        "checkpoint.every_steps=2",
    )
    for word in ("-o", setting)
]


@pytest.fixture(autouse=True)
def no_command_left() -> Iterator[None]:
    yield
    end_commands()


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(workers=3) as ray:
        yield ray


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("nodes") / "demo", documents=2000)


def begin(cluster: RayCluster, *words: str) -> Command:
    here = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.token, "RAY_ADDRESS": ""}
    return Command(*words, "--address", cluster.gcs, **here)


def finish(cluster: RayCluster, command: Command) -> str:
    """The id of the command's driver on the cluster, after it succeeded."""
    code, out, err = command.wait(WAIT_S)
    assert code == 0, out + err
    return cluster.jobs()[-1]


def curate(demo: Path, output: str) -> list[str]:
    return ["curate", str(demo / "curate.yaml"), "-o", f"output={demo / output}", *SMALL_UNITS]


def train(demo: Path, output: str) -> list[str]:
    return ["train", str(demo / "train.yaml"), "-o", f"output={demo / output}", *TRAIN]


def workers_of(cluster: RayCluster) -> set[str]:
    return cluster.alive_nodes() - cluster.heads


def kill_nodes(cluster: RayCluster, count: int) -> None:
    left = cluster.alive() - count
    for _ in range(count):
        cluster.kill_node()
    assert wait_until(lambda: cluster.alive() == left, WAIT_S)


@pytest.fixture(scope="module")
def curated(cluster: RayCluster, demo: Path) -> str:
    """The driver of a curate by three nodes."""
    return finish(cluster, begin(cluster, *curate(demo, ".")))


@pytest.fixture(scope="module")
def trained(cluster: RayCluster, demo: Path, curated: str) -> str:
    """The driver of a training by three nodes."""
    return finish(cluster, begin(cluster, *train(demo, "tuned")))


def test_curate_spreads_over_the_nodes_and_makes_what_one_machine_makes(cluster, demo, curated):
    assert cluster.nodes_of("tasks", curated, UNITS) == workers_of(cluster)
    code, out, err = Command(*curate(demo, "alone"), "--address", "local").wait(WAIT_S)
    assert code == 0, out + err
    assert digest(demo) == digest(demo / "alone")


def test_the_workers_of_a_training_spread_over_the_nodes(cluster, demo, trained):
    assert len(losses(demo / "tuned")) == STEPS
    assert cluster.nodes_of("actors", trained, WORKERS) == workers_of(cluster)


@pytest.mark.slow
def test_a_training_whose_node_is_killed_continues_with_one_that_is_added(cluster, demo, trained):
    output = demo / "hit"
    command = begin(cluster, *train(demo, "hit"))
    assert wait_until(lambda: any(output.rglob("step-*/manifest.json")), WAIT_S)
    kill_nodes(cluster, 1)
    added = cluster.add_node()
    assert not (output / "manifest.json").exists()
    job = finish(cluster, command)
    assert added in cluster.nodes_of("actors", job, WORKERS)
    assert losses(output) == losses(demo / "tuned")


def test_units_of_killed_nodes_are_done_again_by_nodes_that_are_added(cluster, demo, curated):
    output = demo / "hit-curate"
    command = begin(cluster, *curate(demo, output.name))
    assert wait_until(lambda: bool(records(output)), WAIT_S)
    kill_nodes(cluster, 3)
    done = records(output)
    assert not (output / "manifest.json").exists()
    added = {cluster.add_node(), cluster.add_node()}
    job = finish(cluster, command)
    assert added & cluster.nodes_of("tasks", job, UNITS), "the first may have done all when the second has joined"
    assert done.items() <= records(output).items(), "what was committed is not done again"
    assert digest(output) == digest(demo)


def test_units_leave_nodes_with_gpus_alone_unless_there_are_no_others(cluster, demo, curated):
    without = workers_of(cluster)
    with_gpu = cluster.add_node(gpus=1)
    job = finish(cluster, begin(cluster, *curate(demo, "gpu")))
    assert cluster.nodes_of("tasks", job, UNITS) == without

    kill_nodes(cluster, len(without))
    job = finish(cluster, begin(cluster, *curate(demo, "gpu-only")))
    assert cluster.nodes_of("tasks", job, UNITS) == {with_gpu}
    assert digest(demo / "gpu") == digest(demo / "gpu-only") == digest(demo)
