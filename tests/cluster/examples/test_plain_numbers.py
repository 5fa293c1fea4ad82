"""Numbers in data are those that people write, and not all that float() reads."""

import math

import pytest

from raymill.cluster.examples.plain_numbers import number_in


@pytest.mark.parametrize(
    ("value", "number"),
    [(2, 2), (2.5, 2.5), ("2", 2), (" 2.50 ", 2.5), ("-1e-3", -0.001), (".5", 0.5), ("5.", 5), ("+1E2", 100)],
)
def test_numbers_and_texts_of_numbers(value, number):
    assert number_in(value) == number


@pytest.mark.parametrize(
    "value",
    ["1_0", "٣", "１", "0x10", "nan", "inf", "Infinity", "1e400", "9" * 5000, 10**400, float("nan"), float("inf"), True,
     None, [3], {"a": 1}, b"3", "", " ", ".", "1e", "1 0", "\u20093", "1,5"],
)  # fmt: skip
def test_everything_else_is_no_number(value):
    assert math.isnan(number_in(value))
