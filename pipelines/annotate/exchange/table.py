"""Tables of labels as CSV or TSV: a row for each label, with the columns `raymill_id` (or `id`), `label`, `annotator`.

Spreadsheets run a cell as a formula if it begins with one of `= + - @`; such cells are written with an apostrophe
before them, which is left out again on import. Lists are JSON, or have `|`, `;` or `>` between their parts.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from raymill.pipelines.annotate.annotations import Annotation, Status
from raymill.pipelines.annotate.config import Task
from raymill.pipelines.annotate.exchange.tool_labels import (
    GUIDELINE,
    ID,
    LABEL,
    PRIORITY,
    REASON,
    ToolLabel,
    digest_of,
    field_names,
    fields_in,
    parsed,
    pre_label,
    seconds_in,
    text_in,
    texts_of,
    utc,
    value_in,
)
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import TaskRow, vote_of

DIGEST = "raymill_digest"  # of the label: one that was changed since has not the time of the row
_NAME = re.compile(r"[^\x00-\x1f]+")
_STATUSES: Mapping[str, Status] = {"labelled": "labelled", "skipped": "skipped", "draft": "draft"}
_AFTER = ("status", REASON, "at", "seconds", GUIDELINE, DIGEST)
_FORMULA, _ESCAPED = re.compile(r"['=+\-@\t\r]"), re.compile(r"'['=+\-@\t\r]")
_SEPARATORS = ("|", ";", ">", ",")


def names_of(task: Task) -> dict[str, str]:
    """Column -> column of the table."""
    return field_names(task, _NAME, {"id", "prediction", "certainty", "annotator", *_AFTER})


# --- tasks


def write(round: Round, labels: Mapping[str, Sequence[Annotation]], names: Mapping[str, str]) -> str:
    """The table: a row for each label, and one to fill in for a task without labels.

    labels: task id -> its labels. names: annotator -> name in the table, where it is another.
    """
    task, version, fields = round.task, round.guideline()[1], names_of(round.task)
    sink = io.StringIO()
    header = [ID, PRIORITY, *fields.values(), "prediction", "certainty", LABEL, "annotator", *_AFTER]
    table = csv.DictWriter(sink, header, restval="", lineterminator="\r\n")
    table.writeheader()
    for row in round.tasks:
        predicted = pre_label(task, row)
        one: dict[str, Any] = {ID: row.id, PRIORITY: row.priority or "", **texts_of(row, fields)}
        if predicted is not None:
            one |= {"prediction": vote_of(task, predicted), "certainty": row.certainty}
        if version:
            one[GUIDELINE] = version
        rows = [one | _label(task, names, answer) for answer in labels.get(row.id, ())] or [one]
        table.writerows({name: _cell(value) for name, value in each.items()} for each in rows)
    return sink.getvalue()


def _label(task: Task, names: Mapping[str, str], answer: Annotation) -> dict[str, Any]:
    return {
        LABEL: "" if answer.value is None else vote_of(task, answer.value),
        "annotator": names.get(answer.annotator, answer.annotator),
        "status": answer.status,
        REASON: answer.reason,
        "at": answer.at,
        "seconds": answer.seconds,
        GUIDELINE: answer.guideline,
        DIGEST: digest_of(answer.status, answer.value, answer.reason),
    }


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and _FORMULA.match(text) else text


# --- labels


def rows_in(lines: Iterator[str], most: int, longest: int) -> Iterator[dict[str, str]]:
    """The rows of a CSV or TSV text, by the names of its header.

    Args:
        lines: its lines with their ends, of a longer one `longest` characters without an end.
        most: number of cells, with those that short rows lack.
        longest: most characters of a row.

    Raises:
        csv.Error: a cell is too large. ValueError: a row is, there are more cells, or the text ends within a row.
    """
    csv.field_size_limit(longest)
    size, is_cut = 0, False  # of the lines of a row; whether the last line has no end

    def bounded() -> Iterator[str]:
        nonlocal size, is_cut
        for line in chain([first], lines):
            size += len(line)
            is_cut = not line.endswith(("\n", "\r"))
            if size >= longest:
                raise ValueError(f"a row has more than {longest:,} characters")
            yield line

    first = next(lines, "")
    delimiter = max(",\t;", key=lambda one: (first.count(one), one == ","))
    rows = csv.reader(bounded(), delimiter=delimiter)
    header = [name.strip() for name in next(rows, [])]
    number, is_ours = 0, ID in header
    for cells in rows:
        size = 0
        if not any(cells):
            continue
        number += 1
        if number * len(header) > most:
            raise ValueError(f"its rows have {len(header):,} columns, and more than {most:,} cells")
        if is_cut and len(cells) < len(header):
            raise ValueError(f"it ends within a row, after {len(cells)} of {len(header)} cells: it was cut")
        row = dict(zip_longest(header, cells[: len(header)], fillvalue=""))
        yield {name: cell[1:] if _ESCAPED.match(cell) else cell for name, cell in row.items()} if is_ours else row


def is_table(record: Mapping[str, Any]) -> bool:
    """Whether this is a row with a label of a task."""
    return LABEL in record and (ID in record or "id" in record)


def read(round: Round, rows: Mapping[str, TaskRow], records: Iterable[Any]) -> Iterator[ToolLabel]:
    """The labels of rows that have one or a status."""
    task, names = round.task, names_of(round.task)
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            yield ToolLabel(f"row {number}", None, ())
            continue
        id = text_in(record.get(ID)) or text_in(record.get("id")) or None
        state, raw = text_in(record.get("status")).strip().lower(), record.get(LABEL)
        status = _STATUSES.get(state, "labelled")
        if raw in (None, "") and not state:
            continue  # nobody filled it in
        row = rows.get(id or "")
        is_empty = raw in (None, "") and (status == "draft" or task.type not in ("correct", "write"))
        value = None if status == "skipped" or (status == "draft" and is_empty) else (
            value_in(task, row, _parts(task, raw))
        )  # fmt: skip
        who, reason = text_in(record.get("annotator")).strip(), text_in(record.get(REASON))
        was = text_in(record.get(DIGEST))
        times: tuple[float | None, str, str] = (
            (seconds_in(record.get("seconds")), utc(record.get("at")), text_in(record.get(GUIDELINE)))
            if not was or was == digest_of(status, value, reason)
            else (None, "", "")
        )
        about = fields_in(record, names)
        yield ToolLabel(f"row {number}", id, [who] if who else [], status, value, reason, *times, fields=about)


def _parts(task: Task, raw: Any) -> Any:
    """The label in a cell, of which lists are JSON or parts with a separator."""
    if not isinstance(raw, str) or task.type in ("correct", "write"):
        return raw
    text = raw.strip()
    if task.type == "rate" and re.fullmatch(r"\d{1,9}\.0+", text):
        return text.partition(".")[0]  # as spreadsheets write whole numbers
    if not (task.several or task.type in ("rank", "span")):
        return raw if raw in task.choices else text
    if text.startswith(("[", "{")):
        try:
            return parsed(text)
        except (ValueError, RecursionError):
            return text
    known = set(task.labels or task.answers)
    if text in known:
        return [text]
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) > 1 and known.issuperset(parts):
            return parts
    return text
