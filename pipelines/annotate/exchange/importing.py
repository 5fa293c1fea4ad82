"""Labels in the files of other tools into a round: each once, and those that do not count with a reason.

The labels of a file are in `answers/import-DIGEST-*.jsonl`, with a digest of the file.
"""

import codecs
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from raymill.cluster.answer import Answer
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.formats import plural
from raymill.cluster.readers.formats.records import json_values
from raymill.cluster.readers.streams import UnreadableRest
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.pipelines.annotate.annotations import MOST, Annotation, latest
from raymill.pipelines.annotate.ballots import REASONS
from raymill.pipelines.annotate.exchange import argilla, label_studio, prodigy, table
from raymill.pipelines.annotate.exchange.tool_labels import JSON, ToolLabel, cleaned, digest_of, utc
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.tasks import BadValue, TaskRow, shown, value_of

_LARGEST = 1 << 29  # bytes of a file
_PIECE = 1 << 20  # bytes that are decoded at a time
_MOST_VALUES = 10_000_000  # JSON values or cells of a file
_LONGEST_RECORD = 1 << 24  # characters; its values take up to 30 bytes of memory for each
_MOST_LABELS = 1_000_000  # of an import, which take a kilobyte of memory each
_LONGEST_ID = 1000  # characters of the id of an unknown task, and of the name of an unknown annotator
_DIGITS = 16  # of the digest of a file
_LOOKED_AT = 1000  # records by which a format is recognised
_SHOWN = 60  # characters of a name in the result
_LISTED = 20  # names of unknown annotators in the result
# Reasons why a label cannot be stored -> meaning.
LOST = {
    "no_key": "the record has no raymill_id",
    "no_annotator": "the label has no annotator",
    "long_name": f"the id or annotator has over {_LONGEST_ID:,} characters and is not in the round",
}


def import_labels(round: Round, files: Sequence[str], names: Mapping[str, str] | None = None) -> Answer:
    """Add the labels in files of other tools to a round. The same labels again add nothing.

    Args:
        files: paths or URIs of files of Label Studio, Argilla or Prodigy, or of tables; their format is recognised.
        names: name of an annotator in the tool -> name in the round, as in `{"1": "a1"}`.

    Returns:
        The numbers of labels, and those that do not count or are not stored, by reason.

    Raises:
        ConfigError: a file does not exist, or a name is none of the round's annotators.
        DataError: a file has no known format. Nothing is added then.
    """
    names, people = dict(names or {}), {one.name for one in round.annotators}
    if unknown := sorted(set(names.values()) - people):
        raise ConfigError(f"{unknown[0]} is none of the round's annotators: {', '.join(sorted(people))}.")
    rows = {row.id: row for row in round.tasks}
    state = _State.of(round.answers.read())
    tally = _Tally(round, rows, people, min(_MOST_LABELS, MOST - len(state.keys)))
    about_files: list[dict[str, Any]] = []
    total = added = 0
    read = []
    for file in files:  # all are read before any is added
        content, name = _read(round, rows, file), paths.absolute(file).rpartition("/")[2]
        read.append((file, content, tally.answers(name, f"{content.format}:{cleaned(name)}", content.labels, names)))
    for file, content, answers in read:
        prefix = f"import-{content.digest}"
        is_known = any(one.uri.rpartition("/")[2].startswith(f"{prefix}-") for one in round.answers.files())
        new = [one for answer in _drafts_last(answers) if (one := state.new(answer, is_known)) is not None]
        round.answers.add(new, origin=prefix)
        total, added = total + len(answers), added + len(new)
        about_files.append(
            {"file": file, "format": content.format, "labels": len(answers), "new": len(new), "notes": content.notes}
        )
    facts = {
        "labels": total,
        "new": added,
        "known": total - added,
        "files": about_files,
        "left_out": tally.left_out(),
        "unknown_annotators": [
            {"annotator": name, "labels": number} for name, number in list(tally.unknown.items())[:_LISTED]
        ],
    }  # fmt: skip
    return Answer(facts, _text(round, facts))


# --- files


@dataclass(frozen=True)
class _File:
    """A file of a tool. digest: of its content."""

    format: str
    digest: str
    labels: Iterable[ToolLabel]
    notes: list[str]


def _read(round: Round, rows: Mapping[str, TaskRow], file: str) -> _File:
    content = _bytes_of(round, file)
    records = ToolRecords(content, file)
    format, notes = _format_of(records, file)
    readers = {
        "label-studio": label_studio.read,
        "label-studio-min": label_studio.read_min,
        "argilla": argilla.read,
        "argilla-flat": argilla.read_flat,
        "prodigy": prodigy.read,
        "csv": table.read,
    }
    read = readers[format]
    if format == "argilla" and any(True for _ in read(round, rows, records)) and not argilla.has_statuses(records):
        notes.append(argilla.NESTED_NOTE)
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    return _File(format.removesuffix("-min").removesuffix("-flat"), digest, read(round, rows, records), notes)


def _bytes_of(round: Round, file: str) -> bytes:
    """The content of a file, or of records.json in a data set of Argilla on disk."""
    uri = paths.absolute(file)
    inner = paths.join(uri, "records.json")
    try:
        return round.store.read_bytes(inner if round.store.exists(inner) else uri, _LARGEST)
    except NotFound as error:
        raise ConfigError(f"{file}: there is no such file. Give a file that a labelling tool exported.") from error


class ToolRecords:
    """The records of a JSON, JSON Lines, CSV or TSV file, read anew by each iteration: few of them are in memory.

    An iteration raises DataError where the file is none of these, or a record is too large.
    """

    def __init__(self, content: bytes, file: str) -> None:
        """
        Raises:
            DataError: the file is no text, or has too many values.
        """
        self._content, self._file = content, file
        self._encoding = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}.get(content[:2], "utf-8-sig")
        start, marks = "", Counter[str]()
        for piece in self._pieces():
            start = start or piece.lstrip()[:1]
            marks.update({mark: piece.count(mark) for mark in "[{,;\t\n"})
        self._is_json = start in ("[", "{")
        if sum(marks[mark] for mark in ("[{,\n" if self._is_json else ",;\t\n")) > _MOST_VALUES:
            raise DataError(
                f"{file}: has more than {_MOST_VALUES:,} values or separators of values. Export fewer tasks into each "
                "of several files, without columns that the round does not have."
            )

    def __iter__(self) -> Iterator[Any]:
        number = 0
        try:
            for record in self._values() if self._is_json else self._rows():
                number += 1
                yield record
        except UnreadableRest as error:
            what = "is too large" if error.problem == "too_large" else "is no whole JSON, or nested too deeply"
            raise DataError(f"{self._file}: record {number + 1} cannot be read: it {what}. Export it again.") from error
        except (ValueError, csv.Error) as error:
            raise DataError(f"{self._file}: cannot be read ({error}). Export it again.") from error

    def _values(self) -> Iterator[Any]:
        pieces = (piece.encode() for piece in self._pieces())
        return (value for value, _ in json_values(pieces, _LONGEST_RECORD, JSON))

    def _rows(self) -> Iterator[dict[str, str]]:
        with io.TextIOWrapper(io.BytesIO(self._content), self._encoding, newline="") as text:
            yield from table.rows_in(iter(lambda: text.readline(_LONGEST_RECORD), ""), _MOST_VALUES, _LONGEST_RECORD)

    def _pieces(self) -> Iterator[str]:
        whole = memoryview(self._content)
        parts = (bytes(whole[start : start + _PIECE]) for start in range(0, len(whole), _PIECE))
        try:
            yield from codecs.iterdecode(parts, self._encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._file}: is no text in UTF-8 ({error}). Export it again, or save it as UTF-8."
            ) from error


def _format_of(records: Iterable[Any], file: str) -> tuple[str, list[str]]:
    """(name of the format, notes) by the first records.

    Raises:
        DataError: it is none that is known.
    """
    recognised = {
        "label-studio": label_studio.is_json,
        "argilla": argilla.is_nested,
        "prodigy": prodigy.is_prodigy,
        "argilla-flat": argilla.is_flat,
        "label-studio-min": label_studio.is_min,
        "csv": table.is_table,
    }
    first = list(islice(records, _LOOKED_AT))
    objects = [one for one in first if isinstance(one, dict)]
    for name, is_this in recognised.items():
        if any(map(is_this, objects)):
            return name, []
    if not first:
        return "csv", ["The file has no records."]
    seen = ", ".join(f"{name!s:.{_SHOWN}}" for name in list(objects[0])[:10]) if objects else ""
    raise DataError(
        f"{file}: is no export of Label Studio, Argilla or Prodigy and no table of labels: "
        + (f"its first record has {seen}. " if seen else "its records are no objects. ")
        + "A table needs the columns raymill_id (or id), label and annotator."
    )


# --- labels


@dataclass
class _Reason:
    """Number of the labels with a reason, and the place of the first."""

    first: str
    labels: int = 0


@dataclass
class _Tally:
    """Labels by the reason why they do not count. most: number of labels that can be stored."""

    round: Round
    rows: Mapping[str, TaskRow]
    people: set[str]
    most: int
    reasons: dict[str, _Reason] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    stored: int = 0
    _compared: tuple[tuple[Mapping[str, Any], str] | None, bool] = (None, False)  # fields and task, and the outcome

    def answers(
        self, name: str, origin: str, labels: Iterable[ToolLabel], names: Mapping[str, str]
    ) -> list[Annotation]:
        """The labels that can be stored.

        Raises:
            DataError: there are too many in an import.
        """
        found = list[Annotation]()
        for label in labels:
            place = f"{name}, {label.place}"
            who = _person(label, names, self.people)
            if not label.task or who is None:
                self._count("no_key" if not label.task else "no_annotator", place)
                continue
            if (len(label.task) > _LONGEST_ID and label.task not in self.rows) or (
                len(who) > _LONGEST_ID and who not in self.people
            ):
                self._count("long_name", place)
                continue
            answer = self._answer(label, cleaned(label.task), who, origin)
            found.append(answer)
            self.stored += 1
            if self.stored > self.most:
                raise DataError(
                    f"{name}: there are more than {self.most:,} labels. Import at most {_MOST_LABELS:,} at once, and "
                    f"{MOST:,} into a round."
                )
            if reason := self._reason(answer):
                self._count(reason, f"{place}, {answer.annotator:.{_SHOWN}}, {answer.task:.{_SHOWN}}")
                if reason == "unknown_annotator":
                    self.unknown[who] = self.unknown.get(who, 0) + 1
        return found

    def _answer(self, label: ToolLabel, id: str, who: str, origin: str) -> Annotation:
        answer = Annotation(
            id, who, label.status, label.value, label.reason, label.seconds, label.at, label.guideline, origin
        )
        digest = digest_of(answer.status, answer.value, answer.reason)
        if one := label.written.get((who, digest)):  # the label that was exported, unchanged: its own time counts
            answer = replace(answer, at=one.at, seconds=one.seconds, guideline=one.guideline)
        return replace(answer, problem="changed_task") if self._is_changed(label.fields, id) else answer

    def _is_changed(self, fields: Mapping[str, Any], id: str) -> bool:
        """Whether the annotator saw other texts than those of the task. The labels of a record have the same fields."""
        before, changed = self._compared
        if before is None or before[0] is not fields or before[1] != id:
            row = self.rows.get(id)
            changed = row is not None and any(not _same(text, row.record.get(name)) for name, text in fields.items())
            self._compared = (fields, id), changed
        return changed

    def _reason(self, answer: Annotation) -> str:
        """Why a label does not count; empty of those that do. As `read_ballots` finds it."""
        if answer.task not in self.rows:
            return "unknown_task"
        if answer.annotator not in self.people:
            return "unknown_annotator"
        if answer.problem or answer.status != "labelled":
            return answer.problem or answer.status
        try:
            value_of(self.round.task, self.rows[answer.task], answer.value)
        except BadValue:
            return "bad_value"
        return ""

    def _count(self, reason: str, place: str) -> None:
        self.reasons.setdefault(reason, _Reason(place)).labels += 1

    def left_out(self) -> list[dict[str, Any]]:
        """Reason, number of labels, meaning and first place of each reason."""
        meanings = REASONS | LOST
        return [
            {"reason": reason, "labels": found.labels, "meaning": meanings[reason], "first": found.first}
            for reason, found in sorted(self.reasons.items())
        ]


def _person(label: ToolLabel, names: Mapping[str, str], people: set[str]) -> str | None:
    """The annotator by a name that is mapped or the round's, else as the tool has it; None without one."""
    if not label.annotators:
        return names.get("")
    mapped = [names[name] for name in label.annotators if name in names]
    ours = [name for name in label.annotators if name in people]
    return cleaned([*mapped, *ours, *label.annotators][0])


def _same(given: Any, ours: str | None) -> bool:
    """Whether a file has the text of a record, apart from how lines end."""
    try:
        given = cleaned(shown(given) or "")
    except RecursionError:
        return False
    return "\n".join(given.splitlines()).rstrip() == "\n".join((ours or "").splitlines()).rstrip()


def _drafts_last(answers: Iterable[Annotation]) -> list[Annotation]:
    """The labels in the order of their times, drafts last: a draft is no label if its annotator has given one."""
    return sorted(answers, key=lambda one: (one.status == "draft", one.at))


@dataclass
class _State:
    """The labels of a round.

    Attributes:
        keys: of all labels.
        contents: of all labels, without their times.
        places: (task, annotator) of all labels.
        last: (task, annotator) -> the label that counts.
    """

    keys: set[tuple[str, ...]]
    contents: set[tuple[str, ...]]
    places: set[tuple[str, str]]
    last: dict[tuple[str, str], Annotation]

    @classmethod
    def of(cls, answers: Sequence[Annotation]) -> "_State":
        found = cls(set(), set(), set(), latest(answers))
        for one in answers:
            found._add(one)
        return found

    def _add(self, answer: Annotation) -> None:
        self.keys.add(_key(answer))
        self.contents.add(_content(answer))
        self.places.add((answer.task, answer.annotator))

    def new(self, answer: Annotation, is_known: bool) -> Annotation | None:
        """The label if the round has it not yet, which then has it; else None.

        A label without a time that differs from the last of its annotator has the time of the import. If a file is
        imported again (`is_known`), such labels are those of before.
        """
        place = (answer.task, answer.annotator)
        last = self.last.get(place)
        if answer.at:
            is_there = _key(answer) in self.keys
        else:
            is_there = (is_known or last is None or bool(answer.problem)) and _content(answer) in self.contents
        if is_there or (not answer.problem and last is not None and _replaces_nothing(answer, last)):
            return None
        if not answer.problem:
            if not answer.at and place in self.places:
                answer = replace(answer, at=datetime.now(UTC).isoformat())
            if last is None or answer.at >= last.at:
                self.last[place] = answer
        self._add(answer)
        return answer


def _replaces_nothing(answer: Annotation, last: Annotation) -> bool:
    """Whether this is the label that counts already, or a draft of an annotator who has given a label."""
    same = (answer.status, answer.value, answer.reason) == (last.status, last.value, last.reason)
    return same or (answer.status == "draft" and last.status != "draft")


def _key(answer: Annotation) -> tuple[str, ...]:
    """Key of a label, with its time in one form."""
    return replace(answer, at=utc(answer.at)).key


def _content(answer: Annotation) -> tuple[str, ...]:
    return replace(answer, at="").key


# --- as text


def _text(round: Round, facts: Mapping[str, Any]) -> str:
    lines = [f"{plural(facts['labels'], 'label')}: {facts['new']:,} new, {facts['known']:,} known already"]
    for one in facts["files"]:
        lines.append(f"  {one['file']}: {one['format']}, {plural(one['labels'], 'label')}, {one['new']:,} new")
        lines += [f"  {note}" for note in one["notes"]]
    if facts["left_out"]:
        lines.append("do not count:")
    for one in facts["left_out"]:
        lines.append(f"  {one['reason']:<18}{one['labels']:>7,}  {one['meaning']} (first: {one['first']})")
    if unknown := facts["unknown_annotators"]:
        shown = ", ".join(f"{one['annotator']:.{_SHOWN}} ({one['labels']:,})" for one in unknown)
        first, ours = unknown[0]["annotator"], round.annotators[0].name
        lines.append(f"annotators that the round does not have: {shown}")
        lines.append(f"Import again with their names in the round, such as --as {first:.{_SHOWN}}={ours}.")
    lines.append(f"next: `raymill annotate finish {round.uri}`")
    return "\n".join(lines)
