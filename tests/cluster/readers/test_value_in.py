"""The value of a column, or of a field of a column of objects."""

import pytest

from raymill.cluster.readers.columns import value_in


@pytest.mark.parametrize(
    ("row", "name", "value"),
    [
        ({"a": 1}, "a", 1),
        ({"a.b": 1, "a": {"b": 2}}, "a.b", 1),
        ({"a": {"b": 2}}, "a.b", 2),
        ({"a": '{"b": 2}'}, "a.b", 2),  # of JSON Lines
        ({"a": '{"b": 2'}, "a.b", None),
        ({"a": "{" * 100_000}, "a.b", None),
        ({"a": '["b"]'}, "a.b", None),
        ({"a": None}, "a.b", None),
        ({}, "a", None),
        ({"": {"": 1}}, ".", None),
    ],
)
def test_a_column_or_a_field_of_one(row, name, value):
    assert value_in(row, name) == value
