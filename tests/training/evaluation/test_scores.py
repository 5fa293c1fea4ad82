"""Scores against counts by hand: words, classes, BLEU, ROUGE; and numbers, beside lm-evaluation-harness' patterns."""

import json
import re
import tracemalloc
import unicodedata
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.training.evaluation import scores as scores_module
from raymill.training.evaluation.scores import (
    answer_words,
    bleu,
    classification,
    exact_match,
    f1_by_class,
    flexible_number,
    longest_common,
    normalised,
    numbers,
    plain_words,
    rouge,
    scores,
    strict_number,
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


HALF = Fraction(1, 2)

# (answer, its strict number, its flexible number)
ANSWERS = [
    # the mark
    ("so she has 3 + 4 = 7 apples\n#### 7", 7, 7),
    ("#### 7\nQuestion: and 9?\n#### 11", 7, 11),  # the first line counts, not what is said after it
    ("#### 5 then 6", 5, 6),
    ("#### none\n#### 4", 4, 4),
    ("#### none, but 9 before", None, 9),
    ("12 apples ####", None, 12),
    ("####7", None, 7),
    ("the answer is 42.", None, 42),
    ("#### The answer is 5", None, 5),
    ("#### 3.10.4\n#### 5", None, 5),  # the first mark with digits decides
    ("#### ", None, None),
    ("", None, None),
    ("no number", None, None),
    # signs
    ("#### -3", -3, -3),
    ("#### \N{MINUS SIGN}8", -8, -8),
    ("#### \N{EN DASH}8", -8, -8),
    ("#### - 8", -8, -8),
    ("5-3", None, 3),
    ("10 - 3", None, 3),
    ("10 \N{EN DASH} 3", None, 3),
    ("pages 3\N{EN DASH}5", None, 5),
    ("a change of -5", None, -5),
    # thousands
    ("#### 1,234", 1234, 1234),
    ("#### 1,234,567.5", Fraction(2469135, 2), Fraction(2469135, 2)),
    ("#### 1 234 567", 1234567, 1234567),
    ("#### 1\N{NO-BREAK SPACE}234", 1234, 1234),
    ("#### 1\N{NARROW NO-BREAK SPACE}234,", 1234, 1234),
    ("#### 1'234'567", 1234567, 1234567),
    ("#### 1\N{RIGHT SINGLE QUOTATION MARK}234.50", Fraction(2469, 2), Fraction(2469, 2)),
    ("in 2019 200 people", None, 200),
    ("1, 2, 3", None, 3),
    ("12 34", None, 34),
    # decimals and what is glued together otherwise
    ("#### 0.50", HALF, HALF),
    ("#### .5", HALF, HALF),
    ("#### 5.00.", 5, 5),
    ("#### 1.000,50", None, None),
    ("#### 3,50", None, None),
    ("1,2,3", None, None),
    ("on 12.05.2024", None, None),
    ("version 3.10.4 of 7 files", None, 7),
    # exponents
    ("#### 1e5", 100000, 100000),
    ("#### 1.5E-1", Fraction(3, 20), Fraction(3, 20)),
    ("#### 2e+3 units", 2000, 2000),
    ("2each", None, 2),
    ("1e99999", None, None),
    # fractions
    ("#### 1/2", HALF, HALF),
    ("#### 2/4 of it", HALF, HALF),
    ("#### 2\\frac{1}{2}", Fraction(5, 2), Fraction(5, 2)),
    ("2 1/2 cups", None, Fraction(5, 2)),
    ("1/0", None, 1),
    # currencies, units
    ("#### $42.", 42, 42),
    ("#### -$5", -5, -5),
    ("#### $-5", -5, -5),
    ("#### US$1,050.50", Fraction(2101, 2), Fraction(2101, 2)),
    ("#### 5 \N{EURO SIGN}", 5, 5),
    ("#### \N{POUND SIGN}3", 3, 3),
    ("#### EUR 1'000", 1000, 1000),
    ("#### 99 CHF", 99, 99),
    ("#### 50%", 50, 50),
    ("x2", None, None),  # part of a name
]


def test_the_table_has_sixty_answers():
    assert len(ANSWERS) == len({answer for answer, _, _ in ANSWERS}) == 60


@pytest.mark.parametrize(("answer", "strict", "flexible"), ANSWERS)
def test_the_number_of_an_answer(answer, strict, flexible):
    assert (strict_number(answer), flexible_number(answer)) == (strict, flexible)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("#### 1.000,50", Fraction(2001, 2)),
        ("#### 1.000", 1000),
        ("#### 0,5", HALF),
        ("#### 1 000,5", Fraction(2001, 2)),
        ("#### 1'000,5", Fraction(2001, 2)),
        ("#### \N{EN DASH}1.234.567 \N{EURO SIGN}", -1234567),
        ("#### 1,000.50", None),
        ("#### 1.5", None),
    ],
)
def test_a_decimal_comma_is_read_where_it_is_stated(answer, number):
    assert strict_number(answer, ",") == flexible_number(answer, ",") == number


# lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml: strict-match, then what its metric exact_match ignores.
LM_EVAL_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")


def lm_eval_strict(text: str) -> str | None:
    found = LM_EVAL_STRICT.findall(text)
    return re.sub(r"\.$", "", found[0].replace(",", "")) if found else None


def test_plain_numbers_are_those_of_lm_evals_strict_match():
    plain = re.compile(r"#### (-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\.?)(?=$|\n|%| [^\d/])")
    compared = [(strict, answer) for answer, strict, _ in ANSWERS if plain.match(answer[answer.find("####") :])]
    assert len(compared) >= 10
    assert [strict for strict, _ in compared] == [Fraction(lm_eval_strict(answer) or "nan") for _, answer in compared]


@pytest.mark.parametrize("name", ["gsm8k_train.jsonl", "gsm8k_test.jsonl"])
def test_every_answer_of_grade_school_maths_is_read_as_lm_eval_reads_it(shared_data, name):
    answers = [json.loads(line)["answer"] for line in (shared_data / name).read_text().splitlines()]
    for answer in answers:
        assert strict_number(answer) == flexible_number(answer) == Fraction(lm_eval_strict(answer) or "nan")
    assert numbers(answers, answers)["number_match"] == 1


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{:,}", "${:,}", "{}", "{}.", "#### {:,}", "it is {}."]))
def test_a_number_is_found_however_it_is_written(number, shape):
    assert flexible_number(shape.format(number)) == number


@given(st.decimals(min_value=-10000, max_value=10000, places=3, allow_nan=False))
def test_decimals_are_exact(number):
    assert flexible_number(f"about {number}") == Fraction(str(number))


@given(st.text(alphabet="0123456789,./-$# xe'é٣ ", max_size=30))
@settings(max_examples=300)
def test_any_text_has_a_number_or_none(text):
    for read in (strict_number, flexible_number):
        for mark in ".,":
            found = read(text, mark)
            assert found is None or isinstance(found, Fraction)


def test_a_very_long_run_of_digits_is_no_number_and_takes_no_time():
    assert flexible_number("1" * 50_000) is None
    assert flexible_number("1," * 50_000) is None


def test_strict_and_flexible_matches_are_counted_apart():
    references = ["#### 4", "#### 5", "#### 6", "#### 7"]
    assert numbers(references, ["#### 4.0", "it is 5", "no idea", "#### 7\nthen 8"]) == {
        "number_match": 0.5,
        "number_match_flexible": 0.5,
        "answered": 0.5,
        "answered_flexible": 0.75,
    }


def test_without_the_mark_in_a_reference_the_last_number_counts():
    measured = numbers(["4", "so 5", "none"], ["it is 4", "50", "none"])
    assert measured["number_match"] == measured["number_match_flexible"] == pytest.approx(1 / 3)


def longest_common_slowly(one: list[str], other: list[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for at, another in enumerate(other):
            row.append(before[at] + 1 if word == another else max(before[at + 1], row[at]))
    return row[-1]


@given(*(st.lists(st.sampled_from("abcde"), max_size=80) for _ in range(2)))
def test_the_longest_common_subsequence_agrees_with_the_table(one, other):
    assert longest_common(one, other) == longest_common_slowly(one, other) == longest_common(other, one)


@pytest.mark.parametrize("different", [977, 10**9], ids=["repeated words", "different words"])
def test_a_reference_of_a_megabyte_takes_little_memory(different):
    reference = " ".join(f"w{number % different}" for number in range(150_000))
    answer = " ".join(f"w{number * 7 % different}" for number in range(3_000))
    tracemalloc.start()
    try:
        rouge([reference], [answer])
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_rouge_l_of_texts_of_any_length_takes_bounded_time(monkeypatch):
    lengths = []
    monkeypatch.setattr(scores_module, "longest_common", lambda one, other: lengths.append((len(one), len(other))) or 0)
    rouge(["a b " * 100_000, "a b"], ["b a " * 200_000, "a b c"])
    assert lengths == [(10_000, 10_000), (2, 3)]
