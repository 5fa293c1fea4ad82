"""The example of the table of approaches: every way to a classifier of tickets from one run file."""

import importlib
import sys

import pytest

import raymill
from docs.build import ROOT

FOLDER = ROOT / "docs/examples/approaches"


@pytest.fixture
def program(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)  # the example changes it, and it is set back after the test
    yield importlib.import_module("approaches")
    sys.modules.pop("approaches")


def test_the_run_file_of_the_example_is_right(program, tmp_path, monkeypatch):
    program.write_data(tmp_path)
    (tmp_path / "run.yaml").write_bytes((FOLDER / "run.yaml").read_bytes())
    said = raymill.dry_run("run.yaml")
    assert [f"step {name} ({kind}): " in said for name, kind in (
        ("data", "prepare"), ("base", "train"), ("tuned-1", "train"), ("tuned-2", "train"), ("prompt", "train"),
        ("probe", "train"), ("table", "compare"),
    )] == [True] * 7  # fmt: skip


@pytest.mark.slow
@pytest.mark.ray
def test_every_approach_is_in_the_table_with_its_costs_and_one_is_recommended(program, tmp_path, capsys):
    report = program.main("out")
    rows = {row["model"]: row for row in report["approaches"]}
    assert [row["method"].split(",")[0] for row in rows.values()] == [
        "full", "lora", "prompt", "probe", "few-shot", "base"
    ]  # fmt: skip
    assert [row["is_trained"] for row in rows.values()] == [True] * 4 + [False] * 2
    assert all(row["training"]["money"] > 0 for row in rows.values() if row["is_trained"])
    assert all(row["answer"]["money"] > 0 and row["stored_bytes"] > 0 for row in rows.values())
    assert [row["forgetting"] is None for row in rows.values()] == [False] * 3 + [True] * 3
    scores = {letter: row["score"]["value"] for letter, row in rows.items()}
    assert min(scores[one] for one in "ABD") > 0.8 > scores["F"]
    assert rows["A"]["training"]["trainable_parameters"] > rows["B"]["training"]["trainable_parameters"]
    assert report["recommendation"]["model"] in "ABD"
    said = capsys.readouterr().out
    assert f"recommended: {report['recommendation']['model']}" in said
    page = (tmp_path / "out/runs/approaches/table/report.html").read_text()
    assert all(one.replace("'", "&#39;") in page for one in report["recommendation"]["reasons"])
