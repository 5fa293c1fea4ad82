"""Strength of answers that are compared in pairs, by the model of Bradley and Terry, with intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from raymill.pipelines.annotate.config import TIE, Task

_DRAWS, _SEED, _PERCENTILES = 1000, 0, (2.5, 97.5)
_MOST_STEPS, _TOLERANCE = 10_000, 1e-9
NO_STRENGTH = "an answer, or some of them, won or lost all comparisons with the others"


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """float64[D, N]: log-odds of winning against answer 0, of each of D tables of wins; NaN where there is no maximum.

    The maximum of the likelihood exists if each answer has won, over others, against each (Ford 1957). It is found by
    Hunter's MM steps (2004), to convergence.

    wins: float64[D, N, N], how often the first answer won against the second; a tie is half a win of each.
    """
    tables, answers = wins.shape[:2]
    found = np.full((tables, answers), np.nan)
    defined = np.array([connected_components(one > 0, connection="strong")[0] == 1 for one in wins], bool)
    if not defined.any():
        return found
    won, total = wins[defined].sum(axis=2), wins[defined] + wins[defined].transpose(0, 2, 1)
    strength = np.full(won.shape, 1.0 / answers)
    for _ in range(_MOST_STEPS):
        expected = (total / (strength[:, :, None] + strength[:, None, :])).sum(axis=2)
        new = won / expected
        new /= new.sum(axis=1, keepdims=True)
        moved = np.abs(np.log(new) - np.log(strength)).max()
        strength = new
        if moved < _TOLERANCE:
            break
    logs = np.log(strength)
    found[defined] = logs - logs[:, :1]
    return found


def answer_strengths(task: Task, labels: Sequence[Any]) -> list[dict[str, Any]]:
    """{answer, wins, losses, ties, log_odds, low, high} of each answer; empty without labels.

    log_odds: of winning against the first answer, with a 95% interval by a percentile bootstrap over tasks; None with a
    `problem` where it is not defined. labels: of the tasks, of `compare` or `rank`.
    """
    number = Counter(label if isinstance(label, str) else tuple(label) for label in labels)
    if not number:
        return []
    tables = np.array([_wins(task, label) for label in number])
    counts = np.array([*number.values()])
    random = np.random.default_rng(_SEED)
    drawn = random.multinomial(counts.sum(), counts / counts.sum(), _DRAWS)
    weights = np.vstack([counts, drawn]).astype(float)
    whole = np.einsum("dt,tij->dij", weights, tables)
    odds = bradley_terry(whole)
    defined = odds[1:][~np.isnan(odds[1:, 0])]
    ties = np.einsum("t,tij->ij", counts, np.minimum(tables, tables.transpose(0, 2, 1)) * 2)
    wins = whole[0] - ties / 2
    rows = []
    for at, answer in enumerate(task.answers):
        row: dict[str, Any] = {
            "answer": answer,
            "wins": int(wins[at].sum()),
            "losses": int(wins[:, at].sum()),
            "ties": int(ties[at].sum()),
            "log_odds": None,
            "low": None,
            "high": None,
        }
        if np.isnan(odds[0, at]):
            row["problem"] = NO_STRENGTH
        else:
            row["log_odds"] = float(odds[0, at])
            row["low"], row["high"] = map(float, np.percentile(defined[:, at], _PERCENTILES))
        rows.append(row)
    return rows


def _wins(task: Task, label: Any) -> np.ndarray:
    """float64[N, N]: how often the first answer won against the second, by one label."""
    found = np.zeros((len(task.answers), len(task.answers)))
    if label == TIE and task.type == "compare":
        return 0.5 * (1 - np.eye(2))
    place: Mapping[str, int] = {answer: at for at, answer in enumerate(task.answers)}
    order = [label, *(one for one in task.answers if one != label)] if isinstance(label, str) else label
    for better, worse in combinations(order, 2):
        found[place[better], place[worse]] = 1
    return found
