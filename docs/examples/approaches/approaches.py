"""Full training, LoRA, prompt tuning, a probe, examples in the prompt and the base in one table, from one run file.

python approaches.py [OUTPUT]     OUTPUT is ./out by default; nothing is downloaded

tickets.jsonl   600 questions to a help desk, with their topic
general.jsonl   paragraphs of this documentation: text of no task, on which a tiny base is trained
held_out.jsonl  further ones, on which forgetting is measured
run.yaml        data -> base -> trainings -> table
"""

import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import raymill

HERE = Path(__file__).parent
QUESTIONS = {
    "billing": (
        "Why is the invoice of {month} higher than my contract says?",
        "Please send the invoice of {month} to our new address.",
        "We paid twice in {month}. When is the amount returned?",
        "Which tax is on the invoice with number {number}?",
    ),
    "delivery": (
        "When does the parcel with number {number} arrive?",
        "The courier left parcel {number} at the wrong house in {month}.",
        "Can the parcel be sent to another address until {month}?",
        "Half of the {number} boxes arrived broken.",
    ),
    "login": (
        "How do I reset the password of account {number}?",
        "Since {month} I am logged out every ten minutes.",
        "The code for the login did not arrive at number {number}.",
        "Who of our team had access to the account in {month}?",
    ),
}
MONTHS = ("January", "March", "May", "July", "September", "November")


def write_data(folder: Path) -> None:
    """tickets.jsonl, general.jsonl and held_out.jsonl."""
    generator = random.Random(1)
    rows = []
    for number in range(600):
        topic = generator.choice([*QUESTIONS])
        question = generator.choice(QUESTIONS[topic]).format(
            month=generator.choice(MONTHS), number=generator.randrange(1000)
        )
        rows.append({"id": f"t{number}", "question": question, "topic": topic})
    pages = [*HERE.parents[1].glob("*.md"), *HERE.parents[2].glob("*.md")]
    texts = [one for page in sorted(pages) for one in page.read_text().split("\n\n") if len(one) >= 200]
    of_files = {
        "tickets.jsonl": rows,
        "general.jsonl": [{"text": one} for at, one in enumerate(texts) if at % 4],
        "held_out.jsonl": [{"text": one} for one in texts[::4]],
    }
    for name, found in of_files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found))


def main(output: str = "out") -> dict[str, Any]:
    """Run the file. Returns the report of the comparison."""
    folder = Path(output).absolute()
    if not folder.exists():  # a second start finds the steps finished
        folder.mkdir(parents=True)
        write_data(folder)
        shutil.copy(HERE / "run.yaml", folder)
    os.chdir(folder)
    run = raymill.run("run.yaml", address="local")
    table = run.step("table")
    print(table)
    print(f"\n{folder}/runs/approaches/table/report.html")
    return table.report


if __name__ == "__main__":
    main(*sys.argv[1:])
