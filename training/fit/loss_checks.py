"""When a loss is no number, or far too large: say at which step and on which documents, or go back and pass over it."""

import json
import math
from collections.abc import Sequence

from cluster.errors import DataError
from cluster.store import paths
from training.data.batch import Batch
from training.fit.job import Job
from training.fit.ranks import Place

_NAMED = 20


def problem(loss: float, grad_norm: float, limit: float | None) -> str | None:
    """What is wrong with a step, if anything. The same on every worker, since both numbers are."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(grad_norm):
        return f"the loss is {loss:.4g} and the gradient norm {grad_norm}"
    if limit is not None and loss > limit:
        return f"the loss is {loss:.4g}, above failures.loss_limit {limit:g}"
    return None


def documents_of(batches: Sequence[Batch], place: Place) -> list[str]:
    """Ids of the step's documents over all workers, each once."""
    mine = [document for batch in batches for row in batch.documents for document in row]
    return list(dict.fromkeys(document for worker in place.gather(mine) for document in worker))


def report(job: Job, place: Place, step: int, wrong: str, documents: Sequence[str]) -> DataError:
    """The error that ends a run at a step, counted from 1. All ids go to a file; the message names the first few."""
    uri = paths.join(job.root, "broken", f"step-{step:08d}.json")
    if place.first:
        told = {"step": step, "problem": wrong, "documents": list(documents)}
        job.store.write_bytes(uri, json.dumps(told, indent=1, ensure_ascii=False).encode())
    named = ", ".join(documents[:_NAMED])
    more = f" and {len(documents) - _NAMED} more ({uri} has all)" if len(documents) > _NAMED else ""
    return DataError(
        f"step {step}: {wrong}. Its batch held the documents {named}{more}. Look at them, lower "
        "optimizer.learning_rate or lengthen optimizer.warmup_steps; or set failures: {skip_back: 1} to go back to the "
        "checkpoint before and pass over the steps up to this one."
    )
