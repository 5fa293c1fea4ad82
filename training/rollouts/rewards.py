"""Rewards of sampled answers: scores against a reference, and functions of the user; advantages within a group."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from raymill.cluster.guard import Exceeded, Failed, Guard, WorkBounds
from raymill.cluster.score_plugins import custom_score
from raymill.training.evaluation.scores import exact_match, numbers, rouge, word_f1
from raymill.training.objectives import Grpo

_BYTES = 1 << 30  # of memory of a function of the user
_EPSILON = 1e-4  # added to a group's standard deviation, as in TRL
_FIX = "Correct the function and run the same command again: the training continues after its last checkpoint."


def rewards_of(how: Grpo, decimal_mark: str, answers: Sequence[dict[str, Any]]) -> list[tuple[float, bool]]:
    """(reward, whether custom rewards took too long) of each answer.

    answers: dictionaries with `document`, `prompt`, `reference` and `generated`.

    Raises:
        DataError: a custom reward raised an exception, or returned something else than a finite number.
    """
    found = []
    for answer in answers:
        pair = [answer["reference"]], [answer["generated"]]
        reward = sum(weight * _score(name, *pair, decimal_mark) for name, weight in how.score.items())
        found.append((reward, False))
    if not how.custom:
        return found
    bounds = WorkBounds(how.reward_s, _BYTES)
    outcomes = Guard(partial(_custom, how)).map(list(answers), [bounds] * len(answers))
    for at, outcome in enumerate(outcomes):
        if not isinstance(outcome, Failed):
            found[at] = (found[at][0] + outcome, False)
        elif isinstance(outcome.error, Exceeded):
            found[at] = (found[at][0], True)
        else:
            raise outcome.error
    return found


def _score(name: str, reference: list[str], generated: list[str], decimal_mark: str) -> float:
    """A score of one answer, by its name."""
    match name:
        case "exact_match":
            return exact_match(reference, generated)
        case "f1":
            return word_f1(reference, generated)
        case "rougeL":
            return rouge(reference, generated)["rougeL"]
        case _:
            return numbers(reference, generated, decimal_mark)[name]


def _custom(how: Grpo, answer: dict[str, Any]) -> float:
    return sum(custom_score(use.loaded(), answer, "grpo.custom", _FIX) for use in how.custom)


def advantages(rewards: np.ndarray, how: str) -> np.ndarray:
    """Advantages of the answers of groups, float64[groups, samples]. rewards: of the same shape. how: see Grpo."""
    centred = rewards - rewards.mean(1, keepdims=True)
    match how:
        case "normalised":
            return centred / (rewards.std(1, ddof=1, keepdims=True) + _EPSILON)
        case "centred":
            return centred
        case _:
            count = rewards.shape[1]
            return centred * count / (count - 1)
