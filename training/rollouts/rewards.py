"""Rewards of sampled answers, by the settings of objective grpo, and advantages within a group.

What texts of the model can make slow, such as a regular expression or a function of the user, runs in a child process
with a bound on time and memory.
"""

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jsonschema.validators import Draft202012Validator
from referencing import Registry

from raymill.cluster.errors import DataError
from raymill.cluster.guard import Exceeded, Failed, Guard, WorkBounds
from raymill.cluster.score_plugins import custom_score
from raymill.training.evaluation.scores import exact_match, numbers, rouge, word_f1
from raymill.training.objectives import Grpo, RewardUse
from raymill.training.rollouts.programs import run_programs

_BYTES = 1 << 30  # of memory of a child process
_EPSILON = 1e-4  # added to a group's standard deviation, as in TRL
_FIX = "Correct the function; with other code the training needs another output, or `--replace`, and begins again."
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampledAnswer:
    """A sampled answer. reference: of the corpus. prompt_ids, ids: tokens of the prompt and of the answer."""

    document: str
    prompt: str
    reference: str
    generated: str
    prompt_ids: Sequence[int] = ()
    ids: Sequence[int] = ()


Scores = Callable[[Sequence[SampledAnswer]], Sequence[float]]
LOADED = ("model", "language", "judge")  # kinds of rewards that are computed by a Scores


def rewards_of(
    how: Grpo, answers: Sequence[SampledAnswer], scores: Sequence[Scores] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """(float64[answers, rewards] before their weights, bool[answers]: whether a reward took too long and counts as 0).

    A reward is NaN where there is none: the judge gave none, or a function of the user raised an exception or returned
    something else than a finite number, which is logged. scores: of the rewards of the kinds LOADED, in their order.

    Raises:
        DataError: a function of the user gave no reward for more than half of the answers.
        ConfigError: this machine cannot isolate a program.
    """
    found, slow = np.zeros((len(answers), len(how.rewards))), np.zeros(len(answers), bool)
    left = iter(scores)
    for number, use in enumerate(how.rewards):
        match use.kind:
            case "score":
                found[:, number] = [_score(str(use.score), answer) for answer in answers]
            case "model" | "language" | "judge":
                found[:, number] = next(left)(answers)
            case "length":
                assert use.length is not None
                in_tokens = use.length.unit == "tokens"
                sizes = [len(answer.ids if in_tokens else answer.generated) for answer in answers]
                found[:, number] = [use.length.of(size) for size in sizes]
            case "program":
                programs = [(_code(answer.generated), answer.reference) for answer in answers]
                for at, seen in enumerate(run_programs(programs, how.reward_s, _BYTES)):
                    found[at, number], slow[at] = seen is True, slow[at] | (seen is None)
            case _:
                bounds, errors = [WorkBounds(how.reward_s, _BYTES)] * len(answers), list[Exception]()
                for at, outcome in enumerate(Guard(partial(_guarded, use)).map(list(answers), bounds)):
                    if not isinstance(outcome, Failed):
                        found[at, number] = outcome
                    elif isinstance(outcome.error, Exceeded):
                        slow[at] = True
                    else:
                        found[at, number] = np.nan
                        errors.append(outcome.error)
                if 2 * len(errors) > len(answers):
                    raise errors[0]
                if errors:
                    log.warning("no reward for %d of %d answers; the first: %s", len(errors), len(answers), errors[0])
    return found, slow


def _score(name: str, answer: SampledAnswer) -> float:
    """A score of one answer, by its name."""
    reference, generated = [answer.reference], [answer.generated]
    match name:
        case "exact_match":
            return exact_match(reference, generated)
        case "f1":
            return word_f1(reference, generated)
        case "rougeL":
            return rouge(reference, generated)["rougeL"]
        case _:
            return numbers(reference, generated)[name]


def _guarded(use: RewardUse, answer: SampledAnswer) -> float:
    if use.pattern is not None:
        return float(re.fullmatch(use.pattern, answer.generated, re.DOTALL) is not None)
    if use.json_schema is not None:
        try:
            # Without a registry of its own, jsonschema loads references from the network.
            validator = Draft202012Validator(use.json_schema, registry=Registry())
            return float(validator.is_valid(json.loads(answer.generated)))
        except (ValueError, ArithmeticError, RecursionError):  # multipleOf of a number without a float
            return 0.0
    assert use.custom is not None
    given = {name: getattr(answer, name) for name in ("document", "prompt", "reference", "generated")}
    try:
        return custom_score(use.custom.loaded(), given, "grpo.rewards", _FIX)
    except DataError as error:
        if isinstance(error.__cause__, MemoryError):
            raise MemoryError from error  # the bound of the child process was reached
        raise


_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def _code(answer: str) -> str:
    """The first block of code in Markdown of an answer; without one, the whole answer."""
    found = _FENCED.search(answer)
    return found[1] if found else answer


def advantages(rewards: np.ndarray, how: str) -> np.ndarray:
    """Advantages of the answers of groups, float64[groups, samples].

    rewards: of the same shape; an answer with NaN is not in its group, and has advantage 0. how: see Grpo.
    """
    scored = ~np.isnan(rewards)
    count = scored.sum(1, keepdims=True)
    mean = np.where(scored, rewards, 0).sum(1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(scored, rewards - mean, 0)
    others = np.maximum(count - 1, 1)
    match how:
        case "normalised":
            return centred / (np.sqrt((centred**2).sum(1, keepdims=True) / others) + _EPSILON)
        case "centred":
            return centred
        case _:
            return centred * count / others
