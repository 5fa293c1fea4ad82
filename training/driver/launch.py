"""The driver of a fit on Ray: checks that there is room, starts the workers by Ray Train, shows their progress, and
reports why they failed.

Ray Train starts the workers, detects deaths and preemptions, and starts the workers again. Workers write checkpoints,
metrics and the outcome to the run's store. If the driver or workers die, the same command continues from the last
checkpoint there. Workers also report each checkpoint to Ray Train (`Ranks.report`), for its `Result` and for callbacks;
nothing is read back from its record, which depends on Ray's version.
"""

import itertools
import math
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

from raymill.cluster import logs
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.formats import duration, plural
from raymill.cluster.lease import Lease
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.temporary import temporary_folder
from raymill.training.config_parts import Track, Workers
from raymill.training.driver.console import StepProgress
from raymill.training.records.checkpoint import checkpoint_folders, step_of
from raymill.training.records.finished import WorkerErrors, read_outcome, refuse_or_delete_other_training
from raymill.training.records.job import Job, StopRequest, TrainingFolder
from raymill.training.records.schema import Outcome

# They import Ray, and are called once it has started.
_make_trainer = Entry("raymill.training.fit.ray_trainer:make_trainer")
_growth = Entry("raymill.training.driver.growth:WorkerGrowth")

Afterwards = Callable[[Job, Outcome], object]

_LOOK_EVERY_S = 2.0
# How long an interrupted training may take to write its last checkpoint.
STOP_WAIT_S = 60.0


def fit_on_ray(
    job: Job,
    session: Session,
    progress: Progress,
    replace: bool = False,
    lease: Lease | None = None,
    afterwards: Afterwards | None = None,
) -> Outcome:
    """Train on Ray from the newest checkpoint. A finished training is not repeated, and Ray is not started for it.

    Workers read the packed rows, and write checkpoints, steps.jsonl and, last, fit.json. The driver reads a few small
    files every 2 s.

    Args:
        replace: delete the files of a training with other settings in the run's folder.
        lease: of the run's folder; training stops when it is lost.
        afterwards: called by the first worker after the last step; not called for a finished training.

    Raises:
        ConfigError: the cluster has no room for the workers, or a tracker is not installed.
        UserError: an error of a worker that the user can correct.
        ClusterError: the workers failed more often than `failures` allows.
    """
    refuse_or_delete_other_training(job.folder, replace)
    if (outcome := read_outcome(job.folder)) is not None:
        return outcome
    check_trackers(job.config.track)
    job.folder.store.require_conditional_writes(job.folder.uri)
    session.start()
    check_cluster(job.config.workers, session)
    submission = uuid.uuid4().hex[:12]
    errors = WorkerErrors(job.folder, submission)
    with logs.about(run=job.folder.uri.rpartition("/")[2], stage="fit"):
        failure = _run(job, session, progress, submission, errors, lease, afterwards)
    outcome = read_outcome(job.folder)
    if (error := errors.last(final=True)) is not None:
        raise error
    if outcome is None:
        raise errors.last(final=False) or _as_cluster_error(failure, job.folder, job.config.failures.max)
    errors.delete()
    return outcome


def _run(
    job: Job,
    session: Session,
    progress: Progress,
    submission: str,
    errors: WorkerErrors,
    lease: Lease | None,
    afterwards: Afterwards | None = None,
) -> BaseException | None:
    """Run Ray Train in a thread, again with more workers when there is room, and show progress in this one.

    Returns Ray Train's exception, if any.

    Interrupts are handled in the main thread; Ray Train would end as if it had succeeded. Returns at once after a final
    error, which Ray Train would answer by starting all workers again.
    """
    ended: queue.Queue[BaseException | None] = queue.Queue()
    folder = temporary_folder("fit")
    arguments = {"job": job, "submission": submission, "afterwards": afterwards}
    workers, failures = job.config.workers, job.config.failures
    growth = _growth(workers, job.folder) if workers.range[0] < workers.range[1] else None
    stop = StopRequest(job.folder, submission)
    starts = itertools.count()

    def start() -> None:
        name = f"{submission}-{next(starts)}"
        trainer = _make_trainer(arguments, workers, failures, name=name, folder=str(folder), session=session)
        threading.Thread(target=_fit, args=(trainer, ended), daemon=True, name="ray-train").start()

    console = StepProgress(job, progress.writer) if progress.writer is not None else None
    last_step_at: float | None = None  # time at which the outcome of the last step was found
    start()
    try:
        while True:
            try:
                failure = ended.get(timeout=_LOOK_EVERY_S)
                if growth is None or not growth.reserved:  # else the workers were stopped for more to start
                    return failure
                if failure is not None or read_outcome(job.folder) is not None:
                    return failure
                stop.delete()
                growth.release()
                start()
            except queue.Empty:
                if console:
                    console.update()
                if errors.last(final=True) is not None:
                    return None
                if afterwards is not None and last_step_at is None and read_outcome(job.folder) is not None:
                    last_step_at = time.monotonic()
                    if console:
                        console.finish()
                    progress.say("training: all steps are done; export and evaluation follow")
                if growth and not growth.reserved and last_step_at is None and (more := growth.reserve()):
                    progress.say(f"training: room for {plural(more, 'more worker')}; it goes on with them")
                    stop.make()
            if lease is not None:
                lease.check()
            session.raise_if_interrupted()
            if session.dead():
                raise ClusterError(
                    "Ray on this machine died (its raylet or control process is gone). "
                    f"{_kept(job.folder)}: run the same command again."
                )
    except KeyboardInterrupt:
        if read_outcome(job.folder) is None:
            _stop_workers(job.folder, stop, ended, progress)
        raise
    finally:
        if growth:
            growth.release()
        if last_step_at is not None:
            progress.say(f"export and evaluation: took {duration(time.monotonic() - last_step_at)}")
        elif console:
            console.finish()
        shutil.rmtree(folder, ignore_errors=True)


def _stop_workers(
    run: TrainingFolder, request: StopRequest, ended: "queue.Queue[BaseException | None]", progress: Progress
) -> None:
    """Have the workers write a checkpoint and end, and wait for them. Another interrupt ends the wait."""
    progress.say(f"interrupted: writing a checkpoint, for {STOP_WAIT_S:.0f} s at most; interrupt again to end at once")
    try:
        request.make()
        with suppress(queue.Empty):
            ended.get(timeout=STOP_WAIT_S)
        progress.say(f"interrupted: {_kept(run)[0].lower()}{_kept(run)[1:]}; the same command continues")
    finally:
        request.delete()


def _fit(trainer: Any, ended: "queue.Queue[BaseException | None]") -> None:
    try:
        trainer.fit()
        ended.put(None)
    except BaseException as error:  # the main thread waits for any end
        ended.put(error)


def _kept(run: TrainingFolder) -> str:
    """The kept checkpoints of a failed training, as the beginning of a sentence."""
    found = checkpoint_folders(run)
    return f"Checkpoints up to step {step_of(found[-1]):,} are kept" if found else "There is no checkpoint yet"


def _as_cluster_error(failure: BaseException | None, run: TrainingFolder, most: int) -> ClusterError:
    """Ray Train's exception as a ClusterError of one line, with the last cause in it. most: failures allowed."""
    causes = getattr(failure, "worker_failures", None) or {
        None: getattr(failure, "controller_failure", None) or failure
    }
    rank, cause = next(iter(causes.items()))
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    line = lines[-1] if isinstance(cause, Exception) and "Traceback" in str(cause) else (lines or ["unknown cause"])[0]
    worker = "" if rank is None else f"rank {rank}: "
    return ClusterError(
        f"training: its workers failed more often than failures.max ({most}) allows, last with: "
        f"{worker}{line[:400].rstrip('.')}. {_kept(run)}: correct the cause and run the same command again."
    )


# Loaded once Ray has started.
can_add = Entry("raymill.cluster.autoscaler:can_add")

_TOLERANCE = 1e-6  # Ray counts ten-thousandths of a CPU


def check_trackers(track: Track) -> None:
    """Verify that the configured trackers are installed.

    Raises:
        ConfigError: one is not.
    """
    wanted = {"mlflow": track.mlflow, "wandb": track.wandb}
    missing = [name for name, setting in wanted.items() if setting and find_spec(name) is None]
    if track.tensorboard and find_spec("tensorboard") is None:
        missing.append("tensorboard")
    if missing:
        raise ConfigError(
            f"track: {', '.join(missing)} not installed. "
            f"Use pip install 'raymill[train,track]', or leave {' and '.join(f'track.{name}' for name in missing)} out."
        )


def fitting(workers: Workers, nodes: Sequence[Mapping[str, float]]) -> int:
    """Number of workers for which these nodes have room. A worker is on one node."""
    return sum(
        min(math.floor(node.get(kind, 0) / amount + _TOLERANCE) for kind, amount in workers.resources.items())
        for node in nodes
    )


def check_fits(workers: Workers, nodes: Sequence[Mapping[str, float]], machine: str) -> None:
    """Verify that these nodes have room for the minimum of workers.

    Args:
        nodes: resources of each node, by Ray's name. machine: name of the nodes in the message.

    Raises:
        ConfigError: they have not; the message has both numbers and a setting that fits.
    """
    most = fitting(workers, nodes)
    least = workers.range[0]
    if most >= least:
        return
    cpus = f"{workers.cpus_each:g} {'CPU' if workers.cpus_each == 1 else 'CPUs'}"
    gpus = f" and {workers.gpus_each} GPU" if workers.gpus_each else ""
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    has = f"{total['CPU']:g} CPUs" + (f" and {total['GPU']:g} GPUs" if workers.gpus_each else "")
    on = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    kind = f" of type {workers.accelerator_type}" if workers.accelerator_type else ""
    kind += f" on nodes labelled {workers.labels}" if workers.labels else ""
    others = ", choose other nodes by workers.accelerator_type and workers.labels" if kind else ""
    fix = f"Set workers.count to {most} or fewer" if most else "No worker fits: give each fewer resources"
    lower = "workers.gpus_each: 0" if workers.gpus_each and not total["GPU"] else "workers.cpus_each lower"
    raise ConfigError(
        f"workers: {plural(least, 'worker')} with {cpus}{gpus}{kind} each {'was' if least == 1 else 'were'} requested; "
        f"{machine} has {has}{on}, enough for {most}. {fix}, set {lower}{others}, or use a larger cluster (--address)."
    )


def _has_labels(labels: Mapping[str, str], workers: Workers) -> bool:
    """Whether a node has the labels of the workers. Of those with an operator, such as `!spot`, Ray decides."""
    plain = {name: one for name, one in workers.labels.items() if one[:1] != "!" and not one.endswith(")")}
    return all(labels.get(name) == one for name, one in plain.items())


def check_machine(workers: Workers, session: Session) -> None:
    """Compare the workers with this machine's resources, before an embedded Ray is started.

    Raises:
        ConfigError: see `check_fits`.
    """
    if session.embedded and not session.started:
        machine = session.own_resources(gpus=workers.gpus_each > 0)
        any_type = workers.model_copy(update={"accelerator_type": None})  # Ray finds out the type when it starts
        check_fits(any_type, [machine], "this machine")


def check_cluster(workers: Workers, session: Session) -> None:
    """Compare the workers with the resources of the session's Ray, which is started, and of nodes that its autoscaler
    can add.

    Without this check Ray Train would wait half an hour for workers that cannot be placed.

    Raises:
        ConfigError: see `check_fits`.
    """
    import ray  # reads the environment that the session sets when it starts

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and _has_labels(node["Labels"], workers)]
    if session.embedded:
        check_fits(workers, nodes, "this machine's Ray")
        return
    least = workers.range[0]
    if fitting(workers, nodes) < least and can_add([workers.resources] * least) is False:
        check_fits(workers, nodes, "the cluster")
