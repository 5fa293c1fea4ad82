"""What a record has besides its content: an id, metadata, annotations, provenance, and classes made of these.

Annotations are the labels, categories and annotators of a record, as lists. Inputs give them as fields of `columns`, in
a column of lists, of JSON lists as text, or of single values. A record without one has in its place the metadata with a
single value: `label`, `category` or `annotator`. The labels of several annotators stand beside their names, in the same
order.

Provenance is what a record was made of: its parents, the ids of others of its source, and how. Inputs give it as
`columns: {parents: COLUMN, operation: COLUMN}`, lists of ids or single ones, or in a column `provenance` with objects
of these, as the records of a data set have it. A column `provenance` or `parents` that no `columns` names is read, too,
where its values are such objects or lists.

Classes are the values of every field that has few of them; the report counts their records by split and by reason of
removal.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples import splits
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.readers.reader import as_json_text

# Field of the annotations -> metadata with one value of it.
ANNOTATIONS = {"labels": "label", "categories": "category", "annotators": "annotator"}
ANNOTATIONS_TYPE = pa.struct([(name, pa.list_(pa.string())) for name in ANNOTATIONS])
Values = Sequence[str | None]
# Fields of `columns` that are the provenance of records.
PROVENANCE = ("provenance", "parents", "operation")
PROVENANCE_TYPE = pa.struct([("parents", pa.list_(pa.string())), ("operation", pa.string())])
AUGMENT = "augment/"  # begins the operation of a variant
EDITED = "edited by "  # begins the operation of a corrected record
_ORIGIN = ("source", "licence", "collected_at")  # metadata that state where a record comes from
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


def id_of(columns: Mapping[str, Any]) -> str:
    """The id of a record to which the source gives none: 32 hex digits of its columns."""
    return hash_of_text(json.dumps(columns, ensure_ascii=False, sort_keys=True))


def hash_of_text(text: str) -> str:
    """32 hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def hash64(*parts: str) -> int:
    """A 64-bit hash of texts, never 0."""
    return splits.hash64(*(part.encode() for part in parts)) or 1


def listed(text: str | None) -> list[str | None]:
    """The values of a field: the items of a JSON list, of which null and blank ones are None; else the text itself.

    Empty if there is no value.
    """
    if text is None or not text.strip():
        return []
    values: list[Any] = [text]
    if text.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):  # else it is a text that begins with a bracket
            values = json.loads(text)
    texts = [as_json_text(value) for value in values]
    found = [one if one and one.strip() else None for one in texts]
    return found if any(found) else []


def as_text(values: Values) -> str | None:
    """The text of which `listed` makes these values."""
    if len(values) == 1 and values[0] is not None and not values[0].lstrip().startswith("["):
        return values[0]
    return json.dumps(values, ensure_ascii=False) if values else None


def annotations_of(metadata: Mapping[str, str | None]) -> dict[str, list[str | None]]:
    """The annotations of a record. metadata: all its fields besides the content."""
    return {name: listed(metadata.get(name)) or listed(metadata.get(one)) for name, one in ANNOTATIONS.items()}


def refuse_origin(field: str) -> str:
    """The name of a field that a correction may change.

    Raises:
        ValueError: it states where a record comes from.
    """
    if field in _ORIGIN:
        raise ValueError(f"{field} states where a record comes from, and no correction changes that. Correct the input")
    return field


def values_of(name: str, text: str | None) -> list[str]:
    """All values of a field of metadata or annotations."""
    found = listed(text) if name in ANNOTATIONS else [text]
    return [one for one in found if one is not None]


def value_of(name: str, text: str | None) -> str | None:
    """One value of a field: of annotations the most frequent one, the first of equals."""
    if name not in ANNOTATIONS:
        return text
    counts = Counter(values_of(name, text))
    return max(counts, key=counts.__getitem__) if counts else None


def metadata_of(record: Mapping[str, Any]) -> dict[str, str | None]:
    """The fields of a written record besides its content: metadata and annotations, as texts.

    Raises:
        DataError: the record has none.
    """
    if record["metadata"] is None:
        raise DataError(
            f"record {record.get('id')}: has no metadata, which every record has: a file of this run was changed. Make "
            "the run again."
        )
    metadata = {name: None if value is None else str(value) for name, value in record["metadata"].items()}
    annotations = record.get("annotations") or {}
    return metadata | {name: as_text(annotations.get(name) or ()) for name in ANNOTATIONS}


def labels_by_annotators(record: Mapping[str, Any]) -> list[str | None]:
    """The labels of a record, of which each is another annotator's; empty if they are not."""
    annotations = record.get("annotations") or {}
    labels, annotators = (annotations.get(name) or [] for name in ("labels", "annotators"))
    named = {one for one in annotators if one is not None}
    return labels if len(labels) == len(annotators) == len(named) else []


def provenance_of(fields: Mapping[str, str | None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the parents of a row, the operation, if it is known), both empty of a row that is as it was first written.

    fields: of the row.
    """
    parents, operation = listed(fields.get("parents")), fields.get("operation")
    if not parents:
        try:
            value = json.loads(fields.get("provenance") or "null")
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            stated = value.get("operation")
            operation = operation or (stated if isinstance(stated, str) else None)
            value = value.get("parents")
        parents = [as_json_text(one) for one in value] if isinstance(value, list) else []
    known = tuple(one for one in parents if one)
    return known, (operation,) if operation and (known or EDITED in operation) else ()


def operations_of(operation: str | None) -> list[str]:
    """The steps in which a record was made, in order. operation: the operation of its provenance."""
    return operation.split(", ") if operation else []


def is_synthetic(operation: str | None) -> bool:
    """Whether a model or augmentation made a record. operation: the operation of its provenance."""
    return any(one.startswith(("generate/", AUGMENT)) for one in operations_of(operation))


class FailedRule(NamedTuple):
    """Why a record is removed. reason: a key of REASONS. value: what was seen. limit: what was wanted."""

    reason: str
    value: str
    limit: str


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


class ClassCounter:
    """Counts the records of each class and place. A field of long or many values is none of classes."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._counts: dict[str, Counter[tuple[str, str]] | None] = {name: Counter() for name in fields}

    def add(self, metadata: Mapping[str, str | None], place: str) -> None:
        """Count a record. metadata: all fields besides the content."""
        for name, of_field in self._counts.items():
            value = value_of(name, metadata.get(name))
            if of_field is None or not value:
                continue
            of_field[value, place] += 1
            if len(value) > _LONGEST or len(of_field) > MOST_CLASSES * 8:
                self._counts[name] = None

    def table(self) -> pa.Table:
        """CLASSES_SCHEMA of the records."""
        rows = [
            {"field": name, "value": value, "place": place, "records": number}
            for name, of_field in self._counts.items()
            for (value, place), number in ({} if of_field is None else of_field).items()
        ]
        rows += [{"field": name} for name, of_field in self._counts.items() if of_field is None]
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
