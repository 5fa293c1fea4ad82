"""Tables as sources, and their parts."""

import csv
import json
import shutil
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_cases
from hypothesis import strategies as cases

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.records.tables import ColumnOutliers, Known, Table, check_table, finished, typed
from raymill.pipelines.prepare.stages.tables import Numbers, bounds_of, counted, fill_of, most_frequent, row_hashes
from tests.support.inline import prepare_inline
from tests.support.prepared_runs import records

TEMPLATE = {
    "prompt": "What does the {model} with number {serial} cost?",
    "completion": "It costs {price} euros: it is {band}.",
}
TABLE = {
    "types": {
        "serial": "text",
        "model": "text",
        "price": "number",
        "weight": "integer",
        "sold": "date",
        "open": "boolean",
    },
    "missing": {"model": {"fill": "unknown model"}, "weight": "median", "sold": "drop", "open": "flag"},
    "outliers": {"columns": ["price"], "action": "drop"},
    "derive": {"band": "CASE WHEN price > 14 THEN 'dear' ELSE 'cheap' END", "kilos": "weight / 1000.0"},
    "template": TEMPLATE,
}
HEADER = ["serial", "model", "price", "weight", "sold", "open", "unread"]


def row(n: int) -> list[str]:
    return [
        f"s{n}",
        f"pump {n}",
        str(10 + n % 10),
        str(1000 + n),
        f"2026-03-{1 + n % 28:02}",
        "yes" if n % 2 else "no",
        "x",
    ]


def changed(n: int, **values: str) -> list[str]:
    return [values.get(name, old) for name, old in zip(HEADER, row(n), strict=True)]


BAD = [
    changed(100, price="many"),
    changed(101, sold=" N/A "),
    changed(102, price="990"),
    row(7),
]
FIXED = [changed(103, model="", weight="null", open="")]


@pytest.fixture
def settings(tmp_path) -> dict:
    with open(tmp_path / "t.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *(row(n) for n in range(40)), *BAD, *FIXED])
    columns = {"kilos": "kilos", "sold": "sold", "without": "open_missing"}
    return {
        "inputs": [
            {"source": "pumps", "path": str(tmp_path / "t.csv"), "table": TABLE, "columns": columns, "id": "serial"}
        ],
        "records": {"shape": "pairs"},
        "dedup": None,
        "execution": {"max_bad_documents": 0.5},
        "output": str(tmp_path / "out"),
    }


def ledger(run) -> list[dict]:
    return Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()


def test_rows_become_records_and_dropped_rows_are_in_the_ledger_with_the_reason(settings, monkeypatch):
    settings["inputs"][0]["columns"] |= {"categories": "band", "quality_score": "kilos"}
    settings["clean"] = {"labels": {"categories": {"expensive": ["dear"]}}}
    run = prepare_inline(settings, monkeypatch)
    kept = records(run)
    assert set(kept) == {f"s{n}" for n in range(40)} | {"s103"}
    assert [kept[id]["annotations"]["categories"] for id in ("s7", "s2")] == [["expensive"], ["cheap"]]
    assert kept["s7"]["metadata"]["quality_score"] == 1.007
    assert kept["s7"]["prompt"] == "What does the pump 7 with number s7 cost?"
    assert kept["s7"]["completion"] == "It costs 17 euros: it is dear."
    meta = kept["s7"]["metadata"]
    assert (meta["kilos"], meta["sold"], meta["without"]) == ("1.007", "2026-03-08", "false")
    assert [(row["stage"], row["id"], row["reason"], row["value"]) for row in ledger(run)] == [
        ("table", "s100", "bad_value", "price: many"), ("table", "s101", "missing_value", "sold"),
        ("table", "s102", "outlier", "price: 990"), ("table", "s7", "repeated_row", ""),
    ]  # fmt: skip
    assert json.loads(ledger(run)[0]["content"])["price"] == "many"
    assert meta["collected_at"] and run.report["sources"][0]["records"] == 45
    assert run.report["totals"]["records"] == 45 and run.report["totals"]["rejected"] == 4
    assert {one["reason"]: one["stage"] for one in run.report["reasons"]} == dict.fromkeys(
        ("bad_value", "missing_value", "outlier", "repeated_row"), "table"
    )


def test_tables_have_their_own_statistics_and_rows_without_an_id_are_named_by_their_content(
    settings, monkeypatch, tmp_path
):
    """The prices of the second table are ten times as high, and its first row repeats one of the first table."""
    dear = [changed(n, price=str(100 + 10 * (n % 10)), model="" if n == 3 else f"boiler {n}") for n in range(40)]
    bad = [
        changed(5, price="many"), changed(41, sold="", price="9900"),
        changed(6, price=dear[6][2], model="boiler 6"), changed(42, price="9900"), changed(42, price="9900"),
    ]  # fmt: skip
    with open(tmp_path / "u.csv", "w", newline="") as file:
        csv.writer(file).writerows([HEADER, *dear, *bad])
    table = TABLE | {"template": TEMPLATE | {"prompt": "{source}: what does the {model} with number {serial} cost?"}}
    first, second = settings["inputs"][0], {"source": "boilers", "path": str(tmp_path / "u.csv"), "table": table}
    run = prepare_inline(settings | {"inputs": [first, second]}, monkeypatch)
    assert [(row["id"], row["reason"]) for row in ledger(run) if row["source"] == "pumps"] == [
        ("s100", "bad_value"), ("s101", "missing_value"), ("s102", "outlier"), ("s7", "repeated_row"),
    ]  # fmt: skip
    removed = [row for row in ledger(run) if row["source"] == "boilers"]
    assert [(row["reason"], row["value"]) for row in removed] == [
        ("bad_value", "price: many"), ("missing_value", "sold"), ("repeated_row", ""), ("outlier", "price: 9900"),
        ("outlier", "price: 9900"),
    ]  # fmt: skip
    assert {len(row["id"]) for row in removed} == {32}
    made = [row for row in records(run).values() if row["metadata"]["source"] == "boilers"]
    assert len(made) == 40 and all(row["prompt"].startswith("boilers: what does the ") for row in made)
    assert sum("unknown model" in row["prompt"] for row in made) == 1


def test_missing_values_are_filled_and_flagged(settings, monkeypatch):
    fixed = records(prepare_inline(settings, monkeypatch))["s103"]
    assert fixed["prompt"].startswith("What does the unknown model")
    # The median of 0 to 39, 100 to 102 and of the repeated 7, above 1000, is 20.5, rounded to an even number.
    assert (fixed["metadata"]["kilos"], fixed["metadata"]["without"]) == ("1.02", "true")


def test_a_column_has_outliers_and_its_most_frequent_value_in_place_of_missing_ones(settings, monkeypatch):
    settings["inputs"][0]["table"] = TABLE | {"missing": TABLE["missing"] | {"price": "most_frequent"}}
    run = prepare_inline(settings, monkeypatch)
    assert [row["value"] for row in ledger(run) if row["reason"] == "outlier"] == ["price: 990"]
    assert len(records(run)) == 41


def test_the_result_does_not_depend_on_units_or_the_format(settings, monkeypatch, tmp_path):
    rows = [dict(zip(HEADER, one, strict=True)) for one in [*(row(n) for n in range(40)), *BAD, *FIXED]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=6)
    shutil.copystat(tmp_path / "t.csv", tmp_path / "t.parquet")  # records have the time of their file
    source = settings["inputs"][0] | {"path": str(tmp_path / "t.parquet")}
    one = prepare_inline(settings, monkeypatch)
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 5)
    many = prepare_inline(settings | {"inputs": [source], "output": str(tmp_path / "many")}, monkeypatch)
    assert len(Artifact.load(Store(), f"{many.uri}/_work/records").manifest.files) > 1
    assert records(one) == records(many)
    assert sorted(map(str, ledger(one))) == sorted(map(str, ledger(many)))


def test_numbers_of_typed_files_are_read_and_empty_cells_of_templates_are_quarantined(settings, monkeypatch, tmp_path):
    rows = [{"serial": f"s{n}", "price": 1.5 * n if n else None, "sold": "2026-01-01", "open": True} for n in range(8)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    table = {"types": {"serial": "text", "price": "number", "open": "boolean"}}
    table["template"] = {
        "prompt": "Which price has {serial}, please?",
        "completion": "It costs {price} ({open}), I think.",
    }
    source = {"path": str(tmp_path / "t.parquet"), "table": table, "id": "serial"}
    run = prepare_inline(settings | {"inputs": [source]}, monkeypatch)
    kept = records(run)
    assert kept["s1"]["completion"] == "It costs 1.5 (true), I think." and kept["s2"]["completion"].startswith(
        "It costs 3 "
    )
    (bad,) = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    assert (bad["problem"], json.loads(bad["content"])["serial"]) == ("missing_field", "s0")


@pytest.mark.parametrize(
    ("types", "value", "found"),
    [
        ("integer", " 12 ", "12"), ("integer", "1.5", None), ("number", "1e3", "1000"), ("number", "inf", None),
        ("boolean", "YES", "true"), ("boolean", "maybe", None), ("date", "2026-02-30", None),
        ("date", "2026-02-03T10:00", "2026-02-03"), ("text", "  two  ", "  two  "),
        ("time", "2026-02-03T10:00:00+02:00", "2026-02-03 08:00:00.000000+00:00"), ("time", "soon", None),
        ("date", "20260203", "2026-02-03"), ("date", "3 Feb 2026, 23:00 -0500", "2026-02-03"),
        ("date", "03/02/2026", "2026-02-03"), ("time", "03/02/2026 10:00", "2026-02-03 10:00:00.000000+00:00"),
    ],
)  # fmt: skip
def test_values_have_the_type_of_their_column_or_are_wrong(types, value, found):
    table = Table.model_validate(
        {"types": {"a": types, "b": "text"}, "template": {"prompt": "{a}", "completion": "{b}"}}
    )
    frame, wrong = typed({"a": [value, "", None], "b": ["x", "x", "x"]}, table, day_first=True)
    done, _ = finished(frame, table, Known())
    assert done["a"].to_list() == [found, None, None]
    assert [one and one.reason for one in wrong] == ["bad_value" if found is None else None, None, None]


@settings_of_cases(max_examples=60, deadline=None)
@given(
    cases.lists(cases.floats(-8e307, 8e307), min_size=1, max_size=60),
    cases.lists(cases.integers(0, 60), max_size=4),
)
def test_quantiles_of_numbers_in_parts_are_those_of_numpy(values, ends):
    whole = np.array(values)
    numbers = Numbers(lambda: np.split(whole, sorted(min(end, len(whole)) for end in ends)), len(whole))
    wanted = [0, 0.25, 0.5, 0.75, 0.9, 1]
    assert numbers.quantiles(*wanted) == np.quantile(whole, wanted).tolist()


@pytest.mark.parametrize("least", [-2.99e292, -1.7976931348623157e308])
def test_quantiles_of_numbers_whose_difference_overflows_are_finite(least):
    """numpy's are infinite or not a number."""
    greatest = 1.7976931348623157e308
    found = Numbers.of(np.array([greatest, least])).quantiles(0, 0.25, 0.5, 0.75, 1)
    shares = [least, least * 0.75 + greatest * 0.25, least * 0.5 + greatest * 0.5, least * 0.25 + greatest * 0.75]
    assert found == [*shares, greatest]


def test_a_mean_of_numbers_in_parts_is_exact():
    parts = [np.array([1e16, 1.0]), np.array([-1e16]), np.array([])]
    assert Numbers(lambda: parts, 4).mean() == 0.25


def test_a_table_in_many_slices_has_the_same_values_and_repeated_rows(settings, monkeypatch, tmp_path):
    """Every unit and every slice is a task of its own; the table's own statistics are those of all of its rows."""
    names = ["serial", "model", "price", "weight", "sold"]
    rows = [
        {"serial": f"s{n % 90}", "model": f"m{n % 7}" if n % 5 else "", "price": str((n % 90) * 1.5), "weight": "",
         "sold": "2026-03-01"}
        for n in range(120)
    ]  # fmt: skip
    for n in range(0, 120, 3):
        rows[n]["weight"] = str(n % 11)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=9)
    missing = {"model": "most_frequent", "price": "median", "weight": "mean"}
    template = {
        "prompt": "What does the {model} with number {serial} cost?",
        "completion": "It costs {price}: {weight}.",
    }
    table = {
        "types": {name: TABLE["types"][name] for name in names}, "missing": missing,
        "outliers": {"columns": ["price", "weight"], "method": "mad", "action": "flag"}, "unique": ["serial"],
        "template": template,
    }  # fmt: skip
    source = {"source": "t", "path": str(tmp_path / "t.parquet"), "table": table, "id": "serial"}
    one = prepare_inline(settings | {"inputs": [source]}, monkeypatch)
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 12)
    monkeypatch.setattr("raymill.pipelines.prepare.stages.tables._SLICE_BYTES", 500)
    many = prepare_inline(settings | {"inputs": [source], "output": str(tmp_path / "many")}, monkeypatch)
    found = []
    for run in (one, many):
        values = Artifact.load(Store(), f"{run.uri}/_work/tables").table().to_pylist()
        repeated = [row for row in ledger(run) if row["reason"] == "repeated_row"]
        found.append((values, sorted(row["id"] for row in repeated), records(run)))
    assert found[0] == found[1] and len(found[0][1]) == 30
    (price, weight, model) = sorted(found[0][0], key=lambda row: ("price", "weight", "model").index(row["column"]))
    numbers = np.array([float(row["price"]) for row in rows])
    weights = [float(row["weight"]) for row in rows if row["weight"]]
    assert float(price["fill"]) == np.median(numbers) and weight["fill"] == str(round(np.mean(weights)))
    assert price["high"] == pytest.approx(
        np.median(numbers) + 3.5 * np.median(abs(numbers - np.median(numbers))) / 0.6745
    )
    counts = {name: sum(row["model"] == name for row in rows) for name in {row["model"] for row in rows} - {""}}
    assert model["fill"] == min(counts, key=lambda name: (-counts[name], name))
    assert not list((tmp_path / "many" / "_work").glob("surveyed/*.slices")), (
        "they are removed when the stage is finished"
    )


@pytest.mark.parametrize("method", ["iqr", "mad"])
def test_outliers_are_bounded_by_quartiles_or_by_the_median_distance(method):
    values = np.array([1.0, 2, 3, 4, 5, 6, 1000])[[3, 0, 6, 1, 5, 2, 4]]
    low, high = bounds_of(Numbers.of(values), ColumnOutliers(columns=("a",), method=method)) or (0, 0)
    quartiles = np.quantile(values, [0.25, 0.75])
    if method == "iqr":
        assert (low, high) == (quartiles[0] - 1.5 * np.ptp(quartiles), quartiles[1] + 1.5 * np.ptp(quartiles))
    else:
        assert (low, high) == pytest.approx((4 - 3.5 * 2 / 0.6745, 4 + 3.5 * 2 / 0.6745))
    assert bounds_of(Numbers.of(np.ones(9)), ColumnOutliers(columns=("a",), method=method)) is None
    assert bounds_of(Numbers.of(np.empty(0)), ColumnOutliers(columns=("a",))) is None


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("price * ", "is no expression"),
        ("cost * 2", "there is no column cost"),
        (
            "CASE WHEN price > 1 THAN 'dear' ELSE 'cheap' END",
            "is no complete CASE. Write CASE WHEN condition THEN value",
        ),
        ("CASE WHEN price > 1 THEN 'dear' ELSE cheap END", "no column cheap at .*If it is a text, .* quotes: 'cheap'"),
        ("price - AVG(price)", "not made of the values of one row"),
        ("SUM(price) OVER (PARTITION BY model)", "not made of the values of one row"),
        ("1", "not made of the values of one row"),
        ("price * COUNT(*)", "not made of the values of one row"),
        ("LAG(price) OVER (ORDER BY serial)", "not made of the values of one row"),
        ("sold > CURRENT_DATE", "not made of the values of one row"),
        ("model * 2", "cannot be computed"),
        ("(SELECT 1)", "is no expression|no column|one row"),
        ("__import__('os').system('true')", "is no expression|no column"),
        ("read_csv('/etc/passwd')", "is no expression"),
    ],
)
def test_expressions_that_are_not_of_one_row_are_refused_before_anything_runs(
    settings, monkeypatch, expression, message
):
    settings["inputs"][0]["table"] = TABLE | {"derive": TABLE["derive"] | {"other": expression}}
    with pytest.raises(ConfigError, match=message):
        prepare_inline(settings, monkeypatch)


def test_a_value_for_missing_ones_has_the_type_of_its_column(settings, monkeypatch):
    settings["inputs"][0]["table"] = TABLE | {"missing": TABLE["missing"] | {"price": {"fill": "cheap"}}}
    with pytest.raises(ConfigError, match="'cheap' given; wanted a value of type number"):
        prepare_inline(settings, monkeypatch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": {"colour": "drop"}}, "colour is not in `types`"),
        ({"missing": {"model": "median"}}, "model: is text"),
        ({"outliers": {"columns": ["sold"]}}, "sold: is date"),
        ({"derive": {"price": "weight * 2"}}, "price: is the name of two columns"),
        ({"template": {"prompt": "{colour}", "completion": "x"}}, "no column colour.*Add .* `colour: text`"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, change, message):
    settings["inputs"][0]["table"] = TABLE | change
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings)


def test_columns_of_a_table_are_metadata_and_shapes_have_an_answer(settings):
    source = settings["inputs"][0]
    for change, message in (
        ({"inputs": [source | {"columns": {"prompt": "model"}}]}, "name metadata alone"),
        ({"inputs": [source | {"columns": {"a": "colour"}}]}, "colour is no column of the table"),
        ({"records": {"shape": "text"}}, "makes a question and an answer"),
    ):
        with pytest.raises(ValueError, match=message):
            PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings | change)


def test_rows_are_compared_after_missing_values_are_filled_and_with_rows_that_stay_alone(tmp_path, monkeypatch):
    """The median of the ages is 3; the first row without a town is dropped, so the second is no repetition."""
    rows = [["a", "1", "x"], ["b", "", "x"], ["b", "3", "x"], ["c", "3", ""], ["c", "3", "y"]]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["name", "age", "town"], *rows])
    table = {
        "types": {"name": "text", "age": "integer", "town": "text"}, "missing": {"age": "median", "town": "drop"},
        "unique": ["name", "age"],
        "template": {"prompt": "How old is {name} of the town?", "completion": "The age of {name} of {town} is {age}."},
    }  # fmt: skip
    source = {"path": str(tmp_path / "a.csv"), "table": table}
    config = {"inputs": [source], "dedup": None, "records": {"shape": "pairs"}, "output": str(tmp_path / "out")}
    run = prepare_inline(config, monkeypatch)
    assert [(row["reason"], json.loads(row["content"])["name"]) for row in ledger(run)] == [
        ("repeated_row", "b"), ("missing_value", "c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("format", "first"),
    [*((one, name) for one in ("csv", "parquet") for name in ("day", "sold", "open")), ("jsonl", "day")],
)
def test_a_table_needs_no_column_of_text(tmp_path, monkeypatch, format, first):
    rows = pa.table({"day": [date(2026, 3, n) for n in (1, 2, 3)], "sold": [1, 2, 3], "open": [True, False, True]})
    path = tmp_path / f"a.{format}"
    if format == "csv":
        path.write_text("day,sold,open\n2026-03-01,1,true\n2026-03-02,2,false\n2026-03-03,3,true\n")
    elif format == "jsonl":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows.to_pylist()))
    else:
        pq.write_table(rows, path)
    kinds = {"day": "date", "sold": "integer", "open": "boolean"}
    template = {"prompt": "How many on {day}?", "completion": "The number sold is {sold}; open: {open}."}
    table = {"types": {first: kinds[first]} | kinds, "template": template}
    config = {"inputs": [{"path": str(path), "table": table}], "dedup": None, "records": {"shape": "pairs"}}
    run = prepare_inline(config | {"output": str(tmp_path / "out")}, monkeypatch)
    assert sorted((row["prompt"], row["completion"]) for row in records(run).values()) == [
        ("How many on 2026-03-01?", "The number sold is 1; open: true."),
        ("How many on 2026-03-02?", "The number sold is 2; open: false."),
        ("How many on 2026-03-03?", "The number sold is 3; open: true."),
    ]


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
def test_a_table_with_settings_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        table(**change)
    assert table(template={"prompt": "{source}: {name}?", "completion": "{price}"}), "the name of the source is known"


@pytest.mark.parametrize(("settings", "distance"), [({}, 1.5), ({"method": "mad"}, 3.5), ({"factor": 2}, 2)])
def test_the_distance_of_an_outlier_equals_the_one_of_its_method(settings, distance):
    assert ColumnOutliers(columns=("a",), **settings).distance == distance
