"""python -m tests.benchmarks.gpu.resume: a training which is killed and run again comes to the same bits.

A tiny Llama is trained with `deterministic: true` by one worker, by `raymill train` on an embedded Ray: once without
interruption, and once killed (SIGKILL of the driver and all its processes) after the first checkpoint and run again by
the same command. Compared are the losses and row digests of every step, and the sha256 of all weights and optimizer
state of the last checkpoint. Prints a JSON line for each check, see correct.py.

For a machine without Ray: `--prepare FOLDER` packs the corpus on another machine and writes the two jobs; with FOLDER
copied to the same path, `--jobs FOLDER` trains them by `python -m raymill.training.fit`.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import psutil
import torch

from raymill.cluster.store.store import Store
from raymill.training.records.checkpoint import MANIFEST, Checkpoint, step_of
from raymill.training.records.job import OUTCOME
from tests.benchmarks.gpu.correct import CorrectnessCheck
from tests.benchmarks.gpu.workload import SHAPES

_STEPS, _CHECKPOINT_EVERY = 200, 20
_LENGTH, _DOCUMENTS = 64, 400
_RUNS = ("whole", "killed")
_LOOK_EVERY_S = 0.02
# For one training.
_WAIT_S = 240


def main(words: Sequence[str] | None = None) -> int:
    """Print each check as a JSON line. Returns 1 if a check failed."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.gpu.resume", description=__doc__.partition("\n")[0])
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    parser.add_argument("--steps", type=int, default=_STEPS)
    parser.add_argument("--prepare", metavar="FOLDER", help="only write the jobs, for a GPU unless --cpu")
    parser.add_argument("--jobs", metavar="FOLDER", help="train the prepared jobs, without Ray")
    arguments = parser.parse_args(words)
    if arguments.prepare:
        prepare(arguments.prepare, not arguments.cpu, arguments.steps)
        return 0
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="bench-resume-") as folder:
        if arguments.jobs:
            found = checks(arguments.jobs, [_by_fit(arguments.jobs, run) for run in _RUNS], arguments.steps)
        else:
            write_corpus(f"{folder}/corpus.jsonl")
            gpu = torch.cuda.is_available() and not arguments.cpu
            found = checks(
                folder, [_by_ray(_config(folder, run, gpu, arguments.steps)) for run in _RUNS], arguments.steps
            )
        for check in found:
            print(json.dumps(asdict(check)), flush=True)
            wrong += check.right is False
    return 1 if wrong else 0


def prepare(folder: str, gpu: bool, steps: int) -> None:
    """Pack the corpus below `folder`, an absolute path, and write the jobs of both runs."""
    write_corpus(f"{folder}/corpus.jsonl")
    for run in _RUNS:
        words = ["pack", _config(folder, run, gpu, steps), "--job", f"{folder}/{run}-job.json"]
        subprocess.run([sys.executable, "-m", "raymill.cluster.cli", *words], check=True)


def _by_ray(config: str) -> list[str]:
    return [sys.executable, "-m", "raymill.cluster.cli", "train", config]


def _by_fit(folder: str, run: str) -> list[str]:
    return [sys.executable, "-m", "raymill.training.fit", f"{folder}/{run}-job.json"]


def checks(folder: str, commands: Sequence[list[str]], steps: int) -> Iterator[CorrectnessCheck]:
    """Train once without interruption and once with a kill of the process, and compare the two runs.

    folder: of both runs, `whole` and `killed`. commands: that train them.
    """
    whole, killed = commands
    name = f"{'raymill train' if 'train' in whole else 'training.fit'}, deterministic, killed and run again"
    if (failed := _train(whole)) is not None:
        yield CorrectnessCheck(name, f"the uninterrupted run failed: {failed}", "it ends", False)
        return
    seen = _train_and_kill(killed, f"{folder}/killed")
    if seen is None:
        yield CorrectnessCheck(name, "not run: it ended before it was killed", "a kill during training", None)
        return
    if (failed := _train(killed)) is not None:
        yield CorrectnessCheck(name, f"the second call failed: {failed}", "it continues", False)
        return
    resumed = resumed_at(f"{folder}/killed")
    yield CorrectnessCheck(
        name, f"killed after the checkpoint of step {seen}, continued from step {resumed} of {steps}",
        f"on from step {seen} or later", seen <= resumed < steps,
    )  # fmt: skip
    yield from compared(f"{folder}/whole", f"{folder}/killed")


def compared(whole: str, killed: str) -> Iterator[CorrectnessCheck]:
    """Checks of two finished runs: losses and row digests of all steps, weights and optimizer state at the end."""
    for column in ("loss", "samples"):
        one, other = (_column(run, column) for run in (whole, killed))
        differ = sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
        yield CorrectnessCheck(
            f"  {column} of every step", f"{differ} of {len(one)} differ", "0 differ, bit for bit", differ == 0
        )
    first, second = (digests(run) for run in (whole, killed))
    differ = sum(first.get(piece) != second.get(piece) for piece in first.keys() | second.keys())
    yield CorrectnessCheck(
        "  weights and optimizer state", f"{differ} of {len(first)} tensors differ", "0 differ, by sha256", differ == 0
    )


def digests(run: str) -> dict[tuple[str, str, int, int], str]:
    """Of the last checkpoint of a finished run, by name, state, start and count of the values."""
    checkpoint = Checkpoint.load(Store(), json.loads(Store().read_bytes(f"{run}/{OUTCOME}"))["checkpoint"])
    return {(p.name, p.state, p.start, p.count): p.sha256 for file in checkpoint.files for p in file.pieces}


def resumed_at(run: str) -> int:
    """The step that the last attempt started after."""
    return max(json.loads(Store().read_bytes(file.uri))["step"] for file in Store().list_files(f"{run}/attempts"))


def write_corpus(path: str) -> None:
    """Write a corpus of sums, on which a tiny model is trained."""
    lines = []
    for number in range(_DOCUMENTS):
        words = " ".join(f"{number} and {other} make {number + other}." for other in range(3 + number % 5))
        lines.append(json.dumps({"id": f"d{number}", "text": words}) + "\n")
    Store().write_bytes(path, "".join(lines).encode())


def _config(folder: str, run: str, gpu: bool, steps: int) -> str:
    settings: dict[str, Any] = {
        "kind": "train",
        "name": run,
        "corpus": f"{folder}/corpus.jsonl",
        "model": {"config": SHAPES["tiny"], "tokenizer": "train"},
        "deterministic": True,
        "workers": {"count": 1, "gpus_each": int(gpu)},
        "sequence_length": _LENGTH,
        "tokens_per_step": 4 * _LENGTH,
        "micro_batch": 2,
        "steps": steps,
        "optimizer": {"learning_rate": 1e-3},
        "checkpoint": {"every_steps": _CHECKPOINT_EVERY},
        "track": {"tensorboard": False},
        "packed": f"{folder}/packed",
        "output": f"{folder}/{run}",
    }
    path = f"{folder}/{run}.json"
    Store().write_bytes(path, json.dumps(settings).encode())
    return path


def _start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _train(command: list[str]) -> str | None:
    """Run a training. Returns why it failed; None if it did not."""
    process = _start(command)
    try:
        _, err = process.communicate(timeout=_WAIT_S)
    except subprocess.TimeoutExpired:
        _kill_all(process)
        return f"it did not end in {_WAIT_S} s"
    return None if process.returncode == 0 else (err.strip().splitlines() or [f"exit code {process.returncode}"])[-1]


def _train_and_kill(command: list[str], run: str) -> int | None:
    """Run a training and kill it. Returns the step of its last checkpoint; None if the run ended before."""
    process = _start(command)
    deadline = time.monotonic() + _WAIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if _newest_checkpoint(run) is not None:
            _kill_all(process)
            break
        time.sleep(_LOOK_EVERY_S)
    else:
        _kill_all(process)
    return None if Store().exists(f"{run}/{OUTCOME}") else _newest_checkpoint(run)


def _kill_all(process: "subprocess.Popen[str]") -> None:
    """Kill the driver first, then Ray's processes and the worker, which would run on for a while."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    for one in started:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate()
    psutil.wait_procs(started, timeout=30)


def _newest_checkpoint(run: str) -> int | None:
    manifests = [file.uri for file in Store().list_files(f"{run}/checkpoints") if file.uri.endswith(f"/{MANIFEST}")]
    return max((step_of(uri.removesuffix(f"/{MANIFEST}")) for uri in manifests), default=None)


def _column(run: str, name: str) -> list[Any]:
    lines = [json.loads(line) for line in Store().read_bytes(f"{run}/steps.jsonl").splitlines()]
    return [line[name] for line in lines if name in line]


if __name__ == "__main__":
    sys.exit(main())
