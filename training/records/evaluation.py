"""evaluation.json: the measurements of a run's weights, with a fingerprint of what they were made from."""

from typing import Any, TypedDict

import cluster
from cluster.artifact import fingerprint
from cluster.record import RecordFile, json_bytes, json_with
from cluster.store import paths
from training.records.job import Job
from training.records.schema import Evaluation, Measured, Outcome

EVALUATION = "evaluation.json"
_FINGERPRINT = "made_from"


class MergedCheck(TypedDict):
    """Comparison of a merged model's logits with the adapter's, over all positions of some prompts.

    max_abs_difference: the largest difference. tolerance: the largest one that is allowed. adapter_effect: the largest
    difference between adapter and base. largest_logit: the largest absolute logit with the adapter.
    """

    prompts: int
    tokens: int
    max_abs_difference: float
    tolerance: float
    adapter_effect: float
    largest_logit: float


def evaluation_fingerprint(job: Job, outcome: Outcome) -> str:
    """Fingerprint of all that decides an evaluation: version, training, checkpoint, generation settings, sets."""
    generate = job.config.generate
    inputs = {
        "version": cluster.__version__,
        "fit": outcome["fingerprint"],
        "checkpoint": outcome["best_checkpoint"] or outcome["checkpoint"],
        "generate": generate.model_dump() if generate else None,
        "test_tokens": job.config.evaluate.test_tokens,
    }
    return fingerprint(inputs | ({"sets": job.sets} if job.sets else {}))


def parse(data: bytes) -> Any:
    """From the content of its file.

    Raises:
        ValueError: a measurement lacks one of its numbers, or something else has another type.
    """
    found = json_with("before", "after")(data)
    measured = [*found["before"].values(), *found["after"].values()]
    numbers = [one[name] for one in measured for name in Measured.__annotations__]
    for scores in (found.get("generation", {}), *found.get("set_generation", {}).values()):
        numbers += scores.values()
    texts = [*found.get("notes", []), *(text for answer in found.get("answers", []) for text in answer.values())]
    if not all(isinstance(one, int | float) for one in numbers) or not all(isinstance(one, str) for one in texts):
        raise ValueError("measurements and scores are numbers, answers and notes are text")
    return found


def read_evaluation(job: Job, wanted: str | None = None) -> Evaluation | None:
    """The evaluation of a job's run; None if there is none or its fingerprint is not `wanted` (None: any)."""
    found = RecordFile(job.store, paths.join(job.root, EVALUATION), "the evaluation of a run", parse).read()
    if found is None or (found.pop(_FINGERPRINT, None) != wanted and wanted is not None):
        return None
    return found


def write_evaluation(job: Job, evaluation: Evaluation, made_from: str) -> None:
    """Write evaluation.json to the job's run. made_from: the evaluation's fingerprint."""
    job.store.write_bytes(paths.join(job.root, EVALUATION), json_bytes({_FINGERPRINT: made_from} | evaluation))
