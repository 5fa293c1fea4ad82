"""What a record was made of: its parents, the ids of others of its source, and how. Relatives are in one split.

Inputs give it as `columns: {parents: COLUMN, operation: COLUMN}`, lists of ids or single ones, or in a column
`provenance` with objects of these, as the records of a data set have it. A column `provenance` or `parents` that no
`columns` names is read, too, where its values are such objects or lists.
"""

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from cluster.readers.reader import as_json_text
from pipelines.prepare.records.annotations import listed

# Fields of `columns` that are the provenance of records.
PROVENANCE = ("provenance", "parents", "operation")

PROVENANCE_TYPE = pa.struct([("parents", pa.list_(pa.string())), ("operation", pa.string())])


def provenance_of(fields: Mapping[str, str | None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the parents of a row, the operation, if it is known), both empty without parents. fields: of the row."""
    parents, operation = listed(fields.get("parents")), fields.get("operation")
    if not parents:
        parents, operation = _recorded(fields.get("provenance"), operation)
    known = tuple(one for one in parents if one)
    return known, (operation,) if known and operation else ()


def _recorded(text: str | None, operation: str | None) -> tuple[list[str | None], str | None]:
    """(parents, operation) of a column `provenance`."""
    try:
        value = json.loads(text or "null")
    except (ValueError, RecursionError):
        return [], operation
    if isinstance(value, dict):
        stated = value.get("operation")
        operation = operation or (stated if isinstance(stated, str) else None)
        value = value.get("parents")
    return ([as_json_text(one) for one in value] if isinstance(value, list) else []), operation


def relatives(ids: np.ndarray, rows: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """uint64[N]: a number for the records that are related by parents, directly or over others, 0 for one without
    relatives. A parent that is no record relates its children.

    ids: uint64[N], hashes. rows, parents: int64[P], uint64[P], a record and the hash of a parent's id, for each parent.
    """
    found = np.zeros(len(ids), np.uint64)
    if not len(parents):
        return found
    own = np.flatnonzero(np.isin(ids, parents))
    record = np.concatenate([rows, own])
    _, name = np.unique(np.concatenate([parents, ids[own]]), return_inverse=True)
    label = np.arange(len(ids))
    while True:
        before = label
        smallest = np.full(name.max() + 1, len(ids))
        np.minimum.at(smallest, name, label[record])
        label = label.copy()
        np.minimum.at(label, record, smallest[name])
        label = label[label]
        if np.array_equal(label, before):
            break
    found[record] = label[record].astype(np.uint64) + np.uint64(1)
    return found
