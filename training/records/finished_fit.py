"""fit.json, the record of a finished fit; errors of failed workers; removing the files of another training."""

import json
import time

from cluster.errors import DataError, ErrorRecord, RaymillError, as_record, from_record
from cluster.record import RecordFile, json_bytes, json_with, read_json
from cluster.store import paths
from cluster.store.paths import FileName, RecordedUri
from cluster.store.store import Store
from training.records.checkpoint import MANIFEST, Checkpoint, checkpoint_folders, latest
from training.records.job import CHECKPOINTS, OUTCOME, Job
from training.records.schema import Outcome


def read_outcome(job: Job) -> Outcome | None:
    """The outcome of a finished fit with the job's fingerprint; None if there is none."""
    found = outcome_file(job.store, job.root).read()
    return found if found is not None and found["fingerprint"] == job.fingerprint else None


def outcome_file(store: Store, root: str) -> RecordFile[Outcome]:
    """fit.json of the run at `root`."""
    return RecordFile(store, paths.join(root, OUTCOME), "the outcome of a fit", _parse)


def _parse(data: bytes) -> Outcome:
    found: Outcome = json_with("fingerprint", "checkpoint", "best_checkpoint")(data)
    for uri in (found["checkpoint"], found["best_checkpoint"] or found["checkpoint"]):
        checkpoint_of("", RecordedUri(uri))  # raises ValueError if it has no name of a folder
    return found


def exported_checkpoint(root: str, outcome: Outcome) -> str:
    """URI of the checkpoint that the run at `root` exports.

    Only the name of the folder is taken from fit.json: the run may have been moved since, and the URI there may be
    outside of it.
    """
    return checkpoint_of(root, outcome["best_checkpoint"] or outcome["checkpoint"])


def checkpoint_of(root: str, uri: str) -> str:
    """URI of the checkpoint below the run at `root` that has the folder name of `uri`."""
    return paths.join(root, CHECKPOINTS, FileName(uri.rpartition("/")[2]))


def write_outcome(job: Job, outcome: Outcome) -> None:
    job.store.write_bytes(job.outcome, json_bytes(outcome))


def refuse_or_delete_other_training(job: Job, replace: bool) -> None:
    """Verify that checkpoints and outcome in the run's folder are those of this job.

    Args:
        replace: delete those of another job, and a finished training whose weights are damaged.

    Raises:
        DataError: without `replace`: they have other settings, data or model.
    """
    try:
        latest(job)
        if replace and (outcome := read_outcome(job)) is not None:
            Checkpoint.load(job.store, exported_checkpoint(job.root, outcome)).check_weights()
        if job.store.exists(job.outcome) and read_outcome(job) is None:
            raise DataError(
                f"{job.outcome}: written by a training with other settings, data or model. Choose another output, or "
                "add --replace to start again."
            )
    except DataError:
        if not replace:
            raise
        checkpoints = checkpoint_folders(job)
        manifests = (paths.join(uri, MANIFEST) for uri in checkpoints)
        job.store.delete([job.outcome, job.micro_batch, *manifests, job.step_log])
        for folder in (job.checkpoints, job.attempts, job.tensorboard):
            job.store.delete(file.uri for file in job.store.list_files(folder))
        for uri in checkpoints:
            job.store.delete_empty_folder(uri)


class WorkerErrors:
    """Errors of the workers of one submission, as files on the store, because Ray Train loses an exception's class.

    A file is RUN/errors/SUBMISSION/NANOSECONDS.json, with an `ErrorRecord`.
    """

    def __init__(self, job: Job, submission: str) -> None:
        self.store = job.store
        self.folder = paths.join(job.root, "errors", submission)

    def write(self, error: RaymillError) -> None:
        data = json.dumps(as_record(error)).encode()
        self.store.write_bytes(paths.join(self.folder, f"{time.time_ns()}.json"), data)

    def last(self, *, final: bool) -> RaymillError | None:
        """The last error written. final: of the final errors, which another attempt would raise again."""
        for file in reversed(self.store.list_files(self.folder)):
            record: ErrorRecord | None = read_json(self.store, file.uri, "an error", "kind", "message", "final")
            if record is None:
                continue
            if record["final"] or not final:
                return from_record(record)
        return None

    def delete(self) -> None:
        self.store.delete(file.uri for file in self.store.list_files(self.folder))
