"""Steps told to other people's tools: TensorBoard event files beside the run; MLflow and Weights & Biases on request.

Only the first worker tracks. The truth is steps.jsonl; a tracker that is gone costs a curve, so after the start its
failures are logged and not raised. Their packages are imported on use; preflight.py has looked for them before.
"""

import logging
import shutil
import time
from typing import Any, Protocol

from cluster.store import paths
from cluster.temporary import temporary_folder
from training.fit.job import Job
from training.fit.records import StepRecord

log = logging.getLogger(__name__)

_UPLOAD_EVERY_S = 30.0
_CURVES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "mfu", "memory_gib", "data_wait_s")


class Tracker(Protocol):
    def write(self, record: StepRecord) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def curves(record: StepRecord) -> dict[str, float]:
    """The numbers of a step that are worth a curve, by name."""
    found = {name: value for name in _CURVES if isinstance(value := record.get(name), int | float)}
    validation = record.get("validation")
    if validation:
        found |= {f"validation/{name}": validation[name] for name in ("loss", "perplexity", "accuracy")}
    return found


def trackers(job: Job, attempt: str, resumed: int) -> list[Tracker]:
    """Those the config asks for. `resumed`: the step that this attempt goes on from."""
    track = job.config.track
    found: list[Tracker] = []
    if track.tensorboard:
        found.append(TensorBoard(job, attempt, resumed))
    if track.mlflow:
        found.append(Mlflow(job, track.mlflow))
    if track.wandb:
        found.append(Wandb(job, track.wandb))
    return [Patient(one) for one in found]


class Patient:
    """A tracker that failed once is told nothing more."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker: Tracker | None = tracker

    def write(self, record: StepRecord) -> None:
        self._call("write", record)

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str, *arguments: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, name)(*arguments)
        except Exception as error:
            log.warning("%s stopped tracking: %s", type(self.tracker).__name__, type(error).__name__)
            self.tracker = None


class TensorBoard:
    """One event file an attempt, written here and put on the store whole now and then.

    An attempt's file says from which step on it replaces what earlier ones told.
    """

    def __init__(self, job: Job, attempt: str, resumed: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.store = job.store
        self.folder = temporary_folder("tensorboard")
        self.uri = paths.join(job.tensorboard, f"events.out.tfevents.{time.time():.0f}.{attempt}")
        self.writer = SummaryWriter(str(self.folder), purge_step=resumed + 1 if resumed else None)
        self.uploaded = time.monotonic()

    def write(self, record: StepRecord) -> None:
        for name, value in curves(record).items():
            self.writer.add_scalar(name, value, record["step"])
        if time.monotonic() - self.uploaded > _UPLOAD_EVERY_S:
            self.flush()

    def flush(self) -> None:
        self.writer.flush()
        (events,) = self.store.list_files(str(self.folder))
        self.store.write_bytes(self.uri, self.store.read_bytes(events.uri))
        self.uploaded = time.monotonic()

    def close(self) -> None:
        self.flush()
        self.writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Mlflow:
    """One MLflow run for one training, however often it was resumed: found again by the tag `raymill`."""

    def __init__(self, job: Job, tracking_uri: str) -> None:
        import mlflow

        self.mlflow = mlflow
        mlflow.set_tracking_uri(tracking_uri)
        experiment = mlflow.set_experiment("raymill")
        known = mlflow.search_runs(
            [experiment.experiment_id], f"tags.raymill = '{job.fingerprint}'", output_format="list", max_results=1
        )
        tags = {"raymill": job.fingerprint}
        run_id = known[0].info.run_id if known else None
        mlflow.start_run(run_id=run_id, run_name=None if known else job.config.name, tags=tags)

    def write(self, record: StepRecord) -> None:
        named = {name.replace("/", "."): value for name, value in curves(record).items()}
        self.mlflow.log_metrics(named, step=record["step"], synchronous=False)

    def flush(self) -> None:
        self.mlflow.flush_async_logging()

    def close(self) -> None:
        self.mlflow.end_run()


class Wandb:
    """One run of Weights & Biases for one training; its id is the training's fingerprint."""

    def __init__(self, job: Job, project: str) -> None:
        import wandb

        self.run = wandb.init(
            project=project, name=job.config.name, id=job.fingerprint, resume="allow", config=job.config.run_settings()
        )

    def write(self, record: StepRecord) -> None:
        self.run.log(curves(record), step=record["step"])

    def flush(self) -> None:
        """Sends by itself."""

    def close(self) -> None:
        self.run.finish()
