"""Corrections of records: files of JSON Lines that `raymill errors` and `raymill annotate finish` write, or people.

A line corrects a field of a record:

    id          of the record, as `prepare` writes it
    field       `text`, `prompt`, `completion`, `system`, `chosen`, `rejected`, or the name of metadata or annotations
    old         the value that is replaced; of a record with another value nothing is changed
    new         the value in its place
    edited_by   who corrected it; the record's provenance has it
    source      where the correction comes from, such as a round of annotation; may be missing
    status      accepted, which is also meant without it; lines that are `proposed` are counted, and change nothing

Of a conversation, `prompt` is the last message of the user, and `completion` the last one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.content import Chat, Content, Preference
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.fields import ANNOTATIONS, as_text, listed

_LARGEST = 64 << 20  # bytes of a file; every task has all lines


class Edit(BaseModel, frozen=True):
    """A line of a file with corrections."""

    id: str
    field: str
    old: str | None
    new: str
    edited_by: str = Field(min_length=1, max_length=10_000)
    source: str = ""
    status: Literal["accepted", "proposed"] = "accepted"


@dataclass(frozen=True)
class Patches:
    """Corrections by the id of their record.

    Attributes:
        by_id: those that are accepted, in the order of their files and lines.
        proposed: number of those that are not.
    """

    by_id: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    proposed: int = 0

    @classmethod
    def read(cls, store: Store, uris: Iterable[str]) -> "Patches":
        """
        Raises:
            ConfigError: a file is missing or too large, or a line is no correction.
        """
        by_id, proposed = dict[str, list[Edit]](), 0
        for uri in uris:
            for edit in _edits(store, uri):
                if edit.status == "proposed":
                    proposed += 1
                else:
                    by_id.setdefault(edit.id, []).append(edit)
        return cls(by_id, proposed)

    @property
    def edits(self) -> list[Edit]:
        """Those that are accepted."""
        return [one for some in self.by_id.values() for one in some]

    @property
    def fingerprint(self) -> str:
        """Of what they change."""
        return fingerprint([one.model_dump() for one in self.edits])


def _edits(store: Store, uri: str) -> list[Edit]:
    try:
        lines = store.read_bytes(uri, _LARGEST).decode().split("\n")
    except NotFound as error:
        raise ConfigError(f"patches: there is no file {uri}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"patches: {uri} is no text in UTF-8: {error}. Give files of JSON Lines.") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(Edit.model_validate(json.loads(line)))
        except (ValidationError, ValueError, RecursionError) as error:
            raise ConfigError(f"patches: line {number} of {uri} is no correction: {error}") from error
    return found


def edited(content: Content, metadata: Mapping[str, Any], edit: Edit) -> tuple[Content, dict[str, Any]] | None:
    """The record with the correction; None if it lacks the field, or has another value there than `edit.old`."""
    name = edit.field
    of_content = _with_text(content, name, edit)
    if of_content is not None:
        return of_content, dict(metadata)
    for one in (name, ANNOTATIONS.get(name, name), *(many for many, one in ANNOTATIONS.items() if one == name)):
        if one not in metadata:
            continue
        if one in ANNOTATIONS and listed(metadata[one]) == listed(edit.old):
            return content, {**metadata, one: as_text(listed(edit.new))}
        if metadata[one] == edit.old:
            return content, {**metadata, one: edit.new}
    return None


def _with_text(content: Content, name: str, edit: Edit) -> Content | None:
    if isinstance(content, str):
        return edit.new if name == "text" and content == edit.old else None
    if isinstance(content, Preference):
        is_one = name in ("system", "prompt", "chosen", "rejected") and getattr(content, name) == edit.old
        return replace(content, **{name: edit.new}) if is_one else None
    role = {"prompt": "user", "completion": "assistant", "system": "system"}.get(name)
    places = [at for at, one in enumerate(content.messages) if one.role == role]
    if not places or content.messages[places[-1]].content != edit.old:
        return None
    messages = list(content.messages)
    messages[places[-1]] = replace(messages[places[-1]], content=edit.new)
    # The input is a part of the question that was replaced.
    return Chat(tuple(messages), "" if role == "user" else content.input, content.tools)
