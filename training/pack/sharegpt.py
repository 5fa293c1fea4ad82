"""Messages of ShareGPT's form, {from, value}, as the {role, content} that chat templates take."""

import json
from typing import Any

# Who speaks, as roles; other names are roles already. `function_call` is an assistant's tool call.
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "observation": "tool",
    "function_response": "tool",
}


def from_sharegpt(message: Any) -> Any:
    """The message with role and content; what is not of ShareGPT's form comes back as it is.

    Raises:
        ValueError: a function_call whose value is no call.
    """
    if not isinstance(message, dict) or "role" in message or not isinstance(message.get("from"), str):
        return message
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    speaker, value = message["from"], message.get("value", "")
    if speaker == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(value)} | rest
    return {"role": _ROLES.get(speaker, speaker), "content": value} | rest


def _calls(value: Any) -> list[dict[str, Any]]:
    """{name, arguments}, or a list of them, as JSON text or as they are."""
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its function_call is no JSON: {value}") from error
    calls = calls if isinstance(calls, list) else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise ValueError(f"its function_call is not {{name, arguments}}: {value}")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]
