"""Ids, annotations and provenance of records."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.records.fields import (
    annotations_of,
    as_text,
    labels_by_annotators,
    listed,
    metadata_of,
    value_of,
    values_of,
)
from raymill.pipelines.prepare.versions.diff import compare_versions
from raymill.pipelines.prepare.versions.export import export
from raymill.pipelines.prepare.versions.registry import Registry
from raymill.training.config_parts import Columns, Corpus
from raymill.training.pack.corpus import freeze_corpus
from raymill.training.pack.documents import all_documents
from tests.support.assessments import metric
from tests.support.fasttext_files import Kind, write_model
from tests.support.inline import prepare_inline
from tests.support.mails import ANN, BOB, mail, mbox
from tests.support.prepared_runs import records
from tests.support.tickets import answer, question

MAPPED = {"prompt": "q", "completion": "a", "labels": "tags", "categories": "queue", "annotators": "by"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (None, []), (" ", []), ("billing", ["billing"]), ('["a", null, "b", 3]', ["a", None, "b", "3"]),
        ("[]", []), ('["", null]', []), ("[draft] no list", ["[draft] no list"]), ('[["a", "b"]]', ['["a","b"]']),
    ],
)  # fmt: skip
def test_a_column_has_lists_json_or_single_values(text, values):
    assert listed(text) == values
    assert listed(as_text(values)) == values


def test_one_value_of_several_is_the_most_frequent_one_and_the_first_of_equals():
    assert value_of("labels", '["b", "a", "a", null]') == "a"
    assert value_of("labels", '["b", "a"]') == "b"
    assert value_of("labels", None) is None and value_of("labels", "[]") is None
    assert value_of("queue", '["b"]') == '["b"]', "only annotations are lists"
    assert values_of("labels", '["b", null, "a"]') == ["b", "a"] and values_of("queue", "b") == ["b"]


def test_metadata_with_a_single_value_stands_for_annotations_that_are_not_given():
    found = annotations_of({"label": "spam", "category": "login", "categories": '["billing", "refund"]'})
    assert found == {"labels": ["spam"], "categories": ["billing", "refund"], "annotators": []}


def test_labels_are_compared_where_each_is_of_another_annotator():
    def of(labels, annotators):
        return labels_by_annotators({"annotations": {"labels": labels, "annotators": annotators}})

    assert of(["a", "b"], ["anna", "ben"]) == ["a", "b"] and of(["a", None], ["anna", "ben"]) == ["a", None]
    assert of(["a", "b"], ["anna", "anna"]) == [] and of(["a", "b"], ["anna"]) == [] and of(["a"], [None]) == []
    assert labels_by_annotators({}) == []


def source(tmp_path, rows: list[dict], **more) -> dict:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "s", "path": str(tmp_path / "in.jsonl"), "id": "id", "columns": MAPPED | more}


def rows(count: int) -> list[dict]:
    queues = (["billing", "refund"], "login", ["mail"])
    return [
        {"id": f"r{n}", "q": question(n), "a": answer(n), "tags": ["ok", "ok" if n % 5 else "bad"],
         "queue": queues[n % 3], "by": ["anna", "ben"], "score": n / 100}
        for n in range(count)
    ]  # fmt: skip


def test_annotations_and_scores_go_through_a_run_its_exports_and_training(tmp_path, monkeypatch):
    plain = {
        "inputs": [source(tmp_path, rows(30), quality_score="score")],
        "clean": {"labels": {"categories": {"e-mail": ["mail"]}, "labels": {"good": ["ok"]}}},
        "validate": {"allowed": {"categories": ["billing", "refund", "login", "e-mail"]}, "require": ["labels"]},
        "split": {"stratify": ["categories"], "balance": {"by": ["labels"], "to": "largest"}},
        "assess": {"fields": ["quality_score", "categories"], "label": "categories", "groups": ["labels"]},
        "dedup": None, "output": str(tmp_path / "out"),
    }  # fmt: skip
    run = prepare_inline(plain, monkeypatch)
    kept = records(run)
    assert len(kept) == 30, "labels of records with two different ones go by the first, so no class is smaller"
    assert kept["r0"]["annotations"] == {
        "labels": ["good", "bad"], "categories": ["billing", "refund"], "annotators": ["anna", "ben"]
    }  # fmt: skip
    assert kept["r1"]["annotations"]["categories"] == ["login"] and kept["r2"]["annotations"]["categories"] == [
        "e-mail"
    ]
    assert kept["r7"]["metadata"]["quality_score"] == 0.07 and "labels" not in kept["r7"]["metadata"]
    assert run.split("train").schema.field("metadata").type.field("quality_score").type == pa.float64()
    by_split = Counter((row["split"], row["annotations"]["categories"][0]) for row in kept.values())
    assert by_split == {
        (split, name): n for split, n in (("train", 8), ("validation", 1), ("test", 1))
        for name in ("billing", "login", "e-mail")
    }  # fmt: skip
    findings = run.assessment["findings"]
    assert findings["values"]["categories"]["shown"] == {"billing": 10, "e-mail": 10, "login": 10}
    assert findings["learned"]["labels"]["categories"]["classes"] == 3
    assert findings["agreement"]["records"] == 30 and findings["agreement"]["differing"]["records"] == 6
    assert metric(run.assessment, "agreement") is not None and metric(run.assessment, "completeness") == 1

    version = Registry(Store(), str(tmp_path / "datasets")).tag("help", run.uri)
    export(Store(), version, str(tmp_path / "jsonl"), "jsonl")
    lines = (tmp_path / "jsonl" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.split("train").table().to_pylist()
    export(Store(), version, str(tmp_path / "hf"), "hf")
    loaded = load_dataset(str(tmp_path / "hf"), cache_dir=str(tmp_path / "cache"))
    assert {row["id"]: row["annotations"] for split in loaded.values() for row in split} == {
        id: row["annotations"] for id, row in kept.items()
    }
    export(Store(), version, str(tmp_path / "pq"), "parquet")
    assert (
        pq.read_table(tmp_path / "pq" / "data").column("annotations").type
        == run.split("train").schema.field("annotations").type
    )

    frozen = freeze_corpus(Store(), Corpus(path=run.uri), Columns(messages="messages"), 1 << 20)
    assert {document.id for document in all_documents(frozen)} == set(kept)


def test_a_value_of_a_list_that_is_not_allowed_and_an_empty_list_are_refused(tmp_path, monkeypatch):
    some = rows(6)
    some[1]["tags"], some[2]["tags"], some[3]["tags"] = ["ok", "odd"], [], None
    rules = {"allowed": {"labels": ["ok", "bad"]}, "require": ["labels"]}
    plain = {"inputs": [source(tmp_path, some)], "dedup": None, "output": str(tmp_path / "out")}
    run = prepare_inline(plain | {"validate": rules}, monkeypatch)
    assert set(records(run)) == {"r0", "r4", "r5"}
    assert {(one["reason"], one["records"]) for one in run.report["reasons"]} == {
        ("not_allowed", 1), ("missing_metadata", 2)
    }  # fmt: skip
    kept = prepare_inline(plain | {"output": str(tmp_path / "all")}, monkeypatch)
    assert metric(kept.assessment, "completeness") == 4 / 6
    asked = prepare_inline(plain | {"output": str(tmp_path / "one"), "assess": {"fields": ["labels"]}}, monkeypatch)
    assert asked.assessment["findings"]["values"]["labels"]["shown"] == {"ok": 4, "": 2}


def test_a_quality_score_is_a_number_or_the_row_is_quarantined(tmp_path, monkeypatch):
    some = rows(6)
    for row, score in zip(some, (0.5, "0.25", None, "", "high", "nan"), strict=True):
        row["score"] = score
    plain = {"inputs": [source(tmp_path, some, quality_score="score")], "execution": {"max_bad_documents": 0.5}}
    run = prepare_inline(plain | {"dedup": None, "output": str(tmp_path / "out")}, monkeypatch)
    scores = {id: row["metadata"]["quality_score"] for id, row in records(run).items()}
    assert scores == {"r0": 0.5, "r1": 0.25, "r2": None, "r3": None}
    assert [(one["reason"], one["records"]) for one in run.report["reasons"]] == [("bad_quality_score", 2)]


def test_the_quality_classifier_gives_records_without_a_score_theirs(tmp_path, monkeypatch):
    write_model(tmp_path / "quality.bin", Kind(names=("hq", "lq"), labels=2, scale=0.5))
    some = rows(4)
    some[0]["score"] = None
    some[1] |= {"score": 0.125}
    rule = {"model": str(tmp_path / "quality.bin"), "label": "hq", "min_score": 0}
    plain = {"inputs": [source(tmp_path, some[:2], quality_score="score")], "dedup": None}
    plain["validate"] = {"rules": {"quality_classifier": rule}}
    found = records(prepare_inline(plain | {"output": str(tmp_path / "out")}, monkeypatch))
    score = found["r0"]["metadata"]["quality_score"]
    assert 0 < score < 1 and found["r1"]["metadata"]["quality_score"] == 0.125
    # The score is that by which the rule removes records.
    for name, bound, kept in (("above", score + 0.01, False), ("below", score - 0.01, True)):
        bounded = {"rules": {"quality_classifier": rule | {"min_score": bound}}}
        run = prepare_inline(plain | {"validate": bounded, "output": str(tmp_path / name)}, monkeypatch)
        assert ("r0" in records(run)) is kept


def test_shares_of_labels_are_compared_between_versions(tmp_path, monkeypatch):
    found = []
    for name, tags in (("one", ["ok"]), ("two", ["ok", "bad"])):
        some = [row | {"tags": tags, "by": None} for row in rows(10)]
        plain = {"inputs": [source(tmp_path, some, category="queue")], "output": str(tmp_path / name), "dedup": None}
        run = prepare_inline(plain, monkeypatch)
        found.append({split: run.split(split) for split in ("train", "validation", "test")})
    diff = compare_versions(*found)
    (labels,) = [one for one in diff.shifts if one.name == "labels"]
    assert labels.largest == "bad 0.0% -> 50.0%" and labels.psi > 0.1
    assert diff.changed == 10 and not [one for one in diff.shifts if one.name == "annotators"]


ANYTHING = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A function that prepares one source, and returns the records in the order of their ids."""

    def run(source: dict, name: str = "out", **settings) -> list[dict]:
        given = {"inputs": [source], "validate": ANYTHING, "output": f"{tmp_path}/{name}"} | settings
        done = prepare_inline(given, monkeypatch)
        return sorted((row for one in SPLITS for row in done.split(one).table().to_pylist()), key=lambda row: row["id"])

    return run


def lines(path: Path, rows: list[dict]) -> dict:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(path)}


def made_of(rows: list[dict]) -> list[tuple[list[str], str]]:
    return [(row["provenance"]["parents"], row["provenance"]["operation"]) for row in rows]


def test_a_record_as_the_source_has_it_was_made_of_no_other(prepared, tmp_path):
    pairs = [{"question": question(n), "answer": answer(n)} for n in range(3)]
    found = prepared(lines(tmp_path / "a.jsonl", pairs))
    assert [row["provenance"] for row in found] == [None] * 3


@pytest.mark.parametrize("id", [None, "key"])
def test_a_record_made_by_a_template_names_the_text(prepared, tmp_path, id):
    texts = [{"key": f"k{n}", "text": f"Leave of kind {n}\n\nEverybody has {n + 20} days of it."} for n in range(3)]
    source = lines(tmp_path / "a.jsonl", texts) | ({"id": id} if id else {})
    as_texts = prepared(source, "texts", records={"shape": "text"})
    found = prepared(source | {"task_type": "policy"})
    assert all(row["provenance"] is None for row in as_texts)
    parents = {row["messages"][1]["content"]: row["provenance"] for row in found}
    assert parents == {row["text"]: {"parents": [row["id"]], "operation": "template"} for row in as_texts}


def test_a_record_of_a_table_names_the_row_as_the_ledger_does(prepared, tmp_path):
    (tmp_path / "a.csv").write_text("part,price\nscrew,3\nnut,4\nnut,4\n")
    template = {"prompt": "What does a {part} cost?", "completion": "It costs {price} euros."}
    table = {"types": {"part": "text", "price": "integer"}, "template": template}
    source = {"path": str(tmp_path / "a.csv"), "table": table}
    assert made_of(prepared(source | {"id": "part"}, "named")) == [(["nut"], "table"), (["screw"], "table")]
    found = {row["messages"][1]["content"]: row["provenance"] for row in prepared(source)}
    (repeated,) = Artifact.load(Store(), f"{tmp_path}/out/removed").table().to_pylist()
    assert repeated["reason"] == "repeated_row"
    assert found["It costs 4 euros."] == {"parents": [repeated["id"]], "operation": "table"}
    assert found["It costs 3 euros."]["parents"] != [repeated["id"]]


def test_a_thread_names_its_messages_and_a_message_alone_is_no_thread(prepared, tmp_path):
    without_id = b"From: Ann <ann@example.org>\nIn-Reply-To: <m1@example.org>\n\nIt was the plug, thanks\n"
    quote = mail(3, BOB, "> My router is off", 1)
    asked = mail(1, ANN, "My router is off, what now?"), mail(2, BOB, "Please switch it on again.", 1)
    (tmp_path / "a.mbox").write_bytes(mbox(*asked, quote, without_id, mail(4, ANN, "One message alone, as a text.")))
    source = {"path": str(tmp_path / "a.mbox"), "columns": {"text": "text"}, "id": "thread"}
    joined = ["<m1@example.org>", "<m2@example.org>", f"{tmp_path}/a.mbox message 4"]
    alone, thread = sorted(prepared(source, records={"shape": "text"}), key=lambda row: len(row["text"]))
    assert alone["provenance"] is None and made_of([thread]) == [(joined, "thread")]
    alone, thread = sorted(prepared(source, "qa"), key=lambda row: len(row["messages"][1]["content"]))
    assert made_of([alone, thread]) == [(["<m4@example.org>"], "template"), (joined, "thread, template")]


def test_a_repeated_record_names_the_first_one_which_names_its_source(prepared, tmp_path):
    texts = [{"key": f"k{n}", "text": f"{question(n)}\n\n{answer(n)}", "kind": "ab"[n < 2]} for n in range(20)]
    source = lines(tmp_path / "a.jsonl", texts) | {"id": "key", "columns": {"text": "text", "kind": "kind"}}
    found = {row["id"]: row for row in prepared(source, split={"balance": {"by": ["kind"], "to": "largest"}})}
    copies = {id: row for id, row in found.items() if "#" in id}
    assert copies
    for id, row in copies.items():
        first = id.partition("#")[0]
        assert made_of([row, found[first]]) == [([first], "repeat"), ([first], "template")]


def test_a_record_without_metadata_is_named():
    with pytest.raises(DataError, match="record r-1: has no metadata, which every record has"):
        metadata_of({"id": "r-1", "metadata": None})
