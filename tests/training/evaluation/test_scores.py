"""Scores against counts by hand: words, numbers, classes, BLEU and ROUGE."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.evaluation.scores import (
    answer_words,
    bleu,
    classification,
    exact_match,
    f1_by_class,
    normalised,
    plain_words,
    rouge,
    scores,
    word_f1,
)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The  Cat, sat!", "cat sat"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),  # an article only as a word
        ("U.S.A.", "usa"),
        ("«Straße»", "straße"),
        ("", ""),
        ("the", ""),
    ],
)
def test_normalisation_removes_case_punctuation_and_articles(text, same):
    assert normalised(text) == same


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_what_is_normalised_has_single_spaces_no_articles_and_no_punctuation(text):
    words = normalised(text).split(" ")
    assert words == [""] or all(words)
    assert not {"a", "an", "the"} & set(words)
    assert not any(unicodedata.category(sign)[0] == "P" for sign in normalised(text))


@given(st.text(alphabet="abc ,.THEthe", max_size=30), st.text(alphabet="abc ,.THEthe", max_size=30))
@settings(max_examples=200)
def test_word_f1_is_symmetric_bounded_and_one_for_equal_words(one, other):
    score = word_f1([one], [other])
    assert score == word_f1([other], [one])
    assert 0 <= score <= 1
    assert (score == 1) == (sorted(answer_words(one)) == sorted(answer_words(other)))


def test_word_f1_of_a_hand_counted_pair():
    # wanted: big red dog (3 words); said: red dog ran off (4); shared: 2
    assert word_f1(["the big red dog"], ["red dog ran off"]) == pytest.approx(2 * 2 / (3 + 4))
    assert word_f1(["x", ""], ["", ""]) == 0.5
    assert word_f1(["b b b"], ["b"]) == pytest.approx(0.5)  # a word counts as often as it stands there


def test_scripts_without_spaces_are_compared_by_character():
    assert word_f1(["東京都"], ["東京"]) == pytest.approx(4 / 5)
    assert plain_words("東京 Tower") == ["東", "京", "tower"]


def test_classes_against_hand_counts():
    # wanted: a a a b b c; said: a a b b x c
    measured = classification(list("aaabbc"), list("aabbxc"))
    assert measured["accuracy"] == pytest.approx(4 / 6)
    assert measured["answered"] == pytest.approx(5 / 6)
    # a: 2 hits, 2 alarms, 3 cases; b: 1, 2, 2; c: 1, 1, 1
    assert measured["macro_precision"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert measured["macro_recall"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert measured["macro_f1"] == pytest.approx((4 / 5 + 1 / 2 + 1) / 3)
    assert measured["micro_precision"] == pytest.approx(4 / 5)
    assert measured["micro_recall"] == pytest.approx(4 / 6)
    assert measured["micro_f1"] == pytest.approx(8 / 11)


def test_f1_of_each_class_by_hand():
    assert f1_by_class([0, 0, 1, 1], [0, 1, 1, 1], ["ham", "spam", "none"]) == {
        "f1/ham": pytest.approx(2 / 3),
        "f1/spam": pytest.approx(4 / 5),
        "f1/none": 0.0,
    }


def test_rouge_against_hand_counts():
    # wanted 6 words, said 5; shared words: the cat the mat = 4 (no stemming); pairs: the-cat, the-mat = 2 of 5 and 4
    measured = rouge(["the cat sat on the mat"], ["The cat by the mat."])
    assert measured["rouge1"] == pytest.approx(2 * 4 / 11)
    assert measured["rouge2"] == pytest.approx(2 * 2 / 9)
    assert measured["rougeL"] == pytest.approx(2 * 4 / 11)


def test_rouge_counts_words_that_are_not_ascii():
    assert rouge(["добрый день"], ["добрый день"])["rouge2"] == 1


def test_bleu_is_100_for_the_reference_itself_and_0_for_nothing():
    text = "the quick brown fox jumps over the lazy dog"
    assert bleu([text], [text]) == pytest.approx(100)
    assert bleu([text], [""]) == 0
    # five words, all in order, against nine: every precision is 1, so only the brevity penalty exp(1 - 9/5) is left
    assert bleu([text], ["the quick brown fox jumps"]) == pytest.approx(100 * 2.718281828 ** (1 - 9 / 5))


@pytest.mark.parametrize(
    ("kind", "more"), [("text", set()), ("label", {"accuracy", "macro_f1"}), ("number", {"number_match"})]
)
def test_an_answer_of_each_kind_has_its_scores(kind, more):
    measured = scores(["Yes", "7"], ["yes.", "8"], kind)
    assert measured["exact_match"] == 0.5
    assert more <= measured.keys()
    assert ("accuracy" in measured) == (kind == "label")
    assert measured.get("accuracy", 0.5) == 0.5, "a label is compared as exact_match compares"
    assert scores([], [], kind) == {}


def test_numbers_are_read_with_the_decimal_mark_that_is_stated():
    references, answers = ["#### 1.000,5", "it is 2,5"], ["#### 1000,50", "2,5"]
    names = ("number_match", "number_match_flexible", "answered", "answered_flexible")
    assert [scores(references, answers, "number", ",")[name] for name in names] == [1, 1, 1, 1]
    assert [scores(references, answers, "number")[name] for name in names] == [0, 0, 0, 0]


def test_exact_match_ignores_what_normalisation_removes():
    assert exact_match(["The answer!"], ["answer"]) == 1
