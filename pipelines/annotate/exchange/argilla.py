"""Argilla 2: records as JSON with the settings of the dataset, and labels as nested or flat records.

Records are in `fields`, `metadata`, `suggestions` and `responses`. A flat record has `label.responses`, with
`label.responses.users` and `label.responses.status` beside it. The nested form has no statuses, so drafts and discarded
records in it count as labels. Argilla keeps no times.
"""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.errors import ConfigError
from raymill.pipelines.annotate.annotations import Annotation, Status
from raymill.pipelines.annotate.config import CHECKED, Task
from raymill.pipelines.annotate.exchange.tool_labels import (
    GUIDELINE,
    ID,
    LABEL,
    LABELS,
    PRIORITY,
    REASON,
    ToolLabel,
    field_names,
    fields_in,
    list_in,
    object_in,
    pre_label,
    text_in,
    texts_of,
    value_in,
    written_in,
    written_text,
)
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import QUESTIONS, TaskRow

# Annotators have UUIDs in Argilla; one without another gets a UUID of the name in this namespace.
_PEOPLE = uuid.UUID("6f6f1c3e-0d0a-5f0e-9c55-8a1d3b1f7a01")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_MOST_POINTS = 10
_MOST_RANKED = 50
_STATUSES: Mapping[Any, Status] = {"submitted": "labelled", "draft": "draft", "discarded": "skipped"}
NESTED_NOTE = (
    "Nested records of Argilla do not tell drafts and discarded records from labels: all count as labels. Export flat "
    "records (`flatten=True`) to keep them apart."
)


def names_of(task: Task) -> dict[str, str]:
    """Column -> name of the field."""
    return field_names(task, _NAME, {"id", "status", "_server_id"})


def person_id(name: str) -> str:
    """The UUID of an annotator without one in Argilla."""
    return str(uuid.uuid5(_PEOPLE, name))


# --- tasks


def settings_of(round: Round) -> dict[str, Any]:
    """The settings of the dataset, as `rg.Settings.from_json` reads them.

    Raises:
        ConfigError: Argilla has no such question.
    """
    task, names = round.task, names_of(round.task)
    question = {"name": LABEL, "title": task.question or QUESTIONS[task.type], "required": True,
                "settings": _question(task, names)}  # fmt: skip
    reason = {"name": REASON, "title": "Reason, if you discard the record", "required": False,
              "settings": {"type": "text", "use_markdown": False}}  # fmt: skip
    fields = [{"name": name, "title": column, "required": False, "settings": {"type": "text", "use_markdown": False}}
              for column, name in names.items()]  # fmt: skip
    fields[0]["required"] = True
    return {
        "guidelines": round.guideline()[0] or None,
        "questions": [question, reason],
        "fields": fields,
        "vectors": [],
        "metadata": [],
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": _overlap(round)},
        "mapping": None,
    }


def dataset_of(round: Round) -> dict[str, Any]:
    """The model of the dataset, as `rg.Dataset.from_disk` reads it."""
    settings = settings_of(round)
    shared = {name: settings[name] for name in ("guidelines", "allow_extra_metadata", "distribution")}
    return {"name": round.name, "status": "draft", **shared}


def _overlap(round: Round) -> int:
    return max((len(row.annotators) for row in round.tasks), default=1) or 1


def _question(task: Task, names: Mapping[str, str]) -> dict[str, Any]:
    if task.type == "rate" and task.points <= _MOST_POINTS:
        return {"type": "rating", "options": [{"value": point} for point in range(1, task.points + 1)]}
    if task.type in ("correct", "write"):
        return {"type": "text", "use_markdown": False}
    if task.type == "rank":
        if len(task.answers) > _MOST_RANKED:
            raise ConfigError(
                f"Argilla ranks at most {_MOST_RANKED} answers; there are {len(task.answers)}. Use --format "
                "label-studio or csv."
            )
        return {"type": "ranking", "options": _options(task.answers)}
    if task.type == "span":
        return {"type": "span", "field": names[task.text], "allow_overlapping": True, "options": _options(task.labels)}
    choices = {"classify": task.labels, "check": CHECKED}.get(task.type, task.choices)
    if len(choices) < 2:
        raise ConfigError("Argilla needs two labels to choose from; there is one. Use --format label-studio or csv.")
    return {"type": "multi_label_selection" if task.several else "label_selection", "options": _options(choices)}


def _options(values: Sequence[str]) -> list[dict[str, str]]:
    return [{"value": one, "text": one} for one in values]


def write(round: Round, labels: Mapping[str, Sequence[Annotation]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The records with suggestions and responses.

    labels: task id -> its labels. names: annotator -> user id in Argilla, where it is known.
    """
    task, version, fields = round.task, round.guideline()[1], names_of(round.task)
    found = []
    for row in round.tasks:
        metadata: dict[str, Any] = {ID: row.id} | ({GUIDELINE: version} if version else {})
        metadata |= {PRIORITY: row.priority} if row.priority else {}
        given = labels.get(row.id, ())
        if text := written_text(given):
            metadata[LABELS] = text
        suggestions = {}
        if (value := pre_label(task, row)) is not None:
            suggestions[LABEL] = {"value": _plain(task, value), "score": row.certainty, "agent": "raymill"}
        elif task.type == "correct":
            suggestions[LABEL] = {"value": row.record.get(task.text) or "", "score": None, "agent": "raymill"}
        responses: dict[str, list[dict[str, Any]]] = {}
        for one in given:
            user = {"user_id": names.get(one.annotator) or person_id(one.annotator), "status": _status(one)}
            if one.status != "skipped" and one.value is not None:
                responses.setdefault(LABEL, []).append({"value": _plain(task, one.value), **user})
            if one.reason or one.status == "skipped":  # a response must have a value
                responses.setdefault(REASON, []).append({"value": one.reason, **user})
        found.append(
            {"id": row.id, "fields": texts_of(row, fields), "metadata": metadata, "vectors": {},
             "suggestions": suggestions, "responses": responses}
        )  # fmt: skip
    return found


def _status(answer: Annotation) -> str:
    return next(name for name, status in _STATUSES.items() if status == answer.status)


def _plain(task: Task, value: Any) -> Any:
    return int(value) if task.type == "rate" and task.points <= _MOST_POINTS else value


# --- labels


def is_nested(record: Mapping[str, Any]) -> bool:
    """Whether this is a nested record."""
    return isinstance(record.get("fields"), dict)


def is_flat(record: Mapping[str, Any]) -> bool:
    """Whether this is a flat record."""
    return any(name.endswith((".responses", ".suggestion")) for name in record) or "_server_id" in record


def has_statuses(records: Iterable[Any]) -> bool:
    """Whether all responses of nested records have a status, as those that `write` makes."""
    return all(
        isinstance(one, dict) and one.get("status") in _STATUSES
        for record in records
        for some in object_in(object_in(record).get("responses")).values()
        for one in list_in(some)
    )


def read(round: Round, rows: Mapping[str, TaskRow], records: Iterable[Any]) -> Iterator[ToolLabel]:
    """The labels of nested records."""
    for number, record in enumerate(records, 1):
        record = object_in(record)
        metadata, responses = object_in(record.get("metadata")), object_in(record.get("responses"))
        by_question = {
            name: [
                (text_in(object_in(one).get("user_id")), object_in(one).get("value"), object_in(one).get("status"))
                for one in list_in(some)
            ]
            for name, some in responses.items()
        }
        yield from _labels(round, rows, f"record {number}", metadata, object_in(record.get("fields")), by_question)


def read_flat(round: Round, rows: Mapping[str, TaskRow], records: Iterable[Any]) -> Iterator[ToolLabel]:
    """The labels of flat records."""
    for number, record in enumerate(records, 1):
        record = object_in(record)
        by_question: dict[str, list[tuple[str, Any, Any]]] = {}
        for key, given in record.items():
            if not key.endswith(".responses"):
                continue
            values = list_in(given)
            users, statuses = list_in(record.get(f"{key}.users")), list_in(record.get(f"{key}.status"))
            by_question[key.removesuffix(".responses")] = [
                (
                    text_in(users[at]) if at < len(users) else "",
                    value,
                    statuses[at] if at < len(statuses) and isinstance(statuses[at], str) else None,
                )
                for at, value in enumerate(values)
            ]
        yield from _labels(round, rows, f"record {number}", record, record, by_question)


def _labels(
    round: Round, rows: Mapping[str, TaskRow], place: str, metadata: Mapping[str, Any], fields: Mapping[str, Any],
    by_question: Mapping[str, Sequence[tuple[str, Any, Any]]],
) -> Iterator[ToolLabel]:  # fmt: skip
    """by_question: question -> (user, value, status) of each response."""
    task = text_in(metadata.get(ID)) or None
    row, written = rows.get(task or ""), written_in(metadata.get(LABELS))
    others = [name for name in by_question if name != REASON]
    given = by_question.get(LABEL, by_question[others[0]] if len(others) == 1 else ())
    reasons = {user: text_in(value) for user, value, _ in by_question.get(REASON, ())}
    about: dict[str, Any] = {"fields": fields_in(fields, names_of(round.task)), "written": written,
                             "guideline": text_in(metadata.get(GUIDELINE))}  # fmt: skip
    labelled, people = {user for user, _, _ in given}, people_in(round, written)
    given = [*given, *((user, None, state) for user, _, state in by_question.get(REASON, ())
                       if user not in labelled and state == "discarded")]  # fmt: skip
    for at, (user, raw, state) in enumerate(given, 1):
        status = _STATUSES.get(state, "labelled") if isinstance(state, str) else "labelled"
        skipped = status == "skipped" or (status == "draft" and raw is None)
        value = None if skipped else value_in(round.task, row, raw)
        who = [*people.get(user, ()), user] if user else []
        yield ToolLabel(f"{place}, response {at}", task, who, status, value, reasons.get(user, ""), **about)
    if not any(by_question.values()) and task is None:
        yield ToolLabel(place, None, ())


def people_in(round: Round, written: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that have a UUID. written: (annotator, digest) of the labels that were exported with the task."""
    found = dict[str, list[str]]()
    for name in dict.fromkeys([*(one.name for one in round.annotators), *(name for name, _ in written)]):
        found.setdefault(person_id(name), []).append(name)
    return found
