"""The texts and values of a content that are cleaned, and the content with others in their place."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from raymill.cluster.examples.content import (
    REASONING,
    Chat,
    Content,
    Message,
    Preference,
    Unusable,
    is_empty,
    tool_names,
    wanted,
)

# Tags around tool calls, results and tools in texts, as in Hermes.
_TAG = re.compile("<(tool_call|tool_response|tools)>")
_HIDDEN = "\ue000"  # stands for them while a text is cleaned
# The strings and numbers of a JSON text.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*+"|-?[0-9][0-9.eE+-]*+')


def texts_of(content: Content) -> list[str]:
    """Its text fields, in order: what is cleaned. U+E000 stands for tool calls, results and tools within a text.

    Tool calls, results and tools are in `data_of`.
    """
    if isinstance(content, str):
        return [content]
    said = ([*([] if one.role == "tool" else [_hidden(one.content)[0]]), *one.reasoning] for one in _messages(content))
    return [*chain.from_iterable(said), *([content.input] if isinstance(content, Chat) else [])]


def _messages(content: Chat | Preference) -> tuple[Message, ...]:
    if isinstance(content, Chat):
        return content.messages
    return (*content.asked, *content.chosen, *content.rejected)


def compared_texts(content: Content) -> list[str]:
    """What duplicates are found by: all that its messages say, and the names of its tools."""
    if isinstance(content, str):
        return [content]
    input = [content.input] if isinstance(content, Chat) else []
    return [*(one.text for one in _messages(content)), *input, *tool_names(content.tools)]


def data_of(content: Content) -> list[str]:
    """Strings and numbers of tool calls, results and tools, and names: of these only personal data is replaced."""
    return [value for text in _data(content) for value in _values_of(text)] if not isinstance(content, str) else []


def _data(content: Chat | Preference) -> list[str]:
    """Texts that are JSON in most cases."""
    found = (
        (
            *(call.arguments for call in one.calls),
            *(value for key, value in one.keys if key == "name"),
            *([one.content] if one.role == "tool" else _hidden(one.content)[1]),
        )
        for one in _messages(content)
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
    """(the text with U+E000 in place of tool calls, results and tools in tags, these). In linear time."""
    if _HIDDEN in text:
        return text, []
    pieces, found, unclosed = list[str](), list[str](), set[str]()
    last = at = 0
    while (tag := _TAG.search(text, at)) is not None:
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
        return wanted(texts[0])
    count = len(texts_of(content))
    spoken, values = iter(texts[:count]), iter(texts[count:])
    has_data = len(texts) > count

    def data(text: str) -> str:
        return _with_values(text, values) if text and has_data else text

    messages = []
    for old in _messages(content):
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
    tools = data(content.tools)
    if any(map(is_empty, messages)):
        raise Unusable("empty")
    if isinstance(content, Preference):
        asked, answers = len(content.asked), len(content.asked) + len(content.chosen)
        parts = (tuple(messages[:asked]), tuple(messages[asked:answers]), tuple(messages[answers:]))
        found = Preference(*parts, tools, content.margin)
        if found.has_equal_answers:
            raise Unusable("equal_answers")
        return found
    input = next(spoken)
    # Cleaning may change where an input begins in its question; then it stays a part of the question alone.
    question = next(one.content for one in messages if one.role == "user")
    input = input if input and question.endswith(f"\n\n{input}") else ""
    return replace(content, messages=tuple(messages), input=input, tools=tools)
