"""Workers that stop in the middle of a training: they are named soon, and the training goes on from its checkpoint."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from raymill.cluster.errors import ClusterError
from raymill.training.fit import loop, ranks
from raymill.training.fit.process_group import own_group
from raymill.training.fit.ranks import MissingWorker
from raymill.training.models.objective import Objective
from raymill.training.records.job import Job
from tests.conftest import free_port
from tests.support.fit_jobs import column, fit_alone, lines, pack_tiny, tiny_job
from tests.support.ranks import run_apart, start_apart

torch.set_num_threads(1)
STOPPED_AT = 8


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack_tiny(str(root))
    return root


def environment(rank: int, port: int) -> dict[str, str]:
    at = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    return {"RANK": str(rank), "WORLD_SIZE": "2"} | at


def work(given: dict[str, str], job: Job, stops: bool, said: str) -> None:
    """One of two workers. If it `stops`, it does so in step STOPPED_AT. Writes the error, if any, to `said`."""
    os.environ.update(given)
    ranks.EVERY_S = 0.1
    step = loop.Training._step

    def stopping(self: loop.Training, number: int) -> None:
        if stops and number + 1 == STOPPED_AT:
            self.ranks.reached(f"step {number + 1}, reading rows")
            time.sleep(0.5)  # until a heartbeat has told it
            os.kill(os.getpid(), signal.SIGSTOP)
        step(self, number)

    loop.Training._step = stopping
    workers = job.config.workers
    try:
        with own_group(0, workers.timeout_s) as own:
            loop.fit(job, own)
    except ClusterError as error:
        Path(said).write_text(f"{type(error).__name__}: {error}")
        os._exit(1)  # leaving the group would wait for the stopped worker


@pytest.mark.parametrize("stopped", [1, 0])
def test_a_stopped_worker_is_named_after_the_timeout_of_steps_and_the_run_goes_on(packed, tmp_path, stopped):
    job = tiny_job(str(packed), output=f"{tmp_path}/run", workers={"timeout_s": 120, "step_timeout_s": 8})
    port, said = free_port(), tmp_path / "said"
    processes = [start_apart(work, environment(rank, port), job, rank == stopped, str(said)) for rank in (0, 1)]
    processes[1 - stopped].join(60)
    try:
        assert processes[1 - stopped].exitcode == 1
        error = said.read_text()
        assert error.startswith(MissingWorker.__name__)
        assert re.search(f"worker {1 - stopped} of 2: communication failed at 'step {STOPPED_AT}, counts'", error)
        if stopped:
            where = rf"Missing: rank 1 on \S+ \(stopped; last seen at 'step {STOPPED_AT}, reading rows'\)"
        else:
            where = "Missing: the process that holds the group's store, mostly rank 0"
        assert re.search(where, error)
    finally:
        for process in processes:
            process.kill()
            process.join()
    [hang] = Path(job.folder.hangs).iterdir()
    record = json.loads(hang.read_text())
    assert hang.name.endswith(f"-rank-{1 - stopped:05d}.json") and re.search(where, record["report"])
    port = free_port()
    assert run_apart([environment(rank, port) for rank in (0, 1)], finish, job) == [job.steps] * 2
    alone = tiny_job(str(packed), output=f"{tmp_path}/alone")
    fit_alone(alone)
    assert column(job, "loss") == pytest.approx(column(alone, "loss"), rel=1e-4)


def finish(job: Job) -> int:
    with own_group(0, 120) as own:
        return loop.fit(job, own)["steps"]


def timeouts(job: Job) -> tuple[list[float], list[float]]:
    """The timeouts of all process groups while each step, and each checkpoint, was taken."""

    def now() -> float:
        groups = list(dist.distributed_c10d._world.pg_map)
        [found] = {group._get_backend(torch.device("cpu")).options._timeout.total_seconds() for group in groups}
        return found

    while_steps, while_saving = [], []
    step, begin = loop.Training._step, loop.Saver.begin
    loop.Training._step = lambda self, number: while_steps.append(now()) or step(self, number)
    loop.Saver.begin = lambda self, *rest: while_saving.append(now()) or begin(self, *rest)
    with own_group(0, job.config.workers.timeout_s) as own:
        loop.fit(job, own)
    return while_steps, while_saving


@pytest.mark.parametrize("engine", ["ddp", "zero1", "fsdp2"])
@pytest.mark.parametrize(("timeout_s", "later"), [(120, 50), (40, 40)])
def test_the_timeout_is_short_after_the_first_step_and_long_while_checkpoints_are_written(
    packed, tmp_path, engine, timeout_s, later
):
    workers = {"timeout_s": timeout_s, "step_timeout_s": 50}
    job = tiny_job(str(packed), output=f"{tmp_path}/run", workers=workers, steps=4, engine=engine)
    port = free_port()
    for while_steps, while_saving in run_apart([environment(rank, port) for rank in (0, 1)], timeouts, job):
        assert while_steps == [timeout_s, *[later] * 3]
        assert set(while_saving) == {timeout_s}


def test_each_step_has_the_time_of_the_slowest_worker(packed, tmp_path):
    job = tiny_job(str(packed), output=f"{tmp_path}/run", steps=4)
    port = free_port()
    run_apart([environment(rank, port) for rank in (0, 1)], slowly, job)
    taken = [line for line in lines(job) if line["step"]]
    assert [line["slowest_rank"] for line in taken] == [1] * 4
    for line in taken:
        assert 2 < line["forward_s"] < line["seconds"]
        assert 0 < line["median_forward_s"] < line["forward_s"]


def slowly(job: Job) -> None:
    forward = Objective.tensors

    def slow(self, *rest):
        if os.environ["RANK"] == "1" and torch.is_grad_enabled():
            time.sleep(1)
        return forward(self, *rest)

    Objective.tensors = slow
    finish(job)
