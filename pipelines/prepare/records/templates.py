"""Plain texts turned into instructions, by a template of each task type that a config may replace; chats into texts."""

import re
import string
from collections.abc import Iterable
from itertools import islice
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.prepare.records.markdown import plain_heading

_LONGEST_TITLE = 200  # characters
_LONGEST_HEADING = 1000  # with its marks, which take time that grows with the square of its length
_MOST_HEADINGS = 100  # lines that are looked at; one may have letters in its marks alone
# Front matter of Markdown in YAML; group 1 is the title.
_FRONT_MATTER = re.compile(
    r"\s*---[ \t]*\n(?=(?:[^\n]*\n){1,100}?---[ \t]*(?:\n|\Z))"
    r"(?:(?!title:|---)[^\n]*\n)*(?:title:[ \t]*[\"']?([^\n]*?)[\"']?[ \t]*\n(?:(?!---)[^\n]*\n)*)?---[ \t]*(?:\n|\Z)"
)

TaskType = Literal["qa", "summarisation", "classification", "generation", "policy", "procedure"]


class Template(BaseModel):
    """A prompt and a completion with names of fields in braces: text, title, source, and the metadata."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str = Field(min_length=1)
    completion: str = Field("{text}", min_length=1)
    system: str = ""

    @model_validator(mode="after")
    def _parses(self) -> Self:
        for name in ("prompt", "completion", "system"):
            try:
                parts = list(string.Formatter().parse(getattr(self, name)))
            except ValueError as error:
                raise ValueError(f"{name}: {error}; write a brace that is text twice, as in {{{{") from error
            for _, field, format_spec, conversion in parts:
                if field is not None and (not field.isidentifier() or format_spec or conversion):
                    raise ValueError(f"{name}: {{{field}}} is no name of a field; use {{text}}, {{title}}, {{source}}")
        return self

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it names."""
        parts = (
            part for text in (self.prompt, self.completion, self.system) for part in string.Formatter().parse(text)
        )
        return frozenset(field for _, field, _, _ in parts if field is not None)


class ChatTemplate(BaseModel):
    """A text made of a chat: a form with {content} for the messages of each role. An empty one leaves them out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    system: str = Field("{content}", description="form of a system message")
    user: str = Field("Question: {content}", description="form of a user's message")
    assistant: str = Field("Answer: {content}", description="form of an assistant's message")
    separator: str = Field("\n\n", description="between two messages")

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


def title_of(text: str) -> str:
    """The title in the front matter, else the first line with a letter or digit, without marks.

    At most 200 characters.
    """
    if matter := _FRONT_MATTER.match(text):
        text = matter[1] or text[matter.end() :]
    with_words = (line for line in text.splitlines() if any(map(str.isalnum, line[:_LONGEST_HEADING])))
    lines = (plain_heading(line[:_LONGEST_HEADING]) for line in islice(with_words, _MOST_HEADINGS))
    return next((line for line in lines if any(map(str.isalnum, line))), "")[:_LONGEST_TITLE].strip()
