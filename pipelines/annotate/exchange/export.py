"""A round as a file of another labelling tool."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

from raymill.cluster.answer import Answer
from raymill.cluster.errors import ConfigError
from raymill.cluster.formats import plural
from raymill.cluster.record import json_bytes
from raymill.cluster.store import paths
from raymill.pipelines.annotate.annotations import Annotation, latest
from raymill.pipelines.annotate.exchange import argilla, label_studio, prodigy, table
from raymill.pipelines.annotate.exchange.tool_labels import cleaned
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import BadValue, value_of

Format = Literal["label-studio", "argilla", "prodigy", "csv"]
# Name that Argilla's `Dataset.from_disk` wants of the records, beside `.argilla/`.
_RECORDS = "records.json"
_HINTS = {
    "label-studio": "make a project with the labelling config, and import the tasks",
    "argilla": "rg.Dataset.from_disk(FOLDER), if FILE is FOLDER/records.json; else rg.Settings.from_json(SETTINGS)",
    "prodigy": "prodigy mark DATASET FILE with the settings in prodigy.json; lines with `answer` go to prodigy db-in",
    "csv": "fill in the columns label and annotator",
}


def export_round(round: Round, file: str, format: Format, names: Mapping[str, str] | None = None) -> Answer:
    """Write the tasks of a round, with predictions and the labels that came in, as a file of another tool.

    Args:
        file: path or URI of the file. The labelling config is written beside it.
        names: id of an annotator in the tool -> name in the round, as in `{"1": "a1"}`.

    Returns:
        The files, and the numbers of tasks and labels.

    Raises:
        ConfigError: the tool cannot hold such tasks, or a file is there already.
    """
    if format not in get_args(Format):
        raise ConfigError(f"format: {format!r} is none of {', '.join(get_args(Format))}.")
    file = paths.absolute(file)
    theirs = {ours: tool for tool, ours in (names or {}).items()}
    labels, left_out = labels_to_write(round)
    folder, _, name = file.rpartition("/")
    stem = name.rpartition(".")[0] or name
    beside: dict[str, bytes] = {}
    if format == "label-studio":
        beside[f"{folder}/{stem}.xml"] = label_studio.labelling_config(round.task).encode()
        content = _json_lines(label_studio.write(round, labels, theirs), "[\n", ",\n", "\n]\n")
    elif format == "argilla":
        settings = json_bytes(argilla.settings_of(round))
        if name == _RECORDS:
            beside[f"{folder}/.argilla/settings.json"] = settings
            beside[f"{folder}/.argilla/dataset.json"] = json_bytes(argilla.dataset_of(round))
        else:
            beside[f"{folder}/{stem}.settings.json"] = settings
        content = _json_lines(argilla.write(round, labels, theirs), "[\n", ",\n", "\n]\n")
    elif format == "prodigy":
        beside[f"{folder}/{stem}.settings.json"] = json_bytes(prodigy.settings_of(round.task))
        content = _json_lines(prodigy.write(round, labels, theirs), "", "\n", "\n")
    else:
        content = ("\ufeff" + table.write(round, labels, theirs)).encode()  # spreadsheets take it as UTF-8 by the mark
    if there := next((one for one in (file, *beside) if round.store.exists(one)), None):
        raise ConfigError(f"{there}: is there already, and may have labels in it. Choose another name, or delete it.")
    for place, text in {**beside, file: content}.items():
        if not round.store.create(place, text):
            raise ConfigError(f"{place}: was made by another program meanwhile. Choose another name.")
    facts = {
        "file": file,
        "format": format,
        "tasks": len(round.tasks),
        "labels": sum(map(len, labels.values())),
        "left_out": left_out,
        "beside": list(beside),
    }
    return Answer(facts, _text(facts, format))


def _json_lines(records: Sequence[Any], before: str, between: str, after: str) -> bytes:
    """The records as JSON, one a line."""
    return (before + between.join(json.dumps(one, ensure_ascii=False) for one in records) + after).encode()


def labels_to_write(round: Round) -> tuple[dict[str, list[Annotation]], int]:
    """(task id -> its labels, number of labels that the tasks cannot have). Of each annotator the latest of a task."""
    rows = {row.id: row for row in round.tasks}
    found: dict[str, list[Annotation]] = {}
    left_out = 0
    for answer in latest(round.answers.read()).values():
        if answer.task not in rows:
            left_out += 1
            continue
        value = None
        if answer.status != "skipped" and not (answer.status == "draft" and answer.value is None):
            try:
                value = value_of(round.task, rows[answer.task], answer.value)
            except BadValue:
                left_out += 1
                continue
        found.setdefault(answer.task, []).append(replace(answer, value=value, reason=cleaned(answer.reason)))
    return found, left_out


def _text(facts: Mapping[str, Any], format: str) -> str:
    lines = [f"{plural(facts['tasks'], 'task')}, {plural(facts['labels'], 'label')}: {facts['file']}"]
    lines += [f"settings            {one}" for one in facts["beside"]]
    if facts["left_out"]:
        lines.append(f"warning: {plural(facts['left_out'], 'label')} left out, which no task of the round can have.")
    return "\n".join([*lines, f"next                {_HINTS[format]}"])


def as_names(pairs: Sequence[str] | None) -> dict[str, str]:
    """Name in a tool -> name in the round, of `TOOL=OURS` each.

    Raises:
        ConfigError: one has no `=`.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        tool, equals, ours = pair.rpartition("=")
        if not equals or not ours:
            raise ConfigError(f"--as {pair}: is not of the form 1=a1, the name in the tool and that in the round.")
        if found.setdefault(tool, ours) != ours:
            raise ConfigError(f"--as: {tool!r} has two names, {found[tool]} and {ours}.")
    return found
