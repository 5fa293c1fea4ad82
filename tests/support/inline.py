"""Runs a stage's units one after the other in this process: everything of a run but Ray, in milliseconds."""

import pyarrow as pa

from cluster import stage as stages
from cluster.engine import Engine
from cluster.frame import job as frame
from cluster.progress import Progress, Silent
from cluster.session import Session
from pipelines.curate import job as job
from pipelines.curate.config import CurateConfig
from pipelines.prepare import job as prepare_job
from pipelines.prepare.config import PrepareConfig


class InlineEngine(Engine):
    def _start_ray(self) -> None: ...

    def _round(self, stage, missing, records, failures) -> None:
        for index in missing:
            records[index] = stages.run_unit(stage, self.root, index, stage.units[index])


class RoundsInline(Engine):
    """The engine as it is, with its rounds, limits and answers; only Ray Data is replaced by a loop."""

    def _map(self, run, rows, options):
        for row in rows:
            yield from run(pa.Table.from_pylist([row]))["answer"].to_pylist()


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

    def could_run(self, round_id: str, memory: float) -> bool:
        self.cpus_come_after -= 1
        return self.cpus_come_after < 0


def without_ray(patch, engine: type[Engine] | None = None) -> None:
    """Have the stages of curate and prepare run in this process."""
    patch.setattr(frame, "Engine", engine or InlineEngine)
    patch.setattr(prepare_job, "Engine", engine or InlineEngine)


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
        without_ray(patch, engine)
        return job.curate(config, session or Session(), progress or Silent(), replace=replace)


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
        without_ray(patch, engine)
        return prepare_job.prepare(config, session or Session(), progress or Silent(), replace=replace)
