"""Outliers: by the median and the MAD of each group, listed or removed, in any units."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.content import pair, sides_of
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.outliers import bounds, measure
from tests.support.inline import prepare_inline


def test_the_measures_of_a_record():
    chat, text = sides_of(pair("", "a 2", "", "bcd!")), sides_of("x1 y")
    for name, values in {
        "question_chars": [3, math.nan], "answer_chars": [4, math.nan], "text_chars": [math.nan, 4],
        "letters": [4 / 8, 2 / 4],
    }.items():  # fmt: skip
        assert np.array_equal(measure(name, [chat, text]), values, equal_nan=True), name


def test_bounds_are_those_of_the_group():
    values = np.array([100, 110, 90, 105, 95, 100, 120, 80, 100, 100] * 2) * np.repeat([1, 10], 10)
    low, high = bounds("answer_chars", values.astype(float), np.repeat([1, 2], 10).astype(np.uint64), 3.0)
    assert np.allclose(low[10:], 10 * low[:10]) and np.allclose(high[10:], 10 * high[:10])
    distance = np.abs(np.log(values[:10]) - math.log(100))
    spread = 1.4826 * np.median(distance)
    assert np.allclose([low[0], high[0]], [100 * math.exp(-3 * spread), 100 * math.exp(3 * spread)])


def test_where_most_values_are_equal_the_mean_distance_counts():
    values = np.array([50.0] * 19 + [5000.0])
    _, high = bounds("answer_chars", values, np.zeros(20, np.uint64), 5.0)
    assert np.allclose(np.log(high) - math.log(50), 5 * 1.2533 * math.log(100) / 20) and high[0] < 5000
    assert np.all(np.isinf(bounds("answer_chars", values[:19], np.zeros(19, np.uint64), 5.0)[1])), "all are equal"
    assert np.all(np.isinf(bounds("answer_chars", values[-9:], np.zeros(9, np.uint64), 5.0)[1])), "fewer than ten"
    assert [len(one) for one in bounds("letters", values[:0], np.zeros(0, np.uint64), 5.0)] == [0, 0]


def test_ten_values_have_bounds_and_shares_are_compared_as_they_are():
    values = np.array([0.5] * 4 + [0.4, 0.6, 0.45, 0.55, 0.52] + [0.0])
    low, high = bounds("letters", values, np.zeros(10, np.uint64), 2.0)
    spread = 1.4826 * np.median(np.abs(values - 0.5))
    assert np.allclose([low[0], high[0]], [0.5 - 2 * spread, 0.5 + 2 * spread])
    assert np.all(np.isinf(bounds("letters", values[:9], np.zeros(9, np.uint64), 2.0)[0]))
    empty = np.array([0.0] * 3 + [10, 11, 12, 13, 14, 15, 16, 17.0])
    assert np.all(np.isinf(bounds("answer_chars", empty, np.zeros(11, np.uint64), 2.0)[1])), "0 has no logarithm"
    assert measure("letters", [sides_of(pair("", "", "", ""))]).tolist() == [0]


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 2)), max_size=40), st.randoms())
def test_bounds_do_not_depend_on_the_order(records, random):
    shuffled = random.sample(range(len(records)), len(records))
    values, groups = (np.array([one[at] for one in records], kind) for at, kind in ((0, float), (1, np.uint64)))
    for one, other in zip(
        bounds("answer_chars", values, groups, 2.0),
        bounds("answer_chars", values[shuffled], groups[shuffled], 2.0),
        strict=True,
    ):
        assert np.allclose(one[shuffled], other)


@pytest.mark.parametrize("found", ["list", "remove"])
def test_records_of_unusual_lengths_are_found(tmp_path, monkeypatch, found):
    words = ["river", "stone", "cloud", "lamp", "garden", "engine", "paper", "window", "harbour", "violin", "carpet"]
    rows = [
        {"id": f"r{n}", "q": f"What is the {words[n % 11]} of number {n} for?", "a": f"{words[n * 7 % 11]} {n} is for "
         + " ".join(words[(n * step) % 11] for step in range(8 + n % 3)) + "."}
        for n in range(40)
    ]  # fmt: skip
    rows[7]["a"] = " ".join(f"{words[n % 11]} {n}" for n in range(150)) + "."
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=4)
    source = {"path": str(tmp_path / "in.parquet"), "id": "id", "columns": {"prompt": "q", "completion": "a"}}
    plain = {"inputs": [source], "validate": {"outliers": {"found": found}}}
    runs = [prepare_inline(plain | {"output": str(tmp_path / "one")}, monkeypatch)]
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 9)
    runs.append(prepare_inline(plain | {"output": str(tmp_path / "many")}, monkeypatch))
    for run in runs:
        artifacts = [Artifact.load(Store(), f"{run.uri}/{name}") for name in ("listed", "removed")]
        listed, removed = (one.table().to_pylist() for one in artifacts)
        ((row,), other) = (listed, removed) if found == "list" else (removed, listed)
        assert (row["id"], row["reason"], other) == ("r7", "outlier", [])
        low, high = map(float, row["limit"].split(" to "))
        assert row["value"] == f"answer_chars: {len(rows[7]['a'])}" and low < 70 < high < 300
        logs = np.log([len(one["a"]) for one in rows])
        spread = 5 * 1.4826 * np.median(np.abs(logs - np.median(logs)))  # five deviations by default
        wanted = [f"{math.exp(np.median(logs) + side * spread):.3g}" for side in (-1, 1)]
        assert row["limit"] == " to ".join(wanted)
        assert run.report["totals"]["written"] == (40 if found == "list" else 39)
        counts = run.report["listed"] if found == "list" else run.report["reasons"]
        assert [(one["reason"], one["records"]) for one in counts] == [("outlier", 1)]
    assert runs[0].report["splits"] == runs[1].report["splits"]
