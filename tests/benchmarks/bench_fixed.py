"""Fixed costs of `raymill train` where two workers train for a second or two: wall time by part, processor time."""

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.timing import machine
from tests.support.processes import Command
from tests.support.train_inline import PLAIN, sentences

RUNS = 3
STEPS = 60
# What marks the end of each part: the newest file of this name below the run.
MARKS = {
    "start, tokenise, pack": "packed/pack.json",
    "workers begin": "attempts/*.json",
    "training": "fit.json",
    "evaluate, export, report": "manifest.json",
}


def run(texts: object) -> None:
    print(machine("ray", "torch", "transformers"))
    runs = [train() for _ in range(RUNS)]
    for part in runs[0]:
        taken = [one[part] for one in runs]
        print(f"{part:<26} median {median(taken):5.1f} s of {', '.join(f'{s:.1f}' for s in taken)}")


def train() -> dict[str, float]:
    """Seconds of each part, of the end of the process after the last one, of everything; and of all its processors."""
    with tempfile.TemporaryDirectory(prefix="fixed-") as folder:
        root = Path(folder)
        corpus = root / "corpus.jsonl"
        corpus.write_text("".join(json.dumps(row) + "\n" for row in sentences(400)))
        every = {"every_steps": STEPS // 2}
        settings = PLAIN | {"corpus": str(corpus), "output": str(root / "run"), "steps": STEPS, "method": "lora"}
        settings |= {"workers": {"count": 2}, "evaluate": every, "checkpoint": every}
        settings |= {"generate": {"prompts": 8, "max_new_tokens": 16}}
        (root / "train.json").write_text(json.dumps(settings))
        began = time.time()
        command = Command("train", str(root / "train.json"))
        spent: dict[int, float] = {}
        while command.process.poll() is None:
            for process in (command.process.pid, *command.others()):
                spent[process] = processor_seconds(process) or spent.get(process, 0.0)
            time.sleep(0.2)
        ended = time.time()
        code, _, err = command.wait(1)
        assert code == 0, err
        marks = [max(path.stat().st_mtime for path in (root / "run").glob(name)) for name in MARKS.values()]
    parts = dict(zip(MARKS, (at - before for before, at in zip([began, *marks], marks, strict=False)), strict=True))
    return parts | {"end": ended - marks[-1], "all": ended - began, "processor time": sum(spent.values())}


def processor_seconds(process: int) -> float | None:
    """What a process has used; None of one that has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
