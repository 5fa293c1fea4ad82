"""Scores of a model that was trained on the data set, as `raymill cross-validate` writes them to folds.json."""

from typing import TypedDict

from pydantic import BaseModel, ValidationError

from cluster.errors import DataError
from cluster.store import paths
from cluster.store.store import Store

FOLDS_JSON = "folds.json"
PREFIX = "trained_"  # of the names of metrics and gates
_NO_FRACTION = ("loss", "bleu")


class TrainedScore(TypedDict):
    """A score over the folds. mean: in [0, 1]. worst: the fold with the least score, and the output of its training."""

    mean: float
    deviation: float
    folds: int
    worst: int
    worst_output: str


class _Spread(BaseModel):
    mean: float
    deviation: float


class _Fold(BaseModel):
    fold: int
    output: str
    scores: dict[str, float]


class _CrossValidation(BaseModel):
    datasets: dict[str, str]
    folds: list[_Fold]
    scores: dict[str, _Spread]


def read_trained(store: Store, at: str, output: str, digest: str) -> dict[str, TrainedScore]:
    """The scores by name, without those that are no fractions, such as the loss.

    Args:
        at: output of a cross-validation, or its folds.json. output, digest: of the data set.

    Raises:
        DataError: there is no such file, it is damaged, or it is of another data set or version.
    """
    uri = at if at.endswith(".json") else paths.join(at, FOLDS_JSON)
    if not store.exists(uri):
        raise DataError(
            f"{uri}: no result of a cross-validation. Run `raymill cross-validate CONFIG` with `corpus: {output}`, and "
            "give its output."
        )
    try:
        found = _CrossValidation.model_validate_json(store.read_bytes(uri))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{uri}: no result of `raymill cross-validate` ({where}: {first['msg']}). Run it again."
        ) from error
    if digest not in found.datasets.values():
        seen = ", ".join(f"{name} ({one[:12]})" for name, one in found.datasets.items())
        raise DataError(
            f"{uri}: of a training on {seen}; wanted {output} as it is now ({digest[:12]}). Run `raymill "
            "cross-validate` on this data set, with another output."
        )
    return {
        name: _of_folds(name, spread, found.folds)
        for name, spread in found.scores.items()
        if name not in _NO_FRACTION and found.folds
    }


def _of_folds(name: str, spread: _Spread, folds: list[_Fold]) -> TrainedScore:
    worst = min(folds, key=lambda one: one.scores.get(name, 1.0))
    return TrainedScore(
        mean=spread.mean,
        deviation=spread.deviation,
        folds=len(folds),
        worst=worst.fold,
        worst_output=worst.output,
    )
