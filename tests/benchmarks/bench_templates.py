"""python -m tests.benchmarks.bench_templates: what is kept of conversations under the chat templates of the trl wheel.

Prints the Markdown table of docs/numbers.md: a row for each template, or for several with equal cells, and a column
for each shape of conversation. `all`: every assistant turn is trained on, with its reasoning. `1 of 2` turns, and why
not the other. `-`: the conversation is left out, and why.
"""

import sys
from collections import defaultdict

from raymill.training.pack.chat import NOT_TRAINED, WITHOUT_REASONING
from raymill.training.pack.documents import Chat, Document
from raymill.training.pack.encode import Encoder
from tests.benchmarks.timing import machine
from tests.support.chat_templates import TOOLS, assistant, call, result, template_files, tokenizer_of, user

_QUESTION, _AGAIN, _ANSWER, _SECOND = user("What is 2 + 2?"), user("And 3 + 3?"), assistant("It is 4."), assistant("6.")
_BRIEF = {"role": "system", "content": "Be brief."}
SHAPES = {
    "answer": [_QUESTION, _ANSWER],
    "system, two rounds": [_BRIEF, _QUESTION, _ANSWER, _AGAIN, _SECOND],
    "reasoning": [_QUESTION, assistant("It is 4.", reasoning_content="Two and two make four.")],
    "tool call": [_QUESTION, assistant("", tool_calls=[call("Rome")]), result("21 C"), _ANSWER],
    "two calls at once": [
        _QUESTION,
        assistant("", tool_calls=[call("Rome"), call("Oslo", 2)]),
        result("21 C"),
        result("3 C", 2),
        _ANSWER,
    ],
    "two answers in a row": [_QUESTION, _ANSWER, _SECOND],
    "system in the middle": [_QUESTION, _ANSWER, _BRIEF, _AGAIN, _SECOND],
    "assistant begins": [_ANSWER, _AGAIN, _SECOND],
}


def cell(name: str, messages: list[dict]) -> str:
    """What is kept of one conversation under one template, in words."""
    tools = TOOLS if any("tool_calls" in message for message in messages) else None
    encoded = Encoder(tokenizer_of(name)).encode([Document("x", Chat(messages, tools), 1, 1, "", None)])
    if not encoded.examples:
        return f"- {encoded.misfits[0].reason}"
    reasons = [key.removeprefix(NOT_TRAINED) for key in encoded.notes if key.startswith(NOT_TRAINED)]
    if reasons:
        turns = encoded.notes["turns"]
        lost = sum(count for key, count in encoded.notes.items() if key.startswith(NOT_TRAINED))
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
