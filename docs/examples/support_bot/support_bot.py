"""A help desk's tickets to a model that answers in its words; docs/tutorial.md goes through it step by step.

python support_bot.py MODEL        a folder that import_gguf.py made, or any chat model
"""

import sys

import raymill


def main(model: str) -> None:
    data = raymill.prepare(
        inputs=[
            {
                "source": "tickets",
                "path": "tickets.csv",
                "id": "ticket",
                "columns": {"prompt": "subject", "completion": "resolution", "queue": "queue"},
            }
        ],
        records={"shape": "messages"},
        clean={"html": True, "email": ["quotes", "signatures", "disclaimers"]},
        split={"train": 0.8, "validation": 0.1, "test": 0.1, "stratify": ["queue"]},
        output="data/helpdesk",
    )
    print(data)
    for row in data.removed.sample(3):
        print(row["id"], row["reason"], repr(row["value"]))

    tuned = raymill.train(
        corpus=data,
        model=model,
        method="lora",
        sequence_length=256,
        tokens_per_step=1024,
        steps=12,
        optimizer={"learning_rate": 1e-3},
        evaluate={"every_steps": 6},
        output="runs/helpdesk",
    )
    print(tuned)
    print(tuned.generate(["How do I reset my password?"])[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
