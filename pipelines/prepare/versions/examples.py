"""Some of the records by which two versions differ, with the beginnings of their texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from cluster.artifact import Artifact
from cluster.examples.content import COLUMNS, Shape, from_shape, sides_of
from pipelines.prepare.records.hashes import hash64

SHOWN = 5  # of each kind of difference
_CHARACTERS = 160  # of a question or an answer

# Columns that are no content of a record, and the metadata that differs between equal records of two runs.
BESIDES = ("id", "provenance", "split", "fold", "complexity", "stage")
TIME = "collected_at"
OF_FIELDS = ("metadata", "annotations")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Beginning:
    """Question and answer of a record, on one line each. answer: empty of a plain text, which is the question."""

    question: str
    answer: str


@dataclass(frozen=True)
class ChangedRecord:
    """A record in both versions. before, after: None where it is not. differs: its columns, metadata and annotations
    that are not the same; empty of a record that only one version has.
    """

    id: str
    before: Beginning | None
    after: Beginning | None
    differs: tuple[str, ...] = ()


def examples_of(
    before: Mapping[str, Artifact], after: Mapping[str, Artifact], hashes: np.ndarray
) -> list[ChangedRecord]:
    """The first of the records whose ids have these hashes, in the order of `after`, else of `before`.

    hashes: uint64[N] of records that are all in both versions, or all in one.
    """
    new = _rows(after, hashes)
    old = {row["id"]: row for row in _rows(before, np.array([hash64(row["id"]) for row in new]) if new else hashes)}
    found = {row["id"]: row for row in new}
    return [_example(id, old.get(id), found.get(id)) for id in (found or old)]


def _rows(splits: Mapping[str, Artifact], hashes: np.ndarray) -> list[dict[str, Any]]:
    """The first SHOWN records whose ids have these hashes. Reads no further than to the last of them."""
    wanted = set(hashes.tolist())
    most, found = min(SHOWN, len(wanted)), list[dict[str, Any]]()
    for artifact in splits.values() if most else ():
        for table in artifact.tables():
            at = [number for number, id in enumerate(table["id"].to_pylist()) if hash64(id) in wanted]
            found += table.take(pa.array(at[: most - len(found)], pa.int64())).to_pylist()
            if len(found) == most:
                return found
    return found


def _example(id: str, old: Row | None, new: Row | None) -> ChangedRecord:
    differs = _differs(old, new) if old is not None and new is not None else ()
    before, after = (None if row is None else _beginning(row) for row in (old, new))
    return ChangedRecord(id, before, after, differs)


def _differs(old: Row, new: Row) -> tuple[str, ...]:
    before, after = _flat(old), _flat(new)
    return tuple(name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name))


def _flat(row: Row) -> dict[str, Any]:
    """The values of a record that are compared; metadata and annotations by names such as `metadata.source`."""
    flat = {name: value for name, value in row.items() if name not in (*BESIDES, *OF_FIELDS)}
    for column in OF_FIELDS:
        flat |= {f"{column}.{name}": value for name, value in (row.get(column) or {}).items() if name != TIME}
    return flat


def _beginning(row: Row) -> Beginning:
    text = sides_of(from_shape(row, _shape(row)))
    return Beginning(_line(text.question), _line(text.answer))


def _shape(row: Row) -> Shape:
    shapes: tuple[Shape, ...] = get_args(Shape)
    return next(shape for shape in shapes if COLUMNS[shape].keys() <= row.keys())


def _line(text: str) -> str:
    line = " ".join(text[: 2 * _CHARACTERS].split())
    return line if len(line) <= _CHARACTERS and len(text) <= 2 * _CHARACTERS else f"{line[:_CHARACTERS]}…"
