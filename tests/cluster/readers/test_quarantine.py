"""Rows that are lost behind one row of quarantine count as rows, and a warning says that they are lost."""

from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest

from raymill.cluster.errors import DataError
from raymill.cluster.readers.freeze import freeze
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.quarantine import (
    allow_more,
    loss_warnings,
    lost_counters,
    lost_rows,
    quarantine_entries,
    refuse_too_many,
    unreadable_warning,
)
from raymill.cluster.readers.reader import PROBLEMS, ReaderCounts
from raymill.cluster.readers.units import read_unit
from raymill.cluster.store.store import Store
from tests.support.damaged import zeroed_parquet


def quarantine_of(rows: list[tuple[str, str, str]], counters: dict[str, float] | None = None) -> SimpleNamespace:
    """Something like the artifact, of rows (source, problem, where)."""
    names = ["source", "problem", "where"]
    table = pa.table([pa.array(column, pa.string()) for column in zip(*rows, strict=True)], names=names)
    manifest = SimpleNamespace(rows=len(rows), counters=counters or {})
    return SimpleNamespace(manifest=manifest, tables=lambda columns=None: iter([table]), uri="/run/quarantine")


TWO_GROUPS = [
    ("a", "corrupt_page", "x.parquet row group 0 row 0: 20 rows lost"),
    ("a", "corrupt_page", "x.parquet row group 3 row 0: 20 rows lost"),
]
LOST = {"lost/a/corrupt_page": 38.0, "documents": 160.0}


def test_a_reader_counts_the_rows_that_are_lost_besides_the_one_that_stands_for_them(tmp_path):
    path = zeroed_parquet(tmp_path / "x.parquet", [f"text {number}" for number in range(200)])
    manifest, counts = freeze(Store(), [Input(path=str(path))]), ReaderCounts()
    tables = [t for unit in manifest.units for t in read_unit(unit, manifest.reading, Limits(), counts=counts)]
    problems = [problem for table in tables for problem in table["problem"].to_pylist()]
    assert (problems.count(None), problems.count("corrupt_page")) == (160, 2)
    assert counts.lost == {"corrupt_page": 38}
    assert lost_counters("a", counts) == {"lost/a/corrupt_page": 38}


def test_a_lost_row_that_has_a_row_of_its_own_is_no_counter():
    assert lost_counters("a", ReaderCounts(lost=Counter(corrupt_page=0))) == {}


def test_lost_rows_count_against_the_share_that_is_allowed():
    quarantine = quarantine_of(TWO_GROUPS, LOST)
    assert lost_rows(quarantine) == {("a", "corrupt_page"): 38}
    refuse_too_many(0.2, 160, quarantine, PROBLEMS, "document")
    with pytest.raises(DataError) as caught:
        refuse_too_many(0.19, 160, quarantine, PROBLEMS, "document")
    first, second, *_ = str(caught.value).splitlines()
    assert first.startswith("40 of 200 documents could not be read (20.0%; execution.max_bad_documents allows 19.0%)")
    assert second.startswith("  40 corrupt_page (") and second.endswith(": 20 rows lost")


def test_lost_rows_are_told_with_their_number_where_it_is_known():
    rows = [
        *TWO_GROUPS, ("b", "truncated", "t.jsonl.gz after line 129"), ("b", "bad_utf8", "u.jsonl line 3"),
        ("c", "wrong_encoding", "v.csv row 7"),
    ]  # fmt: skip
    entries = quarantine_entries(quarantine_of(rows, LOST | {"lost/c/d/large_block": 4.0}))
    assert [(e["source"], e["problem"], e["documents"], e["lost"]) for e in entries] == [
        ("a", "corrupt_page", 40, 38), ("b", "truncated", 1, 0), ("b", "bad_utf8", 1, 0), ("c", "wrong_encoding", 1, 0),
    ]  # fmt: skip
    assert list(loss_warnings(entries)) == [
        "Source a: 40 rows were lost (corrupt_page, first x.parquet row group 0 row 0: 20 rows lost).",
        "Source b: 1 time the rest of a file was lost (truncated, first t.jsonl.gz after line 129); how many documents "
        "it held is not known.",
        "Source c: 1 time the rest of a file was lost (wrong_encoding, first v.csv row 7); how many documents it held "
        "is not known.",
    ]


@pytest.mark.parametrize(
    ("bad", "whole", "value"),
    [(1, 100, "0.01"), (19, 1000, "0.02"), (1, 2, "0.5"), (1, 3, "0.34"), (99, 100, "0.99"), (995, 1000, "0.995"),
     (99_999, 100_000, "0.99999"), (29, 100, "0.3")],
)  # fmt: skip
def test_the_smallest_share_that_lets_a_run_go_on_is_advised(bad, whole, value):
    assert allow_more(bad, whole) == f", or allow more with -o execution.max_bad_documents={value}"
    assert bad <= float(value) * whole


def test_where_all_documents_are_unreadable_none_are_allowed():
    assert allow_more(5, 5) == ""
    with pytest.raises(DataError, match=r"(?s)3 of 3 rows .*Fix the input; what was measured is kept\.") as caught:
        refuse_too_many(0.01, 0, quarantine_of([("a", "broken_json", "x:1")] * 3), PROBLEMS, "row")
    assert "max_bad_documents=" not in str(caught.value)


def test_unreadable_documents_are_a_warning_with_the_first_of_the_most_frequent_problem():
    rows = [("a", "broken_json", "x:1"), ("a", "null_text", "x:2"), ("a", "null_text", "x:5"), *TWO_GROUPS]
    entries = quarantine_entries(quarantine_of(rows, LOST))
    assert [*unreadable_warning(entries, "record")] == [
        "3 records could not be read (null_text, first x:2); see `quarantine`."
    ]
    assert [*unreadable_warning(quarantine_entries(quarantine_of(TWO_GROUPS, LOST)), "record")] == []
