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
from raymill.pipelines.prepare.config import Source
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


def test_without_code_of_ones_own_the_settings_are_as_recorded_before():
    assert "custom" not in Validate().model_dump(mode="json")
    assert "form" not in Source(path="x").model_dump(mode="json")


# --- forms of examples

THREADS = [
    {"title": "How do I reset it?", "asker": "Ann", "answers": [
        {"body": "Hold the button for ten seconds, then let go.", "votes": 3}, {"body": "No idea.", "votes": 0}]},
    {"title": "Where is my parcel?", "asker": "Ben", "answers": [{"body": "On its way, we think.", "votes": -1}]},
    {"title": "When do you open?", "asker": "Cem", "answers": [{"text": "At nine."}]},
]  # fmt: skip
FORMS = """
    import json

    def thread(fields: dict, *, least_votes: int = 0) -> dict | None:
        answers = [one for one in json.loads(fields["messages"]) if one["votes"] >= least_votes]
        if not answers:
            return None
        best = max(answers, key=lambda one: one["votes"])
        return {"prompt": fields["prompt"], "completion": best["body"]}

    class Chats:
        def record(self, fields: dict) -> dict:
            bodies = [one.get("body") or one["text"] for one in json.loads(fields["messages"])]
            return {"messages": [{"role": "user", "content": fields["prompt"]},
                                 {"role": "assistant", "content": " ".join(bodies)}]}

    def half(fields: dict) -> dict:
        return {"prompt": fields["prompt"]}

    def nonsense(fields: dict) -> str:
        return "a question"
"""


@pytest.fixture
def formed(tmp_path, monkeypatch):
    """Runs `prepare` with an own form of examples, and returns the run."""
    (tmp_path / "my_forms.py").write_text(textwrap.dedent(FORMS))
    (tmp_path / "threads.jsonl").write_text("".join(json.dumps(row) + "\n" for row in THREADS))
    monkeypatch.chdir(tmp_path)

    def run(form, **settings):
        columns = {"prompt": "title", "messages": "answers", "asker": "asker"}
        source = {"path": str(tmp_path / "threads.jsonl"), "columns": columns, "form": form} | settings
        plain = {"kind": "prepare", "name": "own", "inputs": [source], "output": str(tmp_path / "out")}
        with monkeypatch.context() as patch:
            without_ray(patch)
            config = config_of(plain, {"records": {"shape": "pairs"}, "execution": {"max_bad_documents": 0.9}})
            return job.prepare(config, Session(), Progress())

    return run


def written(run) -> list[dict]:
    tables = [Artifact.find(Store(), f"{run.uri}/{split}") for split in SPLITS]
    return [row for one in tables if one for row in one.table().to_pylist()]


def test_a_form_makes_records_of_rows_and_those_it_fails_on_are_quarantined(formed):
    run = formed({"use": "my_forms:thread", "least_votes": 1})
    (record,) = written(run)
    assert (record["prompt"], record["completion"]) == (THREADS[0]["title"], THREADS[0]["answers"][0]["body"])
    assert record["metadata"]["asker"] == "Ann" and "prompt" not in record["metadata"]
    bad = Artifact.load(Store(), f"{run.uri}/quarantine").table().to_pylist()
    assert [one["problem"] for one in bad] == ["empty", "plugin_error"]
    assert bad[1]["where"].endswith("threads.jsonl (my_forms:thread: KeyError: 'votes')")


def test_a_form_may_return_any_of_the_usual_ones(formed):
    assert {row["completion"] for row in written(formed("my_forms:Chats"))} >= {"On its way, we think."}


@pytest.mark.parametrize(
    ("form", "seen"), [("my_forms:half", "the fields prompt"), ("my_forms:nonsense", "'a question'")]
)
def test_a_form_that_returns_something_else_ends_the_run_and_is_named(formed, form, seen):
    with pytest.raises(
        DataError, match=f"form: {form}: returned {seen}, for the row .*wanted a dictionary with one of"
    ):
        formed(form)


def test_a_form_and_speakers_are_two_ways_to_make_content(formed):
    with pytest.raises(ConfigError, match="form: makes the content of records, as `table` and `speakers` do"):
        formed("my_forms:thread", speakers={"*": "user"})


# --- readers


def test_prepare_reads_with_a_reader_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_reader.py").write_text(
        "class Cards:\n    endings = ('.card',)\n    columns = ('topic',)\n\n"
        "    def read(self, content, path):\n"
        "        for one in content.decode().split('--'):\n"
        "            topic, _, text = one.strip().partition(': ')\n"
        "            yield {'text': text, 'topic': topic}\n"
    )
    (tmp_path / "deck.card").write_text("bread: Knead it for ten minutes.\n--\ntea: Let it draw for four minutes.\n")
    monkeypatch.chdir(tmp_path)
    source = {
        "path": str(tmp_path / "*.card"),
        "format": "my_reader:Cards",
        "columns": {"text": "text", "topic": "topic"},
    }
    plain = {"kind": "prepare", "name": "own", "inputs": [source], "output": str(tmp_path / "out")}
    with monkeypatch.context() as patch:
        without_ray(patch)
        run = job.prepare(config_of(plain, {"records": {"shape": "text"}}), Session(), Progress())
    found = {row["metadata"]["topic"]: row["text"].strip() for row in written(run)}
    assert found == {"bread": "Knead it for ten minutes.", "tea": "Let it draw for four minutes."}
