"""Rows: a seed with the answers to it so far; and the requests and records that a template makes of rows."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from raymill.cluster.asking.requests import ModelRequest
from raymill.cluster.asking.settings import ModelSettings, Sampling
from raymill.cluster.examples import content as contents
from raymill.cluster.examples.content import Content, Preference, Shape
from raymill.cluster.examples.rows import content_of
from raymill.cluster.readers.reader import as_json_text, python_rows
from raymill.pipelines.generate.draw import Choices
from raymill.pipelines.generate.template import (
    SHAPES,
    RecordTemplate,
    Refusal,
    Step,
    holds,
    messages_of,
    rendered,
    strict_schema,
)


@dataclass(frozen=True)
class Row:
    """A seed and what the steps of a template have made of it.

    Attributes:
        seed: id of the seed. source: of its input.
        name: UNIT.ROW.SAMPLE of the seed, then the numbers of the items; different for each row.
        fields: of the seed: `text`, `id`, and the carried columns.
        values: of the steps so far, by their names.
        item: what the last step made.
        keys: of the requests that made it.
    """

    seed: str
    source: str
    name: str
    fields: Mapping[str, Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    item: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = ()

    def to_json(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Row":
        plain = json.loads(text)
        return cls(**plain | {"keys": tuple(plain["keys"])})


def seeds_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a table of documents with values of JSON: times, decimals and bytes are texts."""
    for row in python_rows(table):
        yield {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    text = as_json_text(value)
    return text if text is None or isinstance(value, bytes) else json.loads(text)


@dataclass(frozen=True)
class Asker:
    """Makes requests and records of rows.

    variables: of the template, with the values of `make`. needed: fields without which a seed makes no record. choices:
    what is drawn for each seed and sample, by name. carried: columns of the seeds that records have.
    """

    template: RecordTemplate
    variables: Mapping[str, Any]
    model: ModelSettings
    sampling: Sampling
    needed: frozenset[str] = frozenset()
    choices: Mapping[str, Choices] = field(default_factory=dict)
    carried: Sequence[str] = ()

    def drawn(self, seed: str, sample: int) -> dict[str, Any]:
        """The values that are drawn for a sample of a seed. seed: its id."""
        return {name: one.of(self.sampling.seed, seed, sample, name) for name, one in self.choices.items()}

    def refuse_incomplete(self, row: Row) -> None:
        """Verify that a seed has all fields that its requests or its record need, before anything is asked.

        Raises:
            Refusal: one is missing.
        """
        if missing := sorted(name for name in self.needed if row.fields.get(name) is None):
            raise Refusal("missing_field", ", ".join(missing))

    def names(self, row: Row) -> dict[str, Any]:
        """What the templates of a row can name, without what its last step made. Fields that are null are not there."""
        fields = {name: value for name, value in row.fields.items() if value is not None}
        return {**self.variables, **fields, "seed": fields, **row.values}

    def names_of_record(self, row: Row) -> dict[str, Any]:
        """As `names`, with what the last step made. The seed's fields are always below `seed`."""
        names = self.names(row)
        return {**names, **row.item, "seed": names["seed"]}

    def requests(self, row: Row, step: Step, sample: int) -> list[ModelRequest]:
        """The requests of a step about a row, one for each sample.

        Raises:
            Refusal: the template cannot be filled in.
        """
        names = self.names(row)
        messages = messages_of(step, names)
        count = step.samples if isinstance(step.samples, int) else int(names.get(step.samples, 1))
        form = self._form(step)
        return [self.model.request(self.sampling, messages, sample * count + one, form) for one in range(count)]

    def _form(self, step: Step) -> dict[str, Any] | None:
        """`response_format` of a step's requests."""
        if step.answer is None or self.model.structured == "none":
            return None
        if self.model.structured == "json_object":
            return {"type": "json_object"}
        form = {"name": step.name, "strict": True, "schema": strict_schema(step.answer)}
        return {"type": "json_schema", "json_schema": form}

    def kept(self, row: Row, step: Step) -> None:
        """Verify the condition of a step.

        Raises:
            Refusal: it is not met.
        """
        if step.keep is not None and not holds(step.keep, self.names_of_record(row)):
            raise Refusal("not_kept", step.keep)

    def record(self, row: Row) -> tuple[Content, dict[str, str | None]]:
        """(the content of the record that a row makes, its metadata).

        Raises:
            Refusal: it has none.
        """
        names = self.names_of_record(row)
        fields = {name: rendered(text, names).strip() for name, text in self.template.record.items()}
        try:
            content = content_of({name: fields[name] for name in SHAPES[self.template.shape or "text"]})
        except contents.Unusable as error:
            raise Refusal(
                "empty" if error.reason == "empty" else "no_record", contents.REASONS[error.reason]
            ) from error
        if isinstance(content, Preference) and content.has_equal_answers:
            raise Refusal("no_record", contents.REASONS["equal_answers"])
        drawn = {name: str(row.fields[name]) for name in self.choices if name not in fields}
        of_seed = {name: row.fields.get(name) for name in self.carried}
        own = {name: None if value is None else str(value) for name, value in of_seed.items()}
        return content, own | {name: fields[name] for name in self.template.metadata} | drawn

    @property
    def shape(self) -> Shape:
        """The shape of the records."""
        return self.template.shape or "text"  # type: ignore[return-value]


def items(row: Row, step: Step, found: Sequence[tuple[tuple[str, ...], dict[str, Any]]]) -> Iterator[Row]:
    """The rows that a step makes of a row. found: (keys of the requests, item) of each."""
    for number, (keys, item) in enumerate(found):
        name = f"{row.name}.{number}" if len(found) > 1 else row.name
        yield replace(with_item(row, step, item), name=name, keys=(*row.keys, *keys))


def with_item(row: Row, step: Step, item: Mapping[str, Any]) -> Row:
    """The row with what a step made of it."""
    return replace(row, values={**row.values, step.name: item}, item=item)
