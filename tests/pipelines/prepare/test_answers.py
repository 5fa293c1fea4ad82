"""What is wrong with an answer: each function at its bound, and on texts that look wrong and are not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.pipelines.prepare.records.answers import (
    begins_with,
    consists_of,
    copied_share,
    cut_off,
    parsed_json,
    sentences,
    shared_words,
    without_last_mark,
    words,
)

WHOLE = [
    "Restart the router (twice), then wait.",
    "The half-open interval [0, 1) has no greatest number",
    "Choose:\n1) red\n2) green\n3) blue",
    "That is all :(",
    "```python\nprint('(')\n```",
    "Use this:\n```\nlet a = [\n```\nand you are done.",
    "Best regards,",
    "#### 72",
    "See https://example.com/a",
    "Log in",
    "",
    "它在巴黎（法国）。",
    "Rivers: the Rhine,",  # fewer than five words in its last line
    "Take these with you:\nthe lamp,",
    "It ends with a) or b), [c] and {d} as it should",
    "A smiley :-( and then no more words of it",
    "~~~\nlet a = (\n~~~",
    "Say `the",
    "half-\nway there",
]

CUT = [
    ("Restart the router, then open the", "`the`"),
    ("There are two ways: the first one,", "ends with ,"),
    ("The parts (the lamp, the engine", "bracket ( is open"),
    ("Then he sold half of them [[48/2", "bracket [ is open"),
    ("Run this:\n```python\nprint(1)\n", "code fence"),
    ("It is an exam-", "hyphen"),
    ("and this is then what he said —", "ends with —"),
    ("Take it\nand", "`and`"),
    ("Use {a, b", "bracket { is open"),
    ("Use (a [b", "bracket [ is open"),
    ("~~~\nprint(1)", "code fence"),
    ("Run ```ls``` here, then go on with the", "`the`"),
    ("Run this:\n  ```\n", "code fence"),
    ("```\nx = 1\n```\nand then it was (", "bracket ( is open"),
    ("These are the four rivers of it -", "ends with -"),
    ("one two three four,", None),
    ("one two three four five,", "ends with ,"),
]


@pytest.mark.parametrize("text", WHOLE)
def test_whole_texts(text):
    assert cut_off(text) is None


@pytest.mark.parametrize(("text", "why"), CUT)
def test_texts_that_were_cut_off(text, why):
    found = cut_off(text)
    assert (found is None) if why is None else (found is not None and why in found)
    assert cut_off(text + " \n") == found, "blanks at the end make no difference"


def test_an_open_bracket_far_from_the_end_is_a_slip():
    assert cut_off("(" + 199 * "a") == "the bracket ( is open"
    assert cut_off("(" + 200 * "a") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Open the door. Then walk in and turn left to", True),
        ("Open the door. Then walk in and turn left.", False),
        ("Open the door. Then walk in", True),
        ("Open the door.\nThen walk in", False),
        ("Steps. They are:\n- open the door and walk in", False),
        ("Steps. They are:\n2. open the door and walk in", False),
        ("open the door and then walk in", False),
        ("It costs 3.50 and you get it by mail", False),
        ("We found it. It costs 3.50 and you get 12", False),
        ("Open it. Then four more words", True),
        ("Open it.\nThen four more words", False),
        ("Open it.\nThen there are five words", True),
        ("At 5 p. m. you open it and walk in", False),
        ("Steps. They are:\na) open the door and walk in", False),
        ("See this page.\nhttps://example.com/a and then more of it", False),
        ("He said 'Go.' Then he went away at last", True),
    ],
)
def test_a_last_sentence_without_a_mark(text, found):
    assert without_last_mark(text) is found


def test_the_share_of_the_answer_that_the_question_has():
    answer = words("one two three four five six seven eight")
    assert copied_share(words("So: one two three four five six seven eight!"), answer, 0.5) == 1
    assert copied_share(words("so one two three four five six and"), answer, 0.5) == 0.5
    assert copied_share(words("so one two three four five six and"), answer, 0.51) == 0
    assert copied_share(words("eight seven six five four three two one"), answer, 0.1) == 0
    assert copied_share(words("yes or no"), words("yes"), 0.1) == 0, "fewer than five words"


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12), st.floats(0.01, 1))
def test_the_share_equals_the_one_of_all_runs(question, answer, least):
    runs = [answer[at : at + 5] for at in range(len(answer) - 4)]
    asked = [question[at : at + 5] for at in range(len(question) - 4)]
    share = sum(run in asked for run in runs) / len(runs) if runs else 0
    assert copied_share(question, answer, least) == (share if share >= least else 0)


def test_an_answer_of_five_words_has_one_run():
    five = words("one two three four five")
    assert copied_share(words("one two three four five"), five, 1) == 1
    assert copied_share(words("one two three four"), five, 0.1) == 0


def test_words_in_common_by_their_first_letters():
    question = words("How many clips did Natalia sell in April and May?")
    assert shared_words(question, words("Natalia sold 48 clips")) == 0.5, "natal and clips of natal, sold, 48, clips"
    assert shared_words(question, words("Natalia's clip")) == 0.5, "clip has four letters, clips five"
    assert shared_words(words("the passwords"), words("a password")) == 1
    assert shared_words(words("is it so"), words("it is")) == 1, "no word to compare"
    assert shared_words(words("add 7 to 3"), words("#### 7")) == 1


@given(st.text(), st.text())
def test_words_in_common_are_a_share_that_sides_do_not_change(one, other):
    assert 0 <= shared_words(words(one), words(other)) == shared_words(words(other), words(one)) <= 1
    assert shared_words(words(one), words(one)) == 1


def test_sentences_that_say_nothing():
    phrases = ("hi", "thank you for your", "we will get back to you")
    assert consists_of(sentences("Hi Ann,\nThank you for your message! We will get back to you."), phrases)
    assert not consists_of(sentences("Hi Ann,\nThank you for your message! Press the red button."), phrases)
    assert not consists_of(sentences("His name is Ann."), phrases), "hi is a word"
    assert not consists_of(sentences(" "), phrases) and not consists_of(sentences("Hi."), ())
    assert not consists_of(sentences("Hi5 is a greeting."), phrases) and consists_of(sentences("Hi, 5!"), phrases)
    assert not consists_of([], phrases)


def test_the_first_sentence_with_a_phrase():
    assert begins_with(sentences("Well. As an AI I can\u2019t. I can't"), ("as an ai", "i can't")) == (
        "as an ai i can't", "as an ai"
    )  # fmt: skip
    assert begins_with(["a"], ()) is None and begins_with(["a"], ("b",)) is None


@given(st.text())
def test_no_text_is_too_strange(text):
    cut_off(text)
    without_last_mark(text)
    consists_of(sentences(text), ("a",))


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda one: st.lists(one), max_leaves=5))
def test_json_is_read(value):
    assert parsed_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", "NaN", "[Infinity]", "{} {}", "```json\n{}\n```", "[" * 100_000, "1" * 5000])
def test_what_is_no_json(text):
    with pytest.raises(ValueError):
        parsed_json(text)
