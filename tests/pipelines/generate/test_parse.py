"""What is made of answers, and what is wrong with others."""

import json

import pytest

from raymill.cluster.asking.endpoint import Reply
from raymill.pipelines.generate.parse import items_of, refuse, value_of
from raymill.pipelines.generate.template import Refusal, Step

PAIR = {"question": "Q?", "answer": "A."}
LIST = Step(
    prompt="x",
    answer={
        "type": "object",
        "properties": {
            "pairs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                },
            }
        },
        "required": ["pairs"],
    },
    each="pairs",
)
TEXT = Step(prompt="x")


def reply(content, **changes):
    return Reply("answered", content=content, finish="stop", **changes)


def reason(call, *arguments):
    with pytest.raises(Refusal) as raised:
        call(*arguments)
    return raised.value.reason


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"pairs": [PAIR]}),
        json.dumps([PAIR]),
        json.dumps(PAIR),
        json.dumps({"qa": [PAIR]}),
        f"Here you are:\n```json\n{json.dumps({'pairs': [PAIR]})}\n```\nAnything else?",
        f"Certainly! {json.dumps([PAIR])} I hope that helps.",
    ],
)
def test_the_json_of_an_answer_is_found_in_every_wrapping(content):
    assert items_of(value_of(reply(content), LIST), LIST) == [PAIR]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Reply("refused", "status 400"), "refused_request"),
        (Reply("again", "status 500"), "no_answer"),
        (Reply("answered", content=None, finish="content_filter"), "filtered"),
        (Reply("answered", content=None, refusal="No."), "refused"),
        (Reply("answered", content='{"pairs": [', finish="length"), "truncated"),
        (reply(None), "empty"),
        (reply(" \n "), "empty"),
        (reply("I cannot say."), "unparsable"),
        (reply('{"pairs": [NaN]}'), "unparsable"),
        (reply("[" * 100_000), "unparsable"),
        (reply('{"pairs": "none"}'), "other_form"),
        (reply('{"pairs": [{"question": 3}]}'), "other_form"),
        (reply('{"other": 3}'), "other_form"),
    ],
)
def test_an_answer_without_records_has_a_reason(answer, why):
    assert reason(value_of, answer, LIST) == why


def test_an_empty_list_makes_nothing():
    assert reason(items_of, value_of(reply('{"pairs": []}'), LIST), LIST) == "nothing_made"


def test_a_plain_answer_is_a_text():
    assert items_of(value_of(reply(" Yes. "), TEXT), TEXT) == [{"text": "Yes."}]


@pytest.mark.parametrize(
    ("settings", "value", "why"),
    [
        ({"never": ("the given text",)}, {"text": "As The Given Text says, yes."}, "copies_prompt"),
        ({"differs": "text"}, {"text": "the LAMP is  green"}, "repeats_seed"),
        ({"quote": "quote"}, {"text": "Green.", "quote": "The lamp is red."}, "quote_missing"),
        ({"quote": "quote"}, {"text": "Green."}, "quote_missing"),
        ({}, {"question": "Q?", "answer": " "}, "empty"),
        ({"differs": "text", "similarity": (0.1, 0.8)}, {"text": "The lamp is green, "}, "too_near"),
        ({"differs": "text", "similarity": (0.1, 0.9)}, {"text": "Zzz"}, "too_far"),
        ({"keeps": ("code",)}, {"text": "No code."}, "lost_text"),
    ],
)
def test_what_breaks_a_rule_of_its_step_is_refused(settings, value, why):
    seed = {"text": "The `lamp` is green." if settings.get("keeps") else "The lamp is green."}
    assert reason(refuse, value, Step(prompt="x", **settings), seed) == why


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        ("Lamp 12 costs 3.50 euros", True),
        ("3.50 euros for lamp 12", True),
        ("Lamp 12 costs three euros fifty", False),
        ("Lamp 12 costs 3.50 euros in 2026", False),
        ("Lamps 12 and 12 cost 3.50 euros", False),
    ],
)
def test_numbers_are_those_of_the_seed_and_no_others(text, is_kept):
    step, seed = Step(prompt="x", keeps=("numbers",)), {"text": "The lamp 12 is 3.50 euros."}
    if is_kept:
        refuse({"text": text}, step, seed)
    else:
        assert reason(refuse, {"text": text}, step, seed) == "lost_text"


def test_similarity_goes_with_what_is_compared():
    for wrong in ({"similarity": (0.1, 0.9)}, {"similarity": (0.9, 0.1), "differs": "text"}):
        with pytest.raises(ValueError, match="similarity: goes with `differs`"):
            Step(prompt="x", **wrong)


@pytest.mark.parametrize("quote", ["The lamp is green", "the lamp  is green.", "“The lamp is green”"])
def test_a_quote_may_differ_in_case_spaces_and_quotation_marks(quote):
    refuse({"quote": quote}, Step(prompt="x", quote="quote"), {"text": 'He said: "The lamp is green." Then he left.'})
