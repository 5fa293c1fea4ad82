"""Records of steps: steps.jsonl and trackers (Prometheus; if configured TensorBoard, MLflow, Weights & Biases).

steps.jsonl has one line per step, in order, also after interruptions. An object store cannot append, so the first
worker keeps all lines in memory and a thread writes the whole file periodically. The interval grows with the file, so
that a run of 100,000 steps does not write gigabytes. The lines of all steps before a checkpoint are written before the
checkpoint is committed, so a resumed run finds them.

Only the first worker has trackers. steps.jsonl is the complete record, so an error of a tracker is logged and not
raised, and that tracker is not called again. The packages are optional, and imported when they are used;
driver/launch.py checks that they are installed.
"""

import json
import logging
import shutil
import sys
import threading
import time
from functools import partial
from typing import Any, Protocol

from raymill.cluster.metrics import ENDED, FAILED, RUNNING, Metrics
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import temporary_folder
from raymill.training.fit.tracker_process import TrackerFailed, TrackerProcess
from raymill.training.objectives import PAIR_MEASURES, SAMPLE_MEASURES, UPDATE_MEASURES
from raymill.training.records.job import Job, TrainingFolder
from raymill.training.records.schema import StepRecord, read_steps

log = logging.getLogger(__name__)

_EVERY_S = 2.0
_BYTES_PER_S = 1 << 20  # the interval is at least a second for each MiB of the file


class StepLog:
    """Writes the step log; only the first worker has one.

    resumed: step of the restored checkpoint, after which lines are removed; None: all lines are removed.
    outcome: URI of the record that ends the training. Once it exists, nothing is written: a worker that was suspended
        may run on after another start finished the training, and has fewer lines.
    """

    def __init__(self, store: Store, uri: str, resumed: int | None, outcome: str) -> None:
        self.store = store
        self.uri, self.outcome = uri, outcome
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        kept = [] if resumed is None else [one for one in read_steps(store, uri) if one["step"] <= resumed]
        self._lines = [(record["step"], _line(record)) for record in kept]
        self._changed = True
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_periodically, name="step-log", daemon=True)
        self._thread.start()

    def append(self, record: StepRecord) -> None:
        """Add a line, which the thread will write.

        Raises:
            StorageError: the thread could not write the file.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            assert not self._lines or record["step"] > self._lines[-1][0], "steps are logged once, in order"
            self._lines.append((record["step"], _line(record)))
            self._changed = True

    def cut(self, step: int) -> None:
        """Remove the lines after a step, to which the run returned."""
        with self._lock:
            self._lines = [line for line in self._lines if line[0] <= step]
            self._changed = True

    def flush(self) -> None:
        """Write all lines appended so far. Any thread may call it."""
        with self._writing:
            with self._lock:
                if not self._changed:
                    return
                data = b"".join(line for _, line in self._lines)
                self._changed = False
            if not self.store.exists(self.outcome):
                self.store.write_bytes(self.uri, data)

    def close(self) -> None:
        """Stop the thread and write all lines."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _write_periodically(self) -> None:
        try:
            while not self._closing.is_set():
                began = time.monotonic()
                self.flush()
                size = sum(len(line) for _, line in self._lines)
                self._closing.wait(max(_EVERY_S, size / _BYTES_PER_S, 10 * (time.monotonic() - began)))
        except BaseException as error:  # raised by the next `append`
            self._error = error


def _line(record: StepRecord) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


_UPLOAD_EVERY_S = 30.0
_CURVES = ("loss", "aux_loss", "grad_norm", "learning_rate", "tokens_per_s", "mfu", "memory_gib", "data_wait_s",
           *PAIR_MEASURES, *UPDATE_MEASURES, *SAMPLE_MEASURES)  # fmt: skip


class Tracker(Protocol):
    """Writes the curves of a running training to a service or file."""

    def write(self, record: StepRecord) -> None:
        """Send a step's values."""

    def close(self) -> None:
        """Send what is buffered, and end."""


def curves(record: StepRecord) -> dict[str, float]:
    """The values of a step that are tracked, by name."""
    found = {name: value for name in _CURVES if isinstance(value := record.get(name), int | float)}
    found |= {f"reward/{name}": value for name, value in record.get("rewards", {}).items()}
    validation = record.get("validation")
    if validation:
        found |= {f"validation/{name}": validation[name] for name in ("loss", "perplexity", "accuracy")}
    return found


def trackers(job: Job, attempt: str, resumed: int, metrics: Metrics) -> list[Tracker]:
    """The trackers that the config names, and the metrics. resumed: step of the restored checkpoint, or 0."""
    track, name, fingerprint = job.config.track, job.config.name, job.folder.fingerprint
    made: list[partial[Any]] = [partial(StepMetrics, metrics, job.steps)]
    if track.tensorboard:
        made.append(partial(TensorBoard, job.folder, attempt, resumed))
    if track.mlflow:
        made.append(partial(Mlflow, name, fingerprint, track.mlflow))
    if track.wandb:
        made.append(partial(Wandb, name, fingerprint, track.wandb, job.config.run_settings()))
    return [_ErrorsLogged(one) for one in made]


class _ErrorsLogged:
    """A tracker whose first error is logged, also an error at its start. Later calls have no effect."""

    def __init__(self, make: partial[Any]) -> None:
        self.name = make.func.__name__
        self.tracker: Tracker | None = None
        try:
            self.tracker = make()
        except Exception as error:
            self._failed(error)

    def write(self, record: StepRecord) -> None:
        self._call("write", record)

    def close(self) -> None:
        self._call("close")

    def _call(self, name: str, *arguments: Any) -> None:
        if self.tracker is None:
            return
        try:
            getattr(self.tracker, name)(*arguments)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        seen = str(error) if isinstance(error, TrackerFailed) else type(error).__name__
        log.warning("%s failed and is not used any more: %s", self.name, seen)
        self.tracker = None


class StepMetrics:
    """The metrics of steps, for Prometheus. steps: number of steps of the training."""

    def __init__(self, metrics: Metrics, steps: int) -> None:
        self.metrics = metrics
        metrics.set("raymill_run_state", RUNNING)
        metrics.set_to_now("raymill_progress_time")
        metrics.set_to_now("raymill_checkpoint_time")
        metrics.set("raymill_training_steps", steps)

    def write(self, record: StepRecord) -> None:
        self.metrics.set_to_now("raymill_progress_time")
        self.metrics.set("raymill_training_step", record["step"])
        self.metrics.set("raymill_training_workers", record["workers"])
        self.metrics.set("raymill_training_loss", record.get("loss"))
        self.metrics.set("raymill_training_tokens_per_second", record.get("tokens_per_s"))
        self.metrics.set("raymill_training_mfu", record.get("mfu"))
        self.metrics.add("raymill_training_tokens", record.get("tokens", 0))

    def close(self) -> None:
        self.metrics.set("raymill_run_state", FAILED if sys.exc_info()[0] else ENDED)


class TensorBoard:
    """One event file per start, written to a local folder and copied to the store every 30 s.

    TensorBoard then hides the events of earlier starts after the step from which this one resumed.
    """

    def __init__(self, run: TrainingFolder, attempt: str, resumed: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.store = run.store
        self.folder = temporary_folder("tensorboard")
        self.uri = paths.join(run.tensorboard, f"events.out.tfevents.{time.time():.0f}.{attempt}")
        self.writer = SummaryWriter(str(self.folder), purge_step=resumed + 1 if resumed else 0)
        self.uploaded = time.monotonic()

    def write(self, record: StepRecord) -> None:
        """Add a step's values to the event file; copy the file if 30 s have passed."""
        for name, value in curves(record).items():
            self.writer.add_scalar(name, value, record["step"])
        if time.monotonic() - self.uploaded > _UPLOAD_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Copy the event file to the store."""
        self.writer.flush()
        (events,) = self.store.list_files(str(self.folder))
        self.store.write_bytes(self.uri, self.store.read_bytes(events.uri))
        self.uploaded = time.monotonic()

    def close(self) -> None:
        """Copy the event file and remove the local folder."""
        self.flush()
        self.writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class _OfService:
    """Sends curves to a service by a process of its own: see tracker_process.py."""

    def __init__(self, service: str, about: dict[str, Any]) -> None:
        self.process = TrackerProcess(service, about)

    def write(self, record: StepRecord) -> None:
        """Send a step's values, without waiting."""
        self.process.log(record["step"], curves(record))

    def close(self) -> None:
        """Send what is left, for half a minute at most."""
        self.process.close()


class Mlflow(_OfService):
    """One MLflow run per training, over all starts."""

    def __init__(self, name: str, fingerprint: str, tracking_uri: str) -> None:
        super().__init__("mlflow", {"uri": tracking_uri, "name": name, "fingerprint": fingerprint})


class Wandb(_OfService):
    """One run of Weights & Biases per training, over all starts."""

    def __init__(self, name: str, fingerprint: str, project: str, settings: dict[str, Any]) -> None:
        super().__init__("wandb", {"project": project, "name": name, "fingerprint": fingerprint, "settings": settings})
