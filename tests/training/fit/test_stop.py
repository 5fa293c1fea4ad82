"""Ctrl-C and SIGTERM: the workers write a checkpoint of the step at hand, and the same command continues after it."""

import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from raymill.cluster.progress import Progress
from raymill.cluster.store.store import Store
from raymill.training.driver import launch
from raymill.training.fit.__main__ import _watched, main
from raymill.training.fit.loop import fit
from raymill.training.fit.process_group import own_group
from raymill.training.records.checkpoint import checkpoint_folders, step_of
from raymill.training.records.job import StopRequest, StopRequested
from tests.support.fit_jobs import column, final_weights, pack_tiny, tiny_job
from tests.support.ranks import RankPool, joined_ranks, start_apart


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("stop"))
    pack_tiny(folder)
    return folder


def stop_after(job, steps: int, rank: int) -> str:
    """On a rank: the worker `rank` is asked to stop in the step after these."""
    asked = []

    def is_stopped() -> bool:
        asked.append(None)
        return joined_ranks().rank == rank and len(asked) > steps

    with pytest.raises(StopRequested) as raised:
        fit(job, joined_ranks(), is_stopped)
    return str(raised.value)


def test_all_workers_stop_after_one_step_with_a_checkpoint_and_continue_to_equal_weights(root):
    whole, stopped = (tiny_job(root, output=f"{root}/{name}", workers={"count": 2}) for name in ("whole", "stopped"))
    with RankPool(2) as ranks:
        wanted = ranks.run(fit_here_too, whole)[0]
        assert ranks.run(stop_after, stopped, 4, 1) == ["stopped after step 5"] * 2
        assert step_of(checkpoint_folders(stopped.folder)[-1]) == 5
        found = ranks.run(fit_here_too, stopped)[0]
    assert column(stopped, "loss") == column(whole, "loss")
    one, other = final_weights(wanted), final_weights(found)
    assert all((one[name] == other[name]).all() for name in one)


def fit_here_too(job):
    return fit(job, joined_ranks())


def test_a_request_on_the_store_is_seen_by_the_worker(root):
    request = StopRequest(tiny_job(root).folder, "s")
    asked = _watched(request)
    assert not asked()
    request.make()
    deadline = time.monotonic() + 30
    while not asked() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert asked()
    request.delete()
    assert not request.made()


def test_an_interrupted_driver_asks_the_workers_to_stop_and_waits_for_their_checkpoint(root):
    job, ended, said = tiny_job(root, output=f"{root}/driver"), queue.Queue(), []

    def work() -> None:
        request = StopRequest(job.folder, "s")
        with own_group(0) as ranks, pytest.raises(StopRequested):
            while not request.made():
                time.sleep(0.01)
            fit(job, ranks, request.made)
        ended.put(None)

    class Said(Progress):
        def say(self, line):
            said.append(line)

    worker = threading.Thread(target=work)
    worker.start()
    launch._stop_workers(job.folder, StopRequest(job.folder, "s"), ended, Said())
    worker.join()
    assert [step_of(uri) for uri in checkpoint_folders(job.folder)] == [1]
    assert said[-1] == "interrupted: checkpoints up to step 1 are kept; the same command continues"
    assert not Store().exists(StopRequest(job.folder, "s").uri)


def test_a_driver_waits_for_no_longer_than_the_bound(root, monkeypatch):
    monkeypatch.setattr(launch, "STOP_WAIT_S", 0.1)
    job = tiny_job(root, output=f"{root}/bound")
    launch._stop_workers(job.folder, StopRequest(job.folder, "s"), queue.Queue(), Progress())
    assert not StopRequest(job.folder, "s").made()


def command(job: str, errors: str) -> None:
    """In a process of its own: the command, which a new interpreter would import torch for."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    sys.exit(main([job]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_of_torchrun_with_a_checkpoint(root, tmp_path, number):
    job = tiny_job(root, output=f"{tmp_path}/run", steps=2000, checkpoint={"every_steps": None})
    place = tmp_path / "job.json"
    place.write_bytes(job.to_json())
    process = start_apart(command, str(place), str(tmp_path / "errors"))
    log = Path(job.folder.step_log)
    deadline = time.monotonic() + 120
    while (
        not (Path(job.folder.attempts).exists() and any(Path(job.folder.attempts).iterdir()))
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    os.kill(process.pid, number)
    process.join(120)
    err = (tmp_path / "errors").read_text()
    assert process.exitcode == 130, err
    [step] = {step_of(uri) for uri in checkpoint_folders(job.folder)[-1:]}
    assert f"stopped after step {step}: its checkpoint is written" in err
    assert log.exists() and 0 < step < 2000
