"""Every measure against a number worked out by hand."""

import math

import numpy as np
import pytest

from pipelines.prepare.assess.metrics import contradictory, coverage, distinct, evenness, mean, mtld, ratio


def words(text: str) -> np.ndarray:
    return np.array([hash(word) & 0xFFFFFFFF for word in text.split()], np.uint64)


@pytest.mark.parametrize(
    ("counts", "value"),
    [
        ([5, 5], 1.0),
        ([7], 0.0),
        ([], None),
        ([0, 0], None),
        ([3, 1], (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(2)),  # 0.811 bits
        ([4, 4, 0, 0], 0.5),  # 1 bit of 2
    ],
)
def test_evenness_is_entropy_by_its_maximum(counts, value):
    assert evenness(counts) == (value if value is None else pytest.approx(value))


def test_a_topic_is_covered_from_the_least_number_of_records():
    assert coverage([0, 1, 2, 9], 1) == 0.75
    assert coverage([0, 1, 2, 9], 2) == 0.5
    assert coverage([], 1) is None


def test_distinct_counts_ngrams_within_texts():
    texts = [words("a b a b"), words("b a"), words("c")]
    assert distinct(texts, 1) == 3 / 7
    assert distinct(texts, 2) == 2 / 4, "ab, ba; the end of a text and the start of the next are no pair"
    assert distinct([words("a")], 2) is None


def test_mtld_counts_rows_whose_ratio_stays_above_the_threshold():
    # a a: a ratio of 1/2 after two words, so a factor for every two.
    assert mtld([1] * 10) == 2
    # Five distinct words, then the same: 5/6, 5/7 = 0.714 < 0.72, a factor of seven words, and none is left.
    assert mtld([1, 2, 3, 4, 5, 1, 2]) == 7
    # Without repetition there is no factor.
    assert mtld([1, 2, 3]) == 3
    # 3/4 is above the threshold: (1 - 0.75) / 0.28 of a factor.
    assert mtld([1, 2, 3, 1]) == pytest.approx(4 / (0.25 / 0.28))
    # Forwards 1 1 is a factor and 2 3 is none: 4 words. Backwards 3 2 1 1 has 3/4: 4.48 words.
    assert mtld([1, 1, 2, 3]) == pytest.approx((4 + 4.48) / 2)
    assert mtld([]) is None


def test_records_contradict_that_answer_one_question_differently():
    questions = np.array([9, 1, 9, 2, 1, 9], np.uint64)
    answers = np.array([5, 3, 5, 5, 3, 6], np.uint64)
    assert contradictory(questions, answers).tolist() == [True, False, True, False, False, True]
    assert contradictory(questions[:0], answers[:0]).tolist() == []


def test_what_is_not_measured_is_no_number():
    assert ratio(1, 4) == 0.25 and ratio(0, 0) is None
    assert mean([0.5, None, 1.0]) == 0.75 and mean([None]) is None
