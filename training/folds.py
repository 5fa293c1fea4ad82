"""`raymill cross-validate`: one training a fold of a prepared data set, each scored on the fold that it leaves out.

    OUTPUT/fold-0, fold-1, ...   a run of `raymill train` each, with `split.fold`
    OUTPUT/folds.json            the scores of each fold, their mean and standard deviation; written last

Scores are those of the evaluation: accuracy, precision, recall and F1 of a classifier (one that is trained, or
`generate: {answer: label}`); exact match, F1 of words and others of generated answers; and the loss on the fold. The
records for testing take no part, so the test split stays unseen. Folds are trained one after the other; a fold that is
finished is not trained again.
"""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, TypedDict

from raymill.cluster.answer import Answer
from raymill.cluster.entry import require_extra
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.calls import AnyConfig, Changes, ShownProgress, config_of
from raymill.cluster.frame.commands import Address, ConfigFile, Overrides, Replace
from raymill.cluster.progress import Progress
from raymill.cluster.progress_display import chosen_progress
from raymill.cluster.record import json_bytes
from raymill.cluster.run import RunFolder
from raymill.cluster.session import Session, opened
from raymill.cluster.store import paths
from raymill.training.config import TrainConfig
from raymill.training.job import train

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


def cross_validate(
    config: ConfigFile, override: Overrides = None, address: Address = None, replace: Replace = False
) -> None:
    """Score a data set by training: one model a fold of `split.folds`, each tested on the fold that it leaves out.

    A second run continues where the first stopped. Scores: OUTPUT/folds.json
    """
    found = cross_validate_config(config, override, address=address, replace=replace)
    print(found)
    print(f"scores  {found.uri}")


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
    progress: ShownProgress = None,
    **settings: Any,
) -> FoldsAnswer:
    """Score a data set by training: one model a fold of `split.folds`, each tested on the fold that it leaves out.

    A second call continues where the first stopped. Scores: OUTPUT/folds.json

    Args:
        config: a file, a dict, or a config object of kind train.
        override: changes of single settings.
        address: of a Ray cluster; None: the Ray of this process, else one on this machine.
        replace: train again where other settings left a result.
        progress: as of `raymill.train`.
        settings: settings that replace those of the config.

    Raises:
        UserError: the config names a fold, or a corpus has none.
        ClusterError: machines failed; the same call continues.
    """
    require_extra("train", "raymill cross-validate")
    whole: TrainConfig = config_of(config, settings, override, "train")
    shown = chosen_progress(progress)
    with opened(address, whole.execution.cpus, shown) as session:
        found = train_folds(whole, session, shown, replace=replace)
    return FoldsAnswer(found, paths.join(paths.absolute(whole.output), FOLDS_JSON))


def train_folds(config: TrainConfig, session: Session, progress: Progress, *, replace: bool = False) -> CrossValidation:
    """Train a model for each fold, and write what they score. Continues where an earlier call stopped.

    Args:
        replace: train again where other settings left a result.

    Raises:
        ConfigError: the config names a fold or has phases, or the data sets differ in their folds.
        DataError: a corpus is no finished data set of `raymill prepare` with folds.
        UserError, ClusterError: as `train`.
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
        digests[uri], counts[uri] = manifest["digest"], manifest["config"]["split"]["folds"]
        if not counts[uri]:
            raise DataError(f"{uri}: has no folds. Prepare it with `split: {{folds: 5}}`, or another number.")
    if len(set(counts.values())) > 1:
        seen = ", ".join(f"{uri} {count}" for uri, count in counts.items())
        raise ConfigError(f"corpus: the data sets have different numbers of folds ({seen}). Prepare them with one.")
    output, found = paths.absolute(config.output), []
    for fold in range(next(iter(counts.values()))):
        update: dict[str, Any] = {
            "name": f"{config.name}-fold-{fold}",
            "split": config.split.model_copy(update={"fold": fold}),
            "output": paths.join(output, f"fold-{fold}"),
        }
        if config.packed:
            update["packed"] = paths.join(paths.absolute(config.packed), f"fold-{fold}")
        run = train(config.model_copy(update=update), session, progress, replace=replace)
        fit = run.report["fits"][-1]
        measured = fit["after"].get("test")
        scores = dict(fit["generation"]) | ({"loss": measured["loss"]} if measured else {})
        splits = [split for corpus in fit["corpora"] for split in corpus["splits"] if split["split"] == "test"]
        documents = sum(split["documents"] for split in splits)
        found.append(FoldScores(fold=fold, output=run.uri, documents=documents, scores=scores))
    result = CrossValidation(name=config.name, datasets=digests, folds=found, scores=spread(found))
    config.store.write_bytes(paths.join(output, FOLDS_JSON), json_bytes(result))
    return result


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
