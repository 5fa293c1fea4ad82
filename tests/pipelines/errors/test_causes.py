"""Causes of errors, by the training records nearest to them."""

from dataclasses import replace

import numpy as np
import pytest

from raymill.pipelines.errors.causes import cause_of, classes_of, contradictions, near_bound, nearest
from raymill.pipelines.errors.items import EvaluatedItem, number_from, rating_error
from raymill.pipelines.errors.runs import TrainingRecord


def records(*answers, question="How do I reset the password of my account"):
    return [TrainingRecord(f"r{n}", f"{question} {'please ' * n}", one, {}) for n, one in enumerate(answers)]


def cause(item, some, cosines, bound=0.5):
    return cause_of(item, some, np.arange(len(some)), np.array(cosines), bound).cause


ITEM = EvaluatedItem("i", "", "Where is the key", "login", "billing", 1.0)


@pytest.mark.parametrize(
    ("item", "answers", "wanted"),
    [
        (ITEM, ["login"] * 5, "label_error"),
        (ITEM, ["login"] * 2, "model_error"),  # too few
        (ITEM, ["billing"] * 5, "model_error"),
        (ITEM, ["login"] * 3 + ["billing"] * 2, "model_error"),
        (replace(ITEM, confidence=0.2), ["login"] * 5, "model_error"),
        (replace(ITEM, confidence=0.9), ["login"] * 5, "label_error"),
        (replace(ITEM, corrected=True), ["login"] * 5, "model_error"),
        (replace(ITEM, expected=None), ["login"] * 5, "model_error"),
    ],
)  # fmt: skip
def test_a_label_error_needs_neighbours_and_a_certain_model_against_the_label(item, answers, wanted):
    assert cause(item, records(*answers), [0.9] * len(answers)) == wanted


def test_without_a_near_record_knowledge_is_missing():
    assert cause(ITEM, records("login", "login", "login"), [0.4, 0.3, 0.2]) == "missing"
    assert cause(ITEM, [], []) == "missing"


def test_equal_prompts_with_different_answers_contradict_only_if_they_are_like_the_item():
    some = [TrainingRecord("a", "How long is the warranty of a mill", "Two years.", {}),
            TrainingRecord("b", "How long is the warranty of a mill?", "It has none at all.", {})]  # fmt: skip
    item = EvaluatedItem("i", "", "how long is the warranty of a mill", "One year", "Two years", 1.0)
    assert cause(item, some, [0.9, 0.9]) == "contradictory"
    assert cause(ITEM, some, [0.9, 0.9]) == "model_error"
    assert [(one.id, other.id) for one, other in contradictions(some)] == [("a", "b")]
    some = [
        TrainingRecord(one, "How long is it", answer, {}) for one, answer in (("a", "Two years."), ("b", "two years"))
    ]
    assert contradictions(some) == []


def test_nearest_are_ordered_and_the_first_of_equals():
    some = np.eye(4, dtype=np.float32)[[0, 1, 0, 2]]
    found = nearest(np.eye(4, dtype=np.float32)[:2], some, 3)
    assert found.rows.tolist() == [[0, 2, 1], [1, 0, 2]]
    assert nearest(some, some[:0]).rows.shape == (4, 0)


def test_the_bound_of_near_is_of_the_records_own_neighbours():
    angles = np.linspace(0, 0.4, 50)
    close = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    keys = np.arange(50, dtype=np.uint64)
    assert near_bound(close, keys) == pytest.approx(0.75, abs=0.01)
    assert near_bound(np.eye(50, dtype=np.float32), keys) == 0.05
    assert near_bound(close[:1], keys[:1]) == 0.5


@pytest.mark.parametrize(
    ("value", "points", "error"),
    [("up", None, 0), ("Thumbs Down", None, 1), ("👎", None, 1), ("👍️", None, 0), ("true", None, 0), ("0", None, 1),
     ("1.0", None, 0), ("-1", None, 1), ("maybe", None, None), ("", None, None), (None, None, None),
     ("5", 5, 0), ("1", 5, 1), ("3", 5, 0.5), ("0", 5, None), ("6", 5, None), ("nan", 5, None)],
)  # fmt: skip
def test_ratings_as_errors(value, points, error):
    assert rating_error(value, points) == error


def test_numbers_of_columns_are_in_their_bounds():
    assert [number_from(one, 0, 1) for one in ("0.5", "1", "2", "inf", "x", None)] == [0.5, 1, None, None, None, None]


def test_answers_are_classes_if_there_are_few():
    assert classes_of(["a", "b"] * 10) == ["a", "b"]
    assert classes_of(["a"] * 20) == []
    assert classes_of([f"answer {n}" for n in range(30)]) == []
    assert classes_of([]) == []
