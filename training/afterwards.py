"""What comes after the last step: evaluation and export, in the first worker of the fit or in one of its own."""

from typing import Any

from training.evaluation import job as evaluation
from training.export import job as exports
from training.fit.job import Job
from training.fit.records import Outcome
from training.pack.packed_run import PackedRun


def finish(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Measure the weights and export them; what is finished is left alone. The export's manifest."""
    packed = PackedRun.load(job.store, job.packed)
    evaluation.evaluate(job, outcome, packed)
    return exports.export(job, outcome, packed)  # in float32 on the CPU


def finished(job: Job, outcome: Outcome) -> dict[str, Any] | None:
    """The export's manifest if these weights were measured and exported; no torch is loaded for it."""
    measured = evaluation.read_evaluation(job, evaluation.made_from(job, outcome))
    return measured and exports.finished(job, outcome)
