"""python -m tests.benchmarks.gpu.stall: how long a checkpoint stops training on this device. Prints a JSON line.

The first checkpoint of a training also allocates the memory of the copy (page-locked on GPUs); later ones reuse it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence

import torch

from raymill.training.engines import make_engine
from raymill.training.fit.checkpoint import Saver
from raymill.training.fit.process_group import own_group
from raymill.training.models.build import objective_around
from raymill.training.records.job import TrainingFolder
from raymill.training.records.schema import TrainingProgress
from tests.benchmarks.gpu.measure import random_model
from tests.benchmarks.gpu.workload import SHAPES, bench_config


def main(words: Sequence[str] | None = None) -> int:
    """Measure two checkpoints and print a JSON line. Returns the exit status."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks.gpu.stall", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="tiny", choices=list(SHAPES))
    parser.add_argument("--cpu", action="store_true", help="even if there is a GPU")
    arguments = parser.parse_args(words)
    gpus = int(torch.cuda.is_available() and not arguments.cpu)
    with own_group(gpus) as ranks, tempfile.TemporaryDirectory(prefix="bench-stall-") as folder:
        config = bench_config(
            arguments.shape, world=1, gpus=bool(gpus), sequence_length=64, micro_batch=1, accumulation=1, steps=9,
            compile=False, attention="sdpa",
        )  # fmt: skip
        objective = objective_around(config, random_model(config, ranks.device, "sdpa"), 0, ranks.device)
        engine = make_engine(config, objective, ranks.device)
        saver = Saver(TrainingFolder(config.store, folder, {}), config.checkpoint.keep, ranks, "bench", lambda: None)
        stalls, started = [], time.perf_counter()
        for step in (1, 2):
            stalls.append(saver.begin(TrainingProgress(step=step), engine.slices()))
            saver.settle()
        seconds = (time.perf_counter() - started) / 2
        saver.close()
        engine.close()
    gib = sum(one.numel() for one in objective.parameters()) * 12 / (1 << 30)
    print(json.dumps({"first_s": stalls[0], "later_s": stalls[1], "written_s": seconds, "gib": gib}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
