"""Messages of a conversation in the forms that data sets have, as {role, content, ...}.

Known are the form of chat templates and of OpenAI's interfaces, {role, content}, whose content may be a list of parts,
and ShareGPT's, {from, value}.
"""

import json
from typing import Any

# Types of message parts that contain text, of chat templates and of OpenAI's two interfaces.
_TEXT_PARTS = ("text", "input_text", "output_text")
_TEXTS_OF_PARTS = ("text", "content", "value")
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
