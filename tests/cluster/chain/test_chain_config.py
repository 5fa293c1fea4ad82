"""The settings of a run file: references, conditions, matrices, and what is refused before anything starts."""

import ast
import importlib
import re
import textwrap
from pathlib import Path

import pytest
import yaml

from raymill.cluster.artifact import fingerprint
from raymill.cluster.chain.config import ChainConfig, field_value, filled, references, without_matrices
from raymill.cluster.config import load_values
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.kinds import kind_of
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
    manifest = {"digest": "../../../x", "artifacts": {"words": "d1"}}
    report = {"passed": True, "scores": {"best": 0.5}, "rows": [1, {"a": 2}], "none": None}
    found = [field_value(one, manifest, report, "/o") for one in ("digest", "passed", "scores.best", "none")]
    assert found == [fingerprint({"words": "d1"}), True, 0.5, None], "digests are computed"
    for field, there in (("scores.worst", "scores has: best"), ("rows.2", "rows has: 0, 1"), ("no", "It has: passed")):
        with pytest.raises(DataError, match=rf"^/o: its report has no {field}\. {there}"):
            field_value(field, manifest, report, "/o")


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"path": "/x", "format": "cProfile:run"}, r"no single value. It has: path, format\.$"),
        (["a"], r"no single value. It has: 0\.$"),
        ("a\nb", r"no text of one line: 'a\\nb'"),
        ("\x1b[2J", "no text of one line"),
        ("a\u202eb", "no text of one line"),
        ("x" * 201, "no text of one line: 'x{200}'"),
        (float("nan"), "nan, no finite number"),
        (float("inf"), "inf, no finite number"),
        ({f"k{number}": 0 for number in range(10_000)}, r"no single value. It has: k0, .*, k19, \.\.\.\.$"),
    ],
)
def test_a_field_is_no_group_list_long_text_or_infinite_number(value, seen):
    with pytest.raises(DataError, match=rf"^/o: best of its report (is )?{seen}"):
        field_value("best", {}, {"best": value}, "/o")


# Paths, mappings, plug-ins, addresses, variables, `storage`, free text, and parts of a text.
@pytest.mark.parametrize(
    ("kind", "setting", "given"),
    [
        ("prepare", "inputs", "${a.best}"),
        ("prepare", "inputs.0", ["${a.best}"]),
        ("prepare", "inputs.0.path", [{"path": "${a.best}"}]),
        ("prepare", "inputs.0.path", [{"path": "${a.output}/${a.best}"}]),
        ("prepare", "inputs.0.format", [{"path": "in", "format": "${a.best}"}]),
        ("prepare", "inputs.0.storage", [{"path": "s3://b/x", "storage": "${a.best}"}]),
        ("prepare", "inputs.0.follow_links", [{"path": "/in", "follow_links": "${a.best}"}]),
        ("prepare", "inputs.0.storage.anonymous", [{"path": "s3://b/x", "storage": {"anonymous": "${a.best}"}}]),
        ("train", "corpus", "${a.best}"),
        ("train", "model", "${a.best}"),
        ("train", "model.name", {"name": "${a.best}"}),
        ("train", "nothing_of_this_name", "${a.best}"),
        ("compare", "models.1", ["m", "${a.best}"]),
        ("compare", "models.0.key_env", [{"endpoint": "http://h/v1", "name": "x", "key_env": "${a.best}"}]),
        ("compare", "models.0.endpoint", [{"endpoint": "${a.best}", "name": "x"}]),
        ("compare", "custom", ["${a.best}"]),
        ("promote", "evidence", "${a.best}"),
        ("words", "lower", "not ${a.best}"),
        ("words", "name", "${a.best}"),
    ],
)
def test_a_value_of_a_report_fills_no_other_setting(raymill, kind, setting, given):
    seen = refused({"a": words(), "b": {"kind": kind, setting.partition(".")[0]: given}})
    assert re.search(rf"step b, {re.escape(setting)}(\.0)?: '.*\$\{{a.best\}}' given, a value of a report", seen)


@pytest.mark.parametrize("value", ["../x", "/etc/passwd", "s3://b/x", "cProfile:run", "a b", "", "x\n", None, "x" * 61])
def test_a_value_of_a_report_that_is_no_number_and_no_word_fills_no_setting(raymill, value):
    config = of({"a": words(), "b": words(lower="${a.lower}")})
    with pytest.raises(ConfigError, match=r"step b, \$\{a.lower\}: .* given, of the report of step a"):
        config.step_config("b", lambda step, field: value)


def test_numbers_and_fixed_words_of_a_report_fill_settings(raymill):
    train = {"kind": "train", "corpus": "${a.output}", "model": "m", "steps": 1, "method": "${a.method}"}
    train |= {"optimizer": {"learning_rate": "${a.rate}"}}
    config = of({"a": words(), "b": train, "c": words("${a.output}/${a.digest}")})
    found = config.step_config("b", lambda step, field: {"rate": 0.25, "method": "lora"}[field])
    assert (found.optimizer.learning_rate, found.method, found.corpus[0].path) == (0.25, "lora", "/runs/a/a")
    assert config.step_config("c", lambda step, field: "d1").inputs[0].path == "/runs/a/a/d1"


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
    several = refused({"a": words(output="x", lowr=True), "b": words("${c.output}"), "d": words(lower="maybe")})
    assert "step a, output: the output of a step is OUTPUT/STEP. Leave it out." in several
    assert "step a, lowr: no such setting" in several and "${c.output} refers to no step" in several
    assert "step d, lower: 'maybe' given" in several
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


def test_a_reference_without_a_field_and_one_with_a_misspelt_field_are_one_mistake_each(raymill):
    def only(**settings):
        (line,) = refused({"a": words(), "b": words() | settings}).splitlines()
        return line

    assert "step b, inputs.0.path: '${a.outptu}/test' given. Did you mean ${a.output}?" in only(
        inputs=[{"path": "${a.outptu}/test"}]
    )
    assert "Did you mean ${a.digest}?" in only(name="${a.digets}")
    assert "step b, inputs.0.path: ${a} names no field of a step" in (seen := only(inputs=[{"path": "${a}/test"}]))
    assert "Did you mean ${a.output}?" in seen
    assert "${HOME} names no field of a step" in only(inputs=[{"path": "${HOME}/test"}])
    assert "step b, if: '${a}' given; wanted a field of a step" in only(**{"if": "${a}"})


def test_a_field_that_no_report_of_the_kind_has_is_refused_with_the_nearest(raymill):
    judged = {"kind": "compare", "models": ["/m", "/n"], "on": "/in", "gate": {"score": {"least_gain": 0}}}

    def of_condition(text):
        (line,) = refused({"judged": judged, "a": words(**{"if": text})}).splitlines()
        return line

    pased = of_condition("${judged.pased}")
    assert (
        "step a: ${judged.pased} given, and the report of a compare has no pased. Did you mean ${judged.passed}?"
        in pased
    )
    assert "has no zzz; wanted one of: output, outputs, digest, name, on, items" in of_condition("${judged.zzz.a} > 1")
    assert "Did you mean ${judged.output}?" in refused({"judged": judged, "a": words("${judged.outptu}")})
    assert of({"judged": judged, "a": words(**{"if": "${judged.comparisons.0.items} > 5"})}).order == ["judged", "a"]
    assert of({"w": words(), "a": words(**{"if": "${w.zzz} > 5"})}).order == ["w", "a"], "its report is not known"


@pytest.mark.parametrize(
    ("kind", "report"),
    [
        ("curate", "raymill.pipelines.curate.report.gather"),
        ("prepare", "raymill.pipelines.prepare.report.gather"),
        ("train", "raymill.training.report.gather"),
    ],
)
def test_the_names_in_a_report_of_a_kind_are_those_of_its_schema(kind, report):
    schema = importlib.import_module(report).REPORT
    assert kind_of(kind).report == tuple(name.removesuffix("?") for name in schema)


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
        ("${a.loss} < 2", 2, "a.loss is 2, and < 2 was wanted"),
        ("${a.loss}<=1e0", 1.5, "a.loss is 1.5, and <= 1e0 was wanted"),
        ("${a.loss} <= 2", 2, None),
        ("${a.best} > 2", 2, "a.best is 2, and > 2 was wanted"),
        ("${a.best} > 2", 2.5, None),
        ("${a.best} >= 2", 2, None),
        ("${a.best} >= 2", 1.5, "a.best is 1.5, and >= 2 was wanted"),
        ("${a.verdict} == A", "A", None),
        ("${a.verdict} != 'A'", "A", "a.verdict is \"A\", and != 'A' was wanted"),
    ],
)
def test_a_condition_gives_the_reason_for_which_a_step_is_not_made(raymill, condition, value, reason):
    config = of({"a": words(), "b": words(**{"if": condition})})
    assert config.condition("b", lambda step, field: value) == reason
    assert config.condition("a", None) is None


@pytest.mark.parametrize(
    ("condition", "value"),
    [("${a.passed}", 1), ("${a.passed} < 2", "x"), ("${a.passed} >= 1", True), ("${a.passed} == 1", True),
     ("${a.passed} == true", 1), ("${a.passed} < b", "a"), ("${a.passed} > null", 1), ("${a.passed} < NaN", 1)],
)  # fmt: skip
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


def test_the_schedules_of_the_guide_have_ten_lines_and_options_that_exist(raymill):
    guide = Path(__file__).parents[3].joinpath("cluster/chain/README.md").read_text()
    blocks = [
        textwrap.dedent(one) for one in re.findall(r"(?:^    .*\n)+", guide.partition("## Schedules")[2], re.MULTILINE)
    ]
    assert len(blocks) == 4 and max(one.count("\n") for one in blocks) <= 10
    cron, kubernetes, airflow, argo = blocks
    assert re.fullmatch(r"(\S+ ){5}cd .*\n", cron) and ast.parse(airflow)
    (pod,) = yaml.safe_load(kubernetes)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (template,) = yaml.safe_load(argo)["spec"]["workflowSpec"]["templates"]
    commands = [re.search(r"raymill ([^\n\">]*)", one)[1].split() for one in (cron, airflow)]
    for verb, *words in [*commands, pod["args"], template["container"]["args"]]:
        known = re.findall(r"--[a-z-]+", raymill(verb, "--help")[1])
        assert {word for word in words if word.startswith("-")} <= {*known}
