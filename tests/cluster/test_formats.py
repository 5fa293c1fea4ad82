"""Numbers as text: each rule at its bound, just below it and just above it, and the value that the text stands for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster import formats
from raymill.cluster.formats import listed


def value_of(text: str) -> float:
    factor = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1)
    return float(text.rstrip("kMBT").replace(",", "")) * factor


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (formats.count(1_234_567), "1,234,567"),
        ([formats.plural(n, "unit") for n in (0, 1, 2, 1000)], ["0 units", "1 unit", "2 units", "1,000 units"]),
        ([formats.share(n, 100_000) for n in (0, 1, 49, 50)], ["0.0%", "<0.1%", "<0.1%", "0.1%"]),
        (
            [formats.share(n, 100_000) for n in (99_949, 99_950, 99_999, 100_000, 150_000)],
            ["99.9%", ">99.9%", ">99.9%", "100.0%", "150.0%"],
        ),
        ([formats.short(n) for n in (0, 0.25, 999.4, 999.5, 1000, 1049)], ["0", "0.25", "999.4", "1k", "1k", "1k"]),
        ([formats.short(n) for n in (99_949, 99_960, 123_456, 999_499)], ["99.9k", "100k", "123k", "999k"]),
        ([formats.short(n) for n in (999_500, 999_499_999, 999_500_000)], ["1M", "999M", "1B"]),
        ([formats.short(n) for n in (999_499_999_999, 999_500_000_000, 2.5e15)], ["999B", "1T", "2500T"]),
        (formats.short(-2500), "-2.5k"),
        ([formats.decimal(n) for n in (0, 7, 1234.0, 1234.56, -0.5)], ["0", "7", "1,234", "1,235", "-0.5"]),
        ([formats.decimal(n) for n in (0.0012345, 0.00099951)], ["0.001234", "0.001"]),
        (formats.decimal(math.inf), "inf"),
        ([formats.money(n) for n in (0, 1e-5, 0.00008418, 0.0009999963)], ["0", "0.00001", "0.00008418", "0.001"]),
        ([formats.money(n) for n in (0.29, 0.0145678, 5, 1234.56, math.inf)], ["0.29", "0.01457", "5", "1,235", "inf"]),
        ([formats.duration(n) for n in (None, 0, 59.94, 59.95)], ["–", "0.0 s", "59.9 s", "1 min 0 s"]),
        ([formats.duration(n) for n in (61.4, 3599.4)], ["1 min 1 s", "59 min 59 s"]),
        ([formats.duration(n) for n in (3599.6, 7384)], ["1 h 0 min", "2 h 3 min"]),
        (formats.duration(3_600_000 + 60), "1,000 h 1 min"),
        ([formats.core_hours(n) for n in (36, 3599, 3600, 359_000, 360_000)], ["0.010", "1.000", "1.0", "99.7", "100"]),
        (
            [formats.megabytes_per_s(n, 1.0) for n in (123_000, 999_000, 1_000_000, 99_900_000, 100_000_000)],
            ["0.12", "1", "1.0", "99.9", "100"],
        ),
        ([formats.megabytes_per_s(10**6, s) for s in (None, 0.0, -1.0, 0.5, 4.0)], ["–", "–", "–", "2.0", "0.25"]),
    ],
)  # fmt: skip
def test_a_number_at_the_bound_of_a_rule_reads_as_the_rule_says(shown, wanted):
    assert shown == wanted


@given(st.floats(0.001, 1e6).filter(lambda number: number != int(number)))
def test_a_decimal_has_four_significant_digits_and_never_loses_one_of_a_whole_number(number):
    shown = formats.decimal(number)
    assert value_of(shown) == (float(f"{number:.4g}") if number < 1000 else round(number))
    assert not shown.endswith((".", ".0")) and formats.decimal(int(number)) == f"{int(number):,}"


@given(st.floats(1e-6, 0.00099))
def test_a_tiny_decimal_has_three_significant_digits(number):
    assert value_of(formats.decimal(number)) == float(f"{number:.3g}")


@given(st.integers(0, 10**15 - 1))
def test_a_short_number_is_near_the_number_and_short(number):
    shown = formats.short(number)
    assert value_of(shown) == pytest.approx(number, rel=0.05) and len(shown) <= 5


@given(st.floats(0, 1e7))
def test_a_duration_is_the_seconds_rounded_to_its_last_unit(seconds):
    words = formats.duration(seconds).replace(",", "").split()
    unit_s = {"s": 1, "min": 60, "h": 3600}
    shown_s = sum(float(number) * unit_s[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    off = {"s": 0.051, "min": 0.51, "h": 60.0}[words[1]]
    assert abs(shown_s - seconds) <= off
    assert all(
        float(number) < {"s": 60, "min": 60, "h": 10**9}[unit]
        for number, unit in zip(words[::2], words[1::2], strict=True)
    )


def test_the_names_that_a_message_lists_are_few_and_short():
    assert listed([]) == "none"
    assert listed(["a", "b"]) == "a, b"
    assert listed(["x" * 101, "b"]) == "x" * 100 + "..., b"
    many = listed([f"c{number}" for number in range(1_000_000)])
    assert many.endswith(", c48, c49, ... (1,000,000 in all)") and len(many) < 400


def test_a_text_for_terminals_has_no_character_that_a_terminal_executes():
    assert formats.ascii_text("a\tb\x1b[1m~ ü – ’") == "a?b?[1m~ ? - ?"


def test_table_lines_pad_cells_to_their_column_and_end_without_spaces():
    assert formats.table_lines([("step", "state"), ("a", "finished"), ("b", "")]) == [
        "step  state",
        "a     finished",
        "b",
    ]
