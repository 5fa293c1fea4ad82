"""`corpus.copies`: the column by sizes of duplicate groups, signals and sources, the report, what packing reads."""

import json
import re

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.copies import DocumentCopies
from raymill.pipelines.curate.job import CurateJob
from raymill.pipelines.curate.report.page import render
from raymill.training.config_parts import Columns, Corpus
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import all_documents
from tests.support.against_runs import PLAIN, changed
from tests.support.inline import curate_inline
from tests.support.stories import story

# As FineWeb2 does.
TABLE = {1: 1, 2: 2, 3: 3, 5: 5, 100: 8, 1000: 1}
# Story -> documents with its text; a third of them differ in a word.
GROUPS = {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 99, 6: 100, 7: 1000}


@pytest.fixture
def documents(tmp_path) -> str:
    lines = []
    for number, size in GROUPS.items():
        for copy in range(size):
            text = changed(story(number)) if copy % 3 == 2 else story(number)
            lines.append(json.dumps({"id": f"{number}-{copy}", "text": text}) + "\n")
    (tmp_path / "in.jsonl").write_text("".join(sorted(lines, key=lambda line: line[::-1])))
    return str(tmp_path / "in.jsonl")


def settings(path: str, output, copies: dict, **more) -> dict:
    inputs = [{"path": path, "source": "s", "id": "id"}]
    return PLAIN | {"inputs": inputs, "output": str(output), "corpus": {"copies": copies}} | more


def test_copies_follow_the_sizes_of_duplicate_groups_exactly(documents, tmp_path, monkeypatch):
    run = curate_inline(settings(documents, tmp_path / "run", {"table": TABLE}), monkeypatch)
    rows = {row["id"].partition("-")[0]: row for row in run.corpus.table().to_pylist()}
    assert {number: row["duplicate_count"] for number, row in rows.items()} == {str(n): s for n, s in GROUPS.items()}
    assert [rows[str(number)]["copies"] for number in GROUPS] == [1, 2, 3, 3, 5, 5, 8, 1]
    found = run.report["copies"]
    characters = {number: len(row["text"]) for number, row in rows.items()}
    assert found["rule"] == "by duplicate_count: 1 from 1, 2 from 2, 3 from 3, 5 from 5, 8 from 100, 1 from 1000"
    assert [(one["copies"], one["documents"]) for one in found["counted"]] == [(1, 2), (2, 1), (3, 2), (5, 2), (8, 1)]
    assert found["counted"][0]["characters"] == characters["0"] + characters["7"]
    copies = {number: row["copies"] for number, row in rows.items()}
    assert found["epoch"] == {"documents": 28, "characters": sum(copies[n] * characters[n] for n in copies)}
    page = render(run.report)
    assert "An epoch of training reads 28 documents" in page and ">Copies<" in page


def test_a_training_packs_what_the_column_says(documents, tmp_path, monkeypatch):
    run = curate_inline(settings(documents, tmp_path / "run", {"table": TABLE}), monkeypatch)
    frozen = freeze_corpus(Store(), Corpus(path=run.corpus.uri), Columns(text="text"), 1 << 20)
    found = {one.id.partition("-")[0]: one.copies for one in all_documents(frozen)}
    assert [found[str(number)] for number in GROUPS] == [1, 2, 3, 3, 5, 5, 8, 1]
    assert frozen.note == "its column `copies` decides how often a document to train on is packed"


def test_copies_by_a_signal_and_by_source(tmp_path, monkeypatch):
    inputs = []
    for source in ("wiki", "web"):
        rows = [{"id": f"{source}{n}", "text": " ".join(["word"] * n)} for n in (5, 20, 80)]
        (tmp_path / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        inputs.append({"source": source, "path": str(tmp_path / f"{source}.jsonl"), "id": "id"})
    bounds = {"min_words": 0, "min_stop_words": 0, "min_mean_word_length": 0}
    rules = {"packs": ["gopher_quality"], "gopher_quality": bounds}
    copies = {"by": "gopher_words", "table": {10: 0.5, 50: 4}, "sources": {"wiki": 3}}
    plain = {"rules": rules, "inputs": inputs, "dedup": None, "corpus": {"copies": copies}}
    run = curate_inline(PLAIN | plain | {"output": str(tmp_path / "run")}, monkeypatch)
    found = {row["id"]: row["copies"] for row in run.corpus.table().to_pylist()}
    assert found == {"wiki5": 3, "wiki20": 1.5, "wiki80": 12, "web5": 1, "web20": 0.5, "web80": 4}
    assert run.report["copies"]["rule"] == "by gopher_words: 0.5 from 10, 4 from 50; times, by source: wiki 3"


def test_sources_alone_need_no_deduplication(documents, tmp_path, monkeypatch):
    plain = settings(documents, tmp_path / "run", {"sources": {"s": 2}}, dedup=None)
    assert set(curate_inline(plain, monkeypatch).corpus.table()["copies"].to_pylist()) == {2}


def test_values_below_all_bounds_and_none_have_one_copy():
    copies = DocumentCopies(by="x", table={2: 0, 3.5: 7})
    values = np.array([np.nan, -1, 1.9, 2, 3.4, 3.5, 1e9, np.inf])
    assert copies.of("s", values).tolist() == [1, 1, 1, 0, 0, 7, 7, 7]
    assert copies.of("s", np.array([1, 2, 200], np.uint8)).tolist() == [1, 0, 7]


def test_nothing_changes_without_the_setting(documents, tmp_path, monkeypatch):
    plain = settings(documents, tmp_path / "run", {"table": TABLE})
    curate_inline(plain, monkeypatch)
    without = plain | {"corpus": {}, "output": str(tmp_path / "without")}
    run = curate_inline(without, monkeypatch)
    assert "copies" not in run.corpus.schema.names and "copies" not in run.report
    fingerprint = run.corpus.manifest.fingerprint
    monkeypatch.setattr(
        "raymill.pipelines.curate.config.CorpusFiles.model_dump", lambda self, **how: {"file_mib": 128, "columns": ()}
    )  # as of earlier versions
    again = curate_inline(without | {"output": str(tmp_path / "again")}, monkeypatch)
    assert again.corpus.manifest.fingerprint == fingerprint


@pytest.mark.parametrize(
    ("copies", "more", "words"),
    [
        ({}, {}, "no copies given"),
        ({"table": {1: -1}}, {}, "greater than or equal to 0"),
        ({"table": {1: 101}}, {}, "less than or equal to 100"),
        ({"table": {"nan": 1}}, {}, "finite"),
        ({"table": {1: 50}, "sources": {"s": 3}}, {}, "up to 150 copies"),
        ({"table": {1: 2}}, {"dedup": None}, "`dedup` removes none"),
        ({"table": {1: 2}}, {"dedup": {"remove": False}}, "`dedup` removes none"),
        ({"by": "wrods", "table": {1: 2}}, {}, "corpus.copies.by: wrods is not measured"),
        ({"sources": {"t": 2}}, {}, "no input has source t"),
    ],
)
def test_what_cannot_be_meant_is_refused(copies, more, words):
    plain = {"kind": "curate", "name": "x", "inputs": [{"path": "in", "source": "s"}], "output": "out"}
    with pytest.raises(ValidationError, match=words):
        CurateConfig.model_validate(plain | {"corpus": {"copies": copies}} | more)


def test_a_carried_column_of_that_name_is_refused_beside_the_setting_alone():
    plain = {"kind": "curate", "name": "x", "inputs": [{"path": "in", "columns": ["copies"]}], "output": "out"}
    CurateConfig.model_validate(plain)
    with pytest.raises(ValidationError, match="carries a column copies"):
        CurateConfig.model_validate(plain | {"corpus": {"copies": {"table": {1: 2}}}})


def test_the_plan_and_the_first_look_say_it(documents, tmp_path, run_cli, monkeypatch):
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    plain = {"kind": "curate", "name": "x"} | settings(documents, tmp_path / "run", {"table": TABLE})
    about = dict(CurateJob(CurateConfig.model_validate(plain)).about())
    assert about["copies"].startswith("by duplicate_count: 1 from 1, 2 from 2")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(plain))
    code, out, err = run_cli("plan", str(tmp_path / "c.yaml"))
    assert code == 0, err
    epoch = re.search(r"An epoch of training reads ([0-9.]+) times the corpus", " ".join(out.split()))
    assert epoch and 1 < float(epoch[1]) <= 8


def test_the_score_of_the_language_is_one_column_and_none_without_languages(documents, tmp_path, monkeypatch):
    columns = {"columns": ["language_score"], "copies": {"by": "language_score", "table": {0: 2}}}
    plain = settings(documents, tmp_path / "run", {}) | {"language": {}, "corpus": columns}
    corpus = curate_inline(plain, monkeypatch).corpus
    assert corpus.schema.names.count("language_score") == 1 and set(corpus.table()["copies"].to_pylist()) == {2}
    with pytest.raises(ValidationError, match="language_score is not measured"):
        curate_inline(plain | {"language": None}, monkeypatch)
