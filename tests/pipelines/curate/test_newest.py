"""`keeper: newest`: of duplicates the newest stays, by a carried column of any source and format."""

import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError
from tests.support.against_runs import PLAIN, changed
from tests.support.inline import curate_inline
from tests.support.stories import ledger, story

NEWEST = {"keeper": "newest", "newest_by": "date"}


def written(tmp_path: Path, rows: dict[str, list[tuple[str, str, object]]], **dedup: object) -> dict:
    """Settings for sources of (id, text, date), of JSON Lines; those whose dates are `date` are of Parquet."""
    inputs = []
    for source, of_source in rows.items():
        ids, texts, dates = zip(*of_source, strict=True)
        if isinstance(dates[0], date):
            path = tmp_path / f"{source}.parquet"
            pq.write_table(pa.table({"id": ids, "text": texts, "date": pa.array(dates, pa.date32())}), path)
        else:
            path = tmp_path / f"{source}.jsonl"
            lines = [{"id": id, "text": text, "date": when} for id, text, when in of_source]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        inputs.append({"source": source, "path": str(path), "id": "id", "columns": ["date"]})
    return PLAIN | {"inputs": inputs, "output": str(tmp_path / "run"), "dedup": NEWEST | dedup}


def test_the_newest_of_all_sources_stays_and_documents_without_a_date_come_last(tmp_path, monkeypatch):
    rows = {
        "lines": [
            ("undated", story(1), None),
            ("old", story(1), "2025-01-01"),
            ("near", changed(story(2)), "2026-03-01T10:00:00+02:00"),
            ("first", story(3), "2026-05"),
            ("second", story(3), "2026-05-01"),
            ("odd", story(4), "last week"),
        ],
        "table": [("new", story(1), date(2026, 1, 1)), ("text", story(2), date(2026, 2, 28))],
    }
    run = curate_inline(written(tmp_path, rows), monkeypatch)
    assert sorted(run.corpus.table()["id"].to_pylist()) == ["first", "near", "new", "odd"]
    partners = {id: row["partner"] for id, row in ledger(run).items()}
    assert partners == {"undated": "new", "old": "new", "text": "near", "second": "first"}
    assert (
        "Source lines: 2 documents have no date, time or number in the column dedup.newest_by, and come last among "
        "duplicates." in run.report["warnings"]
    )


def test_documents_of_earlier_runs_come_before_newer_ones(tmp_path, monkeypatch):
    earlier = {"lines": [("january", story(1), "2026-01-01")]}
    january = curate_inline(written(tmp_path, earlier, keeper="position", newest_by=None), monkeypatch).uri
    rows = {"lines": [("copy", story(1), "2026-02-01"), ("a", story(2), "2025"), ("b", story(2), "2026")]}
    (tmp_path / "february").mkdir()
    run = curate_inline(written(tmp_path / "february", rows, against=[january]), monkeypatch)
    assert run.corpus.table()["id"].to_pylist() == ["b"]
    assert ledger(run)["copy"]["partner"] == "january"


def test_a_column_that_cannot_be_compared_or_is_not_carried_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": [story(1)], "date": pa.array([True])}), path)
    entry = {"path": str(path)}
    settings = PLAIN | {"output": str(tmp_path / "run"), "dedup": NEWEST}
    with pytest.raises(
        ValueError,
        match=r"dedup\.newest_by: no input carries a column date; add it to `columns` of each input that has it",
    ):
        curate_inline(settings | {"inputs": [entry]}, monkeypatch)
    with pytest.raises(ConfigError, match=r"dedup\.newest_by: column date is bool; wanted dates, times, numbers"):
        curate_inline(settings | {"inputs": [entry | {"columns": ["date"]}]}, monkeypatch)
