"""Runs a stage's units one after the other in this process: everything of a run but Ray, in milliseconds."""

import pickle
import queue
import threading

from raymill.cluster import engine as engines
from raymill.cluster import stage as stages
from raymill.cluster.engine import Engine
from raymill.cluster.frame import job as frame
from raymill.cluster.nodes import Node, Resources
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.stage import NothingYet
from raymill.pipelines.curate import job as job
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.prepare import job as prepare_job
from raymill.pipelines.prepare.config import PrepareConfig


class InlineEngine(Engine):
    def _start_ray(self) -> None: ...

    def _round(self, stage, missing, records, failures) -> None:
        stage = stage.set_up()
        for index in missing:
            records[index] = stages.run_unit(stage, self.root, index, stage.units[index])


class RoundsInline(Engine):
    """The engine as it is, with its rounds, limits and answers; only Ray's workers are replaced by a thread."""

    def _map(self, run, units, options):
        answers: queue.Queue = queue.Queue()
        threading.Thread(target=self._work, args=(run, units, answers), daemon=True).start()
        while True:
            try:
                answer = answers.get(timeout=min(engines._POLL_S, self.limits.stall_s))
            except queue.Empty:
                yield NothingYet(running=False)
                continue
            if answer is None:
                return
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _work(self, run, units, answers) -> None:
        try:
            for answer in self._answers_of(run, units):
                answers.put(answer)
            answers.put(None)
        except BaseException as error:
            answers.put(error)

    def _answers_of(self, run, units):
        for index, unit in units.items():
            yield run(index, pickle.dumps(unit))


class NoRay(Session):
    """A session that starts nothing and counts how often it was started and stopped."""

    def __init__(self, *arguments) -> None:
        super().__init__()
        self.starts = self.stops = 0
        self.lost = False
        self.cpus_come_after = 0  # questions

    def start(self) -> None:
        self.starts += not self.started
        self.started = True

    def stop(self) -> None:
        self.stops += self.started
        self.started = False

    def dead(self) -> bool:
        return self.lost

    def memory(self) -> float:
        return 0

    def nodes(self) -> list[Node]:
        return []

    def could_run(self, wanted: Resources) -> bool:
        self.cpus_come_after -= 1
        return self.cpus_come_after < 0


def without_ray(patch, engine: type[Engine] | None = None, session: Session | None = None) -> None:
    """Have the stages of a run in the frame run in this process, of a machine with two CPUs; or by this session."""
    patch.setattr(frame, "Engine", engine or InlineEngine)
    if session is not None:
        return
    patch.setattr(Session, "start", lambda self: None)
    patch.setattr(Session, "nodes", lambda self: [Node("here", {"CPU": 2.0})])


def curate_inline(
    settings: dict,
    monkeypatch,
    *,
    replace: bool = False,
    progress: Progress | None = None,
    engine: type[Engine] | None = None,
    session: Session | None = None,
) -> job.CurateRun:
    """`curate` on a config given as plain settings."""
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    with monkeypatch.context() as patch:
        without_ray(patch, engine, session)
        return job.curate(config, session or Session(), progress or Progress(), replace=replace)


def prepare_inline(
    settings: dict,
    monkeypatch,
    *,
    replace: bool = False,
    progress: Progress | None = None,
    engine: type[Engine] | None = None,
    session: Session | None = None,
) -> prepare_job.PrepareRun:
    """`prepare` on a config given as plain settings."""
    config = PrepareConfig.model_validate({"kind": "prepare", "name": "test"} | settings)
    with monkeypatch.context() as patch:
        without_ray(patch, engine, session)
        return prepare_job.prepare(config, session or Session(), progress or Progress(), replace=replace)
