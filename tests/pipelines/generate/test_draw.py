"""Values that are drawn for each seed and sample."""

from collections import Counter

import pytest

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.draw import Choices, load_choices
from raymill.pipelines.generate.job import GenerateJob
from raymill.pipelines.generate.plan import plan_generation
from tests.support.generate_inline import generate_inline, rows

PERSONAS = {"a nurse": 1.0, "a teacher": 3.0}


def asked(tmp_path):
    return [str(row["request"]) for row in rows(tmp_path / "out", "answers") if row["request"]]


def test_each_value_has_its_share_of_the_draws():
    drawn = Counter(
        Choices(list(PERSONAS), list(PERSONAS.values())).of(1, f"seed {n}", 0, "persona") for n in range(4000)
    )
    assert drawn["a nurse"] == pytest.approx(1000, abs=90)
    equal = Counter(Choices([1, 2, 3, 4]).of(n) for n in range(4000))
    assert all(count == pytest.approx(1000, abs=90) for count in equal.values())


def test_records_have_what_was_drawn_and_the_prompts_too(settings, monkeypatch, tmp_path):
    (tmp_path / "styles.txt").write_text("dry\n\nwarm\n")
    template = {
        "prompt": "As {{ persona }}, in a {{ style }} style, {{ count }} words: {{ text }}",
        "record": {"text": "{{ text }}"},
    }
    draw = {"persona": PERSONAS, "style": str(tmp_path / "styles.txt"), "count": [10, 20]}
    run = generate_inline(
        settings | {"make": {"template": template}, "draw": draw, "samples": 3, "dedup": None}, monkeypatch
    )
    made, prompts = rows(run, "records"), asked(tmp_path)
    assert len(made) == 36 and {one["style"] for one in made} == {"dry", "warm"}
    for one in made:
        begin = f"As {one['persona']}, in a {one['style']} style, {one['count']} words:"
        assert any(begin in prompt for prompt in prompts)
    assert len({(one["persona"], one["style"], one["count"]) for one in made}) == 8, "samples of a seed differ"


def test_a_draw_depends_on_the_seed_alone(settings, seeds, monkeypatch, tmp_path):
    draw = {"draw": {"persona": PERSONAS}, "make": {"template": "qa"}, "dedup": None}

    def made(output):
        run = generate_inline(settings | draw | {"output": str(tmp_path / output)}, monkeypatch)
        return {one["provenance"]["parents"][0]: one["persona"] for one in rows(run, "records")}

    before = made("one")
    (seeds / "00a.md").write_text("Another guide. The plug has to be dry before it is put in again.")
    after = made("two")
    assert before and before.items() <= after.items()


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        ({"persna": ["a nurse"]}, "draw.persna: in no prompt"),
        ({"text": ["a"]}, "draw.text: the name of a field or column"),
        ({"source": ["a"]}, "draw.source: the name of a field or column"),
        ({"per_document": ["three"]}, "draw.per_document: 'three' given; wanted a number"),
        ({"persona": "none.txt"}, r"^draw\.persona: /.*/none\.txt: no such file\. Check the path"),
        ({"persona": "empty.txt"}, "has no value"),
    ],
)
def test_mistakes_in_draws_are_found_before_anything_is_asked(settings, server, monkeypatch, tmp_path, draw, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(Exception, match=said) as raised:
        generate_inline(settings | {"draw": draw}, monkeypatch)
    assert raised.value.exit_code == 2 and server.stats()["requests"] == 0


def test_a_variable_without_a_default_may_be_drawn(settings, monkeypatch):
    draw = {"draw": {"labels": ["red"]}, "make": {"template": "classify"}}
    with pytest.raises(ConfigError, match=r"draw\.labels: 'red' given; wanted a list"):
        generate_inline(settings | draw, monkeypatch)
    template = {"prompt": "{{ tone }}: {{ text }}", "needs": {"tone": "text"}, "record": {"text": "{{ text }}"}}
    run = generate_inline(settings | {"draw": {"tone": ["dry"]}, "make": {"template": template}}, monkeypatch)
    assert {one["tone"] for one in rows(run, "records")} == {"dry"}


def test_a_changed_file_of_values_is_another_run(settings, tmp_path):
    file = tmp_path / "personas.txt"
    config = {"kind": "generate"} | settings | {"draw": {"persona": str(file)}}

    def recorded(text):
        file.write_text(text)
        return GenerateJob(GenerateConfig.model_validate(config)).settings()["draw"]

    assert recorded("a\nb\n") == recorded("a\n\nb") != recorded("a\nc\n")
    assert load_choices({"x": str(file)}, Store())["x"].values == ["a", "c"]


def test_a_plan_has_the_prompts_with_draws(settings):
    wanted = {"kind": "generate", "draw": {"persona": ["a nurse" * 50]}} | settings
    with_draws = plan_generation(GenerateConfig.model_validate(wanted))
    without = plan_generation(GenerateConfig.model_validate(wanted | {"draw": {}}))
    assert with_draws["input_tokens"]["expected"] > without["input_tokens"]["expected"] + 12 * 50
