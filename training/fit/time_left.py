"""How long a training still takes: its steps, validations, the evaluation after it and the export.

Steps and validations are timed as they pass. Evaluation measures the held-out split twice on the first worker, row by
row as long as validation took; generating answers is not counted. The speed of the export is a constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cluster.errors import RaymillError
from training.fit.job import Job
from training.fit.records import StepRecord
from training.pack.packed_run import PackedRun

# Weights are read from a checkpoint and written as they are exported; disks are faster, stores often are not.
_EXPORT_BYTES_PER_S = 200e6
_RECENT = 50


@dataclass(frozen=True)
class Ahead:
    """What a training does besides steps.

    validation_rows: measured by all workers together, every `validate_every` steps and after the last. evaluation_rows:
    of the held-out split. export_bytes: read and written.
    """

    steps: int
    validate_every: int
    validation_rows: int = 0
    evaluation_rows: int = 0
    export_bytes: int = 0

    @classmethod
    def of(cls, job: Job, parameters: int) -> "Ahead":
        """parameters: of the whole model."""
        config = job.config
        every = config.evaluate.every_steps
        try:
            packed = PackedRun.load(job.store, job.packed)
        except RaymillError:  # it is only for show; the workers report what is wrong with it
            return cls(job.steps, every)
        rows = packed.rows("validation")
        whole = config.method == "full" or (config.export.merged and config.mergeable)
        exported = (4 if config.export.dtype == "float32" else 2) if whole else 0
        return cls(
            steps=job.steps,
            validate_every=every,
            validation_rows=min(rows, config.evaluate.rows or rows),
            evaluation_rows=packed.rows("test") or rows,
            export_bytes=parameters * (4 + exported),
        )

    def seconds_left(self, records: Sequence[StepRecord]) -> float | None:
        """After the last of these steps; None before the first was timed."""
        taken = [record for record in records if "seconds" in record][-_RECENT:]
        if not taken:
            return None
        step = taken[-1]["step"]
        left = (self.steps - step) * pace_s(taken)
        measured = [record for record in records if "validation_s" in record]
        if measured:
            took, workers = measured[-1]["validation_s"], measured[-1]["workers"]
            validations = (self.steps - 1) // self.validate_every - step // self.validate_every + 1
            left += took * (validations if step < self.steps else 0)
            if self.validation_rows:
                left += 2 * self.evaluation_rows * took * workers / self.validation_rows
        return left + self.export_bytes / _EXPORT_BYTES_PER_S


def pace_s(taken: Sequence[StepRecord]) -> float:
    """From one step to the next by the clock, without validation."""
    if len(taken) < 2:
        return taken[-1]["seconds"] - taken[-1].get("compile_s", 0.0)
    first, last = (datetime.fromisoformat(record["time"]) for record in (taken[0], taken[-1]))
    # A record's time is the beginning of its step, so what the last one took is not in between.
    between = sum(record.get("validation_s", 0.0) for record in taken[:-1])
    passed = (last - first).total_seconds() - between
    return passed / (len(taken) - 1) if passed > 0 else taken[-1]["seconds"]
