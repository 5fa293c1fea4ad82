"""Messages of a conversation, with tool calls, in the forms that data sets have, as {role, content, ...}.

Known are the form of chat templates and of OpenAI's interfaces, {role, content}, whose content may be a list of parts,
and ShareGPT's, {from, value}.

The one form of tool calls that chat templates read: calls are `tool_calls` of {type, function: {name, arguments}} with
an object of arguments, results are messages of the role `tool`, and tools are {type, function: {name, description,
parameters}}. Data sets also have the form of OpenAI's interfaces, with arguments as JSON text, their older form
(`function_call`, the role `function`), functions without `type`, and any of these as JSON text, because columns of
Parquet hold one type.
"""

import json
from collections.abc import Mapping
from typing import Any

# Types of message parts that contain text, of chat templates and of OpenAI's two interfaces.
_TEXT_PARTS = ("text", "input_text", "output_text")
_TEXTS_OF_PARTS = ("text", "content", "value")
_DEEPEST = 100  # lists and objects within each other, of a message or tool
# Roles of the speakers in ShareGPT's messages; other names are roles. `function_call` is an assistant's tool call.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


class BadMessage(Exception):
    """A value is no message. reason: `bad_messages` or `content_not_text`. seen: what is wrong, in words."""

    def __init__(self, reason: str, seen: object) -> None:
        super().__init__(reason, seen)
        self.reason = reason
        self.seen = str(seen)


def plain_message(value: Any) -> dict[str, Any]:
    """A message as {role, content, ...}, with the text parts of its content joined; other keys stay.

    Raises:
        BadMessage: it has no role, or a content that is not text.
    """
    message = _from_sharegpt(value)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise BadMessage("bad_messages", f"not a message with a role: {message!r}")
    return message | {"content": _joined(message)} if "content" in message else message


def _joined(message: dict[str, Any]) -> str:
    """The content of a message as text; parts are concatenated."""
    content = message["content"]
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadMessage("bad_messages", f"its content is neither text nor a list of parts: {message!r}")
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind.lower() in _TEXT_PARTS:
        text = next((part[key] for key in _TEXTS_OF_PARTS if part.get(key) is not None), None)
        text = text.get("value") if isinstance(text, dict) else text  # OpenAI's threads
        if isinstance(text, str):
            return text
        raise BadMessage("bad_messages", f"a part of text without one at `text`: {part!r}")
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise BadMessage("content_not_text", f"a part of type {kind}, and only text can be trained on: {part!r}")


def _from_sharegpt(message: Any) -> Any:
    """A message of ShareGPT's form as {role, content}; any other value is returned as it is."""
    if not isinstance(message, dict) or "role" in message or not isinstance(message.get("from"), str):
        return message
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    speaker, value = message["from"], message.get("value", "")
    if speaker == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(value)} | rest
    return {"role": _ROLES.get(speaker, speaker), "content": value} | rest


def _calls(value: Any) -> list[dict[str, Any]]:
    """Tool calls from {name, arguments} or a list of them, as values or as JSON text."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_messages", f"its function_call is not JSON: {value}") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise BadMessage("bad_messages", f"its function_call is not {{name, arguments}}: {value}")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def without_nulls(value: Any, levels: int = _DEEPEST) -> Any:
    """The value without keys whose value is null: in a struct column every row has all keys.

    Raises:
        RecursionError: it has more than `levels` lists and objects within each other. What later stages do with it
            takes several calls for each.
    """
    if not isinstance(value, Mapping | list):
        return value
    if not levels:
        raise RecursionError(f"over {_DEEPEST} lists and objects within each other")
    if isinstance(value, Mapping):
        return {key: without_nulls(inner, levels - 1) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner, levels - 1) for inner in value]


# ---- tool calls ----


def with_standard_calls(message: dict[str, Any], *, text: bool = False) -> dict[str, Any]:
    """The message with its tool calls in the form that templates read.

    text: arguments are JSON text, as the message has them where it has text.

    Raises:
        BadMessage: the calls are not calls, or the arguments of one are not an object.
    """
    if message["role"] == "function":
        message = message | {"role": "tool"}
    calls = _decoded(message.get("tool_calls"), "tool_calls")
    if old := _decoded(message.get("function_call"), "function_call"):
        calls = calls or [old]
    if not calls:
        return {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
    if not isinstance(calls, list):
        raise BadMessage("bad_messages", f"its tool_calls are not a list: {calls!r}")
    rest = {key: value for key, value in message.items() if key != "function_call"}
    return rest | {"tool_calls": [_standard_call(_decoded(call, "tool_calls"), text) for call in calls]}


def standard_tools(tools: list[Any]) -> list[Any]:
    """The tools as {type, function}. A tool that is no JSON object stays as it is.

    Raises:
        BadMessage: a tool is text that is not JSON.
    """
    return [_standard_tool(_decoded(tool, "tools")) for tool in tools]


def _standard_call(call: Any, text: bool) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) and "function" in call else call
    function = _decoded(function, "tool_calls")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadMessage("bad_messages", f"a tool call without the name of a function: {call!r}")
    if "arguments" not in function and function.keys() - {"name", "type", "id"}:
        raise BadMessage("bad_messages", f"a tool call whose arguments do not have the key arguments: {call!r}")
    given = function.get("arguments") or {}
    arguments = _decoded(given, "arguments")
    if not isinstance(arguments, dict):
        raise BadMessage("bad_messages", f"a tool call whose arguments are not an object: {call!r}")
    if text:
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    named = {key: value for key, value in function.items() if key not in ("type", "id")} | {"arguments": arguments}
    outer = call if "function" in call else {key: call[key] for key in ("id",) if key in call}
    return {"type": "function"} | outer | {"function": named}


def _standard_tool(tool: Any) -> Any:
    if not isinstance(tool, dict):
        return tool
    if "function" not in tool and isinstance(tool.get("name"), str):
        tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    function = _decoded(tool.get("function"), "tools")
    if isinstance(function, dict) and isinstance(function.get("parameters"), str):
        function = function | {"parameters": _decoded(function["parameters"], "tools")}
    return tool | {"function": function} if "function" in tool else tool


def _decoded(value: Any, key: str) -> Any:
    """The value of JSON text; any other value as it is.

    Raises:
        BadMessage: text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_messages", f"its {key} are text that is not JSON: {value}") from error
