"""A run on a Ray cluster that other jobs use too: the time without a free CPU is no stall, a unit that hangs is one."""

import multiprocessing
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from raymill.cluster.engine import Engine, RetryLimits
from raymill.cluster.nodes import Resources
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from tests.support.processes import wait_until
from tests.support.ray_cluster import RayCluster
from tests.support.stages import count_up, counting_stage

pytestmark = pytest.mark.cluster

WAIT_S = 300
# More than a worker of this cluster takes to start on a busy machine.
STALL_S = 20.0

spawn = multiprocessing.get_context("spawn")


class Asked(Session):
    """Writes to a file when it was asked whether a unit could run, and the answer."""

    answers: Path

    def could_run(self, wanted: Resources) -> bool:
        answer = super().could_run(wanted)
        with open(self.answers, "a") as file:
            file.write(f"{time.monotonic()} {answer}\n")
        return answer


def hold_all_cpus(address: str, held: Path, free: Path) -> None:
    """Another job. It has the cluster's CPU from when the file `held` is there, until the file `free` is."""
    import ray

    ray.init(address=address, log_to_driver=False)

    @ray.remote(num_cpus=1)
    class Holder:
        def ready(self) -> bool:
            return True

    holder = Holder.remote()
    ray.get(holder.ready.remote())
    held.touch()
    while not free.exists():
        time.sleep(0.1)
    ray.kill(holder)
    ray.shutdown()


def count(address: str, folder: Path, attempts: int, work=count_up) -> None:
    """A run of three units. Ends with an exception, and so another exit code than 0, if a unit has no result."""
    session = Asked(address)
    session.answers = folder / "answers"
    with session:
        Engine(str(folder / "run"), session, Progress(), RetryLimits(attempts, STALL_S)).run(counting_stage(3, work))


def hang_once(folder: Path, unit: int, scratch) -> dict:
    """Unit 1 hangs when it is done for the first time."""
    if unit == 1 and not (folder / "hung").exists():
        (folder / "hung").touch()
        time.sleep(WAIT_S)
    return count_up(unit, scratch)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    with RayCluster(workers=1) as ray:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", ray.token)
        yield ray


def answers(folder: Path) -> list[tuple[float, bool]]:
    """The moments in seconds, and the answers, of what `Asked` wrote."""
    path = folder / "answers"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(moment), answer == "True") for moment, answer in (line.split() for line in lines)]


def test_a_run_waits_for_the_cpus_of_another_job_for_longer_than_a_stall(cluster, tmp_path):
    held, free = tmp_path / "held", tmp_path / "free"
    other = spawn.Process(target=hold_all_cpus, args=(cluster.gcs, held, free), daemon=True)
    other.start()
    assert wait_until(held.exists, WAIT_S)
    run = spawn.Process(target=count, args=(cluster.gcs, tmp_path, 1), daemon=True)
    run.start()

    def waited() -> float:
        without = [moment for moment, could_run in answers(tmp_path) if not could_run]
        return without[-1] - without[0] if without else 0

    assert wait_until(lambda: waited() > 1.5 * STALL_S or run.exitcode is not None, WAIT_S)
    assert run.exitcode is None
    free.touch()
    run.join(WAIT_S)
    other.join(WAIT_S)
    assert (run.exitcode, other.exitcode) == (0, 0)


def test_a_unit_of_ours_that_hangs_on_the_last_cpu_is_broken_off_and_tried_again(cluster, tmp_path):
    """The CPU is as little free as in the other test; but it is this run that holds it."""
    run = spawn.Process(target=count, args=(cluster.gcs, tmp_path, 3, partial(hang_once, tmp_path)), daemon=True)
    run.start()
    run.join(WAIT_S - 10)
    assert run.exitcode == 0
    assert (tmp_path / "hung").exists()
