"""Bradley and Terry's strengths, against published values."""

import numpy as np
import pytest

from raymill.pipelines.annotate.config import Task
from raymill.pipelines.annotate.pairwise import answer_strengths, bradley_terry

# Baseball, American League 1987 (Agresti 2002, table 10.10): wins of the team of the row against the one of the column.
TEAMS = ["Baltimore", "Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto"]
WINS = np.array(
    [
        [0, 1, 7, 4, 2, 3, 1],
        [12, 0, 7, 2, 6, 7, 6],
        [6, 6, 0, 4, 4, 6, 5],
        [9, 11, 9, 0, 6, 5, 7],
        [11, 7, 9, 7, 0, 7, 9],
        [10, 6, 7, 8, 6, 0, 6],
        [12, 7, 8, 6, 4, 7, 0],
    ],
    float,
)
COMPARE = Task.model_validate({"type": "compare", "show": ["prompt"], "answers": ["a", "b"]})


def test_the_teams_of_agresti_have_the_published_strengths():
    """Coefficients of the package BradleyTerry2 without home advantage, Baltimore 0."""
    (found,) = bradley_terry(WINS[None])
    assert found == pytest.approx([0, 1.1077, 0.6839, 1.4364, 1.5814, 1.2476, 1.2945], abs=5e-5)


def test_three_wins_of_four_are_log_odds_of_ln_3_and_a_tie_is_half_a_win():
    first, second = answer_strengths(COMPARE, ["b", "b", "a", "b"])
    assert second["log_odds"] == pytest.approx(np.log(3)) and first["log_odds"] == 0
    assert (second["wins"], second["losses"], second["ties"]) == (3, 1, 0)
    _, second = answer_strengths(COMPARE, ["b", "b", "tie", "tie"])
    assert second["log_odds"] == pytest.approx(np.log(3))
    assert (second["wins"], second["losses"], second["ties"]) == (2, 0, 2)


def test_two_answers_have_the_interval_of_a_proportion():
    """150 of 200: the log-odds have a standard error of 1 / sqrt(200 x 0.75 x 0.25)."""
    _, second = answer_strengths(COMPARE, ["b"] * 150 + ["a"] * 50)
    around = 1.96 / (200 * 0.75 * 0.25) ** 0.5
    assert (second["low"], second["high"]) == pytest.approx((np.log(3) - around, np.log(3) + around), abs=0.1)


def test_rankings_are_comparisons_of_each_pair():
    task = Task.model_validate({"type": "rank", "show": ["prompt"], "answers": ["a", "b", "c"]})
    orders = [["a", "b", "c"]] * 6 + [["c", "b", "a"]] * 2 + [["b", "a", "c"]] * 2
    rows = answer_strengths(task, orders)
    pairs = {("a", "b"): (6, 4), ("a", "c"): (8, 2), ("b", "c"): (8, 2)}
    assert [row["wins"] for row in rows] == [14, 12, 4] and [row["losses"] for row in rows] == [6, 8, 16]
    assert 0 > rows[1]["log_odds"] > rows[2]["log_odds"]
    # At the maximum the expected wins are the observed ones.
    odds = {row["answer"]: row["log_odds"] for row in rows}
    expected = sum(10 / (1 + np.exp(odds[other] - odds["a"])) for one, other in pairs if one == "a")
    assert expected == pytest.approx(14)


def test_what_has_no_maximum_is_said():
    first, second = answer_strengths(COMPARE, ["a"] * 5)
    assert first["log_odds"] is second["log_odds"] is None and "won or lost all" in second["problem"]
    assert (first["wins"], second["losses"]) == (5, 5)
    assert answer_strengths(COMPARE, []) == []
