"""Every rule removes what it names, at its bound and not before."""

import pytest

from pipelines.prepare.config import Validate
from pipelines.prepare.content import pair
from pipelines.prepare.validate import REASONS, Validator

GOOD = pair("", "How do I do it?", "", "You do it by doing it well.")


def reason(content, metadata=None, **settings) -> str | None:
    failed = Validator(Validate(**settings))(content, metadata or {})
    assert failed is None or failed.reason in REASONS
    return failed and failed.reason


def test_a_good_record_meets_all_rules():
    assert reason(GOOD) is None
    assert reason("a text") is None


@pytest.mark.parametrize(
    ("length", "found"), [(9, "question_too_short"), (10, None), (500, None), (501, "question_too_long")]
)
def test_the_length_of_a_question(length, found):
    assert reason(pair("", "q" * length, "", "a" * 20)) == found


@pytest.mark.parametrize(
    ("length", "found"), [(19, "answer_too_short"), (20, None), (2000, None), (2001, "answer_too_long")]
)
def test_the_length_of_an_answer(length, found):
    assert reason(pair("", "q" * 10, "", "a" * length)) == found
    assert reason(pair("", "q" * 10, "", "a" * length), answer_chars=None) is None


@pytest.mark.parametrize(("length", "found"), [(4, "text_too_short"), (5, None), (7, None), (8, "text_too_long")])
def test_the_length_of_a_text(length, found):
    assert reason("t" * length, text_chars=(5, 7)) == found


def test_required_and_allowed_metadata():
    assert reason(GOOD, {"category": None}, require=("category",)) == "missing_metadata"
    assert reason(GOOD, {"category": ""}, require=("category",)) == "missing_metadata"
    assert reason(GOOD, {"category": "a"}, require=("category",), allowed={"category": ("a", "b")}) is None
    assert reason(GOOD, {"category": "c"}, allowed={"category": ("a", "b")}) == "not_allowed"
    assert reason(GOOD, {"category": None}, allowed={"category": ("a", "b")}) is None, "`require` is for that"


def test_an_answer_that_repeats_the_question():
    again = pair("", "How do I reset my password?", "", "how do I reset my PASSWORD")
    assert reason(again) == "copied_answer"
    assert reason(again, copied_answer=False) is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("As an AI, I do not know such things.", "refusal"),
        ("Thank you. I\u2019m sorry, but I can not help with it.", "refusal"),
        ("He said that as an AI it was limited, so he left.", None),
        ("Well then:\nI cannot assist with this request at all.", "refusal"),
    ],
)
def test_refusals_begin_a_sentence(answer, found):
    assert reason(pair("", "What is the answer?", "", answer)) == found
    assert reason(pair("", "What is the answer?", "", answer), refusals=()) is None


def test_bounds_that_are_no_range_are_refused():
    with pytest.raises(ValueError, match="no range"):
        Validate(question_chars=(10, 5))
