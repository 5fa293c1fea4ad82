"""Tokens a second of our training loop on this CPU, beside transformers' Trainer on the same tiny model and rows.

    python -m tests.benchmarks.bench_training

Prediction, before the first run: a tiny model's step is mostly overhead of Python and of the optimizer, where our loop
does less (no callbacks, no accelerate, one fused AdamW), and pays for computing the lm_head twice and for a DDP of one
worker; so about 1.2 times the Trainer in full, about equal with LoRA, whose many small modules cost both the same.

Seen: 0.4 to 1.0 in full and 0.8 with LoRA on a busy machine, while the lm_head was computed twice. With the fused loss
(models/fused_loss.py), in one run on a quiet machine: 1.15 in full, 0.87 with LoRA. What LoRA loses is not found yet.
"""

import json
import subprocess
import sys
from pathlib import Path

from pipelines.text.texts import Texts
from tests.benchmarks.timing import machine

ROOT = Path(__file__).resolve().parents[2]
SETTING = ["--cpu", "--shape", "tiny", "--sequence", "512", "--micro-batch", "4", "--steps", "20", "--peer", "--json"]


def run(texts: Texts | None = None) -> None:
    """The documents are not used: rows are random. Each method in a process of its own."""
    print(machine("torch", "transformers", "peft"))
    print("tiny Llama, float32, 4 rows of 512 tokens a step, one thread; medians of 20 steps")
    for method in ("full", "lora"):
        command = [sys.executable, "-m", "training.bench", *SETTING, "--method", method]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        found = json.loads(done.stdout[done.stdout.index("{") :])
        ours, peer = (found[side]["tokens_per_s"] for side in ("ours", "peer"))
        print(f"{method:5} {ours:9,.0f} tokens/s  HF Trainer {peer:9,.0f}  ratio {found['ratio']:.2f}")


if __name__ == "__main__":
    run()
