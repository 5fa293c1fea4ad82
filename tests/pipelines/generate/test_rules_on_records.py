"""`validate` in a generation: the rules of prepare, by the code of prepare, with its reasons."""

import json

import pytest

from raymill.cluster.errors import ConfigError, StorageError
from raymill.cluster.examples.content import from_shape
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.parse import REASONS, meaning
from raymill.pipelines.prepare.records.validate import REASONS as OF_RULES
from raymill.pipelines.prepare.records.validate import Validate, load_validator
from tests.support.generate_inline import generate_inline, rows

RULES = {
    "question_chars": [40, 70],
    "truncated_answers": "sentence",
    "answer_in_question": 0.5,
    "refusals": ["Ask the help desk"],
}


def with_rules(settings, tmp_path, **rules) -> dict:
    shared = {"answers": str(tmp_path / "out/answers"), "output": str(tmp_path / "checked")}
    return settings | shared | {"validate": rules}


def test_records_that_break_a_rule_are_in_the_ledger_with_the_reason_of_prepare(
    settings, server, monkeypatch, tmp_path
):
    every = generate_inline(settings, monkeypatch)
    asked = server.stats()["requests"]
    run = generate_inline(with_rules(settings, tmp_path, **RULES), monkeypatch)
    assert server.stats()["requests"] == asked, "another rule asks nothing"
    made = rows(every, "records")
    failed = load_validator(Store(), Validate.model_validate(RULES))(
        [(from_shape(row, "pairs"), {"source": row["source"], "quote": row["quote"]}) for row in made]
    )
    expected = {row["id"]: one for row, one in zip(made, failed, strict=True)}
    kept = {row["id"] for row in rows(run, "records")}
    assert kept == {id for id, one in expected.items() if one is None} and 0 < len(kept) < len(made)
    removed = [row for row in rows(run, "removed") if row["reason"] in OF_RULES]
    found = {(row["reason"], row["value"]) for row in removed}
    assert found == {(one.reason, one.value) for one in expected.values() if one is not None} and len(found) > 2
    shown = {one["reason"]: one for one in run.report["removed"]}
    for reason in {reason for reason, _ in found}:
        assert shown[reason]["meaning"] == OF_RULES[reason] and shown[reason]["count"] > 0
    before = len(rows(every, "records")) + len(rows(every, "removed"))
    assert len(rows(run, "records")) + len(rows(run, "removed")) == before, "counts add up"


def test_rules_of_curate_apply_too(settings, monkeypatch, tmp_path):
    generate_inline(settings, monkeypatch)
    run = generate_inline(with_rules(settings, tmp_path, rules={"packs": ["c4"]}), monkeypatch)
    of_pack = {reason for reason, text in OF_RULES.items() if "validate.rules.c4" in text}
    assert {row["reason"] for row in rows(run, "removed")} & of_pack


def test_a_changed_list_makes_the_records_again(settings, server, monkeypatch, tmp_path):
    generate_inline(settings, monkeypatch)
    asked, words = server.stats()["requests"], tmp_path / "words.txt"
    found = []
    for listed in ("nosuchword", "router"):
        words.write_text(f"{listed}\n")
        changed = with_rules(settings, tmp_path, bad_words={"paths": {"en": str(words)}}, question_chars=None)
        run = generate_inline(changed, monkeypatch, replace=True)
        found.append({row["reason"] for row in rows(run, "removed")})
        (tmp_path / "checked/manifest.json").unlink()
    assert "bad_words" not in found[0] and "bad_words" in found[1]
    assert server.stats()["requests"] == asked


def test_every_reason_has_a_meaning_and_equal_names_mean_the_same():
    assert REASONS.keys() & OF_RULES.keys() == {"language_not_kept", "empty"}
    assert all(meaning(reason) for reason in (*REASONS, *OF_RULES, "of_my_own"))


def test_what_cannot_be_checked_is_refused_before_anything_is_asked(settings, server, monkeypatch, tmp_path):
    for rules, said in (
        (
            {"require": ["category"]},
            r"validate\.require: records have no metadata category; .*licence.*quote",
        ),
        ({"allowed": {"colour": ["red"]}}, r"validate\.allowed: records have no metadata colour"),
    ):
        with pytest.raises(ConfigError, match=said):
            generate_inline(settings | {"validate": rules}, monkeypatch)
    with pytest.raises((ConfigError, StorageError), match=r"no\.txt"):
        generate_inline(
            settings | {"validate": {"bad_words": {"paths": {"en": str(tmp_path / "no.txt")}}}}, monkeypatch
        )
    for rules in ({"outliers": {"by": ["source"]}}, {"answer_relevance": {}}):
        with pytest.raises(ValueError, match=f"validate.{next(iter(rules))}: compares a record with all others"):
            GenerateConfig.model_validate({"kind": "generate"} | settings | {"validate": rules})
    assert server.stats()["requests"] == 0


def test_without_the_setting_no_rule_applies_and_records_of_settings_are_as_before(settings, monkeypatch, tmp_path):
    run = generate_inline(settings, monkeypatch)
    assert "validate" not in run.manifest["config"]
    assert not {row["reason"] for row in rows(run, "removed")} & (OF_RULES.keys() - REASONS.keys())
    assert json.loads((tmp_path / "out/manifest.json").read_text())["config"]["make"]
