"""Where the records of each class are: the values of every field that has few, by split or by reason of removal."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import pyarrow as pa

from cluster.artifact import Artifact
from cluster.examples.splits import SPLITS
from pipelines.prepare.records.annotations import ANNOTATIONS, value_of

CLASSES = "_work/classes"

CLASSES_SCHEMA = pa.schema(
    [
        ("field", pa.string()),
        ("value", pa.string()),  # null: the field has too many or too long values to be classes
        ("place", pa.string()),  # a split, or STAGE/REASON of the ledger
        ("records", pa.int64()),
    ]
)

MOST_CLASSES = 300  # of a field
_LONGEST = 100  # characters of a class
_RECORDS_OF_A_CLASS = 3  # on average; a field with fewer is not one of classes
_NOT_CLASSES = {"source", "licence", "collected_at", "quality_score", "annotator", "annotators"}


class ClassCounts(TypedDict):
    """Records of a class. removed: STAGE/REASON -> records."""

    value: str
    splits: dict[str, int]
    removed: dict[str, int]


def class_fields(records: pa.Schema) -> list[str]:
    """Fields whose values may be classes. records: the schema of records, see `records_schema`."""
    metadata = [field.name for field in records.field("metadata").type]
    lists = [name for name, single in ANNOTATIONS.items() if single not in metadata]
    return [name for name in (*metadata, *lists) if name not in _NOT_CLASSES]


def classes_json(metadata: Mapping[str, str | None], fields: Sequence[str]) -> str:
    """The classes of a record as JSON: field -> value."""
    values = ((name, value_of(name, metadata.get(name))) for name in fields)
    return json.dumps({name: value[: _LONGEST + 1] for name, value in values if value}, ensure_ascii=False)


def class_counts(records: Iterable[tuple[Mapping[str, str | None], str]], fields: Sequence[str]) -> pa.Table:
    """CLASSES_SCHEMA of some records. records: (all fields besides the content, place)."""
    counts: dict[str, Counter[tuple[str, str]] | None] = {name: Counter() for name in fields}
    for metadata, place in records:
        for name, of_field in counts.items():
            value = value_of(name, metadata.get(name))
            if of_field is None or not value:
                continue
            of_field[value, place] += 1
            if len(value) > _LONGEST or len(of_field) > MOST_CLASSES * 8:
                counts[name] = None
    rows = [
        {"field": name, "value": value, "place": place, "records": number}
        for name, of_field in counts.items()
        for (value, place), number in ({} if of_field is None else of_field).items()
    ]
    rows += [{"field": name} for name, of_field in counts.items() if of_field is None]
    return pa.Table.from_pylist(rows, CLASSES_SCHEMA)


def classes_of(found: Artifact) -> dict[str, list[ClassCounts]]:
    """The classes of each field that has at least two, by their number of records. found: CLASSES."""
    counts: dict[str, dict[str, Counter[str]] | None] = {}
    for row in (row for table in found.tables() for row in table.to_pylist()):
        of_field = counts.setdefault(row["field"], {})
        if of_field is None or row["value"] is None or len(of_field) > MOST_CLASSES:
            counts[row["field"]] = None
        else:
            of_field.setdefault(row["value"], Counter())[row["place"]] += row["records"]
    fields: dict[str, list[ClassCounts]] = {}
    for name, of_field in sorted(counts.items()):
        values = of_field or {}
        total = sum(places.total() for places in values.values())
        if 2 <= len(values) <= MOST_CLASSES and total >= _RECORDS_OF_A_CLASS * len(values):
            ranked = sorted(values.items(), key=lambda one: (-one[1].total(), one[0]))
            fields[name] = [
                ClassCounts(
                    value=value,
                    splits={split: places[split] for split in SPLITS},
                    removed={place: number for place, number in places.most_common() if place not in SPLITS},
                )
                for value, places in ranked
            ]
    return fields
