"""A record in the shape of the config: long texts are divided, templates filled, chosen answers taken."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from cluster.examples.content import (
    Chat,
    Content,
    Preference,
    Shape,
    Unusable,
    as_columns,
    pair,
    to_shape,
    with_chosen,
)
from cluster.readers.inputs import Cut
from pipelines.prepare.records.annotations import value_of
from pipelines.prepare.records.hashes import id_of
from pipelines.prepare.records.sections import parts_of
from pipelines.prepare.records.templates import ChatTemplate, Template, title_of


@dataclass(frozen=True)
class Collected:
    """A record between reading and writing.

    metadata: all fields that are no content, as the texts of their columns. parents, operations: of a record that was
    made of others, the ids of these in the source, and how it was made, as far as that is known; in order. cut: what
    the reader and cleaning took out of its texts. goes_on: another record continues its text. file: where it was read.
    originals: metadata as it was before personal data was replaced in it, which groups and strata are made of.
    """

    row: int
    id: str | None
    content: Content
    metadata: dict[str, str | None]
    parents: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    cut: tuple[Cut, ...] = ()
    goes_on: bool = False
    file: str = ""
    originals: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def unredacted(self) -> Mapping[str, str | None]:
        """The metadata with the values that were replaced in it."""
        return {**self.metadata, **self.originals} if self.originals else self.metadata

    @property
    def provenance(self) -> dict[str, Any] | None:
        """The value of the record's column; None of a record as the source has it."""
        return {"parents": self.parents, "operation": ", ".join(self.operations) or None} if self.parents else None


@dataclass(frozen=True)
class Conversion:
    """Converts records of one source to the config's shape.

    template: makes questions and answers of texts. preferences: whether the chosen answer becomes a chat.
    chats_as_text: makes texts of chats; None: these are refused. section_chars: the most characters of a part of a
    text; None: texts are not divided.
    """

    shape: Shape
    template: Template
    preferences: Literal["refuse", "chosen"]
    chats_as_text: ChatTemplate | None
    section_chars: int | None

    def __call__(self, record: Collected, content: Content) -> list[tuple[Collected, dict[str, Any]]]:
        """The record with this content and its columns; several of a long plain text.

        Raises:
            Unusable: it does not fit the shape.
        """
        most = self.section_chars
        parts = parts_of(content, most) if isinstance(content, str) and most is not None else []
        if len(parts) < 2:
            return [self._converted(record, content, record.id)]
        whole = record.id or id_of(as_columns(content))
        section = replace(record, parents=(whole, *record.parents), operations=(*record.operations, "section"))
        ids = [record.id and f"{record.id}#section-{at}" for at in range(1, len(parts) + 1)]
        return [
            self._converted(replace(section, goes_on=at < len(parts)), part.text.strip(), id, part.title)
            for at, (part, id) in enumerate(zip(parts, ids, strict=True), 1)
        ]

    def _converted(
        self, record: Collected, given: Content, id: str | None, title: str | None = None
    ) -> tuple[Collected, dict[str, Any]]:
        """The record with this content and id, and its columns. title: of a part of a text.

        Raises:
            Unusable: it does not fit the shape.
        """
        content, operation = self._fitting(given, record.metadata, title)
        columns = to_shape(content, self.shape)
        made = replace(record, id=id or id_of(columns), content=content)
        if operation:
            parents = record.parents or (record.id or id_of(as_columns(given)),)
            made = replace(made, parents=parents, operations=(*record.operations, operation))
        return made, columns

    def _fitting(self, content: Content, metadata: Mapping[str, str | None], title: str | None) -> tuple[Content, str]:
        """(the content in a form that the shape has columns for, the operation that made it; empty if it is the same).

        Raises:
            Unusable: the template names an empty field.
        """
        if isinstance(content, str) and self.shape != "text":
            return filled(self.template, content, metadata, title), "template"
        chosen = isinstance(content, Preference) and self.preferences == "chosen" and self.shape != "preference"
        chat = with_chosen(content) if chosen and isinstance(content, Preference) else content
        if isinstance(chat, Chat) and self.shape == "text" and self.chats_as_text is not None:
            turns = [(one.role, one.content) for one in chat.messages]
            return self.chats_as_text.filled(turns), "chosen, template" if chosen else "template"
        return chat, "chosen" if chosen else ""


def filled(template: Template, text: str, metadata: Mapping[str, str | None], title: str | None = None) -> Content:
    """A text as question and answer. title: of a part of a text; None: its first line."""
    fields = {name: value_of(name, value) for name, value in metadata.items()}
    return from_template(template, {**fields, "text": text, "title": title_of(text) if title is None else title})


def from_template(template: Template, values: Mapping[str, str | None]) -> Content:
    """Question and answer of these values.

    Raises:
        Unusable: the template names a value that is missing or empty.
    """
    if any(not values.get(name) for name in template.fields):
        raise Unusable("missing_field")
    system, prompt, completion = (
        one.format(**values) for one in (template.system, template.prompt, template.completion)
    )
    return pair(system, prompt, "", completion)
