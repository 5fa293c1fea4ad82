"""Representation, lengths of groups and agreement of annotators, against numbers worked out by hand or published."""

import math

import numpy as np
import pytest

from pipelines.prepare.assess.agreement import Agreement
from pipelines.prepare.assess.bias import (
    LengthSamples,
    evenness_of_months,
    length_parity,
    ratio_of_means,
    representation,
)


@pytest.mark.parametrize(
    ("counts", "shares", "value"),
    [
        ({"a": 5, "b": 5}, {}, 1.0),
        ({"a": 9, "b": 1}, {}, 0.6),  # 0.4 too much and 0.4 too little
        ({"a": 9, "b": 1, "": 90}, {}, 0.6),
        ({"a": 9, "b": 1}, {"a": 0.9, "b": 0.1}, 1.0),
        ({"a": 10}, {"a": 0.5, "b": 0.5}, 0.5),
        ({"c": 10}, {"a": 0.5, "b": 0.5}, 0.0),
        ({"a": 10}, {}, None),  # nothing to compare it with
        ({"": 10}, {}, None),
    ],
)
def test_representation_is_one_minus_half_the_differences(counts, shares, value):
    assert representation(counts, shares) == (value if value is None else pytest.approx(value))


def test_months_without_records_count():
    value, periods = evenness_of_months({"2026-01": 3, "2026-03-15": 3, "soon": 9})
    assert periods == {"2026-01": 3, "2026-02": 0, "2026-03": 3}
    assert value == pytest.approx(math.log(2) / math.log(3))
    assert evenness_of_months({"2026-01": 3}) == (0.0, {"2026-01": 3})
    assert evenness_of_months({"soon": 3}) == (None, {})


def test_more_than_four_years_are_counted_by_years():
    _, periods = evenness_of_months({"2020-11": 1, "2026-02": 2})
    assert list(periods) == ["2020", "2021", "2022", "2023", "2024", "2025", "2026"]
    assert sum(periods.values()) == 3


def test_the_confidence_interval_has_the_true_ratio_about_as_often_as_it_says():
    random = np.random.default_rng(5)
    inside = 0
    for _ in range(100):
        lengths, others = (random.lognormal(mean, 0.5, 60) * 1000 for mean in (math.log(0.8), 0))
        _, low, high = ratio_of_means(lengths, others)
        inside += low <= 0.8 <= high
    assert 88 <= inside <= 100, "95 of 100 are expected"


def test_lengths_are_compared_with_the_most_frequent_value():
    random = np.random.default_rng(1)
    samples = LengthSamples()
    for _ in range(3):  # tables
        values = np.array(["north"] * 300 + ["south"] * 100 + ["east"] * 100 + ["few"] * 5 + [""] * 9, object)
        means = np.array([400] * 300 + [100] * 100 + [400] * 100 + [10] * 14)
        lengths = (means * random.lognormal(0, 0.2, len(means))).astype(np.int64)
        samples.add(values, random.integers(0, 1 << 63, len(means), np.uint64), lengths)
    found = samples.compared()
    assert found["against"] == "north" and [one["value"] for one in found["ratios"]] == ["east", "south"]
    east, south = found["ratios"]
    assert east["low"] < 1 < east["high"] and south["ratio"] == pytest.approx(0.25, rel=0.1)
    assert south["records"] == 300 and length_parity(found) == south["ratio"]
    assert length_parity({"against": "north", "ratios": [east]}) == 1.0, "a difference that may be chance is none"
    assert length_parity(None) is None


def test_lengths_do_not_depend_on_the_order_of_tables():
    random = np.random.default_rng(1)
    values = np.array(["a", "b"] * 4000, object)
    hashes, lengths = random.integers(0, 1 << 63, 8000, np.uint64), random.integers(1, 999, 8000)
    found = []
    for starts, size in (([0], 8000), (range(0, 8000, 1000), 1000), (range(7000, -1, -1000), 1000)):
        samples = LengthSamples()
        for at in starts:
            samples.add(values[at : at + size], hashes[at : at + size], lengths[at : at + size])
        found.append(samples.compared())
    assert found[0] == found[1] == found[2]


def test_alpha_of_the_published_example():
    # Krippendorff 2011, Computing Krippendorff's alpha-reliability, section C: nominal data with missing values.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    agreement = Agreement()
    differing = [
        agreement.add(None if label == "." else label for label in unit) for unit in zip(*observers, strict=True)
    ]
    assert agreement.alpha == pytest.approx(0.743, abs=0.0005)
    assert agreement.records == 11 and [at + 1 for at, one in enumerate(differing) if one] == [2, 6, 8]


def test_alpha_is_0_by_chance_and_1_without_differences():
    random = np.random.default_rng(0)
    agreement = Agreement()
    for pair in random.choice(["a", "b", "c"], (3000, 2)).tolist():
        agreement.add(pair)
    assert abs(agreement.alpha) < 0.03
    same = Agreement()
    assert not any(same.add(pair) for pair in ("aa", "bb", "ab"[:1])) and same.alpha == 1
    assert Agreement().alpha is None
