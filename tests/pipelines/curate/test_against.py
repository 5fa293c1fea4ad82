"""`dedup.against`: a new snapshot without what earlier runs kept, from their sketches alone."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.questions.explain import _difference, explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from tests.support.against_runs import PLAIN, changed
from tests.support.inline import curate_inline
from tests.support.stories import ledger, story


def settings(tmp_path: Path, name: str, documents: dict[str, str], **dedup: object) -> dict:
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in documents.items()))
    return PLAIN | {
        "inputs": [{"source": "news", "path": str(path), "id": "id"}],
        "output": str(tmp_path / name),
        "dedup": dedup,
    }


@pytest.fixture
def january(tmp_path, monkeypatch) -> str:
    documents = {"a": story(1), "b": story(2), "b2": story(2), "c": story(3)}
    return curate_inline(settings(tmp_path, "january", documents), monkeypatch).uri


def test_a_document_like_one_of_an_earlier_run_is_removed_and_its_partner_named(january, tmp_path, monkeypatch):
    documents = {"new": story(9), "a3": changed(story(1)), "b3": story(2), "new2": changed(story(9))}
    # The text of the earlier run is not needed: its attributes and its ledger are.
    shutil.rmtree(f"{january}/corpus")
    shutil.rmtree(f"{january}/_work")
    run = curate_inline(settings(tmp_path, "february", documents, against=[january], keeper="longest"), monkeypatch)
    assert run.corpus.table()["id"].to_pylist() == [max("new", "new2", key=lambda id: len(documents[id]))]
    rows = ledger(run)
    assert (rows["a3"]["reason"], rows["a3"]["partner"], rows["a3"]["partner_run"]) == ("near_duplicate", "a", january)
    assert (rows["b3"]["reason"], rows["b3"]["partner"], rows["b3"]["partner_position"]) == ("exact_duplicate", "b", 1)
    near = rows.get("new2") or rows["new"]
    assert near["partner_run"] is None and near["partner"] in ("new", "new2")
    assert run.report["totals"]["corpus"]["documents"] == 1
    told = explain(RunReader(Store(), run.uri), "a3")
    assert f"removed as near_duplicate of a (source news, position 0 of {january})" in told
    assert "{+entirely+}" in told


def test_a_run_against_a_run_against_a_run(january, tmp_path, monkeypatch):
    """Each run of the list has only what it kept itself, so the list names all of them."""
    second = settings(tmp_path, "february", {"d": story(4), "a2": story(1)}, against=[january])
    february = curate_inline(second, monkeypatch).uri
    documents = {"d2": story(4), "a3": story(1), "e": story(5)}
    both = curate_inline(settings(tmp_path, "march", documents, against=[january, february]), monkeypatch)
    assert both.corpus.table()["id"].to_pylist() == ["e"]
    assert {id: row["partner_run"] for id, row in ledger(both).items()} == {"d2": february, "a3": january}
    one = curate_inline(settings(tmp_path, "april", documents, against=[february]), monkeypatch)
    assert one.corpus.table()["id"].to_pylist() == ["a3", "e"]


def test_another_list_of_earlier_runs_makes_the_groups_again(january, tmp_path, monkeypatch):
    alone = settings(tmp_path, "february", {"a2": story(1), "e": story(5)})
    assert curate_inline(alone, monkeypatch).corpus.table()["id"].to_pylist() == ["a2", "e"]
    both = alone | {"dedup": {"against": [january]}}
    assert curate_inline(both, monkeypatch, replace=True).corpus.table()["id"].to_pylist() == ["e"]


def test_runs_that_cannot_be_compared_with_are_named_together(january, tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    found = settings(tmp_path, "february", {"a": story(1)}, against=[str(empty), january], ngram_words=3)
    with pytest.raises(ConfigError) as refused:
        curate_inline(found, monkeypatch)
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"dedup.against[0]: {empty}: there is no run and no artifact here")
    assert second.startswith(
        f"dedup.against[1]: {january}: its sketches were made with other settings: ngram_words is 5 "
    )
    without = settings(tmp_path, "plain", {"a": story(1)}) | {"dedup": None}
    plain = curate_inline(without, monkeypatch).uri
    with pytest.raises(ConfigError, match="this run has no sketches to compare with"):
        curate_inline(settings(tmp_path, "february", {"a": story(1)}, against=[plain]), monkeypatch)


def test_no_store_is_asked_that_only_a_ledger_names(monkeypatch):
    asked = []
    monkeypatch.setattr("raymill.pipelines.curate.questions.explain.RunReader", lambda *of: asked.append(of))
    entry = {"partner_run": "s3://theirs/run", "partner_position": 0}
    (line,) = _difference(SimpleNamespace(uri="/runs/web", store=Store()), None, entry)
    assert "s3://theirs/run is on another store" in line and not asked
