"""What a fit leaves beside its checkpoints: how it ended, or why it failed. And clearing away what another fit left."""

import json
import time

from cluster.errors import DataError, ErrorRecord, RaymillError, as_record, from_record
from cluster.store import paths
from cluster.store.interface import NotFound
from training.fit.checkpoint.format import MANIFEST, Saved, latest, saved_folders
from training.fit.job import Job
from training.fit.records import Outcome


def finished(job: Job) -> Outcome | None:
    """What a fit of the same identity left when it ended."""
    try:
        outcome: Outcome = json.loads(job.store.read_bytes(job.outcome))
    except NotFound:
        return None
    return outcome if outcome["fingerprint"] == job.fingerprint else None


def put(job: Job, outcome: Outcome) -> None:
    job.store.write_bytes(job.outcome, json.dumps(outcome, indent=1).encode())


def make_way(job: Job, replace: bool) -> None:
    """See that what stands in the run's folder is of this job, or remove it.

    Args:
        replace: remove what is of another job, and a finished training whose weights are damaged.

    Raises:
        DataError: it is of other settings, data or model, and `replace` is not given.
    """
    try:
        latest(job)
        if replace and (done := finished(job)) is not None:
            Saved.load(job.store, done["best_checkpoint"] or done["checkpoint"]).check_weights()
        if job.store.exists(job.outcome) and finished(job) is None:
            raise DataError(
                f"{job.outcome}: was left by a training of other settings, data or model. Choose another output, or "
                "add --replace to begin anew."
            )
    except DataError:
        if not replace:
            raise
        checkpoints = saved_folders(job)
        job.store.delete([job.outcome, *(paths.join(uri, MANIFEST) for uri in checkpoints), job.step_log])
        for folder in (job.checkpoints, job.attempts, job.tensorboard):
            job.store.delete(file.uri for file in job.store.list_files(folder))
        for uri in checkpoints:
            job.store.delete_empty_folder(uri)


class Failures:
    """Why workers of one submission failed, told through the store: an exception's class does not survive Ray."""

    def __init__(self, job: Job, submission: str) -> None:
        self.store = job.store
        self.folder = paths.join(job.root, "errors", submission)

    def tell(self, error: RaymillError) -> None:
        data = json.dumps(as_record(error)).encode()
        self.store.write_bytes(paths.join(self.folder, f"{time.time_ns()}.json"), data)

    def found(self, *, final: bool) -> RaymillError | None:
        """The last one told; only those that trying again would not mend, if `final`."""
        for file in reversed(self.store.list_files(self.folder)):
            record: ErrorRecord = json.loads(self.store.read_bytes(file.uri))
            if record["final"] or not final:
                return from_record(record)
        return None

    def forget(self) -> None:
        self.store.delete(file.uri for file in self.store.list_files(self.folder))
