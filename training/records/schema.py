"""The JSON records of a training: steps.jsonl, attempts/*.json, fit.json, evaluation.json, progress in checkpoints."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import (
    Any,
    NotRequired,  # pydantic reads these in Python 3.11
    Self,
)

from typing_extensions import TypedDict

from raymill.cluster.record import read_json_line
from raymill.cluster.store.store import Store

_LONGEST_LINE = 1 << 20  # bytes of a record of a step, and far more
_LARGEST_EXPONENT = 700.0  # e to this power is finite in float64


class Measured(TypedDict):
    """A measurement of a split.

    loss: mean over its label tokens, weighted by their weights, in nats. perplexity: e to the loss. accuracy: share of
    label tokens that are the model's most probable token. With a classifier the means are over rows instead of label
    tokens; of answers that were compared or judged, over pairs or answers, with the means of PAIR_MEASURES.

    Of held-out pairs: calibration: [number of pairs, mean probability that the answer with the higher reward is better,
    share of pairs where it is] for each interval of that probability, the logistic function of the difference of
    rewards. by_length: [number of pairs, share of right ones] by the chosen answer beside the rejected one: shorter,
    equal or longer, in tokens.
    """

    loss: float
    perplexity: float
    accuracy: float
    label_tokens: int
    reward_chosen: NotRequired[float]
    reward_rejected: NotRequired[float]
    reward_margin: NotRequired[float]
    reward_accuracy: NotRequired[float]
    logp_chosen: NotRequired[float]
    logp_rejected: NotRequired[float]
    calibration: NotRequired[list[list[float]]]
    by_length: NotRequired[dict[str, list[float]]]


def measured(loss_sum: float, correct: float, denominator: float, labels: float) -> Measured | None:
    """The measurement from sums over a split; None if the split has no label (denominator 0).

    denominator: sum of the weights of the labels. labels: their number.
    """
    if not denominator:
        return None
    loss = loss_sum / denominator
    perplexity = math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf
    return Measured(loss=loss, perplexity=perplexity, accuracy=correct / labels, label_tokens=int(labels))


class StepRecord(TypedDict):
    """A line of steps.jsonl: one optimizer step, over all workers. Steps count from 1; step 0 has only a validation.

    time: start of the forward pass, after the rows were read, UTC. loss: mean over the step's label tokens, before the
    update. aux_loss: load-balancing loss of a mixture of experts, which is not in `loss`, before its coefficient.
    grad_norm: before clipping. tokens: without padding. samples: digest of the rows that were read, 16 hex
    digits: the sum of their hashes, which does not depend on the number of workers. seconds: duration of the step,
    without validation and checkpoint. mfu: see models/cost.py; null if the device's peak is unknown. memory_gib: the
    largest peak of a worker (device memory on GPUs, resident memory on CPUs). data_wait_s: the longest time that a
    worker waited for rows. compile_s: time in torch.compile on the slowest worker, part of `seconds`; absent if nothing
    was compiled. checkpoint_stall_s: time that training waited for a checkpoint's copy. validation_s: duration of the
    validation after the step. forward_s: duration of the forward passes of the slowest worker, slowest_rank;
    median_forward_s: of all workers (fit/forward_clock.py); absent with one worker.

    Of answers that were compared or judged: loss: mean over the pairs or answers. reward_chosen and the others:
    PAIR_MEASURES of objectives.py, before the update. kl: z of objective kto. reward_mean and the others:
    SAMPLE_MEASURES of objectives.py; rewards: the mean of each, if there are several; clipped, kl: UPDATE_MEASURES.
    """

    step: int
    time: str
    workers: int
    loss: NotRequired[float]
    aux_loss: NotRequired[float]
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
    forward_s: NotRequired[float]
    median_forward_s: NotRequired[float]
    slowest_rank: NotRequired[int]
    checkpoint_stall_s: NotRequired[float]
    validation: NotRequired[Measured]
    validation_s: NotRequired[float]
    reward_chosen: NotRequired[float]
    reward_rejected: NotRequired[float]
    reward_margin: NotRequired[float]
    reward_accuracy: NotRequired[float]
    logp_chosen: NotRequired[float]
    logp_rejected: NotRequired[float]
    kl: NotRequired[float]
    reward_mean: NotRequired[float]
    reward_std: NotRequired[float]
    groups_without_spread: NotRequired[float]
    truncated: NotRequired[float]
    answer_tokens: NotRequired[float]
    rewards_failed: NotRequired[float]
    rewards_missing: NotRequired[float]
    prompts_too_long: NotRequired[float]
    rewards: NotRequired[dict[str, float]]
    clipped: NotRequired[float]
    rollout_s: NotRequired[float]


def read_steps(store: Store, uri: str) -> Iterator[StepRecord]:
    """The records of a step log, read one at a time, since a million steps are 300 MB; none if there is no log yet.

    Raises:
        DataError: a line is damaged, or longer than any record.
    """
    if not store.exists(uri):
        return
    with store.open_input(uri) as file:
        lines = io.BufferedReader(file)  # type: ignore[type-var]
        while line := lines.readline(_LONGEST_LINE):  # the rest of a longer one is another line, which is damaged
            if line.strip():
                yield read_json_line(line, uri, StepRecord)


class DamagedCheckpoint(TypedDict):
    """A damaged checkpoint. step: its step. resumed: step of the checkpoint used instead. problem: URI and damage."""

    step: int
    resumed: int
    problem: str


class StartRecord(TypedDict):
    """One start of the workers, a file in attempts/ named by its time.

    step: of the restored checkpoint, or 0. attention: transformers' name of the implementation in use.
    attention_warning: a sentence about its cost, if a faster one cannot be used here. damaged: checkpoints that were
    skipped. micro_rows: rows that a worker computes at once.
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
    micro_rows: NotRequired[int]


def damage_lines(attempt: StartRecord) -> list[str]:
    """A sentence for each damaged checkpoint: its step, the damage, and the steps that are trained again."""
    lines = []
    for one in attempt.get("damaged", []):
        first, last = one["resumed"] + 1, one["step"]
        lost = f"Step {last} is" if first == last else f"Steps {first} to {last} are"
        problem = " ".join(one["problem"].split())  # others may have written it
        lines.append(f"The checkpoint of step {last} is damaged and was not used: {problem} {lost} trained again.")
    return lines


NOT_ENDED = "not ended"  # `ended` of a checkpoint that is exported


class Outcome(TypedDict):
    """fit.json: the result of a fit, written last.

    fingerprint: of the job. ended: `steps` (all were taken) or `patience` (early stopping). best_step: the step with
    the lowest validation loss, null without a validation split. checkpoint: URI of the last one. best_checkpoint: URI
    of the one that is exported: of best_step, or the last one. unmoved: trained parameters that never received a
    gradient. skipped: steps skipped because of a bad loss. restarts: number of starts after the first.
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


class GeneratedAnswer(TypedDict):
    """A generated answer beside its reference, or the class that a classifier predicts.

    set: the name of its set, if it is of one of `evaluate.sets`. confidence: probability of the predicted class.
    """

    document: str
    prompt: str
    reference: str
    generated: str
    set: NotRequired[str]
    confidence: NotRequired[float]


class Evaluation(TypedDict):
    """evaluation.json. before, after: the measurement before and after training, by the name of the held-out split, and
    of each of `evaluate.sets`.

    generation: scores of generated answers of the held-out split, by name. set_generation: the same of each of
    `evaluate.sets`, by its name; absent if there are none. merged_check: a MergedCheck of evaluation.py. notes:
    sentences about what was not measured, and why.
    """

    before: dict[str, Measured]
    after: dict[str, Measured]
    best_step: int | None
    generation: dict[str, float]
    set_generation: NotRequired[dict[str, dict[str, float]]]
    answers: list[GeneratedAnswer]
    merged_check: dict[str, Any] | None
    notes: NotRequired[list[str]]


_LARGEST_COUNT = 1 << 53  # of steps


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, and the step after which it was measured."""

    step: int
    loss: float


@dataclass(frozen=True)
class TrainingProgress:
    """The progress of a training, saved with each checkpoint beside the weights.

    Early stopping and the choice of the best checkpoint depend on it alone, so a resumed run stops at the same step as
    an uninterrupted one.

    step: number of steps taken or skipped. updates: number of steps in which the optimizer updated the weights.
    evaluated: step of the last validation, -1 before the first. best: the best validation after step 0. misses: number
    of validations since the best. skipped: steps skipped because of a bad loss, counted from 1. went_back: how often a
    checkpoint was restored because of one. seconds: duration of the training, without lost work.
    """

    step: int = 0
    updates: int = 0
    evaluated: int = -1
    best: Best | None = None
    misses: int = 0
    skipped: tuple[int, ...] = ()
    went_back: int = 0
    seconds: float = 0.0

    def stepped(self, *, updated: bool) -> Self:
        """The progress after one more step. updated: whether the optimizer updated the weights."""
        return replace(self, step=self.step + 1, updates=self.updates + updated)

    def validated(self, loss: float | None, least_gain: float) -> Self:
        """The progress after a validation at this step.

        loss: None if the split has no label; then `best` and `misses` do not change. They also do not change after the
        validation of the untrained model, at step 0.
        """
        if self.step == 0 or loss is None:
            return replace(self, evaluated=self.step)
        if self.best is None or loss < self.best.loss - least_gain:
            return replace(self, evaluated=self.step, best=Best(self.step, loss), misses=0)
        return replace(self, evaluated=self.step, misses=self.misses + 1)

    def skipping_to(self, step: int, times: int) -> Self:
        """The progress of a restored checkpoint with all steps up to `step` skipped. times: new value of went_back."""
        return replace(self, step=step, skipped=(*self.skipped, *range(self.step + 1, step + 1)), went_back=times)

    @property
    def improved(self) -> bool:
        """Whether the validation at this step is the best."""
        return self.best is not None and self.best.step == self.step

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The progress from its JSON values in a checkpoint's manifest (`dataclasses.asdict`).

        Raises:
            ValueError, TypeError, KeyError: they are not of a progress.
        """
        best = plain["best"]
        found = cls(**plain | {"best": None if best is None else Best(**best), "skipped": tuple(plain["skipped"])})
        counts = [found.step, found.updates, found.misses, found.went_back, *found.skipped]
        if type(found.evaluated) is not int or found.evaluated != -1:  # before the first validation
            counts.append(found.evaluated)
        numbers = [found.seconds]
        if found.best is not None:
            counts.append(found.best.step)
            numbers.append(found.best.loss)
        if any(type(one) is not int or not 0 <= one <= _LARGEST_COUNT for one in counts):
            raise ValueError("its progress has numbers that are no counts")
        if any(type(one) not in (int, float) for one in numbers) or not 0 <= found.seconds < _LARGEST_COUNT:
            raise ValueError("its progress has values that are no numbers")
        return found
