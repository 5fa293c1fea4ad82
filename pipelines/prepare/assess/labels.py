"""The labels of a data set, predicted and judged. Only workers import this module."""

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact
from cluster.stage import Scratch
from pipelines.prepare.assess.classify import Predicted, better_than_chance, label_errors, predict, scores_by_fold
from pipelines.prepare.assess.learn import (
    LABELLED,
    LEAST,
    PAIRS,
    SUSPECTS,
    SUSPECTS_SCHEMA,
    Labels,
    matrix,
)
from pipelines.prepare.assess.predictions import probabilities_in_column, probabilities_in_file

_SUSPECTS_SHOWN = 20
_HARDEST_SHOWN = _RARE_SHOWN = 5
_FOLDS = 5  # where the data set has none


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
    found = Labels(
        records=0,
        left_out=sum(counts.values()) - total,
        rare={name: counts[name] for name in rare[:_RARE_SHOWN]},
        rare_ids=_first_with(vectors, field, rare),
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
    if predictions:
        labelled, predicted = _given(vectors, labelled, names, predictions)
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


def _given(vectors: Artifact, labelled: _Labelled, names: list[str], predictions: str) -> tuple[_Labelled, Predicted]:
    """The records that another model has predicted, with its predictions. predictions: the setting."""
    (ids,) = _columns(vectors, labelled.rows, ["id"])
    if predictions.endswith((".parquet", ".jsonl")):
        found = probabilities_in_file(vectors.store, predictions, ids, names)
    else:
        found = probabilities_in_column(vectors, labelled.rows, ids, names)
    here = np.flatnonzero(~np.isnan(found).any(axis=1))
    chosen = _Labelled(*(getattr(labelled, one.name)[here] for one in fields(_Labelled)))
    return chosen, Predicted(found[here], chosen.folds)


def _suspects(
    vectors: Artifact, labelled: _Labelled, predicted: Predicted, names: list[str], rows: np.ndarray
) -> pa.Table:
    """The rows of SUSPECTS. rows: int64[E], of the labelled records."""
    suggested = predicted.probabilities[rows].argmax(axis=1)
    own = predicted.probabilities[rows, labelled.labels[rows]]
    ids, texts = _columns(vectors, labelled.rows[rows], ["id", "text"])
    own_names, others = [names[at] for at in labelled.labels[rows]], [names[at] for at in suggested]
    return pa.table([ids, own_names, others, own, texts], schema=SUSPECTS_SCHEMA)


def _first_with(vectors: Artifact, field: str, values: list[str]) -> list[str]:
    """The ids of the first records with one of the values."""
    found: list[str] = []
    for table in vectors.tables(["id", f"label/{field}"]) if values else ():
        chosen = table["id"].filter(pc.is_in(table[f"label/{field}"], pa.array(values)))
        found += chosen.slice(0, _RARE_SHOWN - len(found)).to_pylist()
    return found


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
