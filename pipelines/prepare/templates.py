"""Plain texts turned into instructions: a template of each task type, which a config may replace."""

import string
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """The first line with a letter or digit, without the marks of a heading, at most 200 characters."""
    lines = (line.strip().strip("#=*- \t") for line in text.splitlines())
    return next((line for line in lines if any(map(str.isalnum, line))), "")[:200].strip()
