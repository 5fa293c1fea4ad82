"""A label as the file of another tool has it, and what the files of all tools have in common.

Each task carries, besides its columns:

raymill_id           id of the task. Tools overwrite a field `id`.
raymill_guideline    version of the guideline when it was exported
raymill_priority     place in the order in which to label, from 1; tools can sort by it
raymill_labels       labels that were exported with it, as JSON: `[annotator, digest, at, seconds, guideline]` of each.
                     Tools drop or replace times; a label that comes back unchanged gets its own again.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import numpy as np

from raymill.cluster.examples.plain_numbers import number_in
from raymill.pipelines.annotate.annotations import Annotation, Status
from raymill.pipelines.annotate.config import Task
from raymill.pipelines.annotate.tasks import BadValue, TaskRow, value_of

ID, GUIDELINE, LABELS, PRIORITY = "raymill_id", "raymill_guideline", "raymill_labels", "raymill_priority"
LABEL, REASON = "label", "reason"
_DEEPEST = 6  # lists and objects within each other of a value
_LONGEST_UNREADABLE = 1000  # characters
_MOST_SECONDS = 1e9
_MILLISECONDS_FROM = 1e11  # a number of seconds since 1970 beyond the year 5000
_DIGITS = 8  # of a digest, in bytes
_LARGEST_INTEGER = 18  # digits


@dataclass(frozen=True)
class ToolLabel:
    """A label as the file of a tool has it.

    Attributes:
        place: where in the file, such as `task 3`.
        task: id of the task; None without our key.
        annotators: names that the tool has for the annotator, the best first; empty without one.
        value: the label in the form of tasks.py, or what `unreadable` makes of it.
        seconds: time that the annotator took; None if the file does not say.
        at: when, as `utc` writes it; empty if the file does not say.
        guideline: version of the guideline that the task had when it was exported.
        fields: column -> text that the annotator saw, of those in the file.
        written: labels that were exported with the task, by annotator and digest.
    """

    place: str
    task: str | None
    annotators: Sequence[str]
    status: Status = "labelled"
    value: Any = None
    reason: str = ""
    seconds: float | None = None
    at: str = ""
    guideline: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    written: "Mapping[tuple[str, str], Written]" = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """A label that was exported with a task."""

    at: str
    seconds: float | None
    guideline: str


def digest_of(status: str, value: Any, reason: str) -> str:
    """Equal for the same label, whoever gave it and whenever."""
    same = json.dumps([status, value, reason], sort_keys=True).encode()
    return hashlib.blake2b(same, digest_size=_DIGITS).hexdigest()


def written_text(answers: Iterable[Annotation]) -> str:
    """The field `raymill_labels` of a task with these labels; empty without any."""
    rows = [[one.annotator, digest_of(one.status, one.value, one.reason), one.at, one.seconds, one.guideline]
            for one in answers]  # fmt: skip
    return json.dumps(rows, ensure_ascii=False) if rows else ""


def written_in(text: Any) -> dict[tuple[str, str], Written]:
    """The labels in a field `raymill_labels`, by annotator and digest; those that are damaged are left out."""
    try:
        rows = parsed(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return {}
    found = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 5 and all(isinstance(row[at], str) for at in (0, 1, 2, 4)):
            time = utc(row[2]) or cleaned(row[2])
            found[cleaned(row[0]), row[1]] = Written(time, seconds_in(row[3]), cleaned(row[4]))
    return found


def field_names(task: Task, wanted: re.Pattern[str], reserved: Iterable[str]) -> dict[str, str]:
    """Column of a task -> its field in a file: the same name, or `field_N` where a tool cannot have that."""
    taken = {ID, GUIDELINE, LABELS, PRIORITY, LABEL, REASON, *reserved}
    found: dict[str, str] = {}
    for number, column in enumerate(task.columns, 1):
        name = column if wanted.fullmatch(column) and column not in taken else f"field_{number}"
        while name in taken or (name != column and name in task.columns):
            name += "_"
        found[column] = name
        taken.add(name)
    return found


def pre_label(task: Task, row: TaskRow) -> Any:
    """The label that a classifier predicts for a task; None without one that the task can have."""
    if row.prediction is None or task.type == "span":
        return None
    try:
        return value_of(task, row, [row.prediction] if task.several else row.prediction)
    except BadValue:
        return None


# --- JSON of a file that anybody may have written


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LARGEST_INTEGER else digits


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


# Numbers that are too large, and NaN, are texts.
JSON = json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=str)


def parsed(text: str) -> Any:
    """The value of a JSON text, as of `JSON`.

    Raises:
        ValueError: it is no JSON. RecursionError: it is nested too deeply.
    """
    return JSON.decode(text)


def cleaned(text: str) -> str:
    """The text with `?` for halves of UTF-16 pairs, which no file of labels can hold."""
    return text.encode("utf-8", "replace").decode()


def text_in(value: Any) -> str:
    """A text or an integer as text; empty of anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return cleaned(value) if isinstance(value, str) else ""


def object_in(value: Any) -> Mapping[str, Any]:
    """The JSON object; empty of anything else."""
    return value if isinstance(value, dict) else {}


def list_in(value: Any) -> Sequence[Any]:
    """The JSON array; empty of anything else."""
    return value if isinstance(value, list) else []


def seconds_in(value: Any) -> float | None:
    """A number of seconds, or a text with one; None of anything else."""
    number = number_in(value)
    return number if 0 <= number < _MOST_SECONDS else None


def utc(value: Any) -> str:
    """A time as ISO 8601 in UTC, of such a text or of seconds or milliseconds since 1970; empty of anything else."""
    try:
        if isinstance(value, str):
            when = datetime.fromisoformat(value.strip())
            when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            when = datetime.fromtimestamp(value / 1000 if value >= _MILLISECONDS_FROM else value, UTC)
        else:
            return ""
        return when.isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


# --- values


def unreadable(raw: Any) -> dict[str, str]:
    """A value that no task can have, with the beginning of what the file has."""
    try:
        text = json.dumps(raw, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        text = "nested too deeply"
    return {"unreadable": cleaned(text[:_LONGEST_UNREADABLE])}


def value_in(task: Task, row: TaskRow | None, raw: Any) -> Any:
    """A label in the form of tasks.py, of any form that a tool has for it; `unreadable` of any other."""
    try:
        found = _value_in(task, row, raw)
    except (_NoValueError, RecursionError):
        return unreadable(raw)
    if row is not None:
        try:
            return value_of(task, row, found)
        except BadValue:
            pass
    return found


class _NoValueError(Exception):
    """A label in no form of the task's type."""


def _value_in(task: Task, row: TaskRow | None, raw: Any) -> Any:
    if task.type == "span":
        text = (row.record.get(task.text) or "") if row is not None else ""
        return [part for one in _flat(raw) for part in _parts(text, one)]
    if task.type == "rank":
        return _order(raw)
    if task.type in ("correct", "write"):
        texts = [_text(one) for one in _flat(raw, "text")]
        if not texts:
            raise _NoValueError
        return "\n".join(texts)
    labels = [_text(one) for one in _flat(raw, "choices", "rating", "selected")]
    if task.several:
        return labels
    if len(set(labels)) != 1:
        raise _NoValueError
    if task.type == "compare" and labels[0] in ("left", "right") and labels[0] not in task.choices:
        return task.answers[labels[0] == "right"]
    return labels[0]


def _flat(raw: Any, *names: str, depth: int = 0) -> Iterator[Any]:
    """The values in lists, and in objects under one of the names."""
    if depth > _DEEPEST:
        raise _NoValueError
    if isinstance(raw, list):
        for one in raw:
            yield from _flat(one, *names, depth=depth + 1)
    elif isinstance(raw, dict) and (name := next((name for name in names if name in raw), None)) is not None:
        yield from _flat(raw[name], *names, depth=depth + 1)
    elif raw is not None:
        yield raw


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 10**_LARGEST_INTEGER:
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return text_in(value)
    raise _NoValueError


def _order(raw: Any) -> list[str]:
    """The order of answers: a list, one in an object, buckets (`_` has what was left over), or `{value, rank}` each."""
    if isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], dict) and "ranker" in raw[0]:
        raw = raw[0]
    if isinstance(raw, dict):
        raw = raw.get("ranker", raw)
    if isinstance(raw, dict):
        left_over = list_in(raw.get("_"))
        raw = [one for name, some in raw.items() if name != "_" for one in list_in(some)] + list(left_over)
    if not isinstance(raw, list) or not raw:
        raise _NoValueError
    if all(isinstance(one, dict) and isinstance(one.get("rank"), int) for one in raw):
        raw = [one.get("value") for one in sorted(raw, key=lambda one: one["rank"])]
    return [_text(one) for one in raw]


def _parts(text: str, raw: Any) -> Iterator[dict[str, Any]]:
    """The marked part of a text, once for each of its labels."""
    if not isinstance(raw, dict):
        raise _NoValueError
    given = object_in(raw.get("globalOffsets")) or raw
    start, end = given.get("start"), given.get("end")
    names = raw.get("labels", raw.get("hypertextlabels", raw.get("label")))
    names = names if isinstance(names, list) else [names]
    if not (type(start) is int and type(end) is int and all(isinstance(name, str) for name in names)):
        raise _NoValueError
    shown = raw.get("text")
    if isinstance(shown, str) and shown and text[max(0, start) : max(0, end)] != shown:
        start, end = _of_utf16(text, shown, start, end)
    for name in names:
        yield {"start": start, "end": end, "label": cleaned(name)}


def _of_utf16(text: str, shown: str, start: int, end: int) -> tuple[int, int]:
    """Offsets in characters of offsets in UTF-16 units, as some programs count them, if that is the marked text."""
    ends = _utf16_ends(text)
    if not 0 <= start <= end <= (ends[-1] if len(ends) else 0):
        return start, end
    first, last = (int(ends.searchsorted(one, side="right")) for one in (start, end))
    return (first, last) if last - first == len(shown) and text[first:last] == shown else (start, end)


@lru_cache(maxsize=1)  # a record has any number of parts of the same text
def _utf16_ends(text: str) -> np.ndarray:
    """int64[characters]: where each character ends, in UTF-16 units."""
    return np.cumsum(1 + (np.frombuffer(text.encode("utf-32-le"), np.uint32) > 0xFFFF))


def texts_of(row: TaskRow, names: Mapping[str, str]) -> dict[str, str]:
    """Field -> text of the columns of a task, empty where the record has none. names: column -> field."""
    return {field: row.record.get(column) or "" for column, field in names.items()}


def fields_in(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Column -> what a file has of it, of the columns that are there."""
    return {column: record[field] for column, field in names.items() if field in record}
