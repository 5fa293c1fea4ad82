"""Rows of tables without a run: types, missing values, outliers, statistics, and expressions of one row."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from cluster.errors import ConfigError
from pipelines.prepare.records.tables import ColumnOutliers, Known, Table, check_table, finished, typed
from pipelines.prepare.stages.tables import Numbers, counted, fill_of, most_frequent, row_hashes

TYPES = {"name": "text", "price": "number", "count": "integer", "open": "boolean", "day": "date"}


def table(**more: Any) -> Table:
    given = {"types": TYPES, "template": {"prompt": "{name}?", "completion": "{price}"}} | more
    return Table.model_validate(given)


def frame_of(settings: Table, **columns: list[str | None]) -> tuple[pl.DataFrame, list]:
    rows = len(next(iter(columns.values())))
    return typed({name: columns.get(name, [None] * rows) for name in TYPES}, settings)


@pytest.mark.parametrize("value", ["", " ", "NA", " N/A ", "NaN", "null", "None", None])
def test_values_that_are_missing(value):
    frame, wrong = frame_of(table(), **{name: [value] for name in TYPES})
    assert frame.row(0) == (None,) * 5 and wrong == [None]


def test_other_empty_values_are_those_of_the_config():
    frame, wrong = frame_of(table(empty=["-"]), name=["-", "NA", ""], price=["-", "1", "2"])
    assert (
        frame["name"].to_list() == [None, "NA", ""] and frame["price"].to_list() == [None, 1, 2] and wrong == [None] * 3
    )


def test_booleans_are_written_in_many_ways():
    yes, no = ["true", "YES", "1", "t", "Y"], ["False", "no", "0", "F", "n"]
    frame, wrong = frame_of(table(), open=[*yes, *no])
    assert frame["open"].to_list() == [True] * 5 + [False] * 5 and wrong == [None] * 10


def test_the_first_wrong_column_is_the_reason_with_its_value_and_type():
    _, (wrong,) = frame_of(table(), count=["1.5"], price=[" many "], day=["soon"])
    assert (wrong.reason, wrong.value, wrong.limit) == ("bad_value", "price: many", "number")
    _, (wrong,) = frame_of(table(), price=["x" * 500])
    assert len(wrong.value) == 200


def test_numbers_are_written_as_in_most_tables():
    numbers = ["3.0", "3.25", "-0.5", "999999999999999", "1e15", "1e300", "nan"]
    frame, _ = frame_of(table(), price=numbers)
    done, _ = finished(frame, table(), Known())
    found = done["price"].to_list()
    assert found[:4] == ["3", "3.25", "-0.5", "999999999999999"] and found[6] is None
    assert [float(one) for one in found[4:6]] == [1e15, 1e300] and len(found[5]) < 10, "not all of its digits"


def test_outliers_are_flagged_or_dropped_beyond_their_bounds():
    known = Known(bounds={"price": (1.0, 5.0)})
    prices = ["1", "5", "0.9", "5.1", None]
    flagged = table(outliers={"columns": ["price", "count"]})
    assert flagged.flags == ("price_outlier", "count_outlier"), "flagged by default"
    done, dropped = finished(frame_of(flagged, price=prices, count=["7"] * 5)[0], flagged, known)
    assert done["price_outlier"].to_list() == ["false", "false", "true", "true", "false"] and dropped == [None] * 5
    assert done["count_outlier"].to_list() == ["false"] * 5, "without bounds nothing is one"
    dropping = table(outliers={"columns": ["price"], "action": "drop"})
    done, dropped = finished(frame_of(dropping, price=prices)[0], dropping, known)
    assert [one and (one.reason, one.value, one.limit) for one in dropped] == [
        None, None, ("outlier", "price: 0.9", "1 to 5"), ("outlier", "price: 5.1", "1 to 5"), None,
    ]  # fmt: skip
    assert done.columns == list(TYPES)


def test_a_missing_value_goes_before_an_outlier_and_filled_values_are_none():
    settings = table(
        missing={"price": "median", "name": "drop", "count": {"fill": 7}, "open": "flag"},
        outliers={"columns": ["price"], "action": "drop"},
        derive={"double": "price * 2", "more": "double + 1", "closed": "NOT open_missing"},
    )
    frame, _ = frame_of(settings, name=[None, "a"], price=["99", None])
    done, dropped = finished(frame, settings, Known({"price": "2.5"}, {"price": (1, 5)}))
    assert [one and (one.reason, one.value, one.limit) for one in dropped] == [
        ("missing_value", "name", "a value"),
        None,
    ]
    assert done.row(1) == ("a", "2.5", "7", None, None, "true", "5", "6", "false")
    assert done.columns == [*TYPES, "open_missing", "double", "more", "closed"]
    unknown, _ = finished(frame, settings, Known())
    assert unknown["price"].to_list() == ["99", None], "a column without any value has no median"


@pytest.mark.parametrize(
    ("values", "how", "kind", "found"),
    [
        ([3, 1, 2, 2], "median", "integer", "2"), ([1, 2], "median", "integer", "2"),  # 1.5, to even
        ([2, 3], "median", "integer", "2"), ([1, 2, 2, 2], "mean", "integer", "2"),
        ([1, 2.5], "mean", "number", "1.75"),
        ([1, 5, 2], "median", "number", "2.0"), ([1, 2, 9], "mean", "number", "4.0"), ([], "median", "number", None),
    ],
)  # fmt: skip
def test_the_number_for_missing_ones(values, how, kind, found):
    assert fill_of(Numbers.of(np.array(values, np.float64)), how, kind) == found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["b", "a", "a", None, "b", "c"], (2, "a", "a")), (["b", "a", "b"], (2, "b", "b")),
        ([True, False, True], (2, True, "true")), ([None, None], None),
    ],
)  # fmt: skip
def test_the_most_frequent_value_for_missing_ones(values, found):
    assert most_frequent(counted(pl.Series("a", values))) == found


def test_rows_are_distinguished_by_all_columns_or_by_those_named():
    frame, _ = frame_of(table(), name=["a", "a", "b", "a"], price=["1", "2", "1", "1.0"])
    for unique, alike in ((None, [0, 3]), (["name"], [0, 1, 3]), (["price"], [0, 2, 3])):
        hashes = row_hashes(frame, table(unique=unique))
        assert np.flatnonzero((hashes == hashes[0]).all(axis=1)).tolist() == alike
        assert hashes[0, 0] != hashes[0, 1], "two hashes of 64 bits, not one twice"


@pytest.mark.parametrize(
    "expression",
    [
        "AVG(price) - price", "CASE WHEN AVG(price) > 1 THEN price ELSE 0 END", "CAST(AVG(price) AS INT) + price",
        "CASE WHEN price > 1 THEN AVG(price) ELSE 0 END", "CASE WHEN price > 1 THEN 0 ELSE AVG(price) END",
        "ABS(price - AVG(price))", "COALESCE(price, AVG(price))", "price > NOW()", "COUNT(price)", "MAX(price)",
        "price IN (AVG(price))",
    ],
)  # fmt: skip
def test_expressions_with_an_aggregate_anywhere_are_refused(expression):
    with pytest.raises(ConfigError, match=r"not made of the values of one row|is no expression|cannot be computed"):
        check_table("inputs[0]", table(derive={"other": expression}))


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("UPPER(name)", "PUMP"), ("CASE WHEN price > 2 THEN 'dear' ELSE name END", "dear"), ("price * count", "6"),
        ("CAST(price AS INT)", "3"), ("COALESCE(open, FALSE)", "false"), ("ABS(-price)", "3"), ("open IS NULL", "true"),
        ("price BETWEEN 1 AND 3", "true"), ("name IN ('pump', 'pipe')", "true"), ("LENGTH(name)", "4"),
        ("price > count", "true"),
    ],
)  # fmt: skip
def test_expressions_of_one_row(expression, found):
    settings = table(derive={"other": expression})
    check_table("inputs[0]", settings)
    frame, _ = frame_of(settings, name=["pump"], price=["3"], count=["2"])
    assert finished(frame, settings, Known())[0]["other"].to_list() == [found]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": TYPES | {"a b": "text"}}, "a b: is no name of a column"),
        ({"derive": {"a b": "price"}}, "a b: is no name of a column"),
        ({"unique": ["colour"]}, "unique: colour is not in `types`"),
        ({"outliers": {"columns": ["colour"]}}, "outliers.columns: colour is not in `types`"),
        ({"outliers": {"columns": ["open"]}}, "open: is boolean; median, mean and outliers are of numbers"),
        ({"missing": {"day": "mean"}}, "day: is date"),
        ({"missing": {"open": "flag"}, "derive": {"open_missing": "price"}}, "is the name of two columns"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        table(**change)
    assert table(template={"prompt": "{source}: {name}?", "completion": "{price}"}), "the name of the source is known"


@pytest.mark.parametrize(("settings", "distance"), [({}, 1.5), ({"method": "mad"}, 3.5), ({"factor": 2}, 2)])
def test_the_distance_of_an_outlier_is_that_of_its_method(settings, distance):
    assert ColumnOutliers(columns=("a",), **settings).distance == distance
