"""Every objective by every engine, number of workers, rows at once and packing, uninterrupted, and killed and resumed.

    python -m tests.training.fit.objective_matrix [--minutes M] [--seed N] [--first K]

runs all combinations in an order that the seed draws, from number K of it until the minutes are over, and prints how
many were equal and
the largest difference. The losses of all steps are compared with those of a loop that computes one sequence at a time,
by the formulas of the papers; of `reward` and `grpo` with those of one worker and one row at once. Everything is
float32, so what differs is the order of additions.

`grpo` packs the answers that it samples by itself, its prompts are one a row, and sampling needs whole weights: of it
there are three engines and one packing.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from raymill.training.records.job import Job
from tests.support.answer_jobs import answer_job, pack_answers, plain_losses
from tests.support.fit_jobs import column, fit_here, fit_until
from tests.support.ranks import RankError, RankPool
from tests.support.rollout_jobs import pack_prompts, rollout_job

TOLERANCE = 1e-6  # relative to the loss, or to 1 if that is larger
OBJECTIVES = ("dpo", "ipo", "kto", "orpo", "simpo", "reward", "grpo")
ENGINES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
WITH_WHOLE_WEIGHTS = ("ddp", "zero1", "zero2")
# AdamW divides gradients that are nearly zero by themselves, and so makes much of their last digits.
OPTIMIZER = {"learning_rate": 3e-3, "warmup_steps": 2, "epsilon": 1e-4}
KILLED_AFTER = 3  # steps; the last checkpoint is of step 2


@dataclass(frozen=True)
class Case:
    """A combination. rows: computed at once, of the 4 of a step; of `grpo` four times as many."""

    objective: str
    packing: str
    engine: str
    workers: int
    rows: int
    is_killed: bool


CASES = [
    Case(*values)
    for values in product(OBJECTIVES, ("packed", "one a row"), ENGINES, (1, 2), (1, 2, 4), (False, True))
    if values[0] != "grpo" or (values[1] == "one a row" and values[2] in WITH_WHOLE_WEIGHTS)
]


class Matrix:
    """Runs cases. folder: for packed rows and runs. Use it in a `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pools: dict[int, RankPool] = {}
        self._references: dict[tuple[str, str], list[float]] = {}

    def __enter__(self) -> "Matrix":
        return self

    def __exit__(self, *raised: Any) -> None:
        for pool in self._pools.values():
            pool.__exit__(*raised)

    def _run(self, workers: int, work: Callable[..., Any], *given: Any) -> None:
        if workers not in self._pools:
            self._pools[workers] = RankPool(workers)
        try:
            self._pools[workers].run(work, *given, wait_s=600)
        except RankError:
            self._pools.pop(workers).__exit__(None, None, None)
            raise

    def _job(self, case: Case, name: str) -> Job:
        root = self.folder / f"{case.objective} {case.packing}"
        more = {"output": str(root / name), "engine": case.engine, "optimizer": OPTIMIZER}
        if case.objective == "grpo":
            if not root.exists():
                pack_prompts(str(root), 100, 8)
            return rollout_job(str(root), micro_batch=4 * case.rows, steps=4, **more)
        packing = {"packing": {"mode": "none"}} if case.packing == "one a row" else {}
        if not root.exists():
            pack_answers(str(root), case.objective, **packing)
        return answer_job(str(root), case.objective, micro_batch=case.rows, **packing, **more)

    def _reference(self, case: Case) -> list[float]:
        key = case.objective, case.packing
        if key not in self._references:
            job = self._job(Case(*key, "ddp", 1, 1, False), "reference")
            if case.objective in ("reward", "grpo"):
                self._run(1, fit_here, job)
                self._references[key] = column(job, "loss")
            else:
                self._references[key] = plain_losses(job)
        return self._references[key]

    def difference(self, case: Case) -> float:
        """The largest difference of a step's loss, relative to the loss or 1.

        Raises:
            AssertionError: it had another number of steps, or did not run.
        """
        wanted, job = self._reference(case), self._job(case, "run")
        try:
            if case.is_killed:
                self._run(case.workers, fit_until, job, KILLED_AFTER)
            self._run(case.workers, fit_here, job)
            found = column(job, "loss")
            assert len(found) == len(wanted) == job.steps, (len(found), len(wanted))
            return max(abs(one - other) / max(1, abs(other)) for one, other in zip(found, wanted, strict=True))
        finally:
            shutil.rmtree(job.config.output, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    order = random.Random(given.seed).sample(CASES, len(CASES))
    end, tried, failed, largest = time.monotonic() + 60 * given.minutes, 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder, Matrix(Path(folder)) as matrix:
        for case in order[given.first :]:
            if time.monotonic() > end:
                break
            tried += 1
            try:
                difference = matrix.difference(case)
            except AssertionError as error:
                difference, seen = float("inf"), str(error)[-2000:]
            else:
                seen, largest = f"{difference:.2g}", max(largest, difference)
            if difference > TOLERANCE:
                failed += 1
                print(f"{case}: {seen}", flush=True)
    print(f"{tried - failed} of {tried} equal to {TOLERANCE:g}, of {len(CASES)}; largest difference {largest:.2g}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
