"""Tool calls, their results and tools in the one form that chat templates read.

Calls are `tool_calls` of {type, function: {name, arguments}} with an object of arguments, results are messages of the
role `tool`, and tools are {type, function: {name, description, parameters}}. Data sets also have the form of OpenAI's
interfaces, with arguments as JSON text, their older form (`function_call`, the role `function`), functions without
`type`, and any of these as JSON text, because columns of Parquet hold one type.
"""

import json
from typing import Any

from cluster.examples.messages import BadMessage


def with_standard_calls(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its tool calls in the form that templates read; without calls the same object.

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
    return rest | {"tool_calls": [_standard_call(_decoded(call, "tool_calls")) for call in calls]}


def standard_tools(tools: list[Any]) -> list[Any]:
    """The tools as {type, function}. A tool that is no JSON object stays as it is.

    Raises:
        BadMessage: a tool is text that is not JSON.
    """
    return [_standard_tool(_decoded(tool, "tools")) for tool in tools]


def _standard_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) and "function" in call else call
    function = _decoded(function, "tool_calls")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadMessage("bad_messages", f"a tool call without the name of a function: {call!r}")
    if "arguments" not in function and function.keys() - {"name", "type", "id"}:
        raise BadMessage("bad_messages", f"a tool call whose arguments do not have the key arguments: {call!r}")
    arguments = _decoded(function.get("arguments") or {}, "arguments")
    if not isinstance(arguments, dict):
        raise BadMessage("bad_messages", f"a tool call whose arguments are not an object: {call!r}")
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
