"""python -m tests.benchmarks.bench_templates: what is kept of conversations under the chat templates of the trl wheel.

Prints the Markdown table of training/README.md: a row for each template, or for several with equal cells, and a column
for each shape of conversation. `all`: every assistant turn is trained on, with its reasoning. `1 of 2` turns, and why
not the other. `-`: the conversation is left out, and why.
"""

import sys
from collections import defaultdict

from tests.benchmarks.timing import machine
from tests.support.chat_templates import template_files, tokenizer_of
from training.pack.documents import Chat, Document
from training.pack.encode import Encoder
from training.pack.overflow import UNLEARNT, WITHOUT_REASONING

_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "the city"}},
                "required": ["city"],
            },
        },
    }
]


def _said(role, content, **more):
    return {"role": role, "content": content} | more


def _calls(*cities):
    function = "function"
    return [
        {"id": f"call0000{number}", "type": function, function: {"name": "weather", "arguments": {"city": city}}}
        for number, city in enumerate(cities)
    ]


def _result(content, number=0):
    return _said("tool", content, name="weather", tool_call_id=f"call0000{number}")


_QUESTION, _AGAIN = _said("user", "What is 2 + 2?"), _said("user", "And 3 + 3?")
_ANSWER, _SECOND = _said("assistant", "It is 4."), _said("assistant", "It is 6.")
SHAPES = {
    "answer": [_QUESTION, _ANSWER],
    "system, two rounds": [_said("system", "Be brief."), _QUESTION, _ANSWER, _AGAIN, _SECOND],
    "reasoning": [_QUESTION, _said("assistant", "It is 4.", reasoning_content="Two and two make four.")],
    "tool call": [_QUESTION, _said("assistant", "", tool_calls=_calls("Rome")), _result("21 C"), _ANSWER],
    "two calls at once": [
        _QUESTION,
        _said("assistant", "", tool_calls=_calls("Rome", "Oslo")),
        _result("21 C"),
        _result("3 C", 1),
        _ANSWER,
    ],
    "two answers in a row": [_QUESTION, _ANSWER, _SECOND],
    "system in the middle": [_QUESTION, _ANSWER, _said("system", "Be brief."), _AGAIN, _SECOND],
    "assistant begins": [_ANSWER, _AGAIN, _SECOND],
}


def cell(name: str, messages: list[dict]) -> str:
    """What is kept of one conversation under one template, in words."""
    tools = _TOOLS if any("tool_calls" in message for message in messages) else None
    encoded = Encoder(tokenizer_of(name)).encode([Document("x", Chat(messages, tools), 1, 1, "", None)])
    if not encoded.examples:
        return f"- {encoded.misfits[0].reason}"
    reasons = [key.removeprefix(UNLEARNT) for key in encoded.notes if key.startswith(UNLEARNT)]
    if reasons:
        turns = encoded.notes["turns"]
        lost = sum(count for key, count in encoded.notes.items() if key.startswith(UNLEARNT))
        return f"{turns - lost} of {turns}, {', '.join(reasons)}"
    return "all, without reasoning" if encoded.notes[WITHOUT_REASONING] else "all"


def main() -> None:
    """Print the table, and how many cells are whole."""
    names = [name for name in template_files() if not name.endswith("_training")]
    rows: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        rows[tuple(cell(name, messages) for messages in SHAPES.values())].append(name)
    print(machine("trl", "transformers"), file=sys.stderr)
    print(f"| template | {' | '.join(SHAPES)} |")
    print("|---|" + "---|" * len(SHAPES))
    for cells, alike in rows.items():
        print(f"| {', '.join(alike)} | {' | '.join(cells)} |")
    whole = sum(len(alike) * sum(one.startswith("all") for one in cells) for cells, alike in rows.items())
    print(f"{len(names)} templates; {whole} of {len(names) * len(SHAPES)} are kept whole", file=sys.stderr)


if __name__ == "__main__":
    main()
