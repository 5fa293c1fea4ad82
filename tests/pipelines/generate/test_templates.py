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
from tests.support.sampled import sampled

SHAPE = {
    "qa": "pairs", "summary": "pairs", "instruction": "pairs", "evolve": "pairs", "classify": "pairs",
    "policy": "pairs", "chat": "messages", "preference": "preference", "score": "text", "compare": "text",
    **dict.fromkeys(("paraphrase", "simplify", "style", "context", "translate"), "text"),
}  # fmt: skip


def test_every_template_says_what_it_makes():
    assert {*names_of_package()} == {*SHAPE}
    for name, shape in SHAPE.items():
        template = load_template(name, Store())
        assert template.about and template.shape == shape


def answers_to_compare(folder) -> dict:
    """An input of twelve questions with two answers each."""
    rows = [{"text": f"What is {n} + 1?", "a": f"It is {n + 1}.", "b": f"Not {n}."} for n in range(12)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(folder / "answers.jsonl"), "columns": ["a", "b"]}


@pytest.mark.parametrize("name", sampled(SHAPE, 6))
def test_a_template_makes_records_of_its_shape_and_loses_nothing(name, settings, server, monkeypatch, tmp_path):
    settings["make"] = {"template": name} | ({"labels": ["red", "green"]} if name == "classify" else {})
    if name == "compare":
        settings["inputs"] = [answers_to_compare(tmp_path)]
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
    if name == "score":
        assert all(0 <= int(record["score"]) <= 5 and record["reason"] for record in made)
        assert {record["text"] for record in made} <= {path.read_text() for path in (tmp_path / "docs").iterdir()}
    if name == "compare":
        # `swapped` is the second verdict in the names of the first order.
        for record in made:
            same = record["in_order"] == record["swapped"]
            assert record["better"] == (record["in_order"].lower() if same else "tie")
        same = sum(record["in_order"] == record["swapped"] for record in made)
        (found,) = report["agreement"]
        assert 0 < same < found["documents"] == len(made) and found["equal_share"] == same / len(made)
        assert found["equal_low"] < found["equal_share"] < found["equal_high"]
        assert "agreement of in_order and swapped: kappa " in str(run)


def test_labels_of_rewritten_texts_are_carried(settings, server, monkeypatch, tmp_path):
    """Numbers stay in what the server says of the first sentence, and are lost in what it says of the others."""
    rows_of = [{"q": f"How do I reset lamp number {n}? It is red.", "intent": f"reset{n % 2}"} for n in range(12)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of))
    settings["inputs"] = [{"path": str(tmp_path / "q.jsonl"), "text": "q", "columns": ["intent"]}]
    template = {"prompt": "{{ text }} So what?", "keeps": ["numbers"], "differs": "text", "similarity": [0.1, 0.99]}
    run = generate_inline(settings | {"make": {"template": template}, "carry": ["intent"], "dedup": None}, monkeypatch)
    made, removed = rows(run, "records"), rows(run, "removed")
    assert len(made) + len(removed) == 12 and {one["reason"] for one in removed} <= {"lost_text", "too_far"} and made
    for record in made:
        number = int(record["text"].partition("number ")[2].partition("?")[0])
        assert record["intent"] == f"reset{number % 2}"
    for wrong, said in ((["colour"], "carry: no column colour"), (["text"], "carry: text is a column of the records")):
        with pytest.raises(ConfigError, match=said):
            other = {"make": {"template": template}, "carry": wrong, "output": str(tmp_path / "other")}
            generate_inline(settings | other, monkeypatch)


def test_a_rubric_and_examples_of_ones_own_are_asked_and_bound_the_score(settings, server, monkeypatch, tmp_path):
    example = {"text": "Red lamps are hot.", "reason": "It names a lamp.", "score": 1}
    settings["make"] = {"template": "score", "rubric": ["It names a lamp.", "It is long."], "examples": [example]}
    run = generate_inline(settings | {"dedup": None}, monkeypatch)
    scores = [int(record["score"]) for record in rows(run, "records")]
    assert scores and max(scores) <= 2
    removed = rows(run, "removed")
    assert {one["reason"] for one in removed} == {"not_kept"} and len(removed) + len(scores) == 12
    prompt = json.loads(rows(tmp_path / "out", "answers")[0]["request"])["messages"][1]["content"]
    assert "at most\n2:" in prompt and "1. It names a lamp.\n2. It is long.\n" in prompt
    assert "Red lamps are hot.\n\nReason: It names a lamp.\nPoints: 1\n" in prompt
    assert prompt.index("Example:") < prompt.index("Text:\n"), "what all prompts have stands before the text"
    for wrong in ("It names a lamp.", [], 3):
        settings["make"] = {"template": "score", "rubric": wrong}
        with pytest.raises(ConfigError, match=r"make\.rubric: .* given; wanted a list of at least one value"):
            generate_inline(settings | {"output": str(tmp_path / "wrong")}, monkeypatch)


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
    with pytest.raises(ConfigError, match="agreement: b is no field of `record`"):
        load_template({"prompt": "x", "record": {"text": "x", "a": "y"}, "agreement": ["a", "b"]}, Store())
    for answer in ({"type": "thing"}, {"type": "object", "properties": {"a": {"$ref": "http://localhost:9/x"}}}):
        with pytest.raises(ConfigError, match="is no JSON schema"):
            load_template({"prompt": "x", "answer": answer, "record": {"text": "x"}}, Store())


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
