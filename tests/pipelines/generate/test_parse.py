"""What is made of answers, and what is wrong with others."""

import json

import pytest

from raymill.cluster.asking.endpoint import Reply
from raymill.cluster.guard import WorkBounds
from raymill.pipelines.generate import parse
from raymill.pipelines.generate.parse import AnswerReader, AnswerRules
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


def items(answer, step=LIST, most=100):
    return AnswerReader(step, most).items(answer)


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
    assert items(reply(content)) == [PAIR]


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
        (reply('{"pairs": [{"question": "Q?"}]}'), "other_form"),
        (reply(json.dumps({"pairs": [PAIR] * 101})), "other_form"),
        (reply('{"pairs": [{"question": "Q?", "answer": "A.", "other": 1e999}]}'), "unparsable"),
        (reply('{"pairs": ' + "[" * 60 + "]" * 60 + "}"), "unparsable"),
        (reply("```" + "\n" * 100_000 + "x"), "unparsable"),
    ],
)
def test_an_answer_without_records_has_a_reason(answer, why):
    assert reason(items, answer) == why


def test_an_empty_list_makes_nothing():
    assert reason(items, reply('{"pairs": []}')) == "nothing_made"


def test_a_plain_answer_is_a_text():
    assert items(reply(" Yes. "), TEXT) == [{"text": "Yes."}]


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
    assert reason(AnswerRules(Step(prompt="x", **settings), seed).refuse, value) == why


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
        AnswerRules(step, seed).refuse({"text": text})
    else:
        assert reason(AnswerRules(step, seed).refuse, {"text": text}) == "lost_text"


def test_similarity_goes_with_what_is_compared():
    for wrong in ({"similarity": (0.1, 0.9)}, {"similarity": (0.9, 0.1), "differs": "text"}):
        with pytest.raises(ValueError, match="similarity: goes with `differs`"):
            Step(prompt="x", **wrong)


@pytest.mark.parametrize("quote", ["The lamp is green", "the lamp  is green.", "“The lamp is green”"])
def test_a_quote_may_differ_in_case_spaces_and_quotation_marks(quote):
    seed = {"text": 'He said: "The lamp is green." Then he left.'}
    AnswerRules(Step(prompt="x", quote="quote"), seed).refuse({"quote": quote})


def test_halves_of_surrogate_pairs_become_question_marks():
    found = items(reply('{"pairs": [{"question": "Q\\ud800?", "answer": "\\ud83d\\ude00"}]}'))
    assert found == [{"question": "Q??", "answer": "😀"}]


def test_properties_that_the_schema_does_not_name_are_dropped_at_every_level():
    answer = {"pairs": [PAIR | {"seed": {"text": "forged"}, "least": 0}], "text": "forged"}
    assert items(reply(json.dumps(answer))) == [PAIR]


def step_of(**properties):
    return Step(prompt="x", answer={"type": "object", "properties": properties})


def test_a_schema_that_takes_other_properties_gets_them():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": True}
    assert items(reply('{"a": "x", "b": "y"}'), Step(prompt="x", answer=schema)) == [{"a": "x", "b": "y"}]


def test_properties_that_a_schema_says_are_required_are_those_that_are_required():
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}
    assert items(reply('{"a": "x"}'), Step(prompt="x", answer=schema)) == [{"a": "x"}]


def test_a_schema_that_takes_long_on_an_answer_is_stopped(monkeypatch):
    """jsonschema compares each pair of objects."""
    monkeypatch.setattr(parse, "_OF_AN_ANSWER", WorkBounds(1, 1 << 30))
    answer = reply(json.dumps({"tags": [{"a": number} for number in range(3000)]}))
    assert reason(items, answer, step_of(tags={"type": "array", "uniqueItems": True})) == "too_slow"


def test_a_schema_that_refers_to_itself_ends():
    answer = reply('{"inner": ' * 49 + "{}" + "}" * 49)
    step = Step(prompt="x", answer={"type": "object", "properties": {"inner": {"$ref": "#"}}, "required": []})
    assert items(answer, step)
