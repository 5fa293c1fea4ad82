"""Corrections of records: files of JSON Lines that `raymill errors` and `raymill annotate finish` write, or people.

A line corrects a field of a record:

    id          of the record, as `prepare` writes it
    field       `text`, `prompt`, `completion`, `system`, `chosen`, `rejected`, or the name of metadata or annotations
                but `source`, `licence` and `collected_at`
    old         the value that is replaced; of a record with another value nothing is changed
    new         the value in its place
    edited_by   who corrected it; the record's provenance has it
    source      where the correction comes from, such as a round of annotation, in one line; may be missing
    status      accepted, which is also meant without it; lines that are `proposed` are counted, and change nothing

Of a conversation, `prompt` is the last message of the user, and `completion` the last one.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from raymill.cluster.artifact import fingerprint
from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.content import Content, Message, Preference
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.fields import ANNOTATIONS, as_text, listed, refuse_origin

_LARGEST = 64 << 20  # bytes of a file; every task has all lines
# Bytes of memory for each byte of a file: measured 21 for a million of the shortest lines.
_OF_A_BYTE = 24
# Files may be of others: each source is a counter of the run, and each record is compared with all lines of its id.
_MOST_SOURCES = 1_000
_MOST_OF_AN_ID = 100


def _one_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("is not one line of printable characters")
    return text


class Edit(BaseModel, frozen=True):
    """A line of a file with corrections."""

    id: str
    field: Annotated[str, AfterValidator(refuse_origin)]
    old: str | None
    new: str
    edited_by: str = Field(min_length=1, max_length=10_000)
    source: Annotated[str, AfterValidator(_one_line)] = Field("", max_length=200)
    status: Literal["accepted", "proposed"] = "accepted"


@dataclass(frozen=True)
class Patches:
    """Corrections by the id of their record.

    Attributes:
        by_id: those that are accepted, in the order of their files and lines.
        proposed: number of those that are not.
        memory: bytes that they take in each process.
    """

    by_id: Mapping[str, Sequence[Edit]] = field(default_factory=dict)
    proposed: int = 0
    memory: int = 0

    @classmethod
    def read(cls, store: Store, uris: Iterable[str], longest: int) -> "Patches":
        """
        Args:
            longest: most bytes of a text in UTF-8.

        Raises:
            ConfigError: a file is missing, a line is no correction, or there are more sources, or more corrections of
                an id, than can be kept apart.
            StorageError: a file is too large.
        """
        by_id, proposed, memory, sources = dict[str, list[Edit]](), 0, 0, set[str]()
        for uri in uris:
            lines = _lines(store, uri)
            memory += _OF_A_BYTE * sum(map(len, lines))
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"patches: line {number} of {uri}"
                edit = _edit(line, where, longest)
                if edit.status == "proposed":
                    proposed += 1
                    continue
                of_id = by_id.setdefault(edit.id, [])
                of_id.append(edit)
                sources.add(edit.source)
                if len(of_id) > _MOST_OF_AN_ID:
                    raise ConfigError(f"{where}: over {_MOST_OF_AN_ID} corrections have the id {edit.id[:100]!r}.")
                if len(sources) > _MOST_SOURCES:
                    raise ConfigError(
                        f"{where}: there are over {_MOST_SOURCES:,} different values of `source`. Name with it where "
                        "many corrections come from, such as a round."
                    )
        return cls(by_id, proposed, memory)

    @property
    def edits(self) -> list[Edit]:
        """Those that are accepted."""
        return [one for some in self.by_id.values() for one in some]

    @property
    def fingerprint(self) -> str:
        """Of what they change."""
        return fingerprint([one.model_dump() for one in self.edits])


def _lines(store: Store, uri: str) -> list[str]:
    try:
        return store.read_bytes(uri, _LARGEST).decode().split("\n")
    except NotFound as error:
        raise ConfigError(f"patches: there is no file {uri}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"patches: {uri} is no text in UTF-8: {error}. Give files of JSON Lines.") from error


def _edit(line: str, where: str, longest: int) -> Edit:
    """The correction of a line. where: the line, for errors."""
    try:
        found = Edit.model_validate(json.loads(line))
        for text in found.model_dump(exclude_none=True).values():
            text.encode()  # JSON can have half a surrogate pair, which is no text in UTF-8
    except ValidationError as error:
        # Without its values: they may be any text, also one that UTF-8 cannot write.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        wrong = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where} is no correction: {wrong + ': ' if wrong else ''}{first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is no correction: {error}") from error
    if len(found.new.encode()) > longest:
        raise ConfigError(f"{where} is no correction: `new` has over {longest:,} bytes (limits.max_document_bytes).")
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
        part = name if name in ("chosen", "rejected") else "asked"
        role = {"system": "system", "prompt": "user", "chosen": "assistant", "rejected": "assistant"}.get(name)
        changed = _with_last(getattr(content, part), role, edit)
        parts: dict[str, Any] = {part: changed}
        return None if changed is None else replace(content, **parts)
    role = {"prompt": "user", "completion": "assistant", "system": "system"}.get(name)
    messages = _with_last(content.messages, role, edit)
    # The input is a part of the question that was replaced.
    if messages is None:
        return None
    return replace(content, messages=messages, input="" if role == "user" else content.input)


def _with_last(messages: tuple[Message, ...], role: str | None, edit: Edit) -> tuple[Message, ...] | None:
    """The messages with another text in the last of a role; None if there is none with `edit.old`."""
    at = max((at for at, one in enumerate(messages) if one.role == role), default=None)
    if at is None or messages[at].content != edit.old:
        return None
    return (*messages[:at], replace(messages[at], content=edit.new), *messages[at + 1 :])
