"""Probabilities of labels by another model, from a column of the data set or a file. Only workers import it."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from cluster.artifact import Artifact
from cluster.errors import DataError
from cluster.store.copies import local_file
from cluster.store.store import Store

SETTING = "assess.predictions"
_WANTED = "Wanted a probability from 0 to 1 of each label."


def probabilities_in_file(store: Store, uri: str, ids: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """float32[N, K]: of each record, by its id, the probabilities of the labels; NaN of a record that is not there.

    uri: Parquet, or JSON Lines, with `id` and a column for each label.

    Raises:
        DataError: the file cannot be read, has no such columns, or a value is no probability.
    """
    table = _read(store, uri)
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
                found[number] = _of_text(text, names, ids[number])
        at, done = at + table.num_rows, done + len(here)
    return _checked(found, ids, "the column")


def _read(store: Store, uri: str) -> pa.Table:
    try:
        data = pa.BufferReader(Store().read_bytes(str(local_file(store, uri, SETTING).path)))
        return pq.read_table(data) if uri.endswith(".parquet") else pyarrow.json.read_json(data)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{SETTING}: {uri} cannot be read ({reason}). Wanted Parquet, or one JSON object a line."
        ) from error


def _of_text(text: str, names: Sequence[str], id: str) -> list[float]:
    try:
        given: Mapping[str, Any] = dict(json.loads(text))
        return [float(given.get(name) or 0) for name in names]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{SETTING}: record {id} has {text[:80]!r}; wanted the probability of each label, as in "
            '{"billing": 0.9, "network": 0.1}.'
        ) from error


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
