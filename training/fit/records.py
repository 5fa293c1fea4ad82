"""What training writes down: a line a step in steps.jsonl, and evaluation.json at the end."""

import math
from typing import Any, NotRequired, TypedDict

_MOST_NATS = 700.0  # e to this is still a float


class Measured(TypedDict):
    """Token-weighted over a split: the sum of losses over label tokens, divided by their number.

    accuracy: share of label tokens that the model would have said (its most probable token); method probe: of rows.
    """

    loss: float
    perplexity: float
    accuracy: float
    label_tokens: int


def measured(loss_sum: float, correct: float, units: float) -> Measured | None:
    """Sums over a split as one measurement; None of a split in which nothing has a target."""
    if not units:
        return None
    loss = loss_sum / units
    perplexity = math.exp(loss) if loss < _MOST_NATS else math.inf
    return Measured(loss=loss, perplexity=perplexity, accuracy=correct / units, label_tokens=int(units))


class StepRecord(TypedDict):
    """One optimizer step, over all workers. `step` counts from 1; step 0 only carries the first validation.

    loss: mean over the step's label tokens, before the update. grad_norm: before clipping. tokens: real ones, without
    padding. samples: 16 hex digits, sum of hashes of the rows really read: equal for equal rows whatever the number of
    workers. mfu: see models/flops.py; null without a known device. memory_gib: largest of a worker (device memory on
    GPUs, resident memory on CPUs). compile_s: of `seconds`, what torch.compile took on the slowest worker; absent in
    steps that compiled nothing.
    """

    step: int
    time: str
    workers: int
    loss: NotRequired[float]
    grad_norm: NotRequired[float]
    learning_rate: NotRequired[float]
    tokens: NotRequired[int]
    label_tokens: NotRequired[int]
    samples: NotRequired[str]
    seconds: NotRequired[float]
    tokens_per_s: NotRequired[float]
    mfu: NotRequired[float | None]
    memory_gib: NotRequired[float]
    data_wait_s: NotRequired[float]
    compile_s: NotRequired[float]
    checkpoint_stall_s: NotRequired[float]
    validation: NotRequired[Measured]
    validation_s: NotRequired[float]


class DamagedCheckpoint(TypedDict):
    """A checkpoint that was not used. resumed: step of the one used instead. problem: a URI and what was seen."""

    step: int
    resumed: int
    problem: str


class Attempt(TypedDict):
    """Workers beginning, first or again: a small file each, named by its time. `step`: what was restored, or 0.

    damaged: checkpoints that were passed over when a checkpoint was restored.
    attention: transformers' name of the one in use. attention_warning: what it costs where a faster one did not fit.
    """

    attempt: str
    time: str
    workers: int
    step: int
    trainable_parameters: int
    all_parameters: int
    attention: str
    attention_warning: str | None
    damaged: NotRequired[list[DamagedCheckpoint]]


def damage_lines(attempt: Attempt) -> list[str]:
    """A sentence for each checkpoint that was passed over: which, why, and which steps are trained again for it."""
    lines = []
    for one in attempt.get("damaged", []):
        first, last = one["resumed"] + 1, one["step"]
        lost = f"Step {last} is" if first == last else f"Steps {first} to {last} are"
        lines.append(
            f"The checkpoint of step {last} is damaged and was not used: {one['problem']} {lost} trained again."
        )
    return lines


class Outcome(TypedDict):
    """How a fit ended; left as `fit.json` in the run's folder, written last.

    ended: `steps` (all taken), `patience` (stopped early). best_step: of the lowest validation loss, null without a
    validation split. checkpoint, best_checkpoint: URIs; what is exported is the best one where there is one.
    skipped: steps passed over after a broken loss.
    """

    fingerprint: str
    ended: str
    steps: int
    best_step: int | None
    checkpoint: str
    best_checkpoint: str
    trainable_parameters: int
    all_parameters: int
    unmoved: list[str]
    skipped: list[int]
    restarts: int
    seconds: float


class Answer(TypedDict):
    """One generated example."""

    document: str
    prompt: str
    reference: str
    generated: str


class Evaluation(TypedDict):
    """evaluation.json. before, after: of the held-out splits, by split name; generation: score by name."""

    before: dict[str, Measured]
    after: dict[str, Measured]
    best_step: int | None
    generation: dict[str, float]
    answers: list[Answer]
    merged_check: dict[str, Any] | None
