"""The settings of a run file: references, conditions, matrices, and what is refused before anything starts."""

import pytest
import yaml

from raymill.cluster.chain.config import ChainConfig, field_value, filled, references, without_matrices
from raymill.cluster.config import load_values
from raymill.cluster.errors import ConfigError, DataError
from tests.cluster.chain.conftest import WORDS


def of(steps, **more):
    return load_values({"kind": "run", "output": "/runs/a", "steps": steps} | more, "a.yaml")


def words(path="/in", **more):
    return {"kind": "words", "inputs": [{"path": path}]} | more


def refused(steps, **more):
    with pytest.raises(ConfigError) as caught:
        of(steps, **more)
    return str(caught.value)


def test_references_are_found_and_filled_with_values_of_their_type():
    given = {"a": "${x.output}/test", "b": ["${x.rows}", {"c": "${y-1.scores.best}"}], "d": "${NAME}", "e": 3}
    assert [*references(given)] == [("x", "output"), ("x", "rows"), ("y-1", "scores.best")]
    values = {("x", "output"): "/o/x", ("x", "rows"): 7, ("y-1", "scores.best"): 0.5}
    found = filled(given, lambda *reference: values[reference])
    assert found == {"a": "/o/x/test", "b": [7, {"c": 0.5}], "d": "${NAME}", "e": 3}


def test_a_field_is_a_value_of_the_report_or_the_digest():
    manifest, report = {"digest": "d1"}, {"passed": True, "scores": {"best": 0.5}, "rows": [1, {"a": 2}]}
    assert [field_value(one, manifest, report, "/o") for one in ("digest", "passed", "scores.best")] == [
        "d1",
        True,
        0.5,
    ]
    for field, there in (("scores.worst", "scores has: best"), ("rows.2", "rows has: 0, 1"), ("no", "It has: passed")):
        with pytest.raises(DataError, match=rf"^/o: its report has no {field}\. {there}"):
            field_value(field, manifest, report, "/o")


def test_steps_are_ordered_by_references_then_as_in_the_file(raymill):
    steps = {"d": words("${b.output}/words"), "c": words(), "b": words("${a.output}"), "a": words()}
    assert of(steps).order == ["c", "a", "b", "d"]
    assert of(steps, until="b").order == ["a", "b"]
    found = of(steps).step_config("d", None)
    assert (found.name, found.output, found.inputs[0].path) == ("a-d", "/runs/a/d", "/runs/a/b/words")
    assert of(steps, name="pets").step_config("a", None).name == "pets-a"


def test_what_is_wrong_is_named_with_its_step(raymill):
    assert "step a, lowr: no such setting" in refused({"a": words(lowr=True)})
    both = refused({"a": words(lower="maybe"), "b": {"kind": "words"}})
    assert "step a, lower: 'maybe' given; wanted true or false" in both and "step b, inputs: missing" in both
    assert "step a, kind: 'wrods' given; wanted one of: curate, " in refused({"a": {"kind": "wrods"}})
    assert "step a, kind: 'run' given" in refused({"a": {"kind": "run", "steps": {}}})
    assert "step a, output: the output of a step is OUTPUT/STEP. Leave it out." in refused({"a": words(output="x")})
    assert "step a, storage: all steps use the `storage` of the run file" in refused({"a": words(storage={})})
    assert "${b.output} refers to no step; wanted one of: c." in refused({"a": words("${b.output}"), "c": words()})
    circle = refused({"a": words("${b.output}"), "b": words("${a.output}"), "c": words("${c.output}"), "d": words()})
    assert "a and b and c refer to each other, or to themselves" in circle
    assert "until: 'z' given; wanted one of: a" in refused({"a": words()}, until="z")
    assert "if: 'yes' given; wanted a field of a step" in refused({"a": words(**{"if": "yes"})})
    assert "steps" in refused({"a/b": words()}) and "steps" in refused({})
    hidden = refused(
        {"a": {"kind": "words", "inputs": [{"path": "/in", "storage": {"secret_access_key": "hunter2hu"}}]}}
    )
    assert "step a: the key of a store is given, and steps are recorded" in hidden and "hunter2hu" not in hidden


def test_a_setting_that_refers_to_a_field_is_validated_when_the_field_is_known(raymill):
    config = of({"a": words(), "b": words(lower="${a.lower}")})
    assert config.step_config("b", lambda step, field: True).lower is True
    with pytest.raises(ConfigError, match=r"step b, lower: 'maybe' given; wanted true or false"):
        config.step_config("b", lambda step, field: "maybe")
    assert "step b, more: no such setting" in refused({"a": words(), "b": words(lower="${a.lower}", more=1)})


@pytest.mark.parametrize(
    ("condition", "value", "reason"),
    [
        ("${a.passed}", True, None),
        ("${a.passed}", False, "a.passed is false"),
        ("${a.loss} < 2", 1.5, None),
        ("${a.loss}<=1e0", 1.5, "a.loss is 1.5, and <= 1e0 was wanted"),
        ("${a.verdict} == A", "A", None),
        ("${a.verdict} != 'A'", "A", "a.verdict is \"A\", and != 'A' was wanted"),
    ],
)
def test_a_condition_gives_the_reason_for_which_a_step_is_not_made(raymill, condition, value, reason):
    config = of({"a": words(), "b": words(**{"if": condition})})
    assert config.condition("b", lambda step, field: value) == reason
    assert config.condition("a", None) is None


@pytest.mark.parametrize(("condition", "value"), [("${a.passed}", 1), ("${a.passed} < 2", "x")])
def test_a_condition_on_another_value_is_refused(raymill, condition, value):
    with pytest.raises(ConfigError, match=r"if: a\.passed is"):
        of({"a": words(), "b": words(**{"if": condition})}).condition("b", lambda step, field: value)


def test_a_matrix_makes_a_step_for_each_combination():
    steps = {
        "sft": {"kind": "train", "split": {"seed": 0}, "matrix": {"rate": [1, 2], "split.seed": [7, 8]}},
        "best": {"models": "${sft.outputs}", "and": ["${sft.outputs}", "base"]},
    }
    found = without_matrices(steps)
    assert [*found] == ["sft-1", "sft-2", "sft-3", "sft-4", "best"]
    made = [(found[f"sft-{number}"]["rate"], found[f"sft-{number}"]["split"]["seed"]) for number in range(1, 5)]
    assert made == [(1, 7), (1, 8), (2, 7), (2, 8)]
    outputs = [f"${{sft-{number}.output}}" for number in range(1, 5)]
    assert found["best"] == {"models": outputs, "and": [*outputs, "base"]}
    assert steps["sft"]["split"] == {"seed": 0}


def test_a_matrix_that_is_none_is_refused(raymill):
    assert "step a, matrix: [1] given; wanted lists" in refused({"a": words(matrix=[1])})
    assert "step a, matrix: 1,000 combinations; at most 100" in refused({"a": words(matrix={"x": [*range(1000)]})})
    taken = refused({"a": words(matrix={"lower": [True]}), "a-1": words()})
    assert "step a-1: also the name of a run of the matrix of a" in taken
    assert "refer to ${a.outputs} or to a-1" in refused(
        {"a": words(matrix={"lower": [True]}), "b": words("${a.output}")}
    )
    assert "b is no step with a matrix" in refused({"a": words("${b.outputs}"), "b": words()})
    assert "lower is no group of settings" in refused({"a": words(lower=True, matrix={"lower.x": [1]})})


def test_the_steps_of_the_example_are_read(raymill):
    config = load_values(yaml.safe_load(WORDS), "w.yaml")
    assert isinstance(config, ChainConfig) and config.name == "out" and config.order == ["count", "again", "last"]
