"""What a fault costs: seconds from the kill of a worker to the next step, and how long a checkpoint stops training."""

import tempfile
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.timing import machine
from tests.support.fit_jobs import column, fit_alone, pack_tiny, tiny_job
from tests.support.killed_fits import fit_by_ranks, kill_and_finish

HIDDEN = 512
SEEDS = (1, 2, 3)


def run(texts: object) -> None:
    print(machine("ray", "torch"))
    with tempfile.TemporaryDirectory(prefix="restart-") as root:
        pack_tiny(root)
        stall(root)
        undisturbed = fit_by_ranks(Path(root))
        for victim in ("worker", "driver"):
            taken = [kill_and_finish(Path(root), undisturbed, seed, victim) for seed in SEEDS]
            print(
                f"{victim} killed to next step: median {median(taken):.1f} s of {', '.join(f'{s:.1f}' for s in taken)}"
            )


def stall(root: str) -> None:
    """A checkpoint of a larger model at every fourth step: what training waits, beside what the files take to write."""
    model = {"model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 8}
    model |= {"num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 64, "max_position_embeddings": 16}
    job = tiny_job(
        root,
        output=f"{root}/stall",
        model={"config": model, "tokenizer": "train"},
        checkpoint={"every_steps": 4},
        evaluate={"every_steps": 100},
    )
    outcome = fit_alone(job)
    stalls = column(job, "checkpoint_stall_s")
    folder = Path(outcome["checkpoint"])
    data = b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))
    started = time.perf_counter()
    (folder / "again").write_bytes(data)
    written = time.perf_counter() - started
    print(
        f"checkpoint of {len(data) / 1e6:.0f} MB: training waits {median(stalls):.3f} s (of "
        f"{', '.join(f'{s:.3f}' for s in stalls)}), a step takes {median(column(job, 'seconds')):.3f} s, "
        f"writing the bytes alone {written:.3f} s"
    )
