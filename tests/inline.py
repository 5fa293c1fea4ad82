"""Runs a stage's units one after the other in this process: everything of a run but Ray, in milliseconds."""

from cluster import stage as stages
from cluster.engine import Engine
from cluster.progress import Silent
from cluster.session import Session
from pipelines import curate as job
from pipelines.config import CurateConfig


class InlineEngine(Engine):
    def _round(self, stage, missing, records, failures) -> None:
        for index in missing:
            records[index] = stages.run_unit(stage, self.root, index, stage.units[index])


def curate_inline(settings: dict, monkeypatch, *, replace: bool = False) -> job.Run:
    """`curate` on a config given as plain settings."""
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    with monkeypatch.context() as patch:
        patch.setattr(job, "Engine", InlineEngine)
        return job.curate(config, Session(), Silent(), replace=replace)
