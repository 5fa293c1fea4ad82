"""Conversations with tools, in the forms that data sets have them."""

import json
from typing import Any

ARGUMENTS = '{"city":  "Paris", "days": 3}'  # two spaces: of one source, as no program of ours writes it
RESULT = '{"forecast": ["sunny", "rain"],  "celsius": [21, 18]}'
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of the next days.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
ASKED, ANSWERED = "Will it rain in Paris in the next days?", "Yes: tomorrow is sunny, and the day after it rains."


def call(arguments: Any = ARGUMENTS, **more: Any) -> dict[str, Any]:
    """A tool call of OpenAI's interface."""
    return {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}} | more


def chat(number: int = 0, arguments: Any = ARGUMENTS, tools: Any = (TOOL,)) -> dict[str, Any]:
    """A row with a call, its result and the answer. number: makes it another conversation."""
    return {
        "id": f"c{number}",
        "messages": [
            {"role": "system", "content": "You can ask for the weather."},
            {"role": "user", "content": f"{ASKED} ({number})"},
            {"role": "assistant", "content": None, "tool_calls": [call(arguments)]},
            {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": RESULT},
            {"role": "assistant", "content": f"{ANSWERED} ({number})"},
        ],
        "tools": tools,
    }


def openai(number: int) -> dict[str, Any]:
    return chat(number)


def objects(number: int) -> dict[str, Any]:
    """As for chat templates: arguments are an object."""
    return chat(number, json.loads(ARGUMENTS))


def texts(number: int) -> dict[str, Any]:
    """As Parquet has them: tools and calls are JSON text."""
    row = chat(number, tools=json.dumps([TOOL]))
    row["messages"][2]["tool_calls"] = json.dumps([call()])
    return row


def older(number: int) -> dict[str, Any]:
    """As OpenAI's older interface has it."""
    row = chat(number)
    row["messages"][2] = {"role": "assistant", "function_call": call()["function"]}
    row["messages"][3] = {"role": "function", "name": "get_weather", "content": RESULT}
    return {"id": row["id"], "messages": row["messages"], "functions": [TOOL["function"]]}


def sharegpt(number: int) -> dict[str, Any]:
    asked = chat(number)["messages"]
    spoken = [
        ("system", asked[0]["content"]),
        ("human", asked[1]["content"]),
        ("function_call", json.dumps({"name": "get_weather", "arguments": json.loads(ARGUMENTS)})),
        ("observation", RESULT),
        ("gpt", asked[4]["content"]),
    ]
    row = {"id": f"c{number}", "conversations": [{"from": one, "value": value} for one, value in spoken]}
    return row | {"tools": json.dumps([TOOL])}


def hermes(number: int) -> dict[str, Any]:
    """Calls and results are text of the messages."""
    row = sharegpt(number)
    row["conversations"][2] = {"from": "gpt", "value": f"<tool_call>\n{json.dumps(call()['function'])}\n</tool_call>"}
    row["conversations"][3] = {"from": "tool", "value": f"<tool_response>\n{RESULT}\n</tool_response>"}
    return row


FORMS = {one.__name__: one for one in (openai, objects, texts, older, sharegpt, hermes)}
