"""Documents to questions and answers by a small model, and the same model fine-tuned on them, on this machine alone.

python offline.py MODEL        a folder that import_gguf.py made, or any chat model

The documents are docstrings of the standard library. With SmolLM2-135M-Instruct it takes a quarter of an hour on two
busy cores. The same command continues what was stopped.
"""

import inspect
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import raymill

MODULES = ["fnmatch", "glob", "heapq", "json", "shutil", "statistics", "tempfile", "textwrap"]
# A model of this size can answer a question about a text in a sentence, but its own questions are poor: one is drawn.
QUESTIONS = ["What does NAME do?", "What is NAME for?", "When do I need NAME?"]
TEMPLATE: dict[str, Any] = {
    "prompt": "{{ id }}: {{ text }}\n\n{{ question | replace('NAME', id) }} Answer in one short sentence.",
    "never": ["```", "the text"],
    "record": {"prompt": "{{ question | replace('NAME', id) }}", "completion": "{{ answer.text }}"},
    "differs": "text",
}


def main(model: str) -> None:
    if not (documents := Path("documents.jsonl")).exists():  # a file written again is another input
        write_documents(documents)
    with raymill.session():  # one start of Ray for all calls
        made = raymill.generate(
            inputs=[{"path": documents, "id": "id", "licence": "PSF-2.0"}],
            model={"path": model, "licence": "Apache-2.0"},
            make={"template": TEMPLATE},
            draw={"question": QUESTIONS},
            samples=2,
            sampling={"temperature": 0.5, "max_tokens": 64, "seed": 1},
            validate={},
            output="data/questions",
        )
        print(made)

        data = raymill.prepare(
            inputs=[{"source": "questions", "path": made.results["records"]}],
            records={"shape": "messages"},
            duplicates={"questions": "remove"},  # one was drawn twice about some documents
            # The model made the held-out records too. So the scores measure how well it repeats, without the document,
            # its own answers, which it made from the document.
            split={"train": 0.7, "validation": 0.15, "test": 0.15, "synthetic": {"validation": 1, "test": 1}},
            output="data/prepared",
        )
        print(data)

        tuned = raymill.train(
            corpus=data,
            model=model,
            method="lora",
            sequence_length=256,
            tokens_per_step=512,
            steps=12,
            optimizer={"learning_rate": 1e-3},
            evaluate={"every_steps": 6},
            output="runs/offline",
        )
        print(tuned)

        compared = raymill.prompt(
            data=data,
            split="test",
            models={"before": {"path": model}, "after": {"path": tuned.export["merged"]}},
            examples={"number": [0]},
            sampling={"temperature": 0, "max_tokens": 64},
            output="runs/before-and-after",
        )
        print(compared)


def write_documents(path: Path) -> None:
    """Docstrings of 200 to 600 characters of public functions and classes, one a line."""
    rows = []
    for module in map(import_module, MODULES):
        for name in sorted(module.__all__):
            thing = getattr(module, name)
            text = inspect.getdoc(thing) or ""
            if callable(thing) and 200 <= len(text) <= 600:
                rows.append(json.dumps({"id": f"{module.__name__}.{name}", "text": text}) + "\n")
    path.write_text("".join(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
