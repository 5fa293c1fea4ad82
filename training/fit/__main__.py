"""One worker under torchrun, without Ray: torchrun --nproc-per-node 2 -m training.fit JOB.json

JOB.json, a path or URI, is written by `raymill pack CONFIG --job JOB.json`. The training writes the same files as under
Ray. Without torchrun this process is the only worker.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext

from cluster import logs
from cluster.errors import RaymillError
from cluster.lease import held
from cluster.store import paths
from cluster.store.store import Store
from training.fit.device import deterministic_algorithms
from training.fit.loop import fit
from training.fit.process_group import own_group
from training.records.job import Job
from training.records.stop_request import StopRequested

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
            held(job.store, job.root) if rank == "0" else nullcontext(),
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
