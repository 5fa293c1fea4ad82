"""The main job of `raymill promote`: it points an alias to a model.

The digests of the model and of the run that is the evidence for it are recorded. A finished promotion is not repeated,
also not after the alias was moved on or rolled back.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import fingerprint
from raymill.cluster.asking.backends import exported, located
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.errors import ConfigError
from raymill.cluster.frame.execution import Execution
from raymill.cluster.frame.job import Made, Making, Run, RunJob
from raymill.cluster.frame.run_name import NAME, RunName, named_after_output
from raymill.cluster.inspection import is_run, nothing_here, read_run_manifest
from raymill.cluster.run import RunFolder, reading_report
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.cluster.store.interface import Storage, StorageOptions
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import GIB, Machines
from raymill.training.promote.alias import Alias, model_digest, models_folder


class PromoteConfig(BaseModel, extra="forbid", frozen=True):
    """A model, and the alias that is pointed to it."""

    kind: Literal["promote"] = Field(description="Kind of run: promote")
    name: RunName = ""
    model: paths.AbsolutePath = Field(description="Output of a run, or model folder, that the alias is pointed to")
    alias: str = Field(pattern=NAME, max_length=100, description="The alias, such as champion")
    folder: paths.AbsolutePath | None = Field(
        None, description="Folder or URI with the aliases; null: $RAYMILL_MODELS, else ./models"
    )
    evidence: paths.AbsolutePath | None = Field(
        None,
        description="Output of a run with `passed: true` in its report, such as a comparison whose first model is the "
        "promoted one; null: none",
    )
    output: str = Field(min_length=1, description="Folder or URI of the record of this promotion")
    execution: Execution = Field(Execution(), description="Tries and CPUs; a promotion has no units of work")  # type: ignore[call-arg]
    storage: Storage = StorageOptions()  # type: ignore[call-arg]

    @model_validator(mode="before")
    @classmethod
    def _named(cls, settings: Any) -> Any:
        return named_after_output(settings, "promote")

    @property
    def store(self) -> Store:
        return Store(self.storage)


class PromoteRun(Run):
    """A finished promotion."""

    @property
    def summary(self) -> str:
        report = self.report
        before = f", before {report['before']}" if report["before"] else ""
        return f"{report['alias']} is {report['model']} (version {report['version']}{before})"

    @property
    def _results(self) -> dict[str, str]:
        return {}


class PromoteJob(RunJob[PromoteConfig]):
    """Point an alias, such as champion, to a model. `raymill alias FOLDER NAME` reads it."""

    kind, run_type = "promote", PromoteRun

    @cached_property
    def alias(self) -> Alias:
        """The alias."""
        return Alias(self.store, self.config.folder or models_folder(), self.config.alias)

    @cached_property
    def digest(self) -> str:
        """Digest of the model."""
        return model_digest(self.store, self.config.model)

    @cached_property
    def evidence(self) -> dict[str, Any] | None:
        """The evidence: URI of the run, its digest, and `passed` of its report."""
        if (uri := self.config.evidence) is None:
            return None
        manifest = read_run_manifest(self.store, uri)
        if not is_run(manifest):
            raise nothing_here(self.store, uri, "no finished run, which `evidence` names")
        report = RunFolder(self.store, uri).report()
        if (passed := report.get("passed")) is not True:
            seen = f"evidence: {uri} has `passed: {json.dumps(passed)[:40]}` in its report"
            raise ConfigError(
                f"{seen}, so the model is not promoted; true is wanted, as of a comparison with a `gate`."
            )
        if manifest.get("kind") == "compare":
            self._refuse_other_model(uri, report)
        return {"run": uri, "digest": manifest["digest"], "passed": True}

    def _refuse_other_model(self, uri: str, report: Mapping[str, Any]) -> None:
        """Verify that the first model of a comparison is the promoted one.

        Raises:
            ConfigError: it is another one, or was made again after the comparison.
        """
        with reading_report(uri):
            first = report["models"]["A"]
            compared = first["at"], first["revision"]
        model = exported(self.store, ModelSettings(path=self.config.model))
        revision = located(self.store, model).revision
        if compared not in ((self.config.model, revision), (model.path, revision)):
            seen = f"{compared[0]!s:.500} (fingerprint {compared[1]!s:.24})"
            raise ConfigError(
                f"evidence: {uri} compared {seen} with others, and {self.config.model} (fingerprint {revision[:24]}) "
                "is to be promoted. Compare it as the first of the models."
            )

    def settings(self) -> dict[str, Any]:
        return {"alias": self.config.alias, "folder": self.alias.folder}

    def inputs(self) -> str | None:
        evidence = self.evidence and [self.evidence["digest"], self.evidence["passed"]]
        return fingerprint([self.digest, evidence])

    def input_changes(self) -> str:
        return "the model or the evidence was made again"

    def check(self, session: Session, replace: bool) -> None:
        _ = self.digest, self.evidence

    def make(self, making: Making) -> Made:
        now = self.alias.move(self.config.model, self.digest, self.evidence)
        before = self.alias.read(now.version - 1) if now.version > 1 else None
        report = {"alias": self.config.alias, "folder": self.alias.folder, "before": before and before.model}
        digests = {"model": fingerprint([self.settings()["alias"], self.inputs()])}
        return Made(report | asdict(now), digests, {"finished": now.moved})

    def damage(self, manifest: Mapping[str, Any], compare_sha256: bool) -> dict[str, str]:
        return self.missing_reports()

    def page_facts(self, report: dict[str, Any]) -> dict[str, Any]:
        shown = {name: report[name] for name in ("alias", "model", "digest", "before", "moved")}
        shown |= {f"evidence_{name}": value for name, value in (report["evidence"] or {}).items()}
        return {
            "version": report["version"],
            "promotion": [
                {"what": name, "value": "" if value is None else str(value)} for name, value in shown.items()
            ],
        }

    def submitted(self) -> dict[str, Any]:
        given = {"model": self.config.model, "evidence": self.config.evidence, "folder": self.alias.folder}
        return super().submitted() | {name: value for name, value in given.items() if value is not None}

    def unit_count(self) -> int:
        return 1

    def machines(self, seconds: float | None) -> Machines:
        return Machines("cpu", cpus=1, memory=4 * GIB, disk=12 * GIB, largest_task=GIB)


def plan_promotion(settings: PromoteConfig) -> Answer:
    """The plan of a promotion, which takes a few requests to the store."""
    values = {"kind": settings.kind, "name": settings.name, "seconds": 1.0, "money": 0.0}
    return Answer(values, f"plan of {settings.name}: a few requests to the store")


def dry_run(settings: PromoteConfig, address: str | None = None) -> Iterator[str]:
    """Lines about the model, the evidence and the alias. address: not used, since nothing is started.

    Raises:
        UserError: as the run.
    """
    job = PromoteJob(settings)
    now, done = job.alias.current(), job.find().run is not None
    yield f"model    {settings.model}, digest {job.digest}"
    yield f"evidence {job.evidence['run'] if job.evidence else 'none'}"
    yield f"alias    {settings.alias} in {job.alias.folder}: {f'is {now.model}' if now else 'new'}"
    yield f"output   {job.root}: {'finished, nothing to do' if done else 'to be made'}"
