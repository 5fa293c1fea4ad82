"""The labels of a round as votes on items, by which agreement is measured and one label of each task is found.

A task of one label has one item. The others have several: `classify` with `several` one for each label (yes or no),
`rank` one for each pair of answers (which is better), `span` one for each word (its label, or none).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from raymill.pipelines.annotate.annotations import Annotation, latest
from raymill.pipelines.annotate.config import Task
from raymill.pipelines.annotate.consensus import Consensus
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import BadValue, TaskRow, value_of, vote_of
from raymill.pipelines.annotate.votes import Votes

_WORD = re.compile(r"\S+")
_NO, _YES, _FIRST, _SECOND, _NONE = "no", "yes", "first", "second", ""

# Reasons why a label does not count -> meaning.
REASONS = {
    "unknown_task": "no task of the round has this id",
    "unknown_annotator": "the annotator is none of the round's",
    "changed_task": "the annotator saw another text than the task has",
    "bad_value": "the task cannot have this label",
    "draft": "a draft, which was not submitted",
    "skipped": "the annotator skipped the task",
}


@dataclass(frozen=True)
class Ballots:
    """The labels of a round that count.

    Attributes:
        round: the round.
        given: task id -> its labels, of known annotators, one of each.
        left_out: reason -> labels that do not count.
        places: (number of the task, part of it) of each item.
        vocabulary: the labels that votes are for.
        votes: on the items.
    """

    round: Round
    given: Mapping[str, list[Annotation]]
    left_out: Mapping[str, list[Annotation]]
    places: Sequence[tuple[int, str]]
    vocabulary: Sequence[str]
    votes: Votes

    @property
    def task_of_item(self) -> np.ndarray:
        """int64[I]: number of the task of each item."""
        return np.array([task for task, _ in self.places], np.int64)

    @property
    def names(self) -> list[str]:
        """Names of the annotators, in the order of the votes."""
        return [one.name for one in self.round.annotators]

    def gold(self) -> dict[int, int]:
        """Item -> its known label."""
        task, found = self.round.task, dict[int, int]()
        number = {label: at for at, label in enumerate(self.vocabulary)}
        known = {at: row for at, row in enumerate(self.round.tasks) if row.gold is not None}
        parts = {at: gold_parts(task, row) for at, row in known.items()}
        for item, (at, part) in enumerate(self.places):
            if (label := parts.get(at, {}).get(part)) in number:
                found[item] = number[label]
        return found


def read_ballots(round: Round) -> Ballots:
    """The labels that came in so far. Of several by an annotator for a task the latest counts."""
    tasks = {row.id: (at, row) for at, row in enumerate(round.tasks)}
    people = {one.name: at for at, one in enumerate(round.annotators)}
    given: dict[str, list[Annotation]] = {}
    left_out: dict[str, list[Annotation]] = {}
    parts: list[tuple[int, int, dict[str, str]]] = []
    came_in = round.answers.read()
    counted = latest(came_in)
    for answer in [*counted.values(), *_with_problems(came_in, counted)]:
        reason, found = "", dict[str, str]()
        if answer.task not in tasks:
            reason = "unknown_task"
        elif answer.annotator not in people:
            reason = "unknown_annotator"
        elif answer.problem:
            reason = answer.problem if answer.problem in REASONS else "bad_value"
        elif answer.status != "labelled":
            reason = answer.status
        else:
            row = tasks[answer.task][1]
            try:
                found = parts_of(round.task, row, value_of(round.task, row, answer.value))
            except BadValue:
                reason = "bad_value"
        if reason:
            left_out.setdefault(reason, []).append(answer)
        else:
            given.setdefault(answer.task, []).append(answer)
            parts.append((tasks[answer.task][0], people[answer.annotator], found))
    parts.sort(key=lambda one: one[:2])
    vocabulary = vocabulary_of(round.task) or sorted({label for _, _, found in parts for label in found.values()})
    number = {label: at for at, label in enumerate(vocabulary)}
    items: dict[tuple[int, str], int] = {}
    rows = [
        (items.setdefault((task, part), len(items)), who, number[label])
        for task, who, found in parts
        for part, label in found.items()
    ]
    votes = Votes.of(rows, len(items), len(people), len(vocabulary))
    return Ballots(round, given, left_out, list(items), vocabulary, votes)


def _with_problems(answers: Iterable[Annotation], counted: Mapping[tuple[str, str], Annotation]) -> list[Annotation]:
    """The last label with a problem by each annotator for each task, unless the same label is there without one."""
    last = {(one.task, one.annotator): one for one in answers if one.problem}
    same = {place: (one.status, one.value) for place, one in counted.items()}
    return [one for place, one in last.items() if same.get(place) != (one.status, one.value)]


def vocabulary_of(task: Task) -> list[str]:
    """The labels that votes of a task can be for; empty of texts, which can be any."""
    if task.choices:
        return list(task.choices)
    by_type = {"classify": [_NO, _YES], "rank": [_FIRST, _SECOND], "span": [_NONE, *task.labels]}
    return by_type.get(task.type, [])


def parts_of(task: Task, row: TaskRow, value: Any) -> dict[str, str]:
    """Part of the task -> its value in the label."""
    if task.type == "classify" and task.several:
        return {label: _YES if label in value else _NO for label in task.labels}
    if task.type == "rank":
        place = {answer: at for at, answer in enumerate(value)}
        pairs = combinations(task.answers, 2)
        return {f"{one} {other}": _FIRST if place[one] < place[other] else _SECOND for one, other in pairs}
    if task.type == "span":
        words = enumerate(_WORD.finditer(row.record.get(task.text) or ""))
        return {str(at): _label_at(value, *word.span()) for at, word in words}
    return {"": vote_of(task, value)}


def _label_at(spans: Sequence[Mapping[str, Any]], start: int, end: int) -> str:
    """The label of the part that has most of a word; none if no part has any of it."""
    overlaps = [(min(end, one["end"]) - max(start, one["start"]), one["label"]) for one in spans]
    most, label = max(overlaps, key=lambda one: one[0], default=(0, _NONE))
    return label if most > 0 else _NONE


def gold_parts(task: Task, row: TaskRow) -> dict[str, str]:
    """As `parts_of`, of the known label of a task; empty if the task cannot have it."""
    try:
        return parts_of(task, row, value_of(task, row, row.gold)) if task.choices else {}
    except BadValue:
        return {}


def value_from(task: Task, row: TaskRow, parts: Mapping[str, str]) -> Any:
    """The label with these values of the parts; the inverse of `parts_of`."""
    if task.type == "classify" and task.several:
        return [label for label in task.labels if parts.get(label) == _YES]
    if task.type == "rank":
        wins = Counter[str](dict.fromkeys(task.answers, 0))
        for one, other in combinations(task.answers, 2):
            wins[one if parts.get(f"{one} {other}", _FIRST) == _FIRST else other] += 1
        return sorted(task.answers, key=lambda answer: (-wins[answer], task.answers.index(answer)))
    if task.type == "span":
        found: list[dict[str, Any]] = []
        previous = _NONE
        for at, word in enumerate(_WORD.finditer(row.record.get(task.text) or "")):
            label = parts.get(str(at), _NONE)
            if label != _NONE and label == previous:
                found[-1]["end"] = word.end()
            elif label != _NONE:
                found.append({"start": word.start(), "end": word.end(), "label": label})
            previous = label
        return found
    return parts.get("")


@dataclass(frozen=True)
class Found:
    """The label of a task. posterior: the smallest probability of its parts. tied: whether a part has two labels."""

    value: Any
    posterior: float
    tied: bool


def labels_from(ballots: Ballots, consensus: Consensus) -> dict[str, Found]:
    """Task id -> its label by the consensus, of the tasks with votes."""
    if not ballots.places:
        return {}
    best, tied, label = consensus.posterior.max(axis=1), consensus.is_tied(), consensus.label
    parts: dict[int, dict[str, str]] = {}
    certainty: dict[int, tuple[float, bool]] = {}
    for item, (task, part) in enumerate(ballots.places):
        parts.setdefault(task, {})[part] = ballots.vocabulary[label[item]]
        least, any_tied = certainty.get(task, (1.0, False))
        certainty[task] = min(least, float(best[item])), any_tied or bool(tied[item])
    rows, kind = ballots.round.tasks, ballots.round.task
    return {rows[at].id: Found(value_from(kind, rows[at], found), *certainty[at]) for at, found in parts.items()}
