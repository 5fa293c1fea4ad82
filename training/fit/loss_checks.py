"""Checks of a step's loss. If it is not finite, or too large, the run ends or skips steps."""

import math
from collections.abc import Sequence

from cluster.errors import DataError
from cluster.record import json_bytes
from cluster.store import paths
from training.data.batch import Batch
from training.fit.ranks import Ranks
from training.records.job import Job

_LISTED_DOCUMENTS = 20


def loss_problem(loss: float, grad_norm: float, limit: float | None) -> str | None:
    """The problem of a step's loss or gradient norm, as text; None if there is none. Equal on all workers."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the loss is {loss:.4g} and the gradient norm {grad_norm}"
    if limit is not None and loss > limit:
        return f"the loss is {loss:.4g}, above failures.loss_limit {limit:g}"
    return None


def document_ids(batches: Sequence[Batch], ranks: Ranks) -> list[str]:
    """Ids of the documents in a step's batches of all workers, without repetition. A collective."""
    mine = [document for batch in batches for row in batch.documents for document in row]
    return list(dict.fromkeys(document for worker in ranks.gather(mine) for document in worker))


def bad_loss_error(job: Job, ranks: Ranks, step: int, problem: str, documents: Sequence[str]) -> DataError:
    """The error that ends a run at a step, with the first document ids of the step. step: counted from 1.

    The first worker writes all ids to broken/step-NNNNNNNN.json.
    """
    uri = paths.join(job.root, "broken", f"step-{step:08d}.json")
    if ranks.first:
        content = {"step": step, "problem": problem, "documents": list(documents)}
        job.store.write_bytes(uri, json_bytes(content))
    listed = ", ".join(documents[:_LISTED_DOCUMENTS])
    more = f" and {len(documents) - _LISTED_DOCUMENTS} more (all are in {uri})" if documents[_LISTED_DOCUMENTS:] else ""
    return DataError(
        f"step {step}: {problem}. Its batch contained the documents {listed}{more}. Look at them, lower "
        "optimizer.learning_rate or lengthen optimizer.warmup_steps; or set failures: {skip_back: 1} to return to the "
        "last checkpoint and skip the steps up to this one."
    )
