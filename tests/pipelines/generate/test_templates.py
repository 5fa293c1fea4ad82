"""The templates of the package, each against a server that answers by their schemas."""

import json

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.template import (
    SHAPES,
    Refusal,
    Step,
    load_template,
    names_of_package,
    rendered,
    strict_schema,
)
from tests.support.generate_inline import generate_inline, rows

SHAPE = {
    "qa": "pairs", "summary": "pairs", "instruction": "pairs", "evolve": "pairs", "classify": "pairs",
    "policy": "pairs", "chat": "messages", "preference": "preference",
}  # fmt: skip


def test_every_template_says_what_it_makes():
    assert {*names_of_package()} == {*SHAPE}
    for name, shape in SHAPE.items():
        template = load_template(name, Store())
        assert template.about and template.shape == shape


@pytest.mark.parametrize("name", SHAPE)
def test_a_template_makes_records_of_its_shape_and_loses_nothing(name, settings, server, monkeypatch):
    settings["make"] = {"template": name} | ({"labels": ["red", "green"]} if name == "classify" else {})
    run = generate_inline(settings | {"dedup": None, "samples": 2}, monkeypatch)
    report, removed = run.report, sum(one["count"] for one in run.report["removed"])
    assert server.stats()["requests"] == report["requests"] and report["records"] + removed >= 24
    made = rows(run, "records")
    assert made or name == "classify", report["removed"]  # the server gives labels that nobody asked for
    assert all(record[field] for record in made for field in SHAPES[SHAPE[name]])
    if name == "chat":
        assert [one["role"] for one in made[0]["messages"]][:2] == ["user", "assistant"]
    if name == "preference":
        assert all(record["chosen"] != record["rejected"] and record["reason"] for record in made)
        assert {one["reason"] for one in report["removed"]} <= {"not_kept", "no_record", "repeats_seed"}


def test_a_template_in_a_file_and_one_in_the_config_ask_the_same(settings, server, tmp_path, monkeypatch):
    template = {"prompt": "Rewrite in a {{ tone }} tone: {{ text }}", "variables": {"tone": "polite"}}
    (tmp_path / "mine.yaml").write_text(json.dumps(template))
    for number, given in enumerate((template, str(tmp_path / "mine.yaml"))):
        changes = {"make": {"template": given, "tone": "friendly"}, "output": str(tmp_path / f"out{number}")}
        run = generate_inline(settings | changes | {"answers": str(tmp_path / "answers")}, monkeypatch)
    assert server.stats()["requests"] == 12 and run.report["tries"] == 0
    assert "friendly tone" in json.dumps([row["request"] for row in rows(tmp_path, "answers")])


def test_steps_see_what_the_steps_before_made(settings, server, monkeypatch, tmp_path):
    template = {
        "steps": [
            {"name": "one", "prompt": "First {{ text }}"},
            {"name": "two", "prompt": "Then {{ one.text }} of {{ seed.id }}", "samples": 2},
        ],
        "record": {"text": "{{ one.text }} / {{ two.samples[0].text }} / {{ two.samples[1].text }}"},
    }
    run = generate_inline(settings | {"make": {"template": template}, "dedup": None}, monkeypatch)
    assert run.report["requests"] == 36 and run.report["records"] == 12
    record = rows(run, "records")[0]
    assert len(record["text"].split(" / ")) == 3 and len(record["requests"]) == 3


def test_a_template_of_a_file_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n- 2\n")
    for given, said in (
        (str(tmp_path / "a.yaml"), "is no mapping of settings"),
        (str(tmp_path / "b.yaml"), "no such file"),
    ):
        with pytest.raises(Exception, match=said) as raised:
            load_template(given, Store())
        assert raised.value.exit_code == 2
    with pytest.raises(ConfigError, match="is no JSON schema"):
        load_template({"prompt": "x", "answer": {"type": "thing"}, "record": {"text": "x"}}, Store())


def test_templates_reach_nothing_of_python():
    for text in (
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for x in range(10**9) %}{% endfor %}",
    ):
        with pytest.raises(Refusal):
            assert rendered(text, {}) == ""


def test_servers_are_given_strict_schemas():
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {"b": {}}}}},
    }
    strict = strict_schema(schema)
    assert strict["required"] == ["a"] and strict["additionalProperties"] is False
    assert strict["properties"]["a"]["items"]["required"] == ["b"]
    assert Step(prompt="x", answer=schema).answer == schema
