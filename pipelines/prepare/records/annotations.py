"""Labels, categories and annotators of a record, as lists.

Inputs give them as fields of `columns`, in a column of lists, of JSON lists as text, or of single values. A record
without one has in its place the metadata with a single value: `label`, `category` or `annotator`. The labels of several
annotators stand beside their names, in the same order.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from cluster.readers.reader import as_json_text

# Field of the annotations -> metadata with one value of it.
ANNOTATIONS = {"labels": "label", "categories": "category", "annotators": "annotator"}

ANNOTATIONS_TYPE = pa.struct([(name, pa.list_(pa.string())) for name in ANNOTATIONS])

Values = Sequence[str | None]


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
    """The fields of a written record besides its content: metadata and annotations, as texts."""
    metadata = {name: None if value is None else str(value) for name, value in record["metadata"].items()}
    annotations = record.get("annotations") or {}
    return metadata | {name: as_text(annotations.get(name) or ()) for name in ANNOTATIONS}


def labels_by_annotators(record: Mapping[str, Any]) -> list[str | None]:
    """The labels of a record, of which each is another annotator's; empty if they are not."""
    annotations = record.get("annotations") or {}
    labels, annotators = (annotations.get(name) or [] for name in ("labels", "annotators"))
    named = {one for one in annotators if one is not None}
    return labels if len(labels) == len(annotators) == len(named) else []
