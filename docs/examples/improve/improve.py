"""A data set with wrong labels, and the model that learns from it, made better in one turn of the loop.

    prepare -> train -> errors -> annotate -> prepare with the corrections -> train -> compare

The tickets are made up, so that the right labels are known. Two annotators are simulated, who are right nine times in
ten.

python improve.py MODEL        a folder that ../smollm2/import_gguf.py made, or any model
"""

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

import raymill

WORDS = {
    "billing": "invoice payment charged receipt card amount subscription price euros bill",
    "refunds": "refund return money back cancel order reimburse sent again credit",
    "login": "password account locked sign username reset code email access session",
    "shipping": "parcel courier address delivery late tracking box warehouse street arrived",
    "all": "please help since yesterday my the with was not and still could team thanks hello question about",
}
QUEUES = sorted(WORDS.keys() - {"all"})


def tickets(count: int) -> list[dict[str, str]]:
    """Tickets with the queue that they belong to, and the one of their label: 6 in 10 refunds are labelled billing."""
    drawn, found = random.Random(0), []
    for number in range(count):
        queue, other = drawn.choices(QUEUES, k=2)
        words = drawn.sample(WORDS[queue].split(), 3) + drawn.choices(WORDS["all"].split(), k=9)
        words.append(drawn.choice(WORDS[other].split()))
        drawn.shuffle(words)
        labelled = "billing" if queue == "refunds" and drawn.random() < 0.6 else queue
        found.append({"id": f"t{number}", "text": " ".join(words), "queue": labelled, "right": queue})
    return found


def main(model: Any, count: int = 600) -> None:
    made = tickets(count)
    right = {ticket["id"]: ticket["right"] for ticket in made}
    columns = ("id", "text", "queue")
    lines = (json.dumps({name: ticket[name] for name in columns}) for ticket in made)
    if not (file := Path("tickets.jsonl")).exists():  # so that the program can be started again
        file.write_text("".join(f"{line}\n" for line in lines))

    data: dict[str, Any] = {
        "inputs": [{"path": "tickets.jsonl", "id": "id", "columns": {"text": "text", "category": "queue"}}],
        "records": {"shape": "text"},
        "dedup": None,
        "split": {"train": 0.6, "validation": 0.1, "test": 0.3, "stratify": ["category"]},
    }
    first = raymill.prepare(data, output="data/first")
    before = train(model, first, "runs/first")

    errors = raymill.errors(run="runs/first", output="runs/errors")
    print(errors)

    # Suspected labels, and records at random, by which the share of each label in all records is estimated.
    round = raymill.annotate(
        inputs=[{"source": name, "path": f"data/first/{name}"} for name in ("train", "validation", "test")],
        task={"type": "classify", "show": ["text"], "labels": QUEUES},
        choose={"count": 200, "random": 0.2, "label_errors": 0.8, "label": "metadata.category"},
        annotators=["ann", "bob"],
        overlap=2,
        corrects={"field": "category", "column": "metadata.category"},
        output="rounds/1",
    )
    round.export("tasks.csv", "csv")
    label("tasks.csv", "labels.csv", right)
    round.import_labels(["labels.csv"])
    print(round.finish())

    stay = data["split"] | {"keep": ["data/first"]}  # each record in the split that it was in
    second = raymill.prepare(data, patches=["rounds/1/labels/patch.jsonl"], split=stay, output="data/second")
    raymill.dataset.tag("tickets", first)
    raymill.dataset.tag("tickets", second)
    print(raymill.dataset.diff("tickets:v1", "tickets:v2"))
    after = train(model, second, "runs/second")

    gain, low, high = compared(before, after, right)
    print(f"accuracy {share(before, right):.3f} -> {share(after, right):.3f}: {gain:+.3f} ({low:+.3f} to {high:+.3f})")


def train(model: Any, data: Any, output: str) -> dict[str, str]:
    """Id of each record of test -> the class that a classifier on frozen features gives it."""
    raymill.train(
        corpus=data,
        model=model,
        method="probe",
        probe={"pool": "mean"},
        packing={"mode": "none"},
        sequence_length=24,
        tokens_per_step=384,
        epochs=5,
        optimizer={"learning_rate": 1e-2},
        output=output,
    )
    evaluation = json.loads(Path(output, "evaluation.json").read_text())
    return {one["document"]: one["generated"] for one in evaluation["answers"]}


def label(tasks: str, labels: str, right: dict[str, str]) -> None:
    """Fill in the table of tasks as annotators would."""
    drawn = random.Random(1)
    with open(tasks, newline="", encoding="utf-8-sig") as asked, open(labels, "w", newline="") as answered:
        rows = csv.DictReader(asked)
        table = csv.DictWriter(answered, rows.fieldnames or ())
        table.writeheader()
        for row in rows:
            for name in ("ann", "bob"):
                said = right[row["raymill_id"]] if drawn.random() < 0.9 else drawn.choice(QUEUES)
                table.writerow(row | {"label": said, "annotator": name})


def share(answers: dict[str, str], right: dict[str, str]) -> float:
    return sum(answer == right[id] for id, answer in answers.items()) / len(answers)


def compared(before: dict[str, str], after: dict[str, str], right: dict[str, str]) -> tuple[float, float, float]:
    """Difference of the accuracy on the same records, with a 95% interval by a bootstrap over them."""
    gains = [(after[id] == right[id]) - (before[id] == right[id]) for id in sorted(before.keys() & after.keys())]
    drawn = random.Random(2)
    means = sorted(sum(drawn.choices(gains, k=len(gains))) / len(gains) for _ in range(2000))
    return sum(gains) / len(gains), means[50], means[1949]


if __name__ == "__main__":
    main(sys.argv[1])
