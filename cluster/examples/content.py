"""The content of a record, in one of three forms, and the columns of each shape in which records are written.

    str          a text
    Chat         messages of roles system, user and assistant, which end with an answer; a question and its answer is
                 a chat of one exchange
    Preference   messages that end with a question, a chosen answer and a rejected one

Rows of a source become one of them by `content_of`, and columns of a shape by `to_shape`; `from_shape` reads them back.
A conversion between shapes keeps all of the content. A record that does not fit a shape is refused with a reason,
unless the config has a conversion for it: texts become questions and answers by `records.templates`, chats become
texts by `records.chats_as_text`, and of preferences `records.preferences: chosen` takes the chosen answer.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from raymill.cluster.examples.messages import BadMessage, plain_message
from raymill.cluster.readers.inputs import Cut

# What a speaker is; the messages of `skip` are left out.
Role = Literal["system", "user", "assistant", "skip"]
Shape = Literal["text", "pairs", "instruction", "messages", "preference"]

# Fields of a source's row that are the content of a record.
FIELDS = ("text", "prompt", "completion", "input", "system", "messages", "chosen", "rejected", "desirable")

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.large_string())]))
_TEXT = pa.large_string()

# The columns of each shape.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "text": {"text": _TEXT},
    "pairs": {"system": _TEXT, "prompt": _TEXT, "completion": _TEXT},
    "instruction": {"system": _TEXT, "instruction": _TEXT, "input": _TEXT, "output": _TEXT},
    "messages": {"messages": _MESSAGES},
    "preference": {"system": _TEXT, "prompt": _TEXT, "chosen": _TEXT, "rejected": _TEXT},
}

ROLES = ("system", "user", "assistant")

# Keys of a message in exports of chats, of which the first that it has is its speaker or its text.
_SPEAKERS = ("speaker", "role", "from", "author", "author_id", "sender", "name", "user")
_TEXTS = ("content", "text", "body", "plain_body", "message", "value")

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
_DIALOGUE_ROLES = {"Human": "user", "Assistant": "assistant"}

# Why a row is no record, or a record has no such shape.
REASONS = {
    "empty": "no text, question or answer",
    "bad_messages": "messages without a role, or in no known form",
    "content_not_text": "a message with an image or another part that is no text",
    "other_roles": "a role besides system, user and assistant, such as tool",
    "other_keys": "tool calls or other keys of a message, which the records have no column for",
    "wrong_order": "user and assistant do not take turns, or the last message is no answer",
    "several_turns": "a conversation of more than one question and answer, for which this shape has no columns",
    "a_chat": "questions and answers, of which this shape needs a text; `records.chats_as_text` makes one",
    "no_answer": "a plain text, of which this shape needs a question and an answer",
    "not_a_preference": "a record with one answer, where this shape needs two: a chosen and a rejected one",
    "a_preference": "two answers, of which this shape has one; `records.preferences: chosen` takes the chosen one",
    "no_prompt": "a chosen and a rejected answer without a `prompt`, and no conversations that begin with a question",
    "different_questions": "a chosen and a rejected answer to different questions",
    "equal_answers": "a chosen and a rejected answer that are the same, which say nothing of what is better",
    "undesirable": "an answer that the column `label`, or the field `desirable`, marks as undesirable, as for KTO",
    "bytes_not_utf8": "a field of bytes that are not UTF-8 text",
    "missing_field": "a field that the template names is missing or empty",
    "bad_quality_score": "a `quality_score` that is no finite number",
}

Form = tuple[dict[str, str], dict[str, str]]  # role -> column: those that it needs, and those that it may have

# As TRL names whether an answer is desirable, in data for KTO. Other values of this column are labels of another kind.
_DESIRABLE = {"desirable": "label"}
_CHAT = {"tools": "tools", "system": "system"} | _DESIRABLE
_TURNS = {"system": "system", "history": "history"} | _DESIRABLE
# `messages` as chat templates and OpenAI have them, `conversations` of ShareGPT, pairs and preferences of TRL, Alpaca's
# instructions. `text` is the last: in data sets that have both (Alpaca's), it is the conversation as one text.
FORMS: tuple[Form, ...] = (
    ({"messages": "messages"}, _CHAT),
    ({"messages": "conversations"}, _CHAT),
    ({"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}, {"system": "system"}),
    ({"chosen": "chosen", "rejected": "rejected"}, {"system": "system"}),
    ({"prompt": "prompt", "completion": "completion"}, _TURNS),
    ({"prompt": "instruction", "completion": "output"}, {"input": "input"} | _TURNS),
    ({"prompt": "question", "completion": "answer"}, {}),
    ({"text": "text"}, {}),
)


class Unusable(Exception):
    """A row or record cannot be used. reason: a key of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        assert reason in REASONS, reason
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """role: one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation: at most one system message, then user and assistant in turn; the last is an assistant's.

    input: the part of the only question that stood apart, of instruction records. It is the end of that question, after
    a blank line.
    """

    messages: tuple[Message, ...]
    input: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """A question and two answers. system: may be empty."""

    system: str
    prompt: str
    chosen: str
    rejected: str


Content = str | Chat | Preference


def content_of(
    row: Mapping[str, str | None], roles: Mapping[str, Role] | None = None, cut: list[Cut] | None = None
) -> Content:
    """The content of a source's row.

    Args:
        row: FIELDS that the source has; lists of messages as JSON text. roles: of the speakers of messages, `*` of any
            other; None: messages have roles. cut: messages that `roles` leave out are added to it.

    Raises:
        Unusable: the row is no record.
    """
    if _optional(row.get("desirable")).strip().lower() == "false":
        raise Unusable("undesirable")
    if "messages" in row:
        return _chat(
            _spoken(row["messages"], roles, [] if cut is None else cut) if roles else _messages(row["messages"])
        )
    if "chosen" in row:
        chosen, rejected = (_wanted(row.get(name)) for name in ("chosen", "rejected"))
        if "prompt" not in row:
            # Two conversations that differ in their last message: the messages before it are the question.
            both = [_messages(text) if _is_messages(text) else _dialogue(text) for text in (chosen, rejected)]
            if any(not one or one[0]["role"] not in ("system", "user") for one in both):
                raise Unusable("no_prompt")
            return _of_chats(_optional(row.get("system")), [_chat(one) for one in both])
        return _preference(_optional(row.get("system")), _wanted(row.get("prompt")), chosen, rejected)
    if "prompt" in row:
        return pair(
            _optional(row.get("system")),
            _wanted(row["prompt"]),
            _optional(row.get("input")),
            _wanted(row["completion"]),
        )
    return _wanted(row.get("text"))


def pair(system: str, prompt: str, input: str, completion: str) -> Chat:
    """A question and its answer. system, input: may be empty."""
    question = f"{prompt}\n\n{input}" if input else prompt
    first = (Message("system", system),) if system else ()
    return Chat((*first, Message("user", question), Message("assistant", completion)), input)


def to_shape(content: Content, shape: Shape) -> dict[str, Any]:
    """The values of a shape's columns.

    Raises:
        Unusable: it does not fit the shape.
    """
    if shape == "text":
        if not isinstance(content, str):
            raise Unusable("a_chat" if isinstance(content, Chat) else "a_preference")
        return {"text": content}
    if isinstance(content, str):
        raise Unusable("no_answer")
    if shape == "preference":
        if isinstance(content, Chat):
            raise Unusable("not_a_preference")
        return {
            "system": content.system,
            "prompt": content.prompt,
            "chosen": content.chosen,
            "rejected": content.rejected,
        }
    if isinstance(content, Preference):
        raise Unusable("a_preference")
    if shape == "messages":
        return {"messages": [{"role": one.role, "content": one.content} for one in content.messages]}
    *first, question, answer = content.messages
    if len(first) > 1 or (first and first[0].role != "system"):
        raise Unusable("several_turns")
    system = first[0].content if first else ""
    if shape == "pairs":
        return {"system": system, "prompt": question.content, "completion": answer.content}
    instruction = question.content[: -len(content.input) - 2] if content.input else question.content
    return {"system": system, "instruction": instruction, "input": content.input, "output": answer.content}


def as_columns(content: Content) -> dict[str, Any]:
    """Its columns in the shape that all contents of its kind fit: text, messages or preference."""
    return to_shape(
        content, "text" if isinstance(content, str) else "messages" if isinstance(content, Chat) else "preference"
    )


def with_chosen(preference: Preference) -> Chat:
    """The question and the chosen answer."""
    return pair(preference.system, preference.prompt, "", preference.chosen)


def from_shape(values: Mapping[str, Any], shape: Shape) -> Content:
    """The content of a record from its columns: the inverse of `to_shape`."""
    match shape:
        case "text":
            return values["text"]
        case "pairs":
            return pair(values["system"], values["prompt"], "", values["completion"])
        case "instruction":
            return pair(values["system"], values["instruction"], values["input"], values["output"])
        case "messages":
            return Chat(tuple(Message(one["role"], one["content"]) for one in values["messages"]))
        case _:
            return Preference(values["system"], values["prompt"], values["chosen"], values["rejected"])


def texts_of(content: Content) -> list[str]:
    """Its text fields, in order: what is cleaned, and compared with other records."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, Preference):
        return [content.system, content.prompt, content.chosen, content.rejected]
    return [one.content for one in content.messages] + [content.input]


def with_texts(content: Content, texts: list[str]) -> Content:
    """The content with other text fields, as many as `texts_of` gave.

    Raises:
        Unusable: a text, question or answer is empty, or both answers of a preference are the same.
    """
    if isinstance(content, str):
        return _wanted(texts[0])
    if isinstance(content, Preference):
        found = Preference(texts[0], *(_wanted(text) for text in texts[1:]))
        if found.chosen.strip() == found.rejected.strip():
            raise Unusable("equal_answers")
        return found
    *spoken, input = texts
    messages = [Message(old.role, text) for old, text in zip(content.messages, spoken, strict=True)]
    if any(not one.content.strip() for one in messages if one.role != "system"):
        raise Unusable("empty")
    # Cleaning may change where an input begins in its question; then it stays a part of the question alone.
    question = next(one.content for one in messages if one.role == "user")
    return Chat(tuple(messages), input if input and question.endswith(f"\n\n{input}") else "")


def question_and_answer(content: Content) -> tuple[str, str] | None:
    """(the last question, the answer to it); of a preference the chosen answer. None for a text."""
    if isinstance(content, str):
        return None
    if isinstance(content, Preference):
        return content.prompt, content.chosen
    return content.messages[-2].content, content.messages[-1].content


@dataclass(frozen=True, slots=True)
class Sides:
    """The parts of a record that are compared. question: of a plain text, that text; of a chat all that precedes the
    last answer, without the system message.
    """

    system: str
    question: str
    answer: str
    turns: int

    @property
    def text(self) -> str:
        return f"{self.question}\n{self.answer}" if self.answer else self.question


def sides_of(content: Content) -> Sides:
    """System message, question and answer of a record."""
    if isinstance(content, Chat):
        spoken = [one.content for one in content.messages if one.role != "system"]
        system = content.messages[0].content if content.messages[0].role == "system" else ""
        return Sides(system, "\n".join(spoken[:-1]), spoken[-1], len(spoken) // 2)
    asked = question_and_answer(content)
    if asked is None:
        assert isinstance(content, str)
        return Sides("", content, "", 0)
    assert isinstance(content, Preference)
    return Sides(content.system, *asked, 1)


def _preference(system: str, prompt: str, chosen: str, rejected: str) -> Preference:
    """prompt, chosen, rejected: texts, or messages as JSON text; the answers may have the question before them."""
    texts = (prompt, chosen, rejected)
    if not any(map(_is_messages, texts)):
        return Preference(system, *texts)
    roles = ("user", "assistant", "assistant")
    question, *answers = (
        _messages(text) if _is_messages(text) else [{"role": role, "content": text}]
        for role, text in zip(roles, texts, strict=True)
    )
    return _of_chats(system, [_chat(one if one[0]["role"] != "assistant" else [*question, *one]) for one in answers])


def _dialogue(text: str) -> list[dict[str, Any]]:
    """The messages of a text whose turns begin with `Human:` or `Assistant:` after a blank line; empty without these.

    Source: Bai et al. 2022, Training a Helpful and Harmless Assistant (https://huggingface.co/datasets/Anthropic/hh-rlhf).
    """
    before, *turns = _TURN.split(text.lstrip("\n"))
    if before:
        return []
    return [
        {"role": _DIALOGUE_ROLES[speaker], "content": said}
        for speaker, said in zip(turns[::2], turns[1::2], strict=True)
    ]


def _of_chats(system: str, chats: list[Chat]) -> Preference:
    """system: of chats without one."""
    (*before, answer), (*other, worse) = (one.messages for one in chats)
    if before != other:
        raise Unusable("different_questions")
    if len(before) > 2 or (len(before) == 2 and before[0].role != "system"):
        raise Unusable("several_turns")
    of_chat = before[0].content if len(before) == 2 else ""
    return Preference(of_chat or system, before[-1].content, answer.content, worse.content)


def _is_messages(text: str) -> bool:
    """Whether a text is a list of messages as JSON."""
    if not text.lstrip().startswith("["):
        return False
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(messages) and all(isinstance(one, dict) and {"role", "from"} & one.keys() for one in messages)


def _chat(messages: list[dict[str, Any]]) -> Chat:
    found = []
    for message in messages:
        if message["role"] not in ROLES:
            raise Unusable("other_roles")
        if any(value for key, value in message.items() if key not in ("role", "content", "name", "weight")):
            raise Unusable("other_keys")
        found.append(Message(message["role"], message.get("content") or ""))
    turns = found[1:] if found and found[0].role == "system" else found
    wanted = [ROLES[1 + number % 2] for number in range(len(turns))]
    if not turns or len(turns) % 2 or [one.role for one in turns] != wanted:
        raise Unusable("wrong_order" if found else "empty")
    if any(not one.content.strip() for one in turns):
        raise Unusable("empty")
    return Chat(tuple(found))


def _messages(value: str | None) -> list[dict[str, Any]]:
    try:
        messages = json.loads(value or "[]")
        if not isinstance(messages, list):
            raise Unusable("bad_messages")
        return [plain_message(message) for message in messages]
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_messages") from error
    except BadMessage as error:
        raise Unusable(error.reason) from error


def _spoken(value: str | None, roles: Mapping[str, Role], cut: list[Cut]) -> list[dict[str, Any]]:
    """Messages of speakers as messages with roles, from the first question to the last answer.

    Messages that are not `public` are left out: Zendesk has internal notes among a ticket's comments. cut: what is left
    out is added to it.
    """
    try:
        messages = json.loads(value or "[]")
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_messages") from error
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        raise Unusable("bad_messages")
    turns: list[dict[str, Any]] = []
    for message in messages:
        speaker = next((message[key] for key in _SPEAKERS if isinstance(message.get(key), str | int)), "")
        text = next((message[key] for key in _TEXTS if isinstance(message.get(key), str)), "").strip()
        role = roles.get(str(speaker), roles.get("*"))
        if role is None:
            raise Unusable("other_roles")
        if not text:
            continue
        if role == "skip" or message.get("public") is False:
            cut.append(("skipped_speaker" if role == "skip" else "not_public", text))
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += f"\n{text}"
        else:
            turns.append({"role": role, "content": text})
    system = [one for one in turns if one["role"] == "system"][:1]
    spoken = [one for one in turns if one["role"] != "system"]
    first = next((at for at, one in enumerate(spoken) if one["role"] == "user"), len(spoken))
    last = max((at for at, one in enumerate(spoken) if one["role"] == "assistant"), default=-1)
    if last < first:
        return system + spoken
    cut += [("second_system", one["content"]) for one in turns if one["role"] == "system"][1:]
    cut += [("before_question", one["content"]) for one in spoken[:first]]
    cut += [("after_answer", one["content"]) for one in spoken[last + 1 :]]
    return system + spoken[first : last + 1]


def _wanted(value: str | None) -> str:
    if not value or value.isspace():
        raise Unusable("empty")
    return value


def _optional(value: str | None) -> str:
    return "" if not value or value.isspace() else value


# ---- the usual names of columns ----


def recognised(
    names: Collection[str], roles: Collection[str], later: Callable[[Form], bool] = lambda form: False
) -> dict[str, str] | None:
    """Role -> column of the first known form whose columns are all there; None if there is none.

    Args:
        names: of the columns. roles: those that the caller reads; forms that need others are passed over.
        later: whether a form comes after all others.
    """
    for needed, optional in sorted(FORMS, key=later):
        if needed.keys() <= {*roles} and {*needed.values()} <= {*names}:
            return needed | {role: name for role, name in optional.items() if role in roles and name in names}
    return None
