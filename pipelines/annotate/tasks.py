"""Tasks of annotators, and what their labels can be.

classify         one of the labels; with `several` a list of them, in the order of the config
rate, check      one of the points or labels, as text
compare          the column of the better answer, or `tie`
rank             the columns of the answers, the best first
correct, write   a text
span             parts of the text: {start, end, label}, in characters, by their start
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.pipelines.annotate.config import Task

TASKS = "tasks"
SCORED = "_work/scored"  # predictions for all candidates
_LONGEST_TEXT = 1_000_000
QUESTIONS = {
    "classify": "Which label fits?",
    "rate": "How good is it?",
    "compare": "Which answer is better?",
    "rank": "Which answers are better?",
    "correct": "Correct the text.",
    "write": "Write the answer.",
    "span": "Mark the parts of the text.",
    "check": "Does the source support the statement?",
}


class BadValue(ValueError):
    """A label that the task cannot have; the message has the value and what was wanted."""


@dataclass(frozen=True)
class TaskRow:
    """A record to label.

    Attributes:
        id: of the record, different for each task of a round.
        record: column -> text; None where the record has none.
        chosen_by: strategy that chose it.
        probability: chance that it was chosen; 1 of a record that a strategy chose by its score.
        stratum: values of `choose.strata`, as text.
        score: by the strategy; None of random ones.
        prediction: label by a classifier, with its probability in `certainty`; None without one.
        gold: known label; None of most.
        present: value of the field that the label corrects; None without one.
        annotators: names of those who are given it.
        topic: value of the setting `expertise`; None without one.
        priority: from 1, the order in which to label tasks if not all will be labelled; 0: not known.
    """

    id: str
    source: str
    record: Mapping[str, str | None]
    chosen_by: str = "random"
    probability: float = 1.0
    stratum: str = ""
    score: float | None = None
    prediction: str | None = None
    certainty: float | None = None
    gold: str | None = None
    present: str | None = None
    annotators: Sequence[str] = ()
    topic: str | None = None
    priority: int = 0


def tasks_schema(task: Task) -> pa.Schema:
    """The columns of `tasks/`."""
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("record", pa.struct([(name, pa.large_string()) for name in task.columns])),
            ("chosen_by", pa.string()),
            ("probability", pa.float64()),
            ("stratum", pa.string()),
            ("score", pa.float64()),
            ("prediction", pa.string()),
            ("certainty", pa.float64()),
            ("gold", pa.string()),
            ("present", pa.large_string()),
            ("annotators", pa.list_(pa.string())),
            ("topic", pa.string()),
            ("priority", pa.int64()),
        ]
    )


def read_tasks(tasks: Artifact) -> list[TaskRow]:
    """The tasks of a round, in the order in which they are given to annotators."""
    return [TaskRow(**row) for table in tasks.tables() for row in table.to_pylist()]


def shown(value: Any) -> str | None:
    """A value of a record as text: as it is, or as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def turns(text: str) -> list[tuple[str, str]] | None:
    """(role, text) of each message of a conversation as JSON; None of any other text."""
    if not text.startswith("[{"):
        return None
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages):
        return None
    return [(one["role"], shown(one.get("content")) or "") for one in messages]


def value_of(task: Task, row: TaskRow, value: Any) -> Any:
    """The label as it is kept, after the check that the task can have it.

    Raises:
        BadValue: it cannot.
    """
    if task.choices:
        found = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(found, float) and found.is_integer():
            found = str(int(found))
        if found not in task.choices:
            raise BadValue(f"{_short(value)} is none of {', '.join(task.choices[:20])}")
        return found
    if task.type == "classify":
        given = [value] if isinstance(value, str) else value
        if not isinstance(given, list) or not all(one in task.labels for one in given):
            raise BadValue(f"{_short(value)} is no list of {', '.join(task.labels[:20])}")
        return [one for one in task.labels if one in given]
    if task.type == "rank":
        if not isinstance(value, list) or sorted(map(str, value)) != sorted(task.answers):
            raise BadValue(f"{_short(value)} is no order of {', '.join(task.answers)}")
        return list(map(str, value))
    if task.type == "span":
        return list(_spans(task, row.record.get(task.text) or "", value))
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or (task.type == "write" and not value.strip()):
        raise BadValue(f"{_short(value)} is no text of at most {_LONGEST_TEXT:,} characters")
    return value


def _spans(task: Task, text: str, value: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(value, list):
        raise BadValue(f"{_short(value)} is no list of parts")
    found = set()
    for one in value:
        place = (one.get("start"), one.get("end"), one.get("label")) if isinstance(one, dict) else (None, None, None)
        start, end, label = place
        if not (type(start) is int and type(end) is int and 0 <= start < end <= len(text) and label in task.labels):
            raise BadValue(f"{_short(one)} is no part of the text with one of the labels {', '.join(task.labels[:20])}")
        found.add((start, end, label))
    for start, end, label in sorted(found):
        yield {"start": start, "end": end, "label": label}


def _short(value: Any) -> str:
    return f"{json.dumps(value, ensure_ascii=False, default=str):.80}"


def vote_of(task: Task, value: Any) -> str:
    """A label as one word, by which labels are compared: equal labels have equal words."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
