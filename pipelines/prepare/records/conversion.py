"""A record in the shape of the config: long texts are divided, templates filled, chosen answers taken."""

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from raymill.cluster.examples.content import (
    Chat,
    Content,
    Preference,
    Shape,
    Unusable,
    as_columns,
    pair,
    to_shape,
)
from raymill.cluster.readers.inputs import Cut
from raymill.pipelines.prepare.records.fields import id_of, value_of
from raymill.pipelines.prepare.records.sections import parts_of, title_of

TaskType = Literal["qa", "summarisation", "classification", "generation", "policy", "procedure"]


class Template(BaseModel, extra="forbid", frozen=True):
    """A prompt and a completion with names of fields in braces: text, title, source, and the metadata."""

    prompt: str = Field(min_length=1, description="Form of the prompt, with names of fields in braces")
    completion: str = Field(
        "{text}", min_length=1, description="Form of the completion, with names of fields in braces"
    )
    system: str = Field("", description="Form of the system message, with names of fields in braces; empty: none")

    @model_validator(mode="after")
    def _parses(self) -> Self:
        for name in ("prompt", "completion", "system"):
            try:
                parts = list(string.Formatter().parse(getattr(self, name)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}; write a brace that is text twice, as in {{{{") from error
            for _, named, format_spec, conversion in parts:
                if named is not None and (not named.isidentifier() or format_spec or conversion):
                    raise ValueError(f"{name}: {{{named}}} is no name of a field; use {{text}}, {{title}}, {{source}}")
        return self

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it names."""
        parts = (
            part for text in (self.prompt, self.completion, self.system) for part in string.Formatter().parse(text)
        )
        return frozenset(field for _, field, _, _ in parts if field is not None)


class ChatTemplate(BaseModel, extra="forbid", frozen=True):
    """A text made of a chat: a form with {content} for the messages of each role. An empty one leaves them out."""

    system: str = Field(
        "{content}", description="Form of a system message in a text made of a chat; empty: such messages are left out"
    )
    user: str = Field(
        "Question: {content}",
        description="Form of a user's message in a text made of a chat; empty: such messages are left out",
    )
    assistant: str = Field(
        "Answer: {content}",
        description="Form of an assistant's message in a text made of a chat; empty: such messages are left out",
    )
    separator: str = Field("\n\n", description="Text between two messages in a text made of a chat")

    @model_validator(mode="after")
    def _parses(self) -> Self:
        for role in ("system", "user", "assistant"):
            form = getattr(self, role)
            try:
                parts = [part[1:] for part in string.Formatter().parse(form) if part[1] is not None]
            except ValueError as error:
                raise ValueError(f"{role}: {error}; write a brace that is text twice, as in {{{{") from error
            if form and (not parts or any(part != ("content", "", None) for part in parts)):
                raise ValueError(f"{role}: wanted a text with {{content}}, and no other name in braces")
        if not self.user and not self.assistant:
            raise ValueError("user and assistant are empty, which leaves all messages out; give one of them a text")
        return self

    def filled(self, messages: Iterable[tuple[str, str]]) -> str:
        """The text. messages: role (system, user or assistant) and content of each."""
        forms = {"system": self.system, "user": self.user, "assistant": self.assistant}
        return self.separator.join(forms[role].format(content=content) for role, content in messages if forms[role])


# Of each task type. `title` is the first line of a text, without the marks of a heading.
DEFAULT_TEMPLATES: dict[TaskType, Template] = {
    "qa": Template(prompt="What do I need to know about {title}?"),
    "summarisation": Template(prompt="Summarise this text:\n\n{text}", completion="{summary}"),
    "classification": Template(prompt="Which category does this text belong to?\n\n{text}", completion="{category}"),
    "generation": Template(prompt="Write a text with the title: {title}"),
    "policy": Template(prompt="What does the policy on {title} say?"),
    "procedure": Template(prompt="What are the steps of this procedure: {title}?"),
}


class Records(BaseModel, extra="forbid", frozen=True):
    """The form of the records that are written."""

    shape: Shape = Field("messages", description="Columns of the written records")
    task_type: TaskType = Field(
        "qa", description="Task type of sources without one; it selects the template for plain texts"
    )
    templates: dict[TaskType, Template] = Field(
        {},
        description="Prompt and completion that are made of a plain text, by task type, in place of the built-in ones",
    )
    section_chars: Annotated[int, Field(ge=1)] | Literal["answer_chars"] | None = Field(
        "answer_chars",
        description="Maximum number of characters of a record from a plain text, which is divided at headings, else "
        "at paragraphs; answer_chars: the maximum of `validate.answer_chars`; null: texts stay whole",
    )
    preferences: Literal["refuse", "chosen"] = Field(
        "refuse",
        description="Treatment of preference records in shapes with one answer: refuse (quarantine), or chosen (keep "
        "the chosen answer)",
    )
    undesirable: Literal["refuse", "keep"] = Field(
        "refuse",
        description="Treatment of answers that a column `label` marks as undesirable, as for KTO: refuse (quarantine), "
        "or keep (all judged answers, with the judgement in the column `label`)",
    )
    chats_as_text: ChatTemplate | None = Field(
        None, description="Form of chats as plain text, for `shape: text`; null: chats are quarantined"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chats_as_text is not None and self.shape != "text":
            raise ValueError(f"chats_as_text: goes with `shape: text`, and the shape is {self.shape}; leave it out")
        if self.preferences == "chosen" and self.has_two_answers:
            raise ValueError(f"preferences: chosen goes with other shapes than {self.shape}; leave it out")
        if self.undesirable == "keep" and (self.has_two_answers or self.shape == "text"):
            raise ValueError(f"undesirable: keep needs one answer a record: messages or pairs, not {self.shape}")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `undesirable` where it is the default, so that records of earlier versions are equal."""
        return {name: value for name, value in handler(self).items() if name != "undesirable" or value != "refuse"}

    @property
    def has_two_answers(self) -> bool:
        return self.shape in ("preference", "preference_messages")

    def template(self, task_type: TaskType) -> Template:
        """The template of a task type, with defaults applied."""
        return self.templates.get(task_type, DEFAULT_TEMPLATES[task_type])


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
        if not self.parents and not self.operations:
            return None
        return {"parents": self.parents, "operation": ", ".join(self.operations) or None}


# Bytes that the sections of a text repeat of its record. One section has at least a hundred characters, and a value of
# the metadata may have as many bytes as the text.
MOST_REPEATED = 64 << 20


class TooMuchRepeated(Exception):
    """The sections of a text would repeat over MOST_REPEATED bytes of metadata and ids."""


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
            TooMuchRepeated: its sections would repeat too much.
        """
        most = self.section_chars
        parts = parts_of(content, most) if isinstance(content, str) and most is not None else []
        if len(parts) < 2:
            return [self._converted(record, content, record.id)]
        if len(parts) * self.repeated_bytes(record) > MOST_REPEATED:
            raise TooMuchRepeated
        whole = record.id or id_of(as_columns(content))
        section = replace(record, parents=(whole, *record.parents), operations=(*record.operations, "section"))
        found = []
        for at, part in enumerate(parts, 1):
            id = record.id and f"{record.id}#section-{at}"
            # Language and score are added to the metadata of each.
            of_part = replace(section, metadata={**record.metadata}, goes_on=at < len(parts))
            found.append(self._converted(of_part, part.text.strip(), id, part.title))
        return found

    def repeated_bytes(self, record: Collected) -> int:
        """Bytes of the record's metadata and ids that each section of its text has: as columns, and in the template."""
        in_template = [record.metadata.get(name) for name in self.template.fields] if self.shape != "text" else []
        ids = (record.id, record.id, *record.parents, *record.operations)
        return sum(len(value.encode()) for value in (*record.metadata.values(), *in_template, *ids) if value)

    def _converted(
        self, record: Collected, given: Content, id: str | None, title: str | None = None
    ) -> tuple[Collected, dict[str, Any]]:
        """The record with this content and id, and its columns. title: of a part of a text.

        Raises:
            Unusable: it does not fit the shape, or the template names an empty field.
        """
        chosen = isinstance(given, Preference) and self.preferences == "chosen"
        content = given.chats[0] if chosen and isinstance(given, Preference) else given
        operation = "chosen" if chosen else ""
        if isinstance(content, str) and self.shape != "text":
            content, operation = filled(self.template, content, record.metadata, title), "template"
        elif isinstance(content, Chat) and self.shape == "text" and self.chats_as_text is not None:
            if not content.is_plain:
                raise Unusable("other_keys")
            turns = [(one.role, one.content) for one in content.messages]
            content, operation = self.chats_as_text.filled(turns), "chosen, template" if chosen else "template"
        columns = to_shape(content, self.shape)
        made = replace(record, id=id or id_of(columns), content=content)
        if operation:
            parents = record.parents or (record.id or id_of(as_columns(given)),)
            made = replace(made, parents=parents, operations=(*record.operations, operation))
        return made, columns


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
