"""Label Studio: tasks as JSON with the labelling config, and labels as JSON, JSON-MIN, CSV or TSV.

JSON has all labels of a task in `annotations`, skipped ones as `was_cancelled`, and drafts in `drafts`. JSON-MIN and
CSV have a row for each label that was not skipped, with the label under the name of its control.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from raymill.cluster.errors import ConfigError
from raymill.pipelines.annotate.annotations import Annotation
from raymill.pipelines.annotate.config import CHECKED, Task
from raymill.pipelines.annotate.exchange.tool_labels import (
    GUIDELINE,
    ID,
    LABEL,
    LABELS,
    PRIORITY,
    REASON,
    ToolLabel,
    cleaned,
    field_names,
    fields_in,
    list_in,
    object_in,
    parsed,
    pre_label,
    seconds_in,
    text_in,
    texts_of,
    utc,
    value_in,
    written_in,
    written_text,
)
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import QUESTIONS, TaskRow

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Columns of JSON-MIN and CSV besides the fields of the task and the labels.
_OWN = frozenset({"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement", "meta"})
_ITEMS = "items"  # field with the answers that `rank` orders
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
# Type of task -> types of results with its label.
_RESULTS = {
    "classify": ("choices", "taxonomy"),
    "rate": ("rating", "choices", "number"),
    "compare": ("choices", "pairwise"),
    "rank": ("ranker",),
    "correct": ("textarea",),
    "write": ("textarea",),
    "span": ("labels", "hypertextlabels"),
    "check": ("choices",),
}


def names_of(task: Task) -> dict[str, str]:
    """Column -> field of `data`."""
    return field_names(task, _NAME, {*_OWN, _ITEMS, "answers"})


def _main(task: Task, names: Mapping[str, str]) -> str:
    """The field that the label is about."""
    return names[task.text if task.type in ("correct", "span", "check") else task.show[0]]


def _shown(task: Task, names: Mapping[str, str]) -> dict[str, str]:
    """The fields with a text of their own: of `rank` without the answers, which are in `items`."""
    hidden = set(task.answers) - set(task.show) if task.type == "rank" else ()
    return {column: field for column, field in names.items() if column not in hidden}


# --- tasks


def labelling_config(task: Task) -> str:
    """The labelling config, as XML.

    Raises:
        ConfigError: a label has characters that XML cannot hold.
    """
    if bad := next((one for one in (*task.labels, *task.columns, task.question) if _NOT_IN_XML.search(one)), None):
        raise ConfigError(f"Label Studio cannot have {bad!r}, which has a control character. Use --format csv.")
    names = names_of(task)
    about = _main(task, names)
    lines = ["<View>", f"  <Header value={quoteattr(task.question or QUESTIONS[task.type])}/>"]
    for column, field in _shown(task, names).items():
        if len(names) > 1:
            lines.append(f'  <Header value={quoteattr(column)} size="5"/>')
        lines.append(f'  <Text name="{field}" value="${field}"/>')
    lines += [f"  {line}" for line in _control(task, names, about)]
    lines.append(
        f'  <TextArea name="{REASON}" toName="{about}" maxSubmissions="1" rows="1" placeholder="Reason for skipping"/>'
    )
    return "\n".join([*lines, "</View>", ""])


def _control(task: Task, names: Mapping[str, str], about: str) -> Iterator[str]:
    """The element that the annotator labels with."""
    if task.type == "rank":
        yield f'<List name="answers" value="${_ITEMS}" title="Best first"/>'
        yield f'<Ranker name="{LABEL}" toName="answers"/>'
    elif task.type == "rate":
        yield f'<Rating name="{LABEL}" toName="{about}" maxRating="{task.points}"/>'
    elif task.type == "correct":
        text = names[task.text]
        yield f'<TextArea name="{LABEL}" toName="{about}" value="${text}" editable="true" maxSubmissions="1" rows="5"/>'
    elif task.type == "write":
        yield f'<TextArea name="{LABEL}" toName="{about}" editable="true" maxSubmissions="1" rows="5"/>'
    elif task.type == "span":
        yield f'<Labels name="{LABEL}" toName="{about}">'
        yield from (f"  <Label value={quoteattr(one)}/>" for one in task.labels)
        yield "</Labels>"
    else:
        number = "multiple" if task.several else "single"
        choices = {"classify": task.labels, "check": CHECKED}.get(task.type, task.choices)
        yield f'<Choices name="{LABEL}" toName="{about}" choice="{number}" showInline="true">'
        yield from (f"  <Choice value={quoteattr(one)}/>" for one in choices)
        yield "</Choices>"


def write(round: Round, labels: Mapping[str, Sequence[Annotation]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The tasks with predictions and labels.

    labels: task id -> its labels. names: annotator -> id or e-mail in Label Studio, where it has another.
    """
    task, version, fields = round.task, round.guideline()[1], names_of(round.task)
    found = []
    for row in round.tasks:
        data: dict[str, Any] = {ID: row.id} | texts_of(row, _shown(task, fields))
        if task.type == "rank":
            data[_ITEMS] = [{"id": one, "title": one, "body": row.record.get(one) or ""} for one in task.answers]
        if version:
            data[GUIDELINE] = version
        if row.priority:
            data[PRIORITY] = row.priority
        given = labels.get(row.id, ())
        if text := written_text(given):
            data[LABELS] = text
        one: dict[str, Any] = {"data": data}
        if (value := pre_label(task, row)) is not None:
            score = {} if row.certainty is None else {"score": row.certainty}
            one["predictions"] = [{"model_version": "raymill", **score, "result": _result(task, row, fields, value)}]
        if done := [one for one in given if one.status != "draft"]:
            one["annotations"] = [_annotation(task, row, fields, names, answer) for answer in done]
        if drafts := [one for one in given if one.status == "draft"]:
            one["drafts"] = [_draft(task, row, fields, names, answer) for answer in drafts]
        found.append(one)
    return found


def _annotation(
    task: Task, row: TaskRow, fields: Mapping[str, str], names: Mapping[str, str], answer: Annotation
) -> dict[str, Any]:
    who = names.get(answer.annotator, answer.annotator)
    return {
        "completed_by": int(who) if who.isascii() and who.isdigit() and len(who) < 16 else {"email": who},
        "was_cancelled": answer.status == "skipped",
        "ground_truth": False,
        **_times(answer),
        "result": _answer_result(task, row, fields, answer),
    }


def _draft(
    task: Task, row: TaskRow, fields: Mapping[str, str], names: Mapping[str, str], answer: Annotation
) -> dict[str, Any]:
    who = names.get(answer.annotator, answer.annotator)
    return {"user": who, **_times(answer), "result": _answer_result(task, row, fields, answer)}


def _times(answer: Annotation) -> dict[str, Any]:
    found: dict[str, Any] = {} if answer.seconds is None else {"lead_time": answer.seconds}
    return found | ({"created_at": answer.at, "updated_at": answer.at} if answer.at else {})


def _answer_result(task: Task, row: TaskRow, fields: Mapping[str, str], answer: Annotation) -> list[dict[str, Any]]:
    found = [] if answer.value is None else _result(task, row, fields, answer.value)
    if answer.reason:
        about = _main(task, fields)
        found.append({"id": "reason", "from_name": REASON, "to_name": about, "type": "textarea",
                      "value": {"text": [answer.reason]}})  # fmt: skip
    return found


def _result(task: Task, row: TaskRow, fields: Mapping[str, str], value: Any) -> list[dict[str, Any]]:
    """The result items of a label."""
    about = _main(task, fields)
    if task.type == "span":
        text = row.record.get(task.text) or ""
        parts = [(one["start"], one["end"], one["label"]) for one in value]
        values = [
            {"start": start, "end": end, "text": text[start:end], "labels": [label]} for start, end, label in parts
        ]
        return [_item(f"part{at}", about, "labels", part) for at, part in enumerate(values, 1)]
    if task.type == "rank":
        return [_item("label1", "answers", "ranker", {"ranker": {"rank": value}})]
    if task.type == "rate":
        return [_item("label1", about, "rating", {"rating": int(value)})]
    if task.type in ("correct", "write"):
        return [_item("label1", about, "textarea", {"text": [value]})]
    return [_item("label1", about, "choices", {"choices": value if task.several else [value]})]


def _item(id: str, to_name: str, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": id, "from_name": LABEL, "to_name": to_name, "type": kind, "value": value}


# --- labels


def is_json(record: Mapping[str, Any]) -> bool:
    """Whether a record is a task of the JSON format."""
    return isinstance(record.get("data"), dict)


def is_min(record: Mapping[str, Any]) -> bool:
    """Whether a record is a row of JSON-MIN or CSV."""
    return "annotation_id" in record or ("annotator" in record and "lead_time" in record)


def read(round: Round, rows: Mapping[str, TaskRow], records: Iterable[Any]) -> Iterator[ToolLabel]:
    """The labels of the JSON format."""
    names = names_of(round.task)
    for number, record in enumerate(records, 1):
        record, place = object_in(record), f"task {number}"
        data = object_in(record.get("data"))
        task = text_in(data.get(ID)) or None
        about = _about(round.task, names, data)
        row = rows.get(task or "")
        given = [("annotation", one) for one in list_in(record.get("annotations", record.get("completions")))]
        given += [("draft", one) for one in list_in(record.get("drafts"))]
        for at, (what, one) in enumerate(given, 1):
            yield _label(round.task, row, task, f"{place}, {what} {at}", what, object_in(one), about)
        if not given and task is None:
            yield ToolLabel(place, None, ())


def _about(task: Task, names: Mapping[str, str], data: Mapping[str, Any]) -> dict[str, Any]:
    """What a label has from the data of its task."""
    fields = fields_in(data, names)
    items = data.get(_ITEMS)
    if isinstance(items, str):
        items = _or_text(items)
    for item in list_in(items):
        if isinstance(item, dict) and isinstance(name := item.get("id"), str) and name in task.answers:
            fields[name] = item.get("body")
    return {"fields": fields, "guideline": text_in(data.get(GUIDELINE)), "written": written_in(data.get(LABELS))}


def _label(
    task: Task, row: TaskRow | None, id: str | None, place: str, what: str, one: Mapping[str, Any],
    about: Mapping[str, Any],
) -> ToolLabel:  # fmt: skip
    result = [object_in(item) for item in list_in(one.get("result"))]
    reasons = [text for item in result if item.get("from_name") == REASON
               for text in list_in(object_in(item.get("value")).get("text"))]  # fmt: skip
    items = [item for item in result if item.get("from_name") == LABEL]
    items = items or [item for item in result if item.get("type") in _RESULTS[task.type]
                      and item.get("from_name") != REASON]  # fmt: skip
    skipped = one.get("was_cancelled") is True or one.get("skipped") is True
    value = None
    if not skipped and (items or what == "annotation" or task.several or task.type == "span"):
        raw: Any = [item.get("value") for item in items] if isinstance(one.get("result"), list) else one.get("result")
        value = value_in(task, row, raw[0] if isinstance(raw, list) and len(raw) == 1 else raw)
    who = one.get("completed_by") if what == "annotation" else one.get("user", one.get("created_username"))
    return ToolLabel(
        place, id, people_in(who), "skipped" if skipped else "labelled" if what == "annotation" else "draft", value,
        " ".join(filter(None, map(text_in, reasons))), seconds_in(one.get("lead_time")),
        utc(one.get("updated_at")) or utc(one.get("created_at")), **about,
    )  # fmt: skip


def people_in(who: Any) -> list[str]:
    """The names of an annotator: e-mail, user name and number, of those that are there."""
    if not isinstance(who, dict):
        return [name] if (name := text_in(who)) else []
    return [name for key in ("email", "username", "id") if (name := text_in(who.get(key)))]


def read_min(round: Round, rows: Mapping[str, TaskRow], records: Iterable[Any]) -> Iterator[ToolLabel]:
    """The labels of JSON-MIN, CSV and TSV. Texts of CSV that are JSON are read as such where a label is not a text."""
    task, names = round.task, names_of(round.task)
    inside = {*names.values(), *(f"_data_{name}" for name in names.values())}
    inside |= {ID, GUIDELINE, LABELS, PRIORITY, REASON, _ITEMS}
    others = dict[str, None]()  # up to two
    for record in records:
        if len(others) < 2:
            others |= dict.fromkeys([one for one in object_in(record) if one not in _OWN and one not in inside][:2])
    has_ours = any(LABEL in object_in(record) for record in records)
    name = LABEL if has_ours or len(others) != 1 or task.type in ("correct", "write") else next(iter(others))
    for number, record in enumerate(records, 1):
        record = object_in(record)
        raw = record.get(name)
        id = text_in(record.get(ID)) or None
        who = people_in(record.get("annotator"))
        if not who and raw in (None, "") and id is not None:
            continue  # a task without labels
        if isinstance(raw, str) and task.type not in ("correct", "write"):
            raw = _or_text(raw)
        value = value_in(task, rows.get(id or ""), raw)
        yield ToolLabel(
            f"row {number}", id, who, "labelled", value, _reason(record.get(REASON)),
            seconds_in(record.get("lead_time")), utc(record.get("updated_at")) or utc(record.get("created_at")),
            **_about(task, names, record),
        )  # fmt: skip


def _reason(raw: Any) -> str:
    return " ".join(filter(None, map(text_in, raw))) if isinstance(raw, list) else text_in(raw)


def _or_text(text: str) -> Any:
    """The list or object in a cell, or the text itself."""
    if not text.lstrip().startswith(("[", "{")):
        return cleaned(text)
    try:
        return parsed(text)
    except (ValueError, RecursionError):
        return cleaned(text)
