"""`raymill cross-validate`: one training a fold of a prepared data set, each scored on the fold that it leaves out.

    OUTPUT/fold-0, fold-1, ...   a run of `raymill train` each, with `split.fold`
    OUTPUT/folds.json            the scores of each fold, their mean and standard deviation; written after the last fold

Scores are those of the evaluation: accuracy, precision, recall and F1 of a classifier (one that is trained, or
`generate: {answer: label}`); exact match, F1 of words and others of generated answers; and the loss on the fold. The
records for testing take no part, so the test split stays unseen. Folds are trained one after the other; a fold that is
finished is not trained again.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from statistics import mean, stdev
from typing import Any, TypedDict

from raymill import cluster
from raymill.cluster.answer import Answer
from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress, run_of
from raymill.cluster.frame.job import Made, Making, Run, RunJob
from raymill.cluster.nodes import Resources
from raymill.cluster.progress import Progress
from raymill.cluster.record import json_bytes
from raymill.cluster.report.page import page
from raymill.cluster.report.sections import plain_sections
from raymill.cluster.run import RunFolder
from raymill.cluster.session import Session
from raymill.cluster.store import paths
from raymill.cluster.submit.work import Machines, job_config
from raymill.training.config import TrainConfig
from raymill.training.job import TrainJob, run_damage, run_settings
from raymill.training.output_folder import refuse_output_among_inputs
from raymill.training.pack.job import with_exported_model
from raymill.training.work import with_absolute_paths

_MOST_FOLDS = 100  # that `split.folds` of `prepare` takes

FOLDS_JSON = "folds.json"


class FoldScores(TypedDict):
    """Scores of a training on the fold that it left out. documents: of the fold."""

    fold: int
    output: str
    documents: int
    scores: dict[str, float]


class Spread(TypedDict):
    """A score over the folds. deviation: the standard deviation of the folds."""

    mean: float
    deviation: float
    least: float
    most: float


class CrossValidation(TypedDict):
    """What folds.json holds. datasets: URI of each data set -> digest of its run."""

    name: str
    datasets: dict[str, str]
    folds: list[FoldScores]
    scores: dict[str, Spread]


class FoldsRun(Run):
    """A finished cross-validation. Its report is a `CrossValidation`."""

    @property
    def summary(self) -> str:
        return scores_text(self.report)

    @property
    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """The spread of each score."""
        numbers = ("mean", "deviation", "least", "most")
        rows = [[name, *(f"{one[each]:.3f}" for each in numbers)] for name, one in self.report["scores"].items()]
        return ("score", *numbers), rows

    @property
    def _results(self) -> dict[str, str]:
        return {"scores": paths.join(self.uri, FOLDS_JSON)}


def fold_configs(config: TrainConfig) -> tuple[dict[str, str], list[TrainConfig]]:
    """(URI of each data set -> digest of its run, the config of the training of each fold).

    Raises:
        ConfigError: the config names a fold or has phases, or the data sets differ in their folds.
        DataError: a corpus is no finished data set of `raymill prepare` with folds.
    """
    if config.split.fold is not None:
        raise ConfigError(f"split.fold: {config.split.fold} given; every fold is tested. Leave it out.")
    if config.phases:
        raise ConfigError("phases: a cross-validation trains once a fold. Leave them out.")
    if config.continue_from:
        raise ConfigError(
            "continue_from: that run was trained on documents that a cross-validation tests. Leave it out."
        )
    digests, counts = dict[str, str](), dict[str, int]()
    for store, corpus in zip(config.corpus_stores, config.corpus, strict=True):
        uri = paths.absolute(corpus.path)
        manifest = RunFolder(store, uri).require("prepare", "Its folds are tested one by one.")
        split = manifest["config"].get("split")
        number = split.get("folds") if isinstance(split, dict) else None
        if not number:
            raise DataError(f"{uri}: has no folds. Prepare it with `split: {{folds: 5}}`, or another number.")
        if type(number) is not int or not 2 <= number <= _MOST_FOLDS:
            raise DataError(f"{uri}: its manifest states {number!r:.40} folds. Prepare it again.")
        digests[uri], counts[uri] = manifest["digest"], number
    if len(set(counts.values())) > 1:
        seen = ", ".join(f"{uri} {count}" for uri, count in counts.items())
        raise ConfigError(f"corpus: the data sets have different numbers of folds ({seen}). Prepare them with one.")
    output, found = paths.absolute(config.output), []
    for fold in range(next(iter(counts.values()))):
        update: dict[str, Any] = {
            "kind": "train",
            "name": f"{config.name}-fold-{fold}",
            "split": config.split.model_copy(update={"fold": fold}),
            "output": paths.join(output, f"fold-{fold}"),
        }
        if config.packed:
            update["packed"] = paths.join(paths.absolute(config.packed), f"fold-{fold}")
        found.append(config.model_copy(update=update))
    return digests, found


class CrossValidateJob(RunJob[TrainConfig]):
    """Score a data set by training: one model a fold of `split.folds`, each tested on the fold that it leaves out.

    A second run continues where the first stopped. Scores: OUTPUT/folds.json
    """

    kind, run_type, all_at_once = "cross-validate", FoldsRun, True

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(with_exported_model(config))
        self._given = config

    @cached_property
    def trainings(self) -> list[TrainJob]:
        """The training of each fold."""
        return [TrainJob(one) for one in self._folds[1]]

    @cached_property
    def _folds(self) -> tuple[dict[str, str], list[TrainConfig]]:
        return fold_configs(self.config)

    def settings(self) -> dict[str, Any]:
        return run_settings(self.config)

    def inputs(self) -> str | None:
        runs = [one.find().run for one in self.trainings]
        return None if None in runs else fingerprint([run and run.manifest["inputs"] for run in runs])

    def input_changes(self) -> str:
        return "the data sets changed"

    def require_extras(self, *, computes: bool = True) -> None:
        TrainJob(self.config).require_extras(computes=computes)

    def begin(self, session: Session, progress: Progress, replace: bool) -> None:
        refuse_output_among_inputs(self.config)
        _ = self.trainings

    def make(self, making: Making) -> Made | Run:
        folds, digests = [], {}
        for fold, training in enumerate(self.trainings):
            run = training.run(making.session, making.progress, replace=making.replace, verify=making.verify)
            fit = run.report["fits"][-1]
            measured = fit["after"].get("test")
            scores = dict(fit["generation"]) | ({"loss": measured["loss"]} if measured else {})
            splits = [split for corpus in fit["corpora"] for split in corpus["splits"] if split["split"] == "test"]
            documents = sum(split["documents"] for split in splits)
            folds.append(FoldScores(fold=fold, output=run.uri, documents=documents, scores=scores))
            digests[run.uri.removeprefix(f"{self.root}/")] = run.manifest["digest"]
        if (there := self.find().run) is not None:
            return there
        found = CrossValidation(name=self.config.name, datasets=self._folds[0], folds=folds, scores=spread(folds))
        self.store.write_bytes(paths.join(self.root, FOLDS_JSON), json_bytes(found))
        return Made(found, digests, {"finished": datetime.now(UTC).isoformat(timespec="seconds")})

    def damage(self, manifest: Mapping[str, Any], compare_sha256: bool) -> dict[str, str]:
        scores = paths.join(self.root, FOLDS_JSON)
        return run_damage(self.folder, manifest) | ({} if self.store.exists(scores) else {scores: "is gone"})

    def page(self, made: Made) -> str:
        tables = {
            "scores": [{"score": name, **one} for name, one in made.report["scores"].items()],
            "folds": [{"fold": str(one["fold"]), "documents": one["documents"]} for one in made.report["folds"]],
            "data_sets": [{"output": uri, "digest": digest} for uri, digest in made.report["datasets"].items()],
            # The addresses of trackers and stores may contain a password.
            "config": self.config.without_stores({"track"}, exclude_none=True),
        }
        shown = plain_sections(tables)
        return page("Cross-validation", self.config.name, made.more["finished"], cluster.__version__, self.root, shown)

    # On other machines: each training in its turn needs the same.

    def submitted(self) -> dict[str, Any]:
        return with_absolute_paths(job_config(self._given), self._given)

    def identity(self) -> list[Any]:
        return [self.settings(), *(one.identity() for one in self.trainings)]

    def unit_count(self) -> int:
        return sum(one.unit_count() for one in self.trainings)

    def machines(self, seconds: float | None) -> Machines:
        return self.trainings[0].machines(seconds)

    def reserved(self, *, memory: bool) -> Resources:
        return self.trainings[0].reserved(memory=memory)

    def must_exist(self) -> tuple[str, ...]:
        return self.trainings[0].must_exist()


class FoldsAnswer(Answer):
    """The scores of a cross-validation, as folds.json has them. uri: of folds.json."""

    def __init__(self, scores: CrossValidation, uri: str) -> None:
        super().__init__(scores, scores_text(scores))
        self.uri = uri


def cross_validate_config(
    config: AnyConfig = None,
    override: Changes = None,
    *,
    address: str | None = None,
    replace: bool = False,
    verify: bool = False,
    progress: ShownProgress = None,
    **settings: Any,
) -> FoldsAnswer:
    """Score a data set by training: one model a fold of `split.folds`, each tested on the fold that it leaves out.

    A second call continues where the first stopped. Scores: OUTPUT/folds.json

    Args:
        config: a file, a dict, or a config object of kind train or cross-validate.
        override: changes of single settings.
        address: of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: train again where other settings left a result.
        verify: compare the sha256 of finished files, not only their sizes.
        progress: as of `raymill.train`.
        settings: settings that replace those of the config.

    Raises:
        UserError: the config names a fold, or a corpus has none.
        ClusterError: machines failed; the same call continues.
    """
    options: dict[str, Any] = {"address": address, "replace": replace, "verify": verify, "progress": progress}
    run = run_of("cross-validate", config, settings, override=override, **options)
    return FoldsAnswer(run.report, run.results["scores"])


def spread(folds: Sequence[FoldScores]) -> dict[str, Spread]:
    """The spread of each score that every fold has."""
    found = {}
    for name in folds[0]["scores"]:
        if all(name in one["scores"] for one in folds):
            values = [one["scores"][name] for one in folds]
            deviation = stdev(values) if len(values) > 1 else 0.0
            found[name] = Spread(mean=mean(values), deviation=deviation, least=min(values), most=max(values))
    return found


def scores_text(found: CrossValidation) -> str:
    """The scores as a table, a line a score: mean, standard deviation, least and most of the folds."""
    first, *others = [f"{one['documents']:,}" for one in found["folds"]]
    lines = [
        f"{found['name']}, {len(found['folds'])} folds: " + ", ".join([f"{first} documents", *others]),
        f"{'score':<24}{'mean':>8}{'deviation':>12}{'least':>8}{'most':>8}",
    ]
    lines += [
        f"{name:<24}{one['mean']:>8.3f}{one['deviation']:>12.3f}{one['least']:>8.3f}{one['most']:>8.3f}"
        for name, one in found["scores"].items()
    ]
    return "\n".join(lines)
