"""The function that Ray Train runs in each worker: the training loop, and in the first one export and evaluation."""

import logging
import os
import threading
from collections.abc import Callable

from cluster import logs
from cluster.errors import RaymillError
from training.fit.device import deterministic_algorithms
from training.fit.heartbeat import MissingWorker
from training.fit.loop import fit
from training.fit.process_group import ray_group
from training.records.finished_fit import WorkerErrors
from training.records.job import Job
from training.records.schema import Outcome
from training.records.stop_request import StopRequest, StopRequested

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


def fit_in_worker(job: Job, submission: str, afterwards: Callable[[Job, Outcome], object] | None) -> None:
    """Train in a worker that Ray Train started.

    Returns at once if a worker of an earlier attempt wrote a final error, and without an outcome after a request to
    stop.

    Args:
        submission: id of the folder of errors. afterwards: called by the first worker after the last step.

    Raises:
        RaymillError: as `loop.fit`. It is also written to the store, from where the driver reads class and message.
    """
    errors = WorkerErrors(job, submission)
    logs.setup()
    if errors.last(final=True) is not None:
        return
    workers = job.config.workers
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if workers.gpus_each else "cpu")
    try:
        with logs.about(run=job.root.rpartition("/")[2], stage="fit"):
            with (
                deterministic_algorithms(job.config.deterministic),
                ray_group(workers.gpus_each, workers.timeout_s) as ranks,
                logs.about(rank=ranks.rank),
            ):
                outcome = fit(job, ranks, _watched(StopRequest(job, submission)) if ranks.first else lambda: False)
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
