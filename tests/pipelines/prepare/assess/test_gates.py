"""Every gate fails on a data set that is made for it, and names records and commands that can be typed as they are."""

import json
import re
import shlex

import pytest
import typer

from raymill.cluster import cli
from raymill.cluster.config import load_values
from raymill.pipelines.prepare.assess.fixes import FixContext, fix_of
from raymill.pipelines.prepare.assess.score import assessment_of
from raymill.pipelines.prepare.assess.settings import MAXIMA, Assess, Gates
from tests.support.assessments import findings, gate
from tests.support.inline import prepare_inline
from tests.support.queues import QUEUES, rows, sentence

NAMES = [name for name in Gates.model_fields if name != "trained"]
TRAINED = {"accuracy": {"mean": 0.5, "deviation": 0.1, "folds": 3, "worst": 1, "worst_output": "/cv/fold-1"}}


def options_of(verb: str) -> set[str]:
    app = typer.Typer(add_completion=False)
    app.command()(cli._function(verb, cli.verbs()[verb]))
    return {option for parameter in typer.main.get_command(app).params for option in parameter.opts}


def check_commands(fix: str, plain: dict) -> list[str]:
    """The verbs of the commands of a fix. Every option is one of its verb, every setting one of a config."""
    verbs = []
    for command in re.findall(r"`(raymill [^`]+)`", fix):
        _, verb, *words = shlex.split(command)
        assert verb in cli.verbs() and {word for word in words if word.startswith("-")} <= options_of(verb), command
        given = [words[at + 1] for at, word in enumerate(words) if word == "-o"]
        load_values(json.loads(json.dumps(plain)), "CONFIG", given)
        verbs.append(verb)
    return verbs


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """(settings, assessment) of a data set that fails every gate but a training's."""
    folder = tmp_path_factory.mktemp("gates with a space")
    made = rows(60, wrong=(4, 31, 44))
    for n, one in enumerate(made):
        one |= {"team": "a" if n % 5 else "b", "anna": "yes", "ben": "no" if n == 7 else "yes", "note": "x"}
    made[2]["note"] = ""
    made[50]["a"] = "Das ist eine Antwort, die mit der Frage leider gar nichts zu tun hat."
    # The question of r10 again, with another answer; those of r20 to r29 but for a word, some of them in another split.
    made.append(made[10] | {"id": "again", "a": "It is something else that helps."})
    for n in range(20, 30):
        made[n]["q"] = " ".join(sentence("billing", 100 * n + part) for part in range(5)) + " today?"
        copy = {"id": f"copy{n}", "q": made[n]["q"].replace(" today?", " now?"), "a": f"{made[n]['a'][:-1]} and more."}
        made.append(made[n] | copy)
    columns = {"prompt": "q", "completion": "a"}
    columns |= {name: name for name in ("queue", "team", "anna", "ben", "note")}
    sources = []
    for name, part in (("desk", made[:65]), ("chat", made[65:])):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in part))
        sources.append({"source": name, "path": str(path), "id": "id", "columns": columns})
    assess = {
        "topics": {"paper jam": ["paper jam"], "network": QUEUES["network"]},
        "examples": ["Our invoice comes with a receipt."],
        "label": "queue", "annotators": ["anna", "ben"], "groups": ["team"], "languages": ["en"],
    }  # fmt: skip
    bounds = {name: 0 if name in MAXIMA else 1 for name in NAMES}
    plain = {
        "kind": "prepare", "name": "test", "inputs": sources, "dedup": None, "assess": assess, "gates": bounds,
        "duplicates": {"contradictory": "ignore"}, "split": {"train": 0.4, "validation": 0.3, "test": 0.3},
        "validate": {"allowed": {"team": ["a", "b"]}}, "output": str(folder / "out"),
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        return plain, prepare_inline(plain, patch).assessment


# A record that the text of a gate names; `coverage` and the score name topics and the lowest part.
NAMED = {
    "duplication": r"\b(again|copy\d+|r\d+)\b", "leakage": r"\b(again|copy\d+|r\d+)\b", "language_quality": "r050",
    "completeness": "r002", "consistency": r"\b(again|r010)\b", "accuracy": "r007", "relevance": r"\br\d+\b",
    "source_diversity": r"\bcopy\d+\b",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_gate_names_records_and_commands(failed, name):
    plain, assessment = failed
    found = gate(assessment, name)
    assert found["state"] == "failed"
    assert re.search(NAMED.get(name, r"\b(again|copy\d+|r\d+)\b"), found["mend"]), found["mend"]
    verbs = check_commands(found["mend"], plain)
    assert set(verbs) & {"prepare", "assess"}


def test_the_gate_of_a_training_names_the_fold_and_commands(failed):
    plain, _ = failed
    of = assessment_of(findings(), Assess(), Gates(trained={"accuracy": 0.8}), FixContext("/out"), TRAINED)
    fix = gate(of, "trained_accuracy")["mend"]
    assert "Fold 1" in fix and check_commands(fix, plain) == ["prepare", "cross-validate"]


def test_commands_with_values_that_yaml_and_shells_read_otherwise_can_be_typed(failed):
    """Norwegian is `no`, which YAML reads as false; values with commas, quotes and colons are one value each."""
    plain, _ = failed
    hidden = ["bug, minor", "it's: new", "1", "no", "grün"]
    labels = {"queue": {"missed": 0, "hardest": [], "rare": dict.fromkeys(hidden, 1), "rare_ids": ["a"], "left_out": 5}}
    similar = {"records": 0, "mean": None, "ids": []}
    learned = {"groups": [], "similar": similar, "relevant": similar, "largest": [], "labels": labels}
    made = findings(
        learned=learned, expected=["no"], languages={"no": 9, "en": 1}, other_language={"records": 1, "ids": ["b"]},
        topics={"v1.2": 0}, off_topic={"records": 1, "ids": ["c"]},
    )  # fmt: skip
    where = FixContext("/a folder/out")

    def settings(of: str) -> list[str]:
        text = fix_of(of, made, where)
        check_commands(text, plain)
        commands = [shlex.split(command) for command in re.findall(r"`(raymill [^`]+)`", text)]
        assert all("/a folder/out" in words for words in commands if words[1] == "assess")
        return [words[at + 1] for words in commands for at, word in enumerate(words) if word == "-o"]

    (merge,) = settings("extrinsic_f1")
    config = load_values(dict(plain), "CONFIG", [merge])
    assert config.clean.labels["queue"]["VALUE"] == tuple(hidden)
    keep, expected = settings("language_quality")
    config = load_values(dict(plain), "CONFIG", [keep, expected])
    assert config.validation.language.keep == ("no",) and config.assess.languages == ("no", "en")
    assert settings("coverage") == []
