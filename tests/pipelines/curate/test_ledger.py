"""The ledger names every removed document and its partner without ambiguity, also where ids are used twice."""

import json
from pathlib import Path

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from tests.support.inline import curate_inline
from tests.support.stories import GERMAN, story


def near(text: str) -> str:
    return text.replace(" of ", " off ", 1)


# (source, id, text); x, y and z are used twice in a source, and x in both.
DOCUMENTS = [
    ("one", "x", story(1)),
    ("one", "x", story(2)),
    ("one", "y", near(story(1))),
    ("one", "y", near(story(2))),
    ("one", "german", GERMAN),
    ("two", "x", story(3)),
    ("two", "a", story(2)),
    ("two", "b", near(story(3))),
    ("two", "z", story(4)),
    ("two", "z", story(5)),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    return made(folder, "id")


def made(folder: Path, id: str | None, **settings):
    for source in ("one", "two"):
        rows = [{"id": id, "text": text} for one, id, text in DOCUMENTS if one == source]
        lines = [json.dumps(row) for row in rows]
        lines.insert(1, "broken")  # the position counts readable documents alone
        (folder / f"{source}.jsonl").write_text("\n".join(lines))
    inputs = [{"source": source, "path": str(folder / f"{source}.jsonl"), "id": id} for source in ("one", "two")]
    config = {"inputs": inputs, "output": str(folder / "run"), "language": {"keep": ["en"]}}
    with pytest.MonkeyPatch.context() as patch:
        return curate_inline(config | {"execution": {"max_bad_documents": 0.5}} | settings, patch)


def ledger(run) -> dict[int, dict]:
    return {row["position"]: row for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}


def test_a_position_is_a_row_of_the_attributes(run):
    attributes = Artifact.load(Store(), f"{run.uri}/attributes").table().to_pylist()
    assert [(row["source"], row["id"]) for row in attributes] == [(source, id) for source, id, _ in DOCUMENTS]
    rows = ledger(run)
    assert sorted(rows) == [2, 3, 4, 6, 7]
    for position, row in rows.items():
        assert (row["source"], row["id"]) == DOCUMENTS[position][:2]


def test_a_partner_is_named_by_source_and_position(run):
    partners = {
        position: (row["reason"], row["partner_source"], row["partner"], row["partner_position"])
        for position, row in ledger(run).items()
        if row["partner"] is not None
    }
    assert partners == {
        2: ("near_duplicate", "one", "x", 0),
        3: ("near_duplicate", "one", "x", 1),
        6: ("exact_duplicate", "one", "x", 1),
        7: ("near_duplicate", "two", "x", 5),
    }


def test_the_report_shows_the_largest_duplicate_group_first(run):
    groups = run.report["groups"]
    assert [group["documents"] for group in groups] == [3, 2, 2]
    assert (groups[0]["kept"]["source"], groups[0]["kept"]["id"]) == DOCUMENTS[1][:2]
    assert groups[1]["group_id"] < groups[2]["group_id"]


def test_a_document_removed_for_its_language_has_the_language_and_its_score(run):
    row = ledger(run)[4]
    assert (row["reason"], row["language"]) == ("language_not_kept", "de")
    assert 0.5 < row["language_score"] <= 1
    assert (row["value"], row["threshold"], row["partner_source"], row["partner_position"]) == (None,) * 4
    assert f"language_not_kept (de, score {row['language_score']:.4g})" in explain(
        RunReader(Store(), run.uri), "german"
    )


def test_the_report_counts_the_bytes_of_the_text_in_every_stage_that_reads_all_of_it(run):
    attributes = Artifact.load(Store(), f"{run.uri}/attributes").table().to_pydict()
    assert sum(attributes["bytes"]) > sum(attributes["characters"]), "a text has letters beyond ASCII"
    counted = {row["stage"]: row["text_bytes"] for row in run.report["stages"]}
    assert counted == dict.fromkeys(("measure", "decide", "select"), sum(attributes["bytes"])) | {"group": 0}


def test_ids_that_are_used_twice_in_a_source_are_counted_and_warned_of(run):
    assert run.report["duplicate_ids"] == [
        {"source": "one", "ids": 2, "documents": 4, "examples": ["x", "y"]},
        {"source": "two", "ids": 1, "documents": 2, "examples": ["z"]},
    ]
    assert (
        "Source one: 2 ids are used by more than one document, 4 documents in all (x, y). Ledger and quarantine "
        "have their positions; corpus and attributes are in the order of the input." in run.report["warnings"]
    )


def test_explain_tells_documents_of_one_id_apart(run):
    first, second = explain(RunReader(Store(), run.uri), "y").split("\n\n")
    assert "document  y" in first and "near_duplicate of x (source one, position 0)" in first
    assert "near_duplicate of x (source one, position 1)" in second
    assert "[-of-]{+off+}" in first and "[-of-]{+off+}" in second


def test_ids_that_are_hashes_of_texts_are_no_duplicate_ids(tmp_path):
    run = made(tmp_path, None)
    assert run.report["duplicate_ids"] == []
    assert not any("ids" in warning for warning in run.report["warnings"])


def test_the_ledger_has_its_columns_without_language_and_deduplication(tmp_path, run):
    bare = made(tmp_path, "id", language=None, dedup=None)
    assert Artifact.load(Store(), f"{bare.uri}/removed").schema == Artifact.load(Store(), f"{run.uri}/removed").schema
    assert len(bare.report["duplicate_ids"]) == 2
