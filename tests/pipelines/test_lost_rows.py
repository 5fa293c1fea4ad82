"""Rows that are lost in the input of a run: they are in its warnings, in what it prints, and in its shares."""

import json
import re

import pytest

from raymill.cluster.asking.faulty_server import FaultyServer
from raymill.cluster.errors import DataError
from tests.support.annotate_inline import annotate_inline
from tests.support.damaged import cut_gzip, zeroed_parquet
from tests.support.errors_inline import errors_inline
from tests.support.generate_inline import generate_inline
from tests.support.inline import curate_inline, prepare_inline
from tests.support.stories import story

REST = r"Source lost: 1 time the rest of a file was lost \(truncated, first .*x\.jsonl\.gz after line \d+\); how many"


def _curated(settings, monkeypatch):
    return curate_inline(settings | {"rules": None, "language": None, "dedup": None}, monkeypatch)


def _prepared(settings, monkeypatch):
    (source,) = settings["inputs"]
    inputs = [source | {"columns": {"text": "text"}}]
    return prepare_inline(settings | {"inputs": inputs, "records": {"shape": "text"}, "dedup": None}, monkeypatch)


KINDS = pytest.mark.parametrize("run", [_curated, _prepared])


def _settings(path, allowed: float) -> dict:
    return {
        "inputs": [{"source": "lost", "path": str(path)}],
        "output": str(path.parent / "out"),
        "execution": {"max_bad_documents": allowed},
    }


@KINDS
def test_the_lost_rest_of_a_compressed_file_is_a_warning(run, tmp_path, monkeypatch):
    path = cut_gzip(tmp_path / "x.jsonl.gz", [json.dumps({"text": story(n)}) for n in range(200)])
    done = run(_settings(path, 0.5), monkeypatch)
    (warning,) = (one for one in done.warnings if "rest of a file" in one)
    assert re.match(REST, warning)
    assert f"warning: {warning}" in str(done)


@KINDS
def test_rows_lost_in_parquet_are_in_the_warning_and_in_the_share(run, tmp_path, monkeypatch):
    path = zeroed_parquet(tmp_path / "x.parquet", [story(n) for n in range(200)])
    with pytest.raises(DataError, match=r"40 of 200 \w+ could not be read \(20\.0%"):
        run(_settings(path, 0.19), monkeypatch)
    done = run(_settings(path, 0.2), monkeypatch)
    assert any(one.startswith("Source lost: 40 rows were lost (corrupt_page, first ") for one in done.warnings)


def _annotated(path, allowed, monkeypatch):
    return annotate_inline(
        {"kind": "annotate", "input": path, "task": {"type": "classify", "show": ["text"], "labels": ["a", "b"]},
         "choose": {"count": 5}, "annotators": ["ada"], "output": f"{path}-out",
         "execution": {"max_bad_documents": allowed}}, monkeypatch,
    )  # fmt: skip


def _analysed(path, allowed, monkeypatch):
    return errors_inline(
        {"input": path, "columns": {"prompt": "text", "answer": "text", "expected": "text"}, "output": f"{path}-out",
         "execution": {"max_bad_documents": allowed}}, monkeypatch,
    )  # fmt: skip


def _generated(path, allowed, monkeypatch):
    with FaultyServer() as server:
        return generate_inline(
            {"inputs": [{"path": path}], "model": {"endpoint": server.url, "name": "small"},
             "make": {"template": "qa"}, "output": f"{path}-out", "execution": {"max_bad_documents": allowed}},
            monkeypatch,
        )  # fmt: skip


@pytest.mark.parametrize("run", [_annotated, _analysed, _generated])
def test_lost_rows_are_no_readable_ones_in_the_share(run, tmp_path, monkeypatch):
    path = str(zeroed_parquet(tmp_path / "x.parquet", [story(n) for n in range(200)]))
    with pytest.raises(DataError, match=r"40 of 200 \w+ could not be read \(20\.0%"):
        run(path, 0.19, monkeypatch)
    assert run(path, 0.2, monkeypatch).uri


def test_the_reports_count_lost_rows(tmp_path, monkeypatch):
    path = zeroed_parquet(tmp_path / "x.parquet", [story(n) for n in range(200)])
    (entry,) = _curated(_settings(path, 0.2), monkeypatch).report["quarantine"]
    assert (entry["problem"], entry["documents"], entry["lost"]) == ("corrupt_page", 40, 38)
    report = _prepared(_settings(path, 0.2) | {"output": str(tmp_path / "data")}, monkeypatch).report
    assert report["totals"]["quarantined"] == report["sources"][0]["quarantined"] == 40
    assert [one["records"] for one in report["reasons"] if one["reason"] == "corrupt_page"] == [40]


def test_a_text_that_became_many_records_is_one_row_in_the_share_of_prepare(tmp_path, monkeypatch):
    long = "\n\n".join(f"# Part {part}\n\n{story(part)}" for part in range(40))
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": long}) + "\n" for _ in range(3)) + "broken\n")
    settings = _settings(path, 0.24) | {"records": {"shape": "text", "section_chars": 1000}}
    settings["inputs"][0]["columns"] = {"text": "text"}
    with pytest.raises(DataError, match=r"1 of 4 rows could not be read \(25\.0%"):
        prepare_inline(settings, monkeypatch)
