"""Prodigy: tasks and labels as JSON Lines, a line for each label or, without one, for each task.

Tasks with choices have `options` and the chosen ones in `accept`, texts are in `user_input`, and marked parts in
`spans`. `answer` is `accept`, `reject` or `ignore`; a rejected task has no label of ours and counts as skipped.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raymill.cluster.errors import ConfigError
from raymill.pipelines.annotate.annotations import Annotation, Status
from raymill.pipelines.annotate.config import CHECKED, Task
from raymill.pipelines.annotate.exchange.tool_labels import (
    GUIDELINE,
    ID,
    LABELS,
    PRIORITY,
    REASON,
    ToolLabel,
    object_in,
    pre_label,
    text_in,
    texts_of,
    unreadable,
    utc,
    value_in,
    written_in,
    written_text,
)
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import QUESTIONS, TaskRow

_ANSWERS = frozenset({"accept", "reject", "ignore"})
_RECORD, _INPUT = "record", "user_input"
REJECTED = "rejected"


# --- tasks


def settings_of(task: Task) -> dict[str, Any]:
    """The settings for prodigy.json, with the interface.

    Raises:
        ConfigError: Prodigy has no such interface.
    """
    if task.type == "rank":
        raise ConfigError("Prodigy has no interface for rankings. Use --format label-studio, argilla or csv.")
    if task.type == "span":
        return {"view_id": "spans_manual", "labels": list(task.labels)}
    if task.type in ("correct", "write"):
        field = {"view_id": "text_input", "field_id": _INPUT, "field_rows": 5}
        return {"view_id": "blocks", "blocks": [{"view_id": "text"}, field]}
    return {"view_id": "choice", "choice_style": "multiple" if task.several else "single"}


def text_of(task: Task, row: TaskRow) -> str:
    """The text of a task: its column, or all of them under their names. Of spans the one that they are in."""
    if task.type == "span" or len(task.columns) == 1:
        return row.record.get(task.text) or ""
    return "\n\n".join(f"{column}:\n{row.record.get(column) or ''}" for column in task.columns)


def write(round: Round, labels: Mapping[str, Sequence[Annotation]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lines: one for each label, or one without `answer` for a task without labels.

    labels: task id -> its labels. names: annotator -> name in Prodigy, where it has another.
    """
    task, version = round.task, round.guideline()[1]
    found = []
    for row in round.tasks:
        meta: dict[str, Any] = {ID: row.id} | ({GUIDELINE: version} if version else {})
        meta |= {PRIORITY: row.priority} if row.priority else {}
        one: dict[str, Any] = {"text": text_of(task, row), "meta": meta}
        if len(task.columns) > 1:
            one[_RECORD] = texts_of(row, {column: column for column in task.columns})
        if task.type not in ("span", "correct", "write"):
            choices = {"classify": task.labels, "check": CHECKED}.get(task.type, task.choices)
            one |= {"options": [{"id": label, "text": label} for label in choices],
                    "label_question": task.question or QUESTIONS[task.type]}  # fmt: skip
        if not (given := labels.get(row.id, ())):
            value = pre_label(task, row)
            if value is None and task.type == "correct":
                value = row.record.get(task.text) or ""
            found.append(one | ({} if value is None else _value(task, row, value)))
        for answer in given:
            found.append(one | _answer(task, row, names, answer))
    return found


def _answer(task: Task, row: TaskRow, names: Mapping[str, str], answer: Annotation) -> dict[str, Any]:
    found: dict[str, Any] = {} if answer.value is None else _value(task, row, answer.value)
    found["answer"] = "ignore" if answer.status == "skipped" else "accept"
    if answer.status == "draft":
        found["draft"] = True
    if answer.reason:
        found[REASON] = answer.reason
    found["_annotator_id"] = names.get(answer.annotator, answer.annotator)
    found[LABELS] = written_text([answer])
    return found


def _value(task: Task, row: TaskRow, value: Any) -> dict[str, Any]:
    if task.type == "span":
        return {"spans": [dict(one) for one in value]}
    if task.type in ("correct", "write"):
        return {_INPUT: value}
    return {"accept": value if task.several else [value]}


# --- labels


def is_prodigy(record: Mapping[str, Any]) -> bool:
    """Whether this is a line of Prodigy."""
    answer = record.get("answer")
    return (isinstance(answer, str) and answer in _ANSWERS) or "_task_hash" in record or (
        isinstance(record.get("meta"), dict) and ID in record["meta"]
    )  # fmt: skip


def read(round: Round, rows: Mapping[str, TaskRow], records: Iterable[Any]) -> Iterator[ToolLabel]:
    """The labels of lines with an answer."""
    for number, record in enumerate(records, 1):
        record, place = object_in(record), f"line {number}"
        meta = object_in(record.get("meta"))
        task = text_in(meta.get(ID)) or None
        answer = record.get("answer")
        if answer is None and task is not None:
            continue  # a task without a label
        row, written = rows.get(task or ""), written_in(record.get(LABELS))
        accepted = answer == "accept"
        status: Status = "draft" if record.get("draft") is True else "labelled" if accepted else "skipped"
        raw = _raw(round.task, record)
        value = value_in(round.task, row, raw) if accepted and (raw is not None or status != "draft") else None
        if not (isinstance(answer, str) and answer in _ANSWERS):
            status, value = "labelled", unreadable(answer)
        reason = text_in(record.get(REASON)) or (REJECTED if answer == "reject" else "")
        yield ToolLabel(
            place, task, _people(round, record), status, value, reason, None, utc(record.get("_timestamp")),
            text_in(meta.get(GUIDELINE)), _fields(round.task, row, record), written,
        )  # fmt: skip


def _raw(task: Task, record: Mapping[str, Any]) -> Any:
    if task.type == "span":
        return record.get("spans")
    if task.type in ("correct", "write"):
        field = record.get("field_id")
        return record.get(field if isinstance(field, str) else _INPUT)
    if "accept" in record or "options" in record:
        return record.get("accept")
    return record.get("label")  # a task with one label, to accept or reject


def _people(round: Round, record: Mapping[str, Any]) -> list[str]:
    """The names of an annotator. Prodigy puts the name of the data set before the name of the session."""
    names = [name for key in ("_annotator_id", "_session_id") if (name := text_in(record.get(key)))]
    ours = [one.name for one in round.annotators if any(name.endswith(f"-{one.name}") for name in names)]
    exact = [name for name in names if any(name == one.name for one in round.annotators)]
    return list(dict.fromkeys([*exact, *sorted(ours, key=len, reverse=True)[:1], *names]))


def _fields(task: Task, row: TaskRow | None, record: Mapping[str, Any]) -> dict[str, Any]:
    """Column -> what the annotator saw."""
    shown = object_in(record.get(_RECORD))
    found = {column: shown[column] for column in task.columns if column in shown}
    if row is not None and "text" in record and record["text"] != text_of(task, row):
        found[task.text] = record["text"]  # another text than the task has
    return found
