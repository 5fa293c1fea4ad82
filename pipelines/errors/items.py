"""Evaluated items: an answer of a model to a prompt, and its error.

The error of an item, from 0 (right) to 1, is by the first of these that it has: a user's correction (1, or 0 if the
answer is left as it is), a rating, a score, and the comparison with the expected answer. An item without any of them is
not judged, and left out.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.artifact import Counters
from raymill.cluster.entry import Entry
from raymill.cluster.examples.plain_numbers import number_in
from raymill.cluster.examples.splits import hash64
from raymill.cluster.readers.columns import value_in
from raymill.cluster.readers.quarantine import lost_counters
from raymill.cluster.readers.reader import ReaderCounts, python_rows
from raymill.cluster.readers.units import InputManifest, Unit, read_unit, split_problems
from raymill.cluster.stage import Scratch
from raymill.pipelines.errors.config import Compare, ErrorsConfig
from raymill.pipelines.generate.stages import QUARANTINE
from raymill.pipelines.prepare.records.fields import hash_of_text
from raymill.pipelines.prepare.stages.duplicates import same

_by_item = Entry("raymill.pipelines.prompting.compare:by_item")  # it imports scores of `training`

READ = "_work/read"
READ_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.large_string()),
        ("answer", pa.large_string()),
        ("expected", pa.large_string()),
        ("error", pa.float64()),
        ("corrected", pa.bool_()),  # whether `expected` is a user's correction
        ("edited_by", pa.string()),
        ("confidence", pa.float64()),
        ("fields", pa.large_string()),  # name -> value, as JSON
    ]
)
_UP = {"up", "+1", "1", "true", "yes", "good", "like", "liked", "positive", "thumbs_up", "thumbsup", "👍"}
_DOWN = {"down", "-1", "0", "false", "no", "bad", "dislike", "disliked", "negative", "thumbs_down", "thumbsdown", "👎"}
_MOST_CHARACTERS = 20_000  # of an answer that is compared


@dataclass(frozen=True)
class EvaluatedItem:
    """A prompt, the answer of a model, and what is known of it. Attributes as in READ_SCHEMA."""

    id: str
    source: str
    prompt: str
    answer: str
    expected: str | None = None
    error: float | None = None
    corrected: bool = False
    edited_by: str | None = None
    confidence: float | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        return vars(self) | {"fields": json.dumps(self.fields, ensure_ascii=False, sort_keys=True)}


def errors_of(compare: Compare, expected: Sequence[str], answers: Sequence[str | None]) -> np.ndarray:
    """float64[N]: 1 - the score of each answer by the comparison; 1 without an answer."""
    cut = [None if one is None else one[:_MOST_CHARACTERS] for one in answers]
    return 1 - _by_item.load()(compare, [one[:_MOST_CHARACTERS] for one in expected], cut)


def rating_error(value: str | None, points: int | None) -> float | None:
    """The error of a rating; None if it is none. points: highest value; None: thumbs."""
    if value is None or not (word := value.strip().casefold().replace(" ", "_").rstrip("\ufe0f")):
        return None
    if points is None:
        word = word.removesuffix(".0")
        return 0.0 if word in _UP else 1.0 if word in _DOWN else None
    number = number_from(word, 1, points)
    return None if number is None else (points - number) / (points - 1)


def number_from(value: str | None, low: float, high: float) -> float | None:
    """A number of a column; None if the text is none in the bounds."""
    number = number_in(value)
    return number if low <= number <= high else None


@dataclass(frozen=True)
class ReadFiles:
    """The work of the stage `read` on files. bound: items with a larger hash of their id are left out."""

    config: ErrorsConfig
    inputs: InputManifest
    bound: int

    def __call__(self, unit: Unit, scratch: Scratch) -> Counters:
        """Counters: `documents`, `quarantined`, `unjudged`, `drawn_out`, and those of `lost_counters`."""
        counters, counts = Counter[str](), ReaderCounts()
        reading = self.inputs.reading
        text = reading.input_of(unit.source).text
        for table in read_unit(unit, reading, self.config.limits, counts=counts):
            readable, bad = split_problems(table)
            counters.update({"documents": table.num_rows, "quarantined": bad.num_rows})
            if bad.num_rows:
                found = bad.select(["row", "problem", "where"])
                scratch.write(QUARANTINE, found.append_column("source", pa.repeat(unit.source, found.num_rows)))
            rows = python_rows(readable.select([name for name in readable.column_names if name != "row"]))
            drawn = list(self._items(rows, text, unit.source, counters))
            judged = [one for one in self._judged(drawn) if one.error is not None]
            counters["unjudged"] += len(drawn) - len(judged)
            if judged:
                scratch.write(READ, pa.Table.from_pylist([one.row for one in judged], READ_SCHEMA))
        counters.update({"documents": counts.lost.total(), "quarantined": counts.lost.total()})
        counters.update(lost_counters(unit.source, counts))
        return dict(counters)

    def _items(
        self, rows: Sequence[Mapping[str, Any]], text: str | None, source: str, counters: Counter[str]
    ) -> Iterator[EvaluatedItem]:
        """The items of rows, without errors by comparison."""
        columns, points = self.config.columns, self.config.points
        for row in rows:
            value = _reader_of(row, text)
            prompt, answer = value(columns.prompt) or "", value(columns.answer)
            id = row.get("id") or hash_of_text(json.dumps([prompt, answer], ensure_ascii=False))
            if hash64(id.encode()) > self.bound:
                counters["drawn_out"] += 1
                continue
            correction = value(columns.correction)
            error: float | None
            if correction and correction.strip():
                error = float(same(correction) != same(answer or ""))
            else:
                correction, error = None, rating_error(value(columns.rating), points)
                if error is None and (score := number_from(value(columns.score), 0, 1)) is not None:
                    error = 1 - score
            yield EvaluatedItem(
                id=id,
                source=source,
                prompt=prompt,
                answer=answer or "",
                expected=correction or value(columns.expected),
                error=error,
                corrected=correction is not None,
                edited_by=value(columns.edited_by) if correction is not None else None,
                confidence=number_from(value(columns.confidence), 0, 1),
                fields={name: one for name in columns.fields if (one := value(name))},
            )

    def _judged(self, items: Sequence[EvaluatedItem]) -> Iterator[EvaluatedItem]:
        """The items with errors by comparison, where nothing else states them."""
        at = [n for n, one in enumerate(items) if one.error is None and one.expected is not None]
        expected = [items[n].expected or "" for n in at]
        found = errors_of(self.config.compare, expected, [items[n].answer for n in at]) if at else np.zeros(0)
        errors = {one: float(error) for one, error in zip(at, found, strict=True)}
        for number, one in enumerate(items):
            yield one if number not in errors else EvaluatedItem(**vars(one) | {"error": errors[number]})


def _reader_of(row: Mapping[str, Any], text: str | None) -> Callable[[str | None], str | None]:
    """`value(column)`: the value of a row as text. text: the column that the reader names `text`."""

    def value(column: str | None) -> str | None:
        if column is None:
            return None
        found = row.get("text") if column == text else value_in(row, column)
        if found is None or isinstance(found, str):
            return found
        return json.dumps(found, ensure_ascii=False, default=str)

    return value
