"""From examples to preferences to rewards: one tiny model that learns to sort letters, and what each step adds.

    python align.py [OUTPUT]     about four minutes on two cores; OUTPUT is ./out by default

    sft      a model with random weights learns from answers of which four in ten are wrong
    reward   from pairs of a right and a wrong answer, which is better
    dpo      the model of sft from the same pairs
    grpo     the model of sft from rewards of its own answers: 1 if they are right

Each training measures greedy answers to the same held-out prompts; the table at the end compares them.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

import raymill

MODEL = {
    "config": {
        "model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 300, "max_position_embeddings": 128,
    },
    "tokenizer": "train",
}  # fmt: skip
TRAINING = {
    "sequence_length": 128,
    "workers": {"count": 1, "cpus_each": 1},
    "split": {"train": 0.8, "validation": 0.1, "test": 0.1},
    "evaluate": {"every_steps": 1000, "rows": 64},
    "checkpoint": {"every_steps": 1000},
    "track": {"tensorboard": False},
}
ANSWERS = {"generate": {"prompts": 100, "max_new_tokens": 12}}


def write_data(folder: Path) -> None:
    """examples.jsonl, pairs.jsonl and prompts.jsonl, of different letters."""
    if folder.exists():  # the program was started before, and continues
        return
    generator = random.Random(1)
    folder.mkdir(parents=True)

    def records(count: int, wrong: float) -> list[dict[str, str]]:
        found = []
        for _ in range(count):
            letters = generator.sample("abcdefgh", 3)
            right, other = sorted(letters), list(letters)
            while other == right:
                generator.shuffle(other)
            answers = [" ".join(right), " ".join(other)]
            is_wrong = generator.random() < wrong
            found.append(
                {
                    "prompt": f"sort {' '.join(letters)}",
                    "completion": answers[is_wrong],
                    "chosen": answers[0],
                    "rejected": answers[1],
                }
            )
        return found

    for name, columns, count, wrong in (
        ("examples", ("prompt", "completion"), 3000, 0.4),
        ("pairs", ("prompt", "chosen", "rejected"), 2000, 0.0),
        ("prompts", ("prompt", "completion"), 2000, 0.0),
    ):
        rows = [{key: row[key] for key in columns} for row in records(count, wrong)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(output: str = "out") -> dict[str, float]:
    """Train all four. Returns the share of right answers of each, by its name."""
    folder = Path(output)
    write_data(folder / "data")

    def train(name: str, data: str, **more: Any) -> Any:
        settings = {"name": name, "corpus": str(folder / "data" / data), "output": str(folder / name)}
        return raymill.train(settings | TRAINING | more, address="local")

    sft = train(
        "sft", "examples.jsonl", model=MODEL, tokens_per_step=4096, steps=250, **ANSWERS,
        optimizer={"learning_rate": 2e-3, "warmup_steps": 20},
    )  # fmt: skip
    start = str(folder / "sft" / "export" / "full")
    reward = train(
        "reward", "pairs.jsonl", model=start, objective="reward", tokens_per_step=2048, steps=60,
        optimizer={"learning_rate": 3e-4, "warmup_steps": 5},
    )  # fmt: skip
    dpo = train(
        "dpo", "pairs.jsonl", model=start, objective="dpo", dpo={"beta": 0.1, "sft": 0.2}, tokens_per_step=2048,
        steps=60, optimizer={"learning_rate": 2e-4, "warmup_steps": 5}, **ANSWERS,
    )  # fmt: skip
    grpo = train(
        "grpo", "prompts.jsonl", model=start, objective="grpo", packing={"mode": "none"}, tokens_per_step=2048,
        grpo={"samples": 8, "max_new_tokens": 12, "rewards": [{"score": "exact_match"}]}, steps=60,
        optimizer={"learning_rate": 5e-4, "warmup_steps": 5}, **ANSWERS,
    )  # fmt: skip
    right = {
        run.report["fits"][0]["name"]: run.report["fits"][0]["generation"]["exact_match"] for run in (sft, dpo, grpo)
    }
    print("right answers to held-out prompts")
    for name, share in right.items():
        print(f"  {name:6} {share:.0%}")
    pairs = reward.report["fits"][0]["after"]["test"]["accuracy"]
    print(f"the reward model prefers the right answer in {pairs:.0%} of held-out pairs")
    return right | {"reward": pairs}


if __name__ == "__main__":
    main(*sys.argv[1:])
