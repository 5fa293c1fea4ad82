"""The content of a record, in one of three forms, and the columns of each shape in which records are written.

    str          a text
    Chat         messages of roles system, user, assistant and tool, which end with an answer or a tool call; a
                 question and its answer is a chat of one exchange
    Preference   messages that end with a question, a chosen answer and a rejected one

Rows of a source become one of them by `content_of`, and columns of a shape by `to_shape`; `from_shape` reads them back.
A conversion between shapes keeps all of the content. A record that does not fit a shape is refused with a reason,
unless the config has a conversion for it: texts become questions and answers by `records.templates`, chats become
texts by `records.chats_as_text`, and of preferences `records.preferences: chosen` takes the chosen answer.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

import pyarrow as pa

from raymill.cluster.examples.messages import (
    BadMessage,
    plain_message,
    standard_tools,
    with_standard_calls,
    without_nulls,
)
from raymill.cluster.readers.inputs import Cut

# What a speaker is; the messages of `skip` are left out.
Role = Literal["system", "user", "assistant", "skip"]
Shape = Literal["text", "pairs", "instruction", "messages", "preference"]

# Fields of a source's row that are the content of a record.
FIELDS = (
    *("text", "prompt", "completion", "input", "system", "messages", "chosen", "rejected", "desirable"),
    *("tools", "history"),
)

_TEXT = pa.large_string()
REASONING = ("reasoning_content", "reasoning", "thinking")
# Keys of a message besides role, content and tool calls: types, and values that mean the same as no key.
_KEYS: dict[str, tuple[pa.DataType, Any]] = {
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
            *((name, type) for name, (type, _) in _KEYS.items()),
        ]
    )
)
# Columns and keys of messages that only some records need; others are written without them, see `columns_in_use`.
OPTIONAL = ("tools", "tool_calls", *_KEYS)

# The columns of each shape.
COLUMNS: dict[str, dict[str, pa.DataType]] = {
    "text": {"text": _TEXT},
    "pairs": {"system": _TEXT, "prompt": _TEXT, "completion": _TEXT},
    "instruction": {"system": _TEXT, "instruction": _TEXT, "input": _TEXT, "output": _TEXT},
    "messages": {"messages": _MESSAGES, "tools": _TEXT},
    "preference": {"system": _TEXT, "prompt": _TEXT, "chosen": _TEXT, "rejected": _TEXT},
}

ROLES = ("system", "user", "assistant", "tool")
# The first letters of the roles of a conversation.
_ORDER = re.compile(r"s?(?:ua(?:t+a)*)+")
# Tags around tool calls, results and tools in texts, as in Hermes.
_TAG = re.compile("<(tool_call|tool_response|tools)>")
_HIDDEN = "\ue000"  # stands for them while a text is cleaned
# The strings and numbers of a JSON text.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|-?[0-9][0-9.eE+-]*+')

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
    "undesirable": "an answer that the column `label`, or the field `desirable`, marks as undesirable, as for KTO",
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
        keys: other keys with their values, in the order of _KEYS.
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
    a blank line. tools: that the assistant can call, a list as JSON text; empty without any.
    """

    messages: tuple[Message, ...]
    input: str = ""
    tools: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it has texts alone: no tools, reasoning or weights of the loss."""
        return not self.tools and not any(
            one.role == "tool" or one.calls or any(key != "name" for key, _ in one.keys) for one in self.messages
        )


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
        spoken = _spoken(row["messages"], roles, [] if cut is None else cut) if roles else _messages(row["messages"])
        system = _optional(row.get("system"))
        if system and spoken and spoken[0]["role"] != "system":
            spoken = [{"role": "system", "content": system}, *spoken]
        return _chat(spoken, _tools(row.get("tools")))
    if "chosen" in row:
        chosen, rejected = (_wanted(row.get(name)) for name in ("chosen", "rejected"))
        if "prompt" not in row:
            # Two conversations that differ in their last message: the messages before it are the question.
            both = [_messages(text) if _is_messages(text) else _dialogue(text) for text in (chosen, rejected)]
            if any(not one or one[0]["role"] not in ("system", "user") for one in both):
                raise Unusable("no_prompt")
            return _of_chats(_optional(row.get("system")), [_chat(one) for one in both])
        prompt = _with_input(_wanted(row.get("prompt")), _optional(row.get("input")))
        return _preference(_optional(row.get("system")), prompt, chosen, rejected)
    if "prompt" in row:
        system, input = _optional(row.get("system")), _optional(row.get("input"))
        whole = pair(system, _wanted(row["prompt"]), input, _wanted(row["completion"]))
        earlier, tools = _history(row.get("history")), _tools(row.get("tools"))
        if earlier:
            *before, question, answer = whole.messages
            whole = Chat((*before, *earlier, question, answer))
        return replace(whole, tools=tools) if tools else whole
    return _wanted(row.get("text"))


def pair(system: str, prompt: str, input: str, completion: str) -> Chat:
    """A question and its answer. system, input: may be empty."""
    question = _with_input(prompt, input)
    first = (Message("system", system),) if system else ()
    return Chat((*first, Message("user", question), Message("assistant", completion)), input)


def _with_input(prompt: str, input: str) -> str:
    return f"{prompt}\n\n{input}" if input else prompt


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
        tools = {"tools": content.tools} if content.tools else {}
        return {"messages": [_as_dict(one) for one in content.messages]} | tools
    if not content.is_plain:
        raise Unusable("other_keys")
    *first, question, answer = content.messages
    if len(first) > 1 or (first and first[0].role != "system"):
        raise Unusable("several_turns")
    system = first[0].content if first else ""
    if shape == "pairs":
        return {"system": system, "prompt": question.content, "completion": answer.content}
    instruction = question.content[: -len(content.input) - 2] if content.input else question.content
    return {"system": system, "instruction": instruction, "input": content.input, "output": answer.content}


def _as_dict(message: Message) -> dict[str, Any]:
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
    if shape == "messages":
        columns["messages"] = pa.list_(pa.struct([one for one in _MESSAGES.value_type if is_used(one.name)]))
    return columns


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
            return Chat(tuple(map(_from_dict, values["messages"])), tools=values.get("tools") or "")
        case _:
            return Preference(values["system"], values["prompt"], values["chosen"], values["rejected"])


def _from_dict(message: Mapping[str, Any]) -> Message:
    """The inverse of `_as_dict`; keys may be null."""
    if len(message) == 2:  # most records have no others
        return Message(message["role"], message["content"])
    calls = ((one["function"], one.get("id")) for one in message.get("tool_calls") or ())
    return Message(
        message["role"],
        message["content"],
        tuple(ToolCall(function["name"], function["arguments"], id) for function, id in calls),
        tuple((key, message[key]) for key in _KEYS if message.get(key) is not None),
    )


def texts_of(content: Content) -> list[str]:
    """Its text fields, in order: what is cleaned. U+E000 stands for tool calls, results and tools within a text.

    Tool calls, results and tools are in `data_of`.
    """
    if isinstance(content, str):
        return [content]
    if isinstance(content, Preference):
        return [content.system, content.prompt, content.chosen, content.rejected]
    said = ([*([] if one.role == "tool" else [_hidden(one.content)[0]]), *one.reasoning] for one in content.messages)
    return [*chain.from_iterable(said), content.input]


def compared_texts(content: Content) -> list[str]:
    """What duplicates are found by: all that its messages say, and the names of its tools."""
    if not isinstance(content, Chat):
        return texts_of(content)
    return [*(one.text for one in content.messages), content.input, *_tool_names(content.tools)]


def data_of(content: Content) -> list[str]:
    """Strings and numbers of tool calls, results and tools, and names: of these only personal data is replaced."""
    return [value for text in _data(content) for value in _values_of(text)] if isinstance(content, Chat) else []


def _data(content: Chat) -> list[str]:
    """Texts that are JSON in most cases."""
    found = (
        (
            *(call.arguments for call in one.calls),
            *(value for key, value in one.keys if key == "name"),
            *([one.content] if one.role == "tool" else _hidden(one.content)[1]),
        )
        for one in content.messages
    )
    return [*filter(None, chain.from_iterable(found)), *filter(None, [content.tools])]


def _values_of(text: str) -> list[str]:
    """The strings and numbers of a JSON object or list, in order; of another text, the text."""
    if not _is_json(text):
        return [text]
    found = (json.loads(one) if one.startswith('"') else one for one in _TOKEN.findall(text))
    return [one.encode(errors="replace").decode() for one in found]


def _with_values(text: str, values: Iterator[str]) -> str:
    """The text with other strings and numbers, as many as `_values_of` gave; all other bytes stay."""
    if not _is_json(text):
        return next(values)
    old = iter(_values_of(text))

    def new(token: re.Match[str]) -> str:
        before, after = next(old), next(values)
        return token.group() if before == after else json.dumps(after, ensure_ascii=False)

    return _TOKEN.sub(new, text)


def _hidden(text: str) -> tuple[str, list[str]]:
    """(the text with U+E000 in place of tool calls, results and tools in tags, these)."""
    pieces, found, unclosed = list[str](), list[str](), set[str]()
    last = at = 0
    while _HIDDEN not in text and (tag := _TAG.search(text, at)):
        at = tag.end()
        end = -1 if tag[1] in unclosed else text.find(f"</{tag[1]}>", at)
        if end < 0:
            unclosed.add(tag[1])
            continue
        at = end + len(tag[1]) + 3
        pieces.append(text[last : tag.start()])
        found.append(text[tag.start() : at])
        last = at
    return (_HIDDEN.join([*pieces, text[last:]]), found) if found else (text, [])


def _shown(text: str, found: list[str]) -> str:
    """The inverse of `_hidden`."""
    return "".join(chain.from_iterable(zip(text.split(_HIDDEN), [*found, ""], strict=True)))


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or list, or one in a tag."""
    if (tag := _TAG.match(text)) and text.endswith(end := f"</{tag[1]}>"):
        text = text[tag.end() : -len(end)]
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def with_texts(content: Content, texts: list[str]) -> Content:
    """The content with other text fields, as many as `texts_of` gave, and after them those of `data_of`, or none.

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
    count = len(texts_of(content))
    spoken, values = iter(texts[:count]), iter(texts[count:])
    has_data = len(texts) > count

    def data(text: str) -> str:
        return _with_values(text, values) if text and has_data else text

    messages = []
    for old in content.messages:
        said = "" if old.role == "tool" else next(spoken)
        keys = [(key, next(spoken) if key in REASONING else value) for key, value in old.keys]
        calls = tuple(replace(call, arguments=data(call.arguments)) for call in old.calls)
        keys = [(key, data(value) if key == "name" else value) for key, value in keys]
        if old.role == "tool":
            said = data(old.content)
        elif (hidden := _hidden(old.content))[1]:
            shown = [data(one) for one in hidden[1]]
            # A call that cleaning took out, as a line of a quoted mail, stays with its text.
            said = _shown(said if said.count(_HIDDEN) == len(shown) else hidden[0], shown)
        messages.append(Message(old.role, said, calls, tuple(keys)))
    tools, input = data(content.tools), next(spoken)
    if any(map(_is_empty, messages)):
        raise Unusable("empty")
    # Cleaning may change where an input begins in its question; then it stays a part of the question alone.
    question = next(one.content for one in messages if one.role == "user")
    return Chat(tuple(messages), input if input and question.endswith(f"\n\n{input}") else "", tools)


def _is_empty(message: Message) -> bool:
    """Whether a message of a user or an assistant has neither text nor calls."""
    return message.role not in ("system", "tool") and not message.text.strip()


def question_and_answer(content: Content) -> tuple[str, str] | None:
    """(the last question, the answer to it, empty if it is tool calls alone); of a preference the chosen answer.

    None for a text.
    """
    if isinstance(content, str):
        return None
    if isinstance(content, Preference):
        return content.prompt, content.chosen
    asked = next(one.content for one in reversed(content.messages) if one.role == "user")
    return asked, content.messages[-1].content


@dataclass(frozen=True, slots=True)
class Sides:
    """The parts of a record that are compared.

    Attributes:
        system: system message and tools.
        question: a plain text; of a chat all that precedes the last answer, without the system message.
        answer: the last answer; empty for a plain text.
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
    if isinstance(content, Chat):
        spoken = [one.text for one in content.messages if one.role != "system"]
        system = content.messages[0].content if content.messages[0].role == "system" else ""
        turns = sum(one.role == "user" for one in content.messages)
        return Sides(system + content.tools, "\n".join(spoken[:-1]), spoken[-1], turns)
    asked = question_and_answer(content)
    if asked is None:
        assert isinstance(content, str)
        return Sides("", content, "", 0)
    assert isinstance(content, Preference)
    return Sides(content.system, *asked, 1)


def _preference(system: str, prompt: str, chosen: str, rejected: str) -> Preference:
    """prompt, chosen, rejected: texts, or messages as JSON text; the answers may have the question before them, or be
    one message each.
    """
    texts = (prompt, *(f"[{one}]" if _is_message(one) else one for one in (chosen, rejected)))
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
    if not all(one.is_plain for one in chats):
        raise Unusable("other_keys")
    (*before, answer), (*other, worse) = (one.messages for one in chats)
    if before != other:
        raise Unusable("different_questions")
    if len(before) > 2 or (len(before) == 2 and before[0].role != "system"):
        raise Unusable("several_turns")
    of_chat = before[0].content if len(before) == 2 else ""
    return Preference(of_chat or system, before[-1].content, answer.content, worse.content)


def _is_message(text: str) -> bool:
    """Whether a text is one message as JSON."""
    try:
        message = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and ({"role", "content"} <= message.keys() or {"from", "value"} <= message.keys())


def _is_messages(text: str) -> bool:
    """Whether a text is a list of messages as JSON."""
    if not text.lstrip().startswith("["):
        return False
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(messages) and all(isinstance(one, dict) and {"role", "from"} & one.keys() for one in messages)


def _chat(messages: list[dict[str, Any]], tools: str = "") -> Chat:
    found = tuple(map(_message, messages))
    if not _ORDER.fullmatch("".join(one.role[0] for one in found)):
        raise Unusable("wrong_order" if found else "empty")
    if any(map(_is_empty, found)):
        raise Unusable("empty")
    return Chat(found, tools=tools)


def _message(message: dict[str, Any]) -> Message:
    """A message of the standard form of examples/messages.py, with arguments as text."""
    if message["role"] not in ROLES:
        raise Unusable("other_roles")
    calls = message.get("tool_calls", ())
    if calls and message["role"] != "assistant":
        raise Unusable("other_keys")
    for call in calls:
        others = {**call, **call["function"], "type": call["type"] != "function"}
        if any(value for key, value in others.items() if key not in ("id", "function", "index", "name", "arguments")):
            raise Unusable("other_keys")
    keys = {}
    for key, value in message.items():
        if key in ("role", "content", "tool_calls"):
            continue
        if key not in _KEYS:
            if value:
                raise Unusable("other_keys")
        elif value not in (_KEYS[key][1], ""):
            keys[key] = _typed(value, _KEYS[key][0])
    return Message(
        message["role"],
        message.get("content") or "",
        tuple(
            ToolCall(
                call["function"]["name"],
                call["function"]["arguments"],
                _typed(call["id"], pa.string()) if "id" in call else None,
            )
            for call in calls
        ),
        tuple((key, keys[key]) for key in _KEYS if key in keys),
    )


def _typed(value: Any, type: pa.DataType) -> Any:
    """The value as one of a column of this type."""
    is_number = isinstance(value, int | float)
    if pa.types.is_boolean(type) and value in (True, False):
        return bool(value)
    if pa.types.is_floating(type) and is_number:
        return float(value)
    if isinstance(value, str) and not (pa.types.is_boolean(type) or pa.types.is_floating(type)):
        return value
    raise Unusable("bad_messages")


def _tools(value: str | None) -> str:
    """Tools as JSON text, as they are; empty without any."""
    if not _optional(value):
        return ""
    assert value is not None
    try:
        tools = json.loads(value)
        if tools and not (isinstance(tools, list) and all(isinstance(one, dict) for one in standard_tools(tools))):
            raise Unusable("bad_tools")
    except (ValueError, RecursionError, BadMessage) as error:
        raise Unusable("bad_tools") from error
    return value if tools else ""


def _tool_names(tools: str) -> list[str]:
    functions = (one.get("function", one) for one in standard_tools(json.loads(tools or "[]")))
    return [str(one.get("name")) for one in functions if isinstance(one, dict)]


def _history(value: str | None) -> list[Message]:
    """Earlier turns, of a list of [question, answer] as JSON text."""
    try:
        turns = json.loads(_optional(value) or "[]") or []
    except (ValueError, RecursionError) as error:
        raise Unusable("bad_history") from error
    if not isinstance(turns, list):
        raise Unusable("bad_history")
    found = []
    for turn in turns:
        if not (isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            raise Unusable("bad_history")
        found += [Message("user", _wanted(turn[0])), Message("assistant", _wanted(turn[1]))]
    return found


def _messages(value: str | None) -> list[dict[str, Any]]:
    try:
        messages = json.loads(value or "[]")
        if not isinstance(messages, list):
            raise Unusable("bad_messages")
        return [with_standard_calls(plain_message(without_nulls(message)), text=True) for message in messages]
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
