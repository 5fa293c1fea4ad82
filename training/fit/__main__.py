"""One worker under torchrun, without Ray: torchrun --nproc-per-node 2 -m raymill.training.fit JOB.json

JOB.json, a path or URI, is written by `raymill pack CONFIG --job JOB.json`. The training writes the same files as under
Ray. Without torchrun this process is the only worker.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext

from raymill.cluster import logs
from raymill.cluster.errors import RaymillError
from raymill.cluster.lease import held
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.wording import of_the_command
from raymill.training.fit.loop import fit
from raymill.training.fit.process_group import deterministic_algorithms, own_group, ray_group
from raymill.training.fit.ranks import MissingWorker
from raymill.training.records.finished import WorkerErrors
from raymill.training.records.job import Job, StopRequest, StopRequested
from raymill.training.records.schema import Outcome

# `fit_in_worker` is the same for a worker that Ray Train started.

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


@of_the_command()
def fit_in_worker(job: Job, submission: str, afterwards: Callable[[Job, Outcome], object] | None) -> None:
    """Train in a worker that Ray Train started.

    Returns at once if a worker of an earlier start wrote a final error, and without an outcome after a request to
    stop.

    Args:
        submission: id of the folder of errors. afterwards: called by the first worker after the last step.

    Raises:
        RaymillError: as `loop.fit`. It is also written to the store, from where the driver reads class and message.
    """
    errors = WorkerErrors(job.folder, submission)
    logs.setup()
    if errors.last(final=True) is not None:
        return
    workers = job.config.workers
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if workers.gpus_each else "cpu")
    try:
        with logs.about(run=job.folder.uri.rpartition("/")[2], stage="fit"):
            with (
                deterministic_algorithms(job.config.deterministic),
                ray_group(workers.gpus_each, workers.timeout_s) as ranks,
                logs.about(rank=ranks.rank),
            ):
                is_stopped = _watched(StopRequest(job.folder, submission)) if ranks.first else lambda: False
                if ranks.heartbeat:
                    # NCCL may end this process without an exception.
                    ranks.heartbeat.on_overdue.append(lambda report: errors.write(MissingWorker(report)))
                outcome = fit(job, ranks, is_stopped)
            if ranks.first and afterwards is not None:
                afterwards(job, outcome)
    except StopRequested as stop:
        log.info("%s", stop)
    except RaymillError as error:
        # If a collective failed because of another worker's error, only that error is written.
        if not (isinstance(error, MissingWorker) and errors.last(final=False)):
            errors.write(error)
        raise


def _watched(request: StopRequest) -> Callable[[], bool]:
    """Whether the request was made, looked up every second in a thread, so that no step waits for the store."""
    made, wait = threading.Event(), threading.Event()

    def look() -> None:
        while not made.is_set():
            try:
                if request.made():
                    made.set()
            except RaymillError:  # the store's troubles are reported by those who need it
                log.debug("the request to stop could not be looked up", exc_info=True)
            wait.wait(_LOOK_EVERY_S)

    threading.Thread(target=look, daemon=True, name="stop-request").start()
    return made.is_set


# The exit code of a shell's command that SIGINT ended.
_INTERRUPTED = 130


def _on_signal() -> Callable[[], bool]:
    """Whether this process got SIGTERM or SIGINT. A second one ends it at once."""
    got = threading.Event()

    def note(number: int, frame: object) -> None:
        got.set()
        signal.signal(number, signal.SIG_DFL)

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, note)
    return got.is_set


@of_the_command()
def main(arguments: list[str]) -> int:
    """Train the job that the arguments name, as one worker. Returns the exit status of the command.

    SIGTERM and Ctrl-C end the training after the step at hand, with a checkpoint. The first worker holds the lease of
    the run's folder and prints the outcome as JSON.
    """
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    logs.setup()
    rank = os.environ.get("RANK", "0")
    try:
        job = Job.from_json(Store().read_bytes(paths.absolute(arguments[0])))  # has the settings of the run's stores
        workers = job.config.workers
        with (
            held(job.folder.store, job.folder.uri) if rank == "0" else nullcontext(),
            deterministic_algorithms(job.config.deterministic),
            own_group(workers.gpus_each, workers.timeout_s) as ranks,
        ):
            outcome = fit(job, ranks, _on_signal())
        if ranks.first:
            print(json.dumps(outcome))
    except StopRequested as stop:
        if rank == "0":
            print(f"{stop}: its checkpoint is written; the same command continues", file=sys.stderr)
        return _INTERRUPTED
    except RaymillError as error:
        print(error if rank == "0" else f"worker {rank}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
