"""Text vectors from an endpoint in prepare, its assessment and prompt: the server's, stored, counted and bounded."""

import copy
import json

import numpy as np
import pytest

import raymill
from raymill.cluster.artifact import Artifact
from raymill.cluster.asking.faulty_server import FAULTS, FaultyServer
from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.errors import ConfigError
from raymill.cluster.examples.content import from_shape, sides_of
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.progress import Progress
from raymill.cluster.record import OtherSettings
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import assess_again
from tests.support.inline import prepare_inline
from tests.support.prompt_inline import prompt_inline
from tests.support.queues import rows, settings_of
from tests.support.word_vectors import word_vectors

pytestmark = pytest.mark.usefixtures("quick_reports")


def model_of(server, **how) -> dict:
    return {"endpoint": server.url, "name": "small", "price": 0.1} | how


def related(tmp_path, server, **how) -> dict:
    """Settings of a run with the rule `answer_relevance` and no other vectors."""
    tmp_path.mkdir(exist_ok=True)
    settings = settings_of(tmp_path, rows(40), embeddings=None)
    rule = {"model": model_of(server, **how), "min_cosine": 0.05}
    return settings | {"validate": {"answer_relevance": rule}, "dedup": None, "duplicates": {"contradictory": "ignore"}}


def changed(settings: dict, **how) -> dict:
    """The settings with other ones of the model."""
    settings = copy.deepcopy(settings)
    settings["validate"]["answer_relevance"]["model"] |= how
    return settings


def cosines(run) -> list[float]:
    return Artifact.load(Store(), f"{run.uri}/_work/relevance/cosines").table()["cosine"].to_pylist()


def test_the_assessment_has_the_vectors_of_an_endpoint(tmp_path, monkeypatch, server):
    settings = settings_of(tmp_path, rows(40), embeddings={"model": model_of(server), "groups": 3})
    run = prepare_inline(settings, monkeypatch)
    found = Artifact.load(Store(), f"{run.uri}/_work/assess/vectors").table().to_pylist()
    records = [row for split in SPLITS for row in run.split(split).table().to_pylist()]
    texts = {row["id"]: sides_of(from_shape(row, "messages")).text for row in records}
    assert {row["id"] for row in found} == texts.keys() and len(texts) == 40
    for row in found:
        np.testing.assert_allclose(np.array(row["vector"], np.float32), word_vectors([texts[row["id"]]])[0], atol=1e-3)
    (asked,) = run.report["embeddings"]
    assert asked["tokens"] == server.tokens[0] and asked["cost"] == pytest.approx(server.tokens[0] * 0.1 / 1e6)
    assert any("small at http" in note and "computed text vectors" in note for note in run.report["notes"])
    assert "computed text vectors" in (tmp_path / "out/report.html").read_text()


def test_a_rule_by_an_endpoint_removes_unrelated_answers(tmp_path, monkeypatch, server):
    run = prepare_inline(related(tmp_path, server), monkeypatch)
    records = Artifact.load(Store(), f"{run.uri}/_work/records").table().to_pylist()
    sides = [sides_of(from_shape(row, "messages")) for row in records]
    expected = (word_vectors([one.question for one in sides]) * word_vectors([one.answer for one in sides])).sum(axis=1)
    np.testing.assert_allclose(cosines(run), expected, atol=1e-4)


def test_what_has_no_effect_on_vectors_may_change_and_nothing_is_asked_again(tmp_path, monkeypatch, server):
    settings = related(tmp_path, server)
    first = prepare_inline(settings, monkeypatch)
    asked = server.stats()["requests"]
    again = prepare_inline(changed(settings, price=0.3, concurrency=3, tries=2), monkeypatch)
    assert again.manifest["digest"] == first.manifest["digest"]
    with pytest.raises(OtherSettings, match=r"revision"):
        prepare_inline(changed(settings, revision="2"), monkeypatch)
    elsewhere = changed(settings, answers=str(tmp_path / "out/answers")) | {"output": str(tmp_path / "other")}
    assert prepare_inline(elsewhere, monkeypatch).manifest["digest"] == first.manifest["digest"]
    assert server.stats()["requests"] == asked, "the store is shared"


def test_faults_and_a_small_budget_change_nothing(tmp_path, monkeypatch, server):
    expected = prepare_inline(related(tmp_path / "a", server), monkeypatch)
    faults = tuple(one for one in FAULTS if one != "bad_request")
    with FaultyServer(0.3, faults, 3) as faulty:
        settings = related(tmp_path / "b", faulty, tries=30, price=1000, budget=3.0)
        with pytest.raises(AskingStopped, match="the budget of 3 has no room"):
            prepare_inline(settings, monkeypatch)
        found = prepare_inline(changed(settings, budget=1000.0), monkeypatch)
    assert cosines(found) == cosines(expected) and found.report["splits"] == expected.report["splits"]


def test_a_missing_key_is_named_before_a_record_is_read_and_travels_with_a_job(tmp_path, monkeypatch, server):
    settings = related(tmp_path, server, key_env="KEY_OF_VECTORS")
    with pytest.raises(ConfigError, match=r"validate\.answer_relevance\.model\.key_env: the environment variable KEY"):
        prepare_inline(settings, monkeypatch)
    assert not server.asked
    config = PrepareConfig.model_validate(settings | {"kind": "prepare"})
    assert config.variables == ("KEY_OF_VECTORS",)
    monkeypatch.setenv("KEY_OF_VECTORS", "sk-of-vectors")
    run = prepare_inline(settings, monkeypatch)
    assert b"Bearer sk-of-vectors" in server.head
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"sk-of-vectors" in path.read_bytes() for path in written) and run.report["splits"]


def test_an_endpoint_that_only_the_record_of_a_run_names_is_not_asked(tmp_path, monkeypatch, server):
    run = prepare_inline(settings_of(tmp_path, rows(40), embeddings={"model": model_of(server)}), monkeypatch)
    asked = server.stats()["requests"]
    with pytest.raises(ConfigError, match=r"assess\.embeddings\.model is 'http.*by the record of this run alone"):
        assess_again(Store(), run.uri, Session(), Progress())
    assert server.stats()["requests"] == asked


def test_examples_are_chosen_by_the_vectors_of_an_endpoint(tmp_path, monkeypatch, server):
    (tmp_path / "p").mkdir()
    prepared = prepare_inline(settings_of(tmp_path / "p", rows(90), embeddings=None), monkeypatch)
    config = {
        "kind": "prompt",
        "name": "test",
        "data": prepared.uri,
        "models": {"small": {"endpoint": server.url, "name": "small"}},
        "examples": {"number": [3], "by": "similar", "near": 1, "model": model_of(server)},
        "output": str(tmp_path / "out"),
    }
    made = prompt_inline(config, monkeypatch)
    items = {row["id"]: row["question"] for row in made.artifact("items").table().to_pylist()}
    train = {
        row["id"]: sides_of(from_shape(row, "messages")).question for row in prepared.split("train").table().to_pylist()
    }
    ids, of_train = [*train], word_vectors(train.values())
    for row in made.artifact("examples").table().to_pylist():
        cosines = of_train @ word_vectors([items[row["item"]]])[0]
        chosen = [cosines[ids.index(one)] for one in row["examples"]]
        assert chosen == sorted(chosen) and chosen[-1] == pytest.approx(max(cosines), abs=1e-6)
    (asked,) = made.report["embeddings"]
    assert asked["tries"] > 0 and asked["cost"] > 0
    assert (tmp_path / "out/answers/embeddings").is_dir()
    best = (tmp_path / "out/best.yaml").read_text()
    assert json.dumps(server.url)[1:-1] in best


def test_plans_and_dry_runs_ask_for_no_vectors(tmp_path, server):
    settings = settings_of(tmp_path, rows(40), embeddings={"model": model_of(server)})
    (tmp_path / "head.json").write_text('{"weights": [[1], [2]], "bias": [0, 1]}')
    decisive = {"name": "small", "revision": "", "extra": {}}
    (tmp_path / "threshold.json").write_text(json.dumps({"min_score": 1, "max_chars": 200, "embedding": decisive}))
    judge = {"judge_score": {"classifier": str(tmp_path), "embedding": model_of(server)}}
    rules = {"answer_relevance": {"model": model_of(server)}, "rules": judge}
    config = {"kind": "prepare", "name": "test"} | settings | {"validate": rules}
    assert "sample" in "\n".join(dry_run_lines(PrepareConfig.model_validate(config)))
    assert str(raymill.plan(config))
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": f"Text {n}."}) + "\n" for n in range(30)))
    inputs = [str(tmp_path / "texts.jsonl")]
    curated = {"kind": "curate", "name": "test", "inputs": inputs, "rules": judge | {"packs": []}}
    assert str(raymill.plan(curated | {"output": str(tmp_path / "corpus")}))
    assert not server.asked
