"""Runs the units of a stage on Ray, with retries and a limit on the time without progress.

Units are tasks of Ray, or calls of actors if the stage has a set-up (unit_workers.py); documents never pass through
Ray. Workers return the record of each unit. If a worker or its machine is lost (a spot machine, for example), its unit
is started again at once. After every round the engine looks on the store for units without a record, which failed or
were lost too often, and does them again, for a limited number of rounds.

Long jobs can hang without an error. If no unit is committed and none fails for `stall_s` seconds, the engine ends the
round, restarts Ray and begins the next round. Time in which no unit could run does not count: before an autoscaler has
started a machine, and while other jobs hold the cluster's CPUs.
"""

import dataclasses
import logging
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from raymill.cluster import logs
from raymill.cluster.artifact import Artifact
from raymill.cluster.entry import Entry
from raymill.cluster.errors import (
    ClusterError,
    ConfigError,
    RaymillError,
    StageError,
    UserError,
    as_record,
    from_record,
    is_panic,
)
from raymill.cluster.formats import plural
from raymill.cluster.metrics import ENDED, FAILED, NOT_EXPORTED, RUNNING, Metrics, connect
from raymill.cluster.nodes import ONE_CPU, without_accelerators
from raymill.cluster.progress import Progress
from raymill.cluster.secret_values import redacted
from raymill.cluster.session import Session
from raymill.cluster.stage import (
    Answer,
    CommitRecord,
    NothingYet,
    Stage,
    add_counters,
    committed,
    discard_damaged,
    discard_stale,
    publish,
    published,
    remove,
    run_unit,
    sweep,
)
from raymill.cluster.wording import of_the_command

log = logging.getLogger(__name__)

# Imported after the start of Ray.
can_add = Entry("raymill.cluster.autoscaler:can_add")
in_tasks = Entry("raymill.cluster.unit_workers:in_tasks")
in_actors = Entry("raymill.cluster.unit_workers:in_actors")

_POLL_S = 2.0
_GIB = 1 << 30
_NO_UNIT = -1


@dataclass(frozen=True)
class RetryLimits:
    """Limits of retries and waiting in a stage.

    attempts: number of rounds. stall_s: a round is ended after this many seconds without a committed or failed unit,
    not counting time in which no unit could run. losses: how often a unit is started again in a round because its
    worker or machine was lost.
    """

    attempts: int = 3
    stall_s: float = 900.0
    losses: int = 5


@dataclass(frozen=True)
class Failure:
    """Why a unit failed: the cause as one line, and the traceback for `--debug`.

    unexpected: it failed with an exception that is not of Raymill.
    """

    cause: str
    traceback: str = ""
    unexpected: bool = False


@dataclass
class Engine:
    """Runs the stages of one run.

    root: the run's folder on the store.
    replace: delete artifacts of this run's outputs that were made with other settings, and make them again.
    check: called before each stage, also those that prepare another, and before its artifacts are published; an error
        that it raises ends the run.
    wall_s: seconds that each stage took, by name; absent for stages that an earlier call began or finished.
    units: number of units of each stage, by name.
    prefix: precedes the stage's name in progress, errors and metrics; see `stage.prefix_of`.
    name: of the run in logs and metrics; default: the last part of `root`.
    """

    root: str
    session: Session
    progress: Progress
    limits: RetryLimits = field(default_factory=RetryLimits)
    replace: bool = False
    check: Callable[[], None] = lambda: None
    wall_s: dict[str, float] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)
    metrics: Metrics = NOT_EXPORTED
    prefix: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or self.root.rpartition("/")[2]

    def run(self, stage: Stage) -> dict[str, Artifact]:
        """Make the stage's artifacts, or find them finished, and return them. Makes damaged and missing files again.

        Raises:
            DataError: there is an artifact with another fingerprint at the URI of an output, or an input changed.
            UserError: a unit raised one whose `is_final` is true; it is not retried.
            ClusterError: Ray died, or could not be started.
            StageError: some units have no result after the last round. The other units are committed.
        """
        self.check()
        self.session.raise_if_interrupted()
        if self.replace:
            discard_stale(stage, self.root)
        discard_damaged(stage, self.root)
        if (done := published(stage, self.root)) is not None:
            for artifact in done.values():
                sweep(artifact)  # the driver that published them may have been killed before its own sweep
            with_files = {file.unit for artifact in done.values() for file in artifact.manifest.files}
            self.units[stage.name] = len(stage.units) or len(with_files)
            return done
        started, prepared, seconds = time.perf_counter(), list[Stage](), 0.0
        if stage.prepare is not None:

            def run(inner: Stage) -> dict[str, Artifact]:
                nonlocal seconds
                made = self.run(inner)
                prepared.append(inner)
                seconds += next(iter(made.values())).manifest.seconds
                return made

            stage = dataclasses.replace(stage, units=stage.prepare(run), prepare=None)
        with logs.about(run=self.name, stage=self._shown(stage)):
            artifacts = self._make(stage, started, seconds)
        for inner in prepared:
            remove(inner, self.root)
        return artifacts

    def _make(self, stage: Stage, started: float, seconds_before: float) -> dict[str, Artifact]:
        """Do the units without a record, and publish the artifacts.

        started: `time.perf_counter` before the stages that prepare this one. seconds_before: seconds of their units.
        """
        self.units[stage.name] = len(stage.units)
        records = committed(stage, self.root)
        before = len(records)
        if len(records) < len(stage.units) and not stage.small:
            self._start_ray()
        self.metrics = connect(self.name)
        self.progress.start(self._shown(stage), len(stage.units), records.values())
        self._show_units(stage, len(records))
        failures: dict[int, Failure] = {}
        state = FAILED
        try:
            for number in range(1, self.limits.attempts + 1):
                missing = [index for index in range(len(stage.units)) if index not in records]
                if not missing:
                    break
                if number > 1:
                    log.warning("round %d for %s", number, plural(len(missing), "unit"))
                    self.metrics.add("raymill_units_retried", len(missing), stage=self._shown(stage))
                self._round(stage, missing, records, failures)
                if len(records) < len(stage.units):
                    records |= committed(stage, self.root)  # a worker may have died after its commit, before its answer
            state = ENDED if len(records) == len(stage.units) else FAILED
        finally:
            self.metrics.set("raymill_run_state", state)
            self.progress.finish()
        if len(records) < len(stage.units):
            raise self._error(stage, records, failures)
        self.check()
        artifacts = publish(stage, self.root, records, seconds_before)
        if not before:
            self.wall_s[stage.name] = round(time.perf_counter() - started, 3)
        return artifacts

    def _shown(self, stage: Stage) -> str:
        """The stage's name, with the prefix."""
        return f"{self.prefix}{stage.name}"

    def _start_ray(self) -> None:
        self.session.start()

    def _round(
        self, stage: Stage, missing: list[int], records: dict[int, CommitRecord], failures: dict[int, Failure]
    ) -> None:
        if not stage.small:
            self._start_ray()  # a stalled round stopped it
            self._refuse_too_large(stage)
        try:
            here = _RunUnit(stage, self.root, self._shown(stage))
            answers = (here.answer(index, stage.units[index]) for index in missing)  # of units in this process
            for answer in answers if stage.small else self._answers(stage, missing, records):
                with logs.about(unit=answer["unit"]):
                    if "error" in answer:
                        failures[answer["unit"]] = Failure(answer["error"], answer["traceback"], answer["unexpected"])
                        self.metrics.add("raymill_failed_attempts", 1, stage=self._shown(stage))
                        log.log(_level(answer), "failed with %s", answer["kind"])
                        if answer["final"]:
                            raise from_record(answer["final"])
                    else:
                        record = CommitRecord.from_json(answer["record"])
                        records[record.unit] = record
                        log.info("committed after %.1f s", record.seconds)
                        self.progress.advance(record)
                        self._count(stage, record)
                        self._show_units(stage, len(records))
        except _Stalled as stall:
            log.error("%s; restarting Ray", stall)
            self.metrics.add("raymill_stalls", 1, stage=self._shown(stage))
            failures.setdefault(_NO_UNIT, Failure(str(stall)))
            self.session.stop()

    def _show_units(self, stage: Stage, done: int) -> None:
        """Export the stage's progress as metrics. done: number of committed units, earlier sessions included."""
        self.metrics.set("raymill_run_state", RUNNING)
        self.metrics.set_to_now("raymill_progress_time")
        self.metrics.set("raymill_stage_units", len(stage.units), stage=self._shown(stage))
        self.metrics.set("raymill_stage_units_done", done, stage=self._shown(stage))

    def _count(self, stage: Stage, record: CommitRecord) -> None:
        """Export the counts of a committed unit as metrics."""
        rows = sum(file.rows for files in record.files.values() for file in files)
        self.metrics.add("raymill_units_committed", 1, stage=self._shown(stage))
        self.metrics.add("raymill_rows_committed", rows, stage=self._shown(stage))
        self.metrics.add("raymill_documents", record.counters.get("documents", 0), stage=self._shown(stage))
        self.metrics.add(
            "raymill_documents_quarantined", record.counters.get("quarantined", 0), stage=self._shown(stage)
        )

    def _answers(self, stage: Stage, missing: list[int], records: Mapping[int, CommitRecord]) -> Iterator[Answer]:
        """One answer per unit, in the order of completion. records: of the units that are done, as they come.

        Raises:
            _Stalled: no unit was committed or failed for `stall_s` seconds, or Ray ended the round with an error.
            ClusterError: the embedded Ray died.
        """
        units = {index: stage.units[index] for index in missing}
        # Otherwise every worker would receive all of them.
        bare = dataclasses.replace(stage, units=(), model=None, watch=None)
        run = _RunUnit(bare, self.root, self._shown(stage), self.name)
        has = self.session.memory()
        wanted = {
            "num_gpus": stage.gpus,
            # At most the memory of an embedded Ray, so that a larger unit runs alone.
            "memory": int(min(stage.memory, has) if has else stage.memory),
            "resources": dict(stage.resources),
            "label_selector": without_accelerators(self.session.nodes(), stage.wanted),
        }
        options = {"num_cpus": stage.cpus} | {name: option for name, option in wanted.items() if option}
        options |= self.session.task_options
        last = checked = time.monotonic()
        can_run = True
        try:
            for answer in self._map(run, units, options):
                now = time.monotonic()
                # About a minute after Ray's head process died, Ray's client would exit this process without an error.
                if isinstance(answer, NothingYet) or now - checked >= _POLL_S:
                    checked = now
                    self._check_ray()
                    if stage.watch:
                        done = add_counters(one.counters for one in records.values())
                        self.progress.within(stage.watch(done))
                if not isinstance(answer, NothingYet):
                    last = now
                    yield answer
                    continue
                could_run, can_run = can_run, answer.running or self.session.could_run(stage.wanted)
                if could_run and not can_run and not self.session.shared:
                    log.warning("waiting: no node of the cluster has a free CPU and memory for a unit")
                if not (could_run and can_run):
                    last = now
                elif now - last > self.limits.stall_s:
                    raise _Stalled(f"no unit was committed or failed for {now - last:.0f} s")
        except (_Stalled, RaymillError):
            raise
        except Exception as error:
            self._check_ray()
            raise _Stalled(f"Ray ended the round: {type(error).__name__}: {error}") from error
        self._check_ray()

    def _refuse_too_large(self, stage: Stage) -> None:
        """Refuse a stage whose units need more than any node has: Ray would wait for a larger node for ever.

        A cluster without CPUs is not refused, because it may get nodes later.

        Raises:
            ConfigError: no node is large enough, and no autoscaler can add one.
        """
        wanted, nodes = stage.wanted, [node for node in self.session.nodes() if node.takes(ONE_CPU)]
        if not nodes or any(node.takes(wanted) for node in nodes) or can_add([wanted]) is not False:
            return
        others = {name: amount for name, amount in wanted.items() if name != "memory"}
        if any(node.takes(others) for node in nodes):
            largest = max(node.has.get("memory", 0) for node in nodes)
            raise ConfigError(
                f"{self._shown(stage)}: one unit takes {stage.memory / _GIB:.1f} GiB of memory, and the largest node "
                f"of the cluster has {largest / _GIB:.1f} GiB for tasks. Join a larger node and run the same command "
                "again; finished stages are kept."
            )
        named = ", ".join(f"{amount:g} {name}" for name, amount in others.items())
        raise ConfigError(
            f"{self._shown(stage)}: one unit takes {named}, and no node has that. Use a machine that has, or join one "
            "to the cluster, and run the same command again; finished stages are kept."
        )

    def _map(
        self, run: "_RunUnit", units: Mapping[int, Any], options: Mapping[str, Any]
    ) -> Iterator[Answer | NothingYet]:
        """The answer to each unit, in the order of completion. options: of its tasks or actors."""
        workers = in_actors if run.stage.setup else in_tasks
        wait_s = min(_POLL_S, self.limits.stall_s)
        room = partial(self.session.room_for_units, run.stage.cpus)
        yield from workers(run, units, options, self.limits.losses, run.stage.concurrency, wait_s, room)

    def _check_ray(self) -> None:
        self.session.raise_if_interrupted()
        if self.session.dead():
            raise ClusterError(
                "Ray on this machine died (its raylet or control process is gone). Finished units are kept: "
                "run the same command again and it continues."
            )

    def _error(self, stage: Stage, records: dict[int, CommitRecord], failures: dict[int, Failure]) -> StageError:
        """One line with stage, unit, file, cause and what to do. The traceback is a note, which `--debug` prints."""
        unfinished = [index for index in range(len(stage.units)) if index not in records]
        first = unfinished[0]
        failure = failures.get(first) or failures.get(_NO_UNIT) or Failure(_WORKER_DIED)
        reads = stage.describe(stage.units[first])
        rounds = plural(self.limits.attempts, "round")
        error = StageError(
            f"{self._shown(stage)}: no result for {len(unfinished)} of {plural(len(stage.units), 'unit')} after "
            f"{rounds}. Unit {first}"
            + (f" ({reads})" if reads else "")
            + f": {_one_line(failure.cause)} Finished units ({len(records)}) are kept: "
            "fix the cause and run the same command again; --debug shows the traceback."
        )
        error.unexpected = failure.unexpected
        if failure.traceback:
            error.add_note(failure.traceback)
        return error


_WORKER_DIED = "its worker died without an error message (often out of memory)."
_CAUSE_CHARACTERS = 400


def _one_line(text: str) -> str:
    """The text without line ends, at most `_CAUSE_CHARACTERS` long, with a full stop."""
    line = " ".join(text.split())
    if len(line) > _CAUSE_CHARACTERS:
        line = line[:_CAUSE_CHARACTERS] + " ..."
    return line if line.endswith((".", "!", "?")) else line + "."


class _Stalled(Exception):
    """No further answers will come in this round."""


def _level(answer: Answer) -> int:
    """The level of the log line of a failed unit. A final error ends the command, which prints its message."""
    return logging.INFO if answer["final"] else logging.ERROR


class _RunUnit:
    """The function that workers call: run a unit; return its record or its error.

    shown, run: the names of the stage and of the run in the log; default: those of `stage` and `root`.
    """

    def __init__(self, stage: Stage, root: str, shown: str | None = None, run: str | None = None) -> None:
        self.stage = stage
        self.root = root
        self.shown = shown or stage.name
        self.run = run or root.rpartition("/")[2]

    def __call__(self, index: int, unit: bytes) -> Answer:
        logs.setup()
        answer = self.answer(index, pickle.loads(unit))
        if "error" in answer:  # logged here too: the driver logs only the answers that it receives
            with logs.about(run=self.run, stage=self.shown, unit=index):
                log.log(_level(answer), "failed with %s", answer["kind"])
        return answer

    @of_the_command()
    def answer(self, index: int, unit: Any) -> Answer:
        with logs.about(run=self.run, stage=self.shown, unit=index):
            try:
                self.stage = self.stage.set_up()  # before the first unit of this worker
                return {"unit": index, "record": run_unit(self.stage, self.root, index, unit).to_json()}
            except BaseException as error:
                if not isinstance(error, Exception) and not is_panic(error):
                    raise
                return {
                    "unit": index,
                    "error": _cause(error),
                    "traceback": redacted(traceback.format_exc()),
                    "kind": type(error).__name__,
                    "unexpected": not isinstance(error, RaymillError),
                    "final": as_record(error) if isinstance(error, RaymillError) and error.is_final else None,
                }


def _cause(error: BaseException) -> str:
    """The message of a UserError; of other exceptions the class, message, notes and line of code."""
    if isinstance(error, UserError):
        return str(error)
    raised = traceback.extract_tb(error.__traceback__)[-1]
    notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
    return f"{type(error).__name__}: {redacted(str(error))}{notes} ({Path(raised.filename).name}, line {raised.lineno})"
