"""The content of a record, in one of three forms, and the columns of each shape in which records are written.

    str          a text
    Chat         messages of roles system, user, assistant and tool, which end with an answer or a tool call; a
                 question and its answer is a chat of one exchange
    Preference   messages that end with a question, a chosen answer and a rejected one; an answer may call tools

The answer of a chat may have been judged, as for KTO, and a preference may have a margin.

Rows of a source become one of them by `content_of` (rows.py), and columns of a shape by `to_shape`; `from_shape` reads
them back. The texts that are cleaned are those of texts.py. A conversion between shapes keeps all of the content. A
record that does not fit a shape is refused with a reason, unless the config has a conversion for it: texts become
questions and answers by `records.templates`, chats become texts by `records.chats_as_text`, and of preferences
`records.preferences: chosen` takes the chosen answer.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import pyarrow as pa

from raymill.cluster.examples.messages import standard_tools

# What a speaker is; the messages of `skip` are left out.
Role = Literal["system", "user", "assistant", "skip"]
Shape = Literal["text", "pairs", "instruction", "messages", "preference", "preference_messages"]
# Fields of a source's row that are the content of a record.
FIELDS = (
    *("text", "prompt", "completion", "input", "system", "messages", "chosen", "rejected", "desirable"),
    *("tools", "history", "margin"),
)
_TEXT = pa.large_string()
REASONING = ("reasoning_content", "reasoning", "thinking")
# Keys of a message besides role, content and tool calls: types, and values that mean the same as no key.
KEYS: dict[str, tuple[pa.DataType, Any]] = {
    "name": (pa.string(), None),
    "tool_call_id": (pa.string(), None),
    **dict.fromkeys(REASONING, (_TEXT, None)),
    **dict.fromkeys(("weight", "loss_weight"), (pa.float64(), 1)),
    **dict.fromkeys(("train", "training"), (pa.bool_(), True)),
}
_FUNCTION = pa.struct([("name", pa.string()), ("arguments", _TEXT)])
_CALL = pa.struct([("id", pa.string()), ("type", pa.string()), ("function", _FUNCTION)])
_MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", _TEXT),
            ("tool_calls", pa.list_(_CALL)),
            *((name, type) for name, (type, _) in KEYS.items()),
        ]
    )
)
# Whether an answer is desirable, and the difference of the scores of two, by the names that TRL reads.
_LABEL, _MARGIN = {"label": pa.bool_()}, {"margin": pa.float64()}
# Columns and keys of messages that only some records need; others are written without them, see `columns_in_use`.
OPTIONAL = ("tools", "tool_calls", "label", "margin", *KEYS)
# The columns of each shape.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "text": {"text": _TEXT},
    "pairs": {"system": _TEXT, "prompt": _TEXT, "completion": _TEXT} | _LABEL,
    "instruction": {"system": _TEXT, "instruction": _TEXT, "input": _TEXT, "output": _TEXT} | _LABEL,
    "messages": {"messages": _MESSAGES, "tools": _TEXT} | _LABEL,
    "preference": {"system": _TEXT, "prompt": _TEXT, "chosen": _TEXT, "rejected": _TEXT} | _MARGIN,
    "preference_messages": {**dict.fromkeys(("prompt", "chosen", "rejected"), _MESSAGES), "tools": _TEXT} | _MARGIN,
}
ROLES = ("system", "user", "assistant", "tool")
# Why a row is no record, or a record has no such shape.
REASONS = {
    "empty": "no text, question or answer",
    "bad_messages": "messages without a role, or in no known form",
    "content_not_text": "a message with an image or another part that is no text",
    "other_roles": "a role besides system, user, assistant and tool",
    "other_keys": "tools, tool calls or other keys of a message, for which the records, or this shape, have no column",
    "bad_tools": "tools that are no list of JSON objects",
    "bad_history": "a history that is no list of [question, answer]",
    "wrong_order": "user and assistant do not take turns, or the last message is no answer",
    "several_turns": "a conversation of more than one question and answer, for which this shape has no columns",
    "a_chat": "questions and answers, of which this shape needs a text; `records.chats_as_text` makes one",
    "no_answer": "a plain text, of which this shape needs a question and an answer",
    "not_a_preference": "a record with one answer, where this shape needs two: a chosen and a rejected one",
    "a_preference": "two answers, of which this shape has one; `records.preferences: chosen` takes the chosen one",
    "no_prompt": "a chosen and a rejected answer without a `prompt`, and no conversations that begin with a question",
    "different_questions": "a chosen and a rejected answer to different questions",
    "equal_answers": "a chosen and a rejected answer that are the same, which say nothing of what is better",
    "undesirable": "an answer that the column `label`, or the field `desirable`, marks as undesirable, as for KTO; "
    "`records.undesirable: keep` keeps it",
    "bad_label": "a `label`, or field `desirable`, that is neither true nor false",
    "bad_margin": "a `margin` that is no finite number",
    "bad_choices": "choices of which one is empty, or a right answer that is the number of none",
    "bad_ranking": "ranked answers that are no list of two or more {completion, rank} or {response, overall_score}",
    "tied_answers": "ranked answers of which none is better than another",
    "bytes_not_utf8": "a field of bytes that are not UTF-8 text",
    "missing_field": "a field that the template names is missing or empty",
    "bad_quality_score": "a `quality_score` that is no finite number",
}


class Unusable(Exception):
    """A row or record cannot be used. reason: a key of REASONS."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        assert reason in REASONS, reason
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool. arguments: a JSON object as text, as the source has it."""

    name: str
    arguments: str
    id: str | None = None

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a chat.

    Attributes:
        role: one of ROLES.
        calls: calls of an assistant's message.
        keys: other keys with their values, in the order of KEYS.
    """

    role: str
    content: str
    calls: tuple[ToolCall, ...] = ()
    keys: tuple[tuple[str, Any], ...] = ()

    @property
    def reasoning(self) -> list[str]:
        return [value for key, value in self.keys if key in REASONING]

    @property
    def text(self) -> str:
        """Reasoning, content and calls."""
        return "\n".join(filter(None, [*self.reasoning, self.content, *map(str, self.calls)]))


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation: at most one system message, then user and assistant in turn; the last is an assistant's.

    Results of tools stand between an assistant's message and the next one.

    input: the part of the only question that stood apart, of instruction records. It is the end of that question, after
    a blank line. tools: that the assistant can call, a list as JSON text; empty without any. desirable: the judgement
    of the last answer; None: it was not judged.
    """

    messages: tuple[Message, ...]
    input: str = ""
    tools: str = ""
    desirable: bool | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it has texts alone: no tools, reasoning or weights of the loss."""
        return not self.tools and _are_plain(self.messages)


@dataclass(frozen=True, slots=True)
class Preference:
    """A question and two answers.

    asked: up to the question, the last message of a user; after it there may be calls of tools and their results that
    both answers follow. chosen, rejected: each ends with an assistant's message, before which there may be calls of
    tools and their results. tools: as of `Chat`. margin: the difference of the answers' scores; None if it is not
    known.
    """

    asked: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: str = ""
    margin: float | None = None

    @property
    def chats(self) -> tuple[Chat, Chat]:
        """The conversation with the chosen answer, and with the rejected one."""
        chosen, rejected = (Chat((*self.asked, *answer), tools=self.tools) for answer in (self.chosen, self.rejected))
        return chosen, rejected

    @property
    def is_plain(self) -> bool:
        """Whether it has texts alone."""
        return all(one.is_plain for one in self.chats)

    @property
    def has_equal_answers(self) -> bool:
        """Whether both answers are the same, apart from white space around them and ids of calls."""
        chosen, rejected = ("\n".join(one.text for one in some).strip() for some in (self.chosen, self.rejected))
        return chosen == rejected


Content = str | Chat | Preference


def with_input(prompt: str, input: str) -> str:
    """An instruction and the input that it is about as one question. input: may be empty."""
    return f"{prompt}\n\n{input}" if input else prompt


def pair(system: str, prompt: str, input: str, completion: str) -> Chat:
    """A question and its answer. system, input: may be empty."""
    question = with_input(prompt, input)
    first = (Message("system", system),) if system else ()
    return Chat((*first, Message("user", question), Message("assistant", completion)), input)


def preference(system: str, prompt: str, chosen: str, rejected: str, margin: float | None = None) -> Preference:
    """A question and two answers that are texts. system: may be empty."""
    first = (Message("system", system),) if system else ()
    asked = (*first, Message("user", prompt))
    return Preference(asked, (Message("assistant", chosen),), (Message("assistant", rejected),), margin=margin)


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
    if shape in ("preference", "preference_messages"):
        if isinstance(content, Chat):
            raise Unusable("not_a_preference")
        margin = {} if content.margin is None else {"margin": content.margin}
        if shape == "preference_messages":
            tools = {"tools": content.tools} if content.tools else {}
            parts = {"prompt": content.asked, "chosen": content.chosen, "rejected": content.rejected}
            return {name: [as_dict(one) for one in part] for name, part in parts.items()} | tools | margin
        if not content.is_plain:
            raise Unusable("other_keys")
        *first, question = content.asked
        if len(first) > 1 or (first and first[0].role != "system"):
            raise Unusable("several_turns")
        system = first[0].content if first else ""
        (chosen,), (rejected,) = content.chosen, content.rejected
        texts = {"prompt": question.content, "chosen": chosen.content, "rejected": rejected.content}
        return {"system": system} | texts | margin
    if isinstance(content, Preference):
        raise Unusable("a_preference")
    label = {} if content.desirable is None else {"label": content.desirable}
    if shape == "messages":
        tools = {"tools": content.tools} if content.tools else {}
        return {"messages": [as_dict(one) for one in content.messages]} | tools | label
    if not content.is_plain:
        raise Unusable("other_keys")
    *first, question, answer = content.messages
    if len(first) > 1 or (first and first[0].role != "system"):
        raise Unusable("several_turns")
    system = first[0].content if first else ""
    if shape == "pairs":
        return {"system": system, "prompt": question.content, "completion": answer.content} | label
    instruction = question.content[: -len(content.input) - 2] if content.input else question.content
    return {"system": system, "instruction": instruction, "input": content.input, "output": answer.content} | label


def as_dict(message: Message) -> dict[str, Any]:
    """A message as the columns have it, with the keys that it has."""
    calls = [
        ({} if one.id is None else {"id": one.id})
        | {"type": "function", "function": {"name": one.name, "arguments": one.arguments}}
        for one in message.calls
    ]
    plain = {"role": message.role, "content": message.content}
    return plain | ({"tool_calls": calls} if calls else {}) | dict(message.keys)


def shape_of(names: Collection[str]) -> Shape:
    """The shape of records with these columns."""
    return next(shape for shape in get_args(Shape) if COLUMNS[shape].keys() - {*OPTIONAL} <= {*names})


def columns_in_use(shape: Shape, used: Collection[str]) -> dict[str, pa.DataType]:
    """The columns of a shape, of OPTIONAL with those in `used`."""

    def is_used(name: str) -> bool:
        return name not in OPTIONAL or name in used

    columns = {name: type for name, type in COLUMNS[shape].items() if is_used(name)}
    messages = pa.list_(pa.struct([one for one in _MESSAGES.value_type if is_used(one.name)]))
    return {name: messages if type == _MESSAGES else type for name, type in columns.items()}


def as_columns(content: Content) -> dict[str, Any]:
    """Its columns as text, messages or preference; as preference_messages of a preference of several turns or
    with tools.
    """
    if isinstance(content, Preference):
        is_one = content.is_plain and len([one for one in content.asked if one.role != "system"]) == 1
        return to_shape(content, "preference" if is_one else "preference_messages")
    return to_shape(content, "text" if isinstance(content, str) else "messages")


def from_shape(values: Mapping[str, Any], shape: Shape) -> Content:
    """The content of a record from its columns: the inverse of `to_shape`."""
    match shape:
        case "text":
            return values["text"]
        case "preference":
            system, prompt, chosen, rejected = (values[one] for one in ("system", "prompt", "chosen", "rejected"))
            return preference(system, prompt, chosen, rejected, values.get("margin"))
        case "preference_messages":
            asked, better, worse = (tuple(map(_from_dict, values[one])) for one in ("prompt", "chosen", "rejected"))
            return Preference(asked, better, worse, values.get("tools") or "", values.get("margin"))
        case "pairs":
            chat = pair(values["system"], values["prompt"], "", values["completion"])
        case "instruction":
            chat = pair(values["system"], values["instruction"], values["input"], values["output"])
        case _:
            chat = Chat(tuple(map(_from_dict, values["messages"])), tools=values.get("tools") or "")
    return chat if values.get("label") is None else replace(chat, desirable=values["label"])


def _from_dict(message: Mapping[str, Any]) -> Message:
    """The inverse of `as_dict`; keys may be null."""
    if len(message) == 2:  # most records have no others
        return Message(message["role"], message["content"])
    calls = ((one["function"], one.get("id")) for one in message.get("tool_calls") or ())
    return Message(
        message["role"],
        message["content"],
        tuple(ToolCall(function["name"], function["arguments"], id) for function, id in calls),
        tuple((key, message[key]) for key in KEYS if message.get(key) is not None),
    )


def _are_plain(messages: Sequence[Message]) -> bool:
    """Whether messages have texts alone."""
    return not any(one.role == "tool" or one.calls or any(key != "name" for key, _ in one.keys) for one in messages)


def is_empty(message: Message) -> bool:
    """Whether a message of a user or an assistant has neither text nor calls."""
    return message.role not in ("system", "tool") and not message.text.strip()


def question_and_answer(content: Content) -> tuple[str, str] | None:
    """(the last question, the answer to it, empty if it is tool calls alone); of a preference the chosen answer.

    None for a text.
    """
    if isinstance(content, str):
        return None
    if isinstance(content, Preference):
        content = content.chats[0]
    asked = next(one.content for one in reversed(content.messages) if one.role == "user")
    return asked, content.messages[-1].content


@dataclass(frozen=True, slots=True)
class Sides:
    """The parts of a record that are compared.

    Attributes:
        system: system message and tools.
        question: a plain text; of others all that precedes the last answer, without the system message.
        answer: the last answer, of two the chosen one; empty for a plain text.
        turns: number of questions.
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
    if isinstance(content, str):
        return Sides("", content, "", 0)
    if isinstance(content, Chat):
        asked, answer = content.messages[:-1], content.messages[-1:]
    else:
        asked, answer = content.asked, content.chosen
    system = asked[0].content if asked[0].role == "system" else ""
    question, said = ("\n".join(one.text for one in some if one.role != "system") for some in (asked, answer))
    return Sides(system + content.tools, question, said, sum(one.role == "user" for one in asked))


def tool_names(tools: str) -> list[str]:
    """The names of a record's tools. tools: a JSON list of OpenAI's form, or empty."""
    functions = (one.get("function", one) for one in standard_tools(json.loads(tools or "[]")))
    return [str(one.get("name")) for one in functions if isinstance(one, dict)]


def judgement(value: object) -> bool | None:
    """Whether a value says that an answer is desirable: true, false, 1 or 0, or their texts; None of others."""
    return {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())


def wanted(value: str | None) -> str:
    """The value. Raises Unusable where it is missing or blank."""
    if not value or value.isspace():
        raise Unusable("empty")
    return value
