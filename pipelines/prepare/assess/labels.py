"""The labels of a data set, predicted from vectors or by another model, and judged. Only workers import this module."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
from cleanlab.filter import find_label_issues
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, cohen_kappa_score, precision_recall_fscore_support
from threadpoolctl import threadpool_limits

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.stage import Scratch
from raymill.cluster.store.copies import local_file
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet
from raymill.pipelines.prepare.assess.embed import LABELLED, LEAST, PAIRS, SUSPECTS, SUSPECTS_SCHEMA
from raymill.pipelines.prepare.assess.findings import Labels
from raymill.pipelines.prepare.assess.vectors import matrix

_TRAINED = 50_000  # records to which a fold's model is fitted
_PREDICTED = 10_000  # records at a time
_INVERSE_REGULARISATION = 3.0
_ITERATIONS = 300
SCORES = ("accuracy", "precision", "recall", "f1")
SETTING = "assess.predictions"
_WANTED = "Wanted a probability from 0 to 1 of each label."
_SUSPECTS_SHOWN = 20
_HARDEST_SHOWN = _RARE_SHOWN = 5
_FOLDS = 5  # where the data set has none


@dataclass(frozen=True)
class Predicted:
    """Predictions for N records of K classes, each by a model that was fitted to the records of the other folds.

    probabilities: float32[N, K]. folds: int64[N].
    """

    probabilities: np.ndarray
    folds: np.ndarray


def predict(vectors: np.ndarray, labels: np.ndarray, folds: np.ndarray, keys: np.ndarray, classes: int) -> Predicted:
    """Cross-validated predictions of a logistic regression.

    The same input gives the same numbers. Memory: 4 bytes a record and class, and 50,000 vectors. Time: 20 s for 50,000
    records of 10 classes and 64 dimensions on one core.

    Args:
        vectors: float16[N, D]. labels: int[N] in 0..classes-1.
        folds: int[N]; records of one question have one fold, so that none is predicted from its copy.
        keys: uint64[N], hashes; of more records than a model is fitted to, those with the smallest are taken.
    """
    found = np.zeros((len(labels), classes), np.float32)
    for fold in np.unique(folds).tolist():
        fitted, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        if len(fitted) > _TRAINED:
            fitted = np.sort(fitted[np.argsort(keys[fitted], kind="stable")[:_TRAINED]])
        if len(seen := np.unique(labels[fitted])) < 2:
            found[held_out[:, None], seen] = 1
            continue
        model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=_ITERATIONS)
        with threadpool_limits(1):  # a sum over other threads has other last bits
            model.fit(vectors[fitted].astype(np.float32), labels[fitted])
            for start in range(0, len(held_out), _PREDICTED):
                some = held_out[start : start + _PREDICTED]
                found[some[:, None], model.classes_] = model.predict_proba(vectors[some].astype(np.float32))
    return Predicted(found, folds)


def scores_by_fold(predicted: Predicted, labels: np.ndarray) -> dict[str, list[float]]:
    """Each of SCORES by fold. Precision, recall and F1 are means over the classes of the fold (macro averages)."""
    chosen = predicted.probabilities.argmax(axis=1)
    found: dict[str, list[float]] = {name: [] for name in SCORES}
    for fold in np.unique(predicted.folds).tolist():
        here = predicted.folds == fold
        of_classes = precision_recall_fscore_support(labels[here], chosen[here], average="macro", zero_division=0)
        for name, value in zip(SCORES, (accuracy_score(labels[here], chosen[here]), *of_classes[:3]), strict=True):
            found[name].append(float(value))
    return found


def better_than_chance(predicted: Predicted, labels: np.ndarray) -> bool:
    """Whether Cohen's kappa of predictions and labels is over three of its standard errors, of about 1 / sqrt(N)."""
    kappa = cohen_kappa_score(labels, predicted.probabilities.argmax(axis=1))
    return bool(kappa > 3 / np.sqrt(len(labels)))


def label_errors(predicted: Predicted, labels: np.ndarray) -> np.ndarray:
    """int64[E]: rows of labels that are probably wrong, the least probable label first.

    Confident learning: a record counts as another class's if its probability of that class is at least the mean of the
    records labelled so; from each class as many are taken as these counts say, those with the least probable labels.
    Source: Northcutt, Jiang and Chuang 2021, Confident learning: estimating uncertainty in dataset labels.
    """
    return np.asarray(
        find_label_issues(
            labels, predicted.probabilities, filter_by="both", return_indices_ranked_by="self_confidence", n_jobs=1
        ),
        np.int64,
    )


def probabilities_in_file(store: Store, uri: str, ids: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """float32[N, K]: of each record, by its id, the probabilities of the labels; NaN of a record that is not there.

    uri: Parquet, or JSON Lines, with `id` and a column for each label.

    Raises:
        DataError: the file cannot be read, has no such columns, or a value is no probability.
    """
    try:
        path = str(local_file(store, uri, SETTING).path)
        if uri.endswith(".parquet"):
            with StoredParquet(Store(), path) as file:
                table = file.read()
        else:
            table = pyarrow.json.read_json(pa.BufferReader(Store().read_bytes(path)))
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{SETTING}: {uri} cannot be read ({reason}). Wanted Parquet, or one JSON object a line."
        ) from error
    known = [name for name in names if name in table.column_names]
    if "id" not in table.column_names or not known:
        raise DataError(
            f"{SETTING}: {uri} has the columns {', '.join(table.column_names)}; wanted id, and a column for each "
            f"label: {', '.join(names)}."
        )
    found = np.zeros((table.num_rows, len(names)), np.float32)
    for name in known:
        try:
            column = pc.fill_null(table[name].cast(pa.float32()), 0)
        except pa.ArrowInvalid as error:
            raise DataError(f"{SETTING}: {uri}, column {name}: {table[name].type} is no number. {_WANTED}") from error
        found[:, names.index(name)] = column.to_numpy()
    rows = pc.index_in(pa.array(ids, pa.string()), table["id"].cast(pa.string()).combine_chunks())
    here = rows.is_valid().to_numpy(zero_copy_only=False)
    chosen = np.full((len(ids), len(names)), np.nan, np.float32)
    chosen[here] = found[rows.drop_null().to_numpy()]
    return _checked(chosen, ids, uri)


def probabilities_in_column(
    vectors: Artifact, rows: np.ndarray, ids: Sequence[str], names: Sequence[str]
) -> np.ndarray:
    """The same from VECTORS, whose column `predicted` has `{label: probability}` as JSON. rows: int64[N], ascending."""
    found = np.full((len(rows), len(names)), np.nan, np.float32)
    at = done = 0
    for table in vectors.tables(["predicted"]):
        here = rows[done : np.searchsorted(rows, at + table.num_rows)]
        for number, text in enumerate(table["predicted"].take(pa.array(here - at)).to_pylist(), start=done):
            if text and text.strip():
                try:
                    given: Mapping[str, Any] = dict(json.loads(text))
                    found[number] = [float(given.get(name) or 0) for name in names]
                except (ValueError, TypeError) as error:
                    raise DataError(
                        f"{SETTING}: record {ids[number]} has {text[:80]!r}; wanted the probability of each label, as "
                        'in {"billing": 0.9, "network": 0.1}.'
                    ) from error
        at, done = at + table.num_rows, done + len(here)
    return _checked(found, ids, "the column")


def _checked(found: np.ndarray, ids: Sequence[str], where: str) -> np.ndarray:
    """Rows that sum to 1; NaN where a record has no prediction of a known label."""
    wrong = np.flatnonzero(((found < 0) | (found > 1 + 1e-6) | np.isinf(found)).any(axis=1))
    if len(wrong):
        values = ", ".join(f"{value:g}" for value in found[wrong[0]])
        raise DataError(f"{SETTING}: {where}: record {ids[wrong[0]]} has {values}. {_WANTED}")
    with np.errstate(invalid="ignore", divide="ignore"):
        found = found / found.sum(axis=1, keepdims=True)
    found[~np.isfinite(found).all(axis=1)] = math.nan
    if np.isnan(found).all():
        raise DataError(
            f"{SETTING}: {where} has no prediction of one of {len(ids):,} records, such as {', '.join(ids[:3])}. Give "
            "the ids of the records, and the labels as the data set has them."
        )
    return found


def predicted_labels(
    vectors: Artifact, field: str, scratch: Scratch | None = None, predictions: str | None = None
) -> Labels:
    """The predictions of a field. scratch: where suspects are written; None: they are not looked for. predictions: the
    setting, by which they are found; None: by the predictions made here.

    Raises:
        DataError: `predictions` are not such.
    """
    counts = Counter[str]()
    for table in vectors.tables([f"label/{field}"]):
        values = pc.value_counts(table[f"label/{field}"].drop_null()).to_pylist()
        counts.update({one["values"]: one["counts"] for one in values if one["values"].strip()})
    names = sorted(name for name, number in counts.items() if number >= LEAST)
    total = sum(counts[name] for name in names)
    rare = sorted(counts.keys() - set(names), key=lambda name: (counts[name], name))
    rare_ids: list[str] = []
    for table in vectors.tables(["id", f"label/{field}"]) if rare else ():
        chosen = table["id"].filter(pc.is_in(table[f"label/{field}"], pa.array(rare)))
        rare_ids += chosen.slice(0, _RARE_SHOWN - len(rare_ids)).to_pylist()
    found = Labels(
        records=0,
        left_out=sum(counts.values()) - total,
        rare={name: counts[name] for name in rare[:_RARE_SHOWN]},
        rare_ids=rare_ids,
        classes=len(names),
        most_frequent=0.0,
        scores={},
        missed=0,
        hardest=[],
        judged=0,
        errors=None,
        suspects=[],
    )
    if len(names) < 2:
        return found
    labelled = _labelled(vectors, field, names, min(1.0, LABELLED / total, PAIRS / total / len(names)))
    predicted = predict(labelled.vectors, labelled.labels, labelled.folds, labelled.keys, len(names))
    scores = scores_by_fold(predicted, labelled.labels)
    most_frequent = np.bincount(labelled.labels).max() / len(labelled.labels)
    missed = np.flatnonzero(predicted.probabilities.argmax(axis=1) != labelled.labels)
    own = predicted.probabilities[missed, labelled.labels[missed]]
    hardest = missed[np.lexsort((labelled.keys[missed], own))[:_HARDEST_SHOWN]]
    found |= {
        "records": len(labelled.labels),
        "most_frequent": float(most_frequent),
        "scores": scores,
        "missed": len(missed),
        "hardest": _suspects(vectors, labelled, predicted, names, hardest).to_pylist(),
    }
    if scratch is None:
        return found
    if predictions:  # of another model
        (ids,) = _columns(vectors, labelled.rows, ["id"])
        if predictions.endswith((".parquet", ".jsonl")):
            given = probabilities_in_file(vectors.store, predictions, ids, names)
        else:
            given = probabilities_in_column(vectors, labelled.rows, ids, names)
        here = np.flatnonzero(~np.isnan(given).any(axis=1))
        labelled = _Labelled(*(getattr(labelled, one.name)[here] for one in fields(_Labelled)))
        predicted = Predicted(given[here], labelled.folds)
    found["judged"] = len(labelled.labels)
    if better_than_chance(predicted, labelled.labels):
        rows = label_errors(predicted, labelled.labels)
        table = _suspects(vectors, labelled, predicted, names, rows)
        scratch.write(SUSPECTS, table)
        found |= {"errors": len(rows), "suspects": table.slice(0, _SUSPECTS_SHOWN).to_pylist()}
    return found


@dataclass(frozen=True)
class _Labelled:
    """Records whose label is predicted. rows: int64[N], their places among all records. vectors: float16[N, D]."""

    rows: np.ndarray
    keys: np.ndarray
    folds: np.ndarray
    labels: np.ndarray
    vectors: np.ndarray


def _labelled(vectors: Artifact, field: str, names: list[str], share: float) -> _Labelled:
    """The records with one of the labels; of these the share with the smallest keys."""
    last = np.uint64(int(min(share * 2.0**64, 2.0**64 - 2048)))
    parts: list[tuple[np.ndarray, ...]] = []
    at = 0
    for table in vectors.tables(["key", "fold", "vector", f"label/{field}"]):
        label = pc.index_in(table[f"label/{field}"], pa.array(names))
        keys = table["key"].to_numpy()
        chosen = label.is_valid().to_numpy()
        if share < 1:
            chosen &= keys <= last
        folds = pc.fill_null(table["fold"], -1).to_numpy().astype(np.int64)
        rows = np.flatnonzero(chosen)
        parts.append((at + rows, keys[rows], folds[rows], pc.fill_null(label, 0).to_numpy()[rows], matrix(table)[rows]))
        at += table.num_rows
    rows, keys, folds, labels, found = (np.concatenate(one) for one in zip(*parts, strict=True))
    number = np.uint64(folds.max() + 1 if folds.max() >= 0 else _FOLDS)
    # Records for testing have no fold. Equal questions have equal keys, so they are in one fold.
    folds = np.where(folds >= 0, folds, (keys % number).astype(np.int64))
    return _Labelled(rows, keys, folds, labels, found)


def _suspects(
    vectors: Artifact, labelled: _Labelled, predicted: Predicted, names: list[str], rows: np.ndarray
) -> pa.Table:
    """The rows of SUSPECTS. rows: int64[E], of the labelled records."""
    suggested = predicted.probabilities[rows].argmax(axis=1)
    own = predicted.probabilities[rows, labelled.labels[rows]]
    ids, texts = _columns(vectors, labelled.rows[rows], ["id", "text"])
    own_names, others = [names[at] for at in labelled.labels[rows]], [names[at] for at in suggested]
    return pa.table([ids, own_names, others, own, texts], schema=SUSPECTS_SCHEMA)


def _columns(vectors: Artifact, rows: np.ndarray, names: list[str]) -> list[list[str]]:
    """The values of columns of the records at these places, in this order."""
    found: dict[int, tuple[str, ...]] = {}
    order, at = np.sort(rows), 0
    for table in vectors.tables(names):
        here = order[np.searchsorted(order, at) : np.searchsorted(order, at + table.num_rows)]
        taken = table.take(pa.array(here - at))
        found |= zip(here.tolist(), zip(*(taken[name].to_pylist() for name in names), strict=True), strict=True)
        at += table.num_rows
    return [[found[row][number] for row in rows.tolist()] for number in range(len(names))]
