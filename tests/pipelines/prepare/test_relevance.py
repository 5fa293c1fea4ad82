"""`validate.answer_relevance`: unrelated answers are removed by vectors, before duplicates, in any units."""

import inspect
import json
import random
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.assess.vectors import fit_embedding
from raymill.pipelines.prepare.records.validate import AnswerRelevance
from raymill.pipelines.prepare.report.page import report_text
from raymill.pipelines.prepare.stages.relevance import is_below
from tests.support.inline import prepare_inline

MODULES = ("numpy", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.random")
ANY_LENGTH = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep", "answer_in_question": None}


def documented() -> list[tuple[str, str]]:
    """(name and first paragraph, the rest of the docstring) of functions and classes of numpy."""
    found = {}
    for module in MODULES:
        for name, member in inspect.getmembers(import_module(module), callable):
            first, _, rest = (inspect.getdoc(member) or "").partition("\n\n")
            if len(rest) > 100 and not name.startswith("_"):
                found.setdefault(rest[:2000], f"What is {module}.{name}? {first}")
    return [(found[rest], rest) for rest in sorted(found)]


def planted(pairs: list[tuple[str, str]]) -> tuple[list[dict[str, str]], set[str]]:
    """(the pairs as rows, of which every tenth has the answer of another one; the ids of these)."""
    chosen, rows, wrong = random.Random(1), [], set()
    for at, (question, answer) in enumerate(pairs):
        if at % 10 == 0:
            answer = pairs[(at + chosen.randint(1, len(pairs) - 1)) % len(pairs)][1]
            wrong.add(f"r{at}")
        rows.append({"id": f"r{at}", "question": question, "answer": answer})
    return rows, wrong


def prepared(tmp_path, monkeypatch, rows: list[dict], name: str = "out", **settings):
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet", row_group_size=max(1, len(rows) // 8))
    inputs = [{"source": "one", "path": str(tmp_path / "in.parquet"), "id": "id"}]
    plain = {"inputs": inputs, "output": str(tmp_path / name), "assess": {"embeddings": None}}
    return prepare_inline(plain | {"clean": {"normalize": False}} | settings, monkeypatch)


def ledger(run) -> list[dict]:
    return Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()


def precision_and_recall(run, wrong: set[str]) -> tuple[float, float]:
    found = {row["id"] for row in ledger(run) if row["reason"] == "unrelated_answer"}
    return len(found & wrong) / len(found), len(found & wrong) / len(wrong)


def test_planted_answers_of_other_docstrings_are_found(tmp_path, monkeypatch):
    rows, wrong = planted(documented())
    assert len(rows) > 300
    rules = ANY_LENGTH | {"answer_relevance": {"min_cosine": 0.4}}
    run = prepared(tmp_path, monkeypatch, rows, validate=rules, dedup=None)
    precision, recall = precision_and_recall(run, wrong)
    assert precision > 0.9 and recall > 0.8, (precision, recall)


@pytest.mark.slow
def test_planted_answers_of_other_problems_of_gsm8k_are_found(tmp_path, monkeypatch, shared_data):
    lines = (shared_data / "gsm8k_train.jsonl").read_text().splitlines()
    rows, wrong = planted([(row["question"], row["answer"]) for row in map(json.loads, lines)])
    rules = ANY_LENGTH | {"answer_relevance": {"min_cosine": 0.3}}
    run = prepared(tmp_path, monkeypatch, rows, validate=rules, dedup=None)
    precision, recall = precision_and_recall(run, wrong)
    assert precision > 0.9 and recall > 0.85, (precision, recall)


def test_the_result_is_the_same_for_any_units(tmp_path, monkeypatch):
    rows, _ = planted(documented()[:200])
    rules = ANY_LENGTH | {"answer_relevance": {"min_cosine": 0.3, "sample": 100, "dimensions": 16}}
    duplicates = {"questions": "remove", "answers": "remove"}
    runs = [prepared(tmp_path, monkeypatch, rows, "one", validate=rules, duplicates=duplicates)]
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 9)
    runs.append(prepared(tmp_path, monkeypatch, rows, "many", validate=rules, duplicates=duplicates))
    one, many = (sorted(map(json.dumps, ledger(run))) for run in runs)
    assert one == many and any("unrelated_answer" in row for row in one)
    splits = [{row: name for name in SPLITS for row in run.split(name).table()["id"].to_pylist()} for run in runs]
    assert splits[0] == splits[1]
    units = [Artifact.load(Store(), f"{run.uri}/_work/relevance/cosines").manifest.files for run in runs]
    assert len(units[0]) < len(units[1])


def test_the_ledger_names_cosine_and_limit_and_the_report_counts_them(tmp_path, monkeypatch):
    rows, _ = planted(documented()[:100])
    rows.append({"id": "unknown", "question": "???", "answer": "No word of the question is known."})
    rules = ANY_LENGTH | {"answer_relevance": {}}
    run = prepared(tmp_path, monkeypatch, rows, validate=rules, dedup=None)
    texts = {row["id"]: row for row in rows}
    model = fit_embedding(
        [f"{row['question']}\n{row['answer']}" for row in rows], 128
    )  # of all, since they are fewer than 5,000
    found = [row for row in ledger(run) if row["reason"] == "unrelated_answer"]
    assert found and {row["stage"] for row in found} == {"relevance"} and {row["limit"] for row in found} == {"0.2"}
    for row in found:
        one = texts[row["id"]]
        cosine = float((model.embed([one["question"]]) * model.embed([one["answer"]])).sum())
        assert abs(float(row["value"]) - max(cosine, 0)) < 0.1, "a model of the texts in another order"
        assert json.loads(row["content"])["messages"][1]["content"] == one["answer"]
    assert "unknown" in {id for name in SPLITS for id in run.split(name).table()["id"].to_pylist()}, (
        "no cosine, so it stays"
    )
    assert [(one["reason"], one["records"]) for one in run.report["reasons"]] == [("unrelated_answer", len(found))]
    assert run.report["totals"]["left_out"] == len(found)
    assert f"unrelated     {len(found):>4}".split() == report_text(run.report).splitlines()[3].split()[:2]


def test_of_two_answers_to_one_question_the_related_one_stays(tmp_path, monkeypatch):
    pairs = documented()[:120]
    rows = [{"id": f"r{at}", "question": one, "answer": said} for at, (one, said) in enumerate(pairs)]
    rules = ANY_LENGTH | {"answer_relevance": {"min_cosine": 0.3}}
    plain = prepared(tmp_path, monkeypatch, rows, "plain", validate=rules, dedup=None)
    cosines = Artifact.load(Store(), f"{plain.uri}/_work/relevance/cosines").table()["cosine"].to_numpy()
    at = int(cosines.argmax())
    other = (at + 60) % len(rows)
    first = {"id": "first", "question": rows[at]["question"], "answer": rows[other]["answer"]}
    settings = {"duplicates": {"questions": "remove", "answers": "ignore", "contradictory": "remove"}}
    run = prepared(tmp_path, monkeypatch, [first, *rows], "both", validate=rules, **settings)
    reasons = {row["id"]: row["reason"] for row in ledger(run)}
    assert reasons["first"] == "unrelated_answer" and rows[at]["id"] not in reasons


def test_a_limit_is_compared_as_it_is_written():
    cosines = pa.chunked_array([pa.array([0.2, 0.1999, None, 0.7, 0.0], pa.float32())])
    assert is_below(cosines, 0.2).tolist() == [False, True, False, False, True]
    assert np.array_equal(is_below(cosines, 0.7), [True, True, False, False, True])


def test_a_model_that_is_not_there_is_refused_before_a_record_is_read(tmp_path, monkeypatch):
    rules = {"answer_relevance": {"model": f"{tmp_path}/nowhere"}}
    with pytest.raises(DataError, match=r"^validate\.answer_relevance\.model: there is no folder .*nowhere, or it is"):
        prepared(tmp_path, monkeypatch, planted(documented()[:20])[0], validate=rules)
    assert not (tmp_path / "out" / "_work").exists()
    assert AnswerRelevance(model="acme/mini").model.path == "acme/mini"
