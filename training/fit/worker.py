"""The function that Ray Train runs in each worker: the training loop, and in the first one export and evaluation."""

import os
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


def fit_in_worker(job: Job, submission: str, afterwards: Callable[[Job, Outcome], object] | None) -> None:
    """Train in a worker that Ray Train started.

    Returns at once if a worker of an earlier attempt wrote a final error.

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
                outcome = fit(job, ranks)
            if ranks.first and afterwards is not None:
                afterwards(job, outcome)
    except RaymillError as error:
        # If a collective failed because of another worker's error, only that error is written.
        if not (isinstance(error, MissingWorker) and errors.last(final=False)):
            errors.write(error)
        raise
