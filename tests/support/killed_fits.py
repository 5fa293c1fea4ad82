"""Trainings that are killed and run again."""

import json
import os
import random
import signal
import subprocess
import sys
import uuid
from datetime import datetime
from pathlib import Path

import numpy as np

from raymill.training.records.job import Job
from raymill.training.records.schema import Outcome
from tests.support.fit_jobs import column, final_weights, fit_here, lines, tiny_job
from tests.support.processes import MARK, Command, wait_until
from tests.support.ranks import run_ranks

STEPS = 40
WAIT_S = 400
FAULTS = {
    "steps": STEPS,
    "workers": {"count": 2},
    "evaluate": {"every_steps": 20},
    "method": "lora",
    "lora": {"rank": 2, "alpha": 4, "dropout": 0.2},
}


class FitCommand(Command):
    """A training on an embedded Ray, or by torchrun, in processes of its own."""

    def __init__(self, *words: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {MARK: self.mark},
            cwd=Path(__file__).resolve().parents[2],
        )


def job_file(packed: Path, name: str, **workers: float) -> tuple[Job, str]:
    job = tiny_job(str(packed), output=f"{packed}/{name}", **FAULTS | {"workers": FAULTS["workers"] | workers})
    path = packed / f"{name}.json"
    path.write_bytes(job.to_json())
    return job, str(path)


def fit_by_ranks(packed: Path) -> tuple[Job, Outcome]:
    """The training that nothing disturbs; without Ray, so that these tests also compare the two ways to start."""
    job, _ = job_file(packed, f"undisturbed-{uuid.uuid4().hex[:6]}")
    return job, run_ranks(2, fit_here, job)[0]


def newest_checkpoint(job: Job, files: str) -> int:
    """The last step of which such files are there: `*` for a checkpoint that begins to appear."""
    folders = {path.parent.name for path in Path(job.folder.checkpoints).glob(f"step-*/{files}")}
    return max((int(name.split("-")[1]) for name in folders), default=0)


def kill_after(command: FitCommand, job: Job, step: int, victim: str, chance: random.Random) -> int:
    """Kill one process of the command once the checkpoint of some step, or a later one, has begun to appear.

    victim: `hanging` is a worker that is stopped, not killed.
    The step of the last checkpoint that was whole before.
    """
    wait_until(lambda: newest_checkpoint(job, "*") >= step or command.process.poll() is not None, WAIT_S)
    whole = newest_checkpoint(job, "manifest.json")
    workers = sorted(command.others("ray::RayTrainWorker"), key=lambda _: chance.random())
    victims = {
        "worker": workers[:1],
        "hanging": workers[:1],
        "driver": [command.process.pid],
        "raylet": command.others("/raylet "),
    }[victim]
    if victim == "hanging" and victims:
        os.kill(victims[0], signal.SIGSTOP)
        return whole
    assert victims and command.kill(victims[0]), f"no {victim} to kill: {command.process.poll()}"
    return whole


def kill_and_finish(packed: Path, undisturbed: tuple[Job, Outcome], seed: int, victim: str) -> float:
    """Kill, let it go on (or start it again), compare; seconds from the kill to the next step taken anew."""
    job, path = job_file(
        packed, f"disturbed-{seed}-{victim}", **({"step_timeout_s": 15} if victim == "hanging" else {})
    )
    chance = random.Random(seed)
    step = chance.randrange(3, STEPS - 6)
    killed_at, whole, err = 0.0, 0, ""
    for _ in range(3):
        command = FitCommand("tests.support.fit_on_ray", path)
        try:
            if not killed_at:
                whole = kill_after(command, job, step, victim, chance)
                killed_at = datetime.now().timestamp()
            code, _, err = command.wait(WAIT_S)
        finally:
            command.end_all()
        if code == 0:
            break
        assert victim == "driver" or (victim == "raylet" and "make the same call again" in err), err
    assert code == 0, err
    outcome = json.loads(Path(job.folder.outcome).read_text())
    assert outcome["restarts"] == 1
    begun = sorted(json.loads(file.read_text())["step"] for file in Path(job.folder.attempts).iterdir())
    assert begun[0] == 0 and begun[1] >= whole, "it went on from the last whole checkpoint, or a later one"
    wanted_job, wanted = undisturbed
    for name in ("step", "samples", "loss", "grad_norm", "tokens"):
        assert column(job, name) == column(wanted_job, name), name
    weights = final_weights(wanted)
    assert all(np.array_equal(found, weights[name]) for name, found in final_weights(outcome).items())
    times = [datetime.fromisoformat(line["time"]).timestamp() for line in lines(job)]
    overhead = min(time for time in times if time > killed_at) - killed_at
    print(f"seed {seed}: {victim} killed at step {step}, goes on from {begun[1]}, next step after {overhead:.1f} s")
    return overhead
