"""Records whose queue follows from their text."""

import json
import random
from pathlib import Path

# Words of three queues of a help desk, and words of all.
QUEUES = {
    "billing": ["invoice", "payment", "refund", "charge", "receipt", "price", "tax", "discount", "bank", "balance"],
    "network": ["router", "cable", "wifi", "signal", "cabinet", "port", "switch", "latency", "packet", "antenna"],
    "accounts": [
        "password",
        "login",
        "badge",
        "profile",
        "username",
        "security",
        "token",
        "session",
        "recovery",
        "phone",
    ],
}


COMMON = [
    "please",
    "could",
    "somebody",
    "tell",
    "me",
    "how",
    "this",
    "works",
    "when",
    "my",
    "office",
    "opens",
    "again",
    "on",
    "monday",
    "with",
    "new",
    "things",
]


def sentence(queue: str, seed: int) -> str:
    chosen = random.Random(f"{queue}{seed}")
    words = chosen.sample(QUEUES[queue], 4) + chosen.sample(COMMON, 6)
    chosen.shuffle(words)
    return " ".join(words)


def rows(count: int, wrong: tuple[int, ...] = ()) -> list[dict]:
    """Records whose queue follows from their words, but for some."""
    names = list(QUEUES)
    made = []
    for n in range(count):
        queue = names[n % 3]
        label = names[(n + 1) % 3] if n in wrong else queue
        made.append(
            {"id": f"r{n:03}", "q": f"{sentence(queue, n)}?", "a": f"{sentence(queue, n + 9999)}.", "queue": label}
        )
    return made


def settings_of(folder: Path, rows: list[dict], **assess) -> dict:
    (folder / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    columns = {"prompt": "q", "completion": "a"} | {name: name for name in rows[0] if name not in ("id", "q", "a")}
    source = {"source": "desk", "path": str(folder / "in.jsonl"), "id": "id", "columns": columns}
    return {"inputs": [source], "dedup": None, "assess": assess, "output": str(folder / "out")}
