"""Code of the user on whole records: the setting `validate.custom`."""

import json
import textwrap

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.frame.calls import config_of
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare import job
from raymill.pipelines.prepare.records.validate import Validate
from tests.support.inline import without_ray

ROWS = [
    {"question": "How do I reset it?", "answer": "Hold the button for ten seconds, then let go.", "queue": "device"},
    {
        "question": "Where is my parcel?",
        "answer": "See https://track.example for your parcel.",
        "queue": "post",
    },
    {
        "question": "When do you open?",
        "answer": "On weekdays we open at nine in the morning.",
        "queue": "post",
    },
]
MODULE = """
    def answers_without_links(record: dict, *, allowed: tuple[str, ...] = ()) -> bool:
        return "https://" not in record["answer"] or any(one in record["answer"] for one in allowed)

    class OfQueue:
        name = "other_queue"

        def __init__(self, queue: str = "post") -> None:
            self.queue = queue

        def keep(self, record: dict) -> bool:
            return record["metadata"]["queue"] == self.queue and "?" in record["question"]

    def fails(record: dict) -> bool:
        return record["answers"]

    def says_yes(record: dict) -> bool:
        return "yes"

    def refusal(record: dict) -> bool:
        return True

    def two(question: str, answer: str) -> bool:
        return True
"""


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Runs `prepare` with own rules, and returns its output."""
    (tmp_path / "my_records.py").write_text(textwrap.dedent(MODULE))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.chdir(tmp_path)

    def run(*custom, name="out"):
        columns = {"prompt": "question", "completion": "answer", "queue": "queue"}
        source = {"path": str(tmp_path / "rows.jsonl"), "columns": columns}
        plain = {"kind": "prepare", "name": "own", "inputs": [source], "output": str(tmp_path / name)}
        with monkeypatch.context() as patch:
            without_ray(patch)
            config = config_of(plain, {"validate": {"custom": list(custom)}})
            return job.prepare(config, Session(), Progress())

    return run


def removed(run) -> dict[str, tuple[str, str]]:
    rows = Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()
    return {row["reason"]: (row["value"], row["limit"]) for row in rows}


def test_a_rule_on_records_removes_them_with_its_name_as_the_reason(prepared):
    run = prepared("my_records:answers_without_links", {"use": "my_records:OfQueue", "queue": "post"})
    assert removed(run) == {
        "answers_without_links": (ROWS[1]["answer"], "a record that my_records:answers_without_links keeps"),
        "other_queue": (ROWS[0]["answer"], "a record that my_records:OfQueue keeps"),
    }
    kept = [Artifact.find(Store(), f"{run.uri}/{split}") for split in SPLITS]
    assert sum(one.manifest.rows for one in kept if one) == 1
    meanings = {one["reason"]: one["meaning"] for one in run.report["reasons"]}
    assert meanings["other_queue"] == "a check of your own, of `validate.custom` or `validate.rules.custom`"


def test_its_settings_are_those_of_the_config(prepared):
    use = {"use": "my_records:answers_without_links", "allowed": ["track.example"]}
    assert removed(prepared(use)) == {}


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("my_records:fails", r"validate\.custom: my_records:fails: KeyError: 'answers', for the record that begins"),
        ("my_records:says_yes", r"validate\.custom: my_records:says_yes: returned 'yes', for the record that begins"),
    ],
)
def test_one_that_fails_ends_the_run_and_is_named(prepared, use, message):
    with pytest.raises(DataError, match=message):
        prepared(use)


@pytest.mark.parametrize(
    ("custom", "message"),
    [
        (["my_records:refusal"], r"the rule's name, refusal, is a reason of Raymill"),
        (["my_records:OfQueue", {"use": "my_records:OfQueue", "queue": "x"}], r"two rules have the name other_queue"),
        (
            ["my_records:two"],
            r"answer has no default; wanted a function of \(record\), or a class",
        ),
        (["my_records:missing"], r"has no missing"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(prepared, custom, message):
    with pytest.raises(ConfigError, match=message):
        prepared(*custom)


def test_without_rules_of_ones_own_the_settings_are_as_recorded_before():
    assert "custom" not in Validate().model_dump(mode="json")
