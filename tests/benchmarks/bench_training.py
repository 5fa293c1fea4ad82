"""Tokens a second of our training loop on this CPU, beside transformers' Trainer on the same tiny model and rows.

    python -m tests.benchmarks.bench_training

Prediction, before the first run: a tiny model's step is mostly overhead of Python and of the optimizer, where our loop
does less (no callbacks, no accelerate, one fused AdamW), and pays for computing the lm_head twice and for a DDP of one
worker; so about 1.2 times the Trainer in full, about equal with LoRA, whose many small modules cost both the same.

Seen: single runs, each side once, gave 0.8 to 1.17 for the same code, LoRA as well as full: memory-bound operations of
one or two megabytes, which take 1.2 or 3.6 ms as glibc keeps the pages or gives them back. So both sides are run in
turns now, and the medians of several pairs are told with their spread.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

from raymill.pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

ROOT = Path(__file__).resolve().parents[2]
SETTING = ["--cpu", "--shape", "tiny", "--sequence", "512", "--micro-batch", "4", "--steps", "40", "--peer", "--json"]
PAIRS = 7


def run(texts: Texts | None = None) -> None:
    """The documents are not used: rows are random. Each pair in a process of its own."""
    print(machine("torch", "transformers", "peft"))
    print(f"tiny Llama, float32, 4 rows of 512 tokens a step, one thread; medians of {PAIRS} pairs of 40 steps")
    for method in ("full", "lora"):
        pairs = [_pair(method) for _ in range(PAIRS)]
        ours, peer = (median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(one / other for one, other in pairs)
        print(
            f"{method:5} {ours:9,.0f} tokens/s  HF Trainer {peer:9,.0f}  "
            f"ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def _pair(method: str) -> tuple[float, float]:
    """Tokens a second of ours and of the Trainer."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *SETTING, "--method", method]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    found = json.loads(done.stdout[done.stdout.index("{") :])
    return found["ours"]["tokens_per_s"], found["peer"]["tokens_per_s"]


if __name__ == "__main__":
    run()
