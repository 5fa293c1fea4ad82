"""The driver's part: workers of Ray Train that run the loop, started again when they die, and what they tell.

Ray Train starts processes and a process group, sees deaths and preemptions, and begins again; that is all it is asked.
Checkpoints, metrics and the outcome go by the run's own store, so nothing is reported to Ray, whose report is a barrier
and whose record of checkpoints is bound to its version. The driver, a worker or all may die: the same command goes on.
"""

import logging
import os
import queue
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

from cluster import logs
from cluster.errors import ClusterError, RaymillError
from cluster.lease import Lease
from cluster.page.formats import duration
from cluster.progress import Progress
from cluster.session import Session
from cluster.temporary import temporary_folder
from training.fit.checkpoint.format import saved_folders, step_of
from training.fit.console import Watch, watch_like
from training.fit.job import Job
from training.fit.outcome import Failures, finished, make_way
from training.fit.preflight import check_cluster, check_trackers
from training.fit.records import Outcome

log = logging.getLogger(__name__)

Afterwards = Callable[[Job, Outcome], object]

_LOOK_EVERY_S = 2.0

# A group of workers that cannot be started is tried so often, each time for so long: a new GPU node takes minutes.
_STARTS = 3
_START_TIMEOUT_S = 600

# Ray Train looks at its workers so often, and starts with a look; its default of 2 s adds up in a short run.
_HEALTH_EVERY_S = 0.5

# More workers than before begin from the last checkpoint, so growing is not to cost more than it brings.
_GROW_EVERY_S = 600.0


def fit_on_ray(
    job: Job,
    session: Session,
    progress: Progress,
    replace: bool = False,
    lease: Lease | None = None,
    afterwards: Afterwards | None = None,
) -> Outcome:
    """Train, or go on training, or find it done (then Ray is not started).

    Args:
        replace: remove what a training of other settings left in the run's folder.
        lease: of the run's folder; training stops when it is lost.
        afterwards: what the first worker does after the last step; not called where training is found done.

    Raises:
        ConfigError: the cluster cannot hold the workers, or a tracker is not installed.
        UserError: what a worker met that the user can mend, with its message alone.
        ClusterError: the workers failed more often than `failures` allows.
    """
    make_way(job, replace)
    if (done := finished(job)) is not None:
        return done
    check_trackers(job.config.track)
    job.store.require_conditional_writes(job.root)
    session.start()
    check_cluster(job.config, session)
    submission = uuid.uuid4().hex[:12]
    failures = Failures(job, submission)
    with logs.about(run=job.root.rpartition("/")[2], stage="fit"):
        failed = _run(job, session, progress, submission, failures, lease, afterwards)
    done = finished(job)
    if (error := failures.found(final=True)) is not None:
        raise error
    if done is None:
        raise failures.found(final=False) or _explained(failed, job)
    failures.forget()
    return done


def _run(
    job: Job,
    session: Session,
    progress: Progress,
    submission: str,
    failures: Failures,
    lease: Lease | None,
    afterwards: Afterwards | None = None,
) -> BaseException | None:
    """Ray Train's run in a thread: this one watches, and hears an interrupt, which Ray would take for a success.

    Ends at once where a worker met what trying again cannot mend: Ray Train would start all workers again first.
    """
    ended: queue.Queue[BaseException | None] = queue.Queue()
    folder = temporary_folder("fit")
    trainer = _trainer(job, submission, str(folder), afterwards, session.embedded)
    watch = watch_like(progress, job)
    trained: float | None = None  # when the last step was seen to be done
    threading.Thread(target=_fit, args=(trainer, ended), daemon=True, name="ray-train").start()
    try:
        while True:
            try:
                return ended.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                watch.look()
                if failures.found(final=True) is not None:
                    return None
                if afterwards is not None and trained is None:
                    trained = _trained(job, watch, progress)
            if lease is not None:
                lease.check()
            if session.dead():
                raise ClusterError(
                    "Ray on this machine died (its raylet or control process is gone). "
                    f"{_kept(job)}: run the same command again."
                )
    finally:
        if trained is None:
            watch.finish()
        else:
            progress.say(f"evaluation and export: took {duration(time.monotonic() - trained)}")
        shutil.rmtree(folder, ignore_errors=True)


def _trained(job: Job, watch: Watch, progress: Progress) -> float | None:
    """Now, and a line for it, where all steps are done."""
    if finished(job) is None:
        return None
    watch.finish()
    progress.say("training: all steps are done; evaluation and export follow")
    return time.monotonic()


def _fit(trainer: Any, ended: "queue.Queue[BaseException | None]") -> None:
    try:
        trainer.fit()
        ended.put(None)
    except BaseException as error:  # whatever it is, the main thread must hear of it
        ended.put(error)


def _trainer(job: Job, submission: str, folder: str, afterwards: Afterwards | None, embedded: bool) -> Any:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_TIMEOUT_S))
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(_HEALTH_EVERY_S))
    if embedded:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from training.fit.ray_trainer import EmbeddedTrainer, SharedGpus, Trainer

    config = job.config
    least, most = config.workers.range
    gpus = config.workers.gpus_each
    return (EmbeddedTrainer if embedded else Trainer)(
        _work,
        train_loop_config={"job": job, "submission": submission, "afterwards": afterwards},
        backend_config=SharedGpus(),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # known by the names of an older version
            num_workers=least if least == most else (least, most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=_GROW_EVERY_S,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": config.workers.cpus_each} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=RunConfig(
            name=submission,
            storage_path=folder,  # holds nothing: what must survive is ours, and lies on the run's store
            failure_config=FailureConfig(  # type: ignore[call-arg]  # likewise
                max_failures=config.failures.max,
                max_preemption_failures=config.failures.max_preemptions,
                controller_failure_limit=_STARTS,
            ),
        ),
    )


def _work(told: dict[str, Any]) -> None:
    """One worker, in a thread of a process that Ray Train started; torch and all are imported here and not before."""
    job: Job = told["job"]
    failures = Failures(job, told["submission"])
    logs.setup()
    if failures.found(final=True) is not None:
        return  # a worker of an earlier attempt met what trying again cannot mend
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if job.config.workers.gpus_each else "cpu")
    from training.fit.deterministic import deterministic_algorithms
    from training.fit.heartbeat import MissingWorker
    from training.fit.loop import fit
    from training.fit.process_group import ray_group

    try:
        with logs.about(run=job.root.rpartition("/")[2], stage="fit"):
            with (
                deterministic_algorithms(job.config.deterministic),
                ray_group(job.config.workers.gpus_each, job.config.workers.timeout_s) as ranks,
                logs.about(rank=ranks.rank),
            ):
                outcome = fit(job, ranks)
            if ranks.first and told["afterwards"] is not None:
                told["afterwards"](job, outcome)
    except RaymillError as error:
        # What a worker died of is told before what the others made of it.
        if not (isinstance(error, MissingWorker) and failures.found(final=False)):
            failures.tell(error)
        raise


def _kept(job: Job) -> str:
    """What a training that failed has left, as the beginning of a sentence."""
    found = saved_folders(job)
    return f"Checkpoints up to step {step_of(found[-1]):,} are kept" if found else "There is no checkpoint yet"


def _explained(failed: BaseException | None, job: Job) -> ClusterError:
    """What Ray Train gave up for, in one line."""
    causes = getattr(failed, "worker_failures", None) or {None: getattr(failed, "controller_failure", None) or failed}
    rank, cause = next(iter(causes.items()))
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = lines[-1] if isinstance(cause, Exception) and "Traceback" in str(cause) else (lines or ["no cause told"])[0]
    named = "" if rank is None else f"rank {rank}: "
    return ClusterError(
        f"training: its workers failed more often than failures.max ({job.config.failures.max}) allows, at last with: "
        f"{named}{said[:400].rstrip('.')}. {_kept(job)}: mend the cause and run the same command again."
    )
