"""Duplicates of questions and of answers, and questions with different answers: listed or removed, in any units."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster import logs
from raymill.cluster.artifact import Artifact
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.progress import Progress
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.stages.split_stage import contradictions, places_and_partners
from tests.support.inline import prepare_inline

LONG = "The old harbour of the town was built by {} masons in the year of the great flood, stone by stone."
QUESTION = "Who built the old harbour of the town in the year of the great flood and of what, and where is it {}?"

# id -> question, answer
ROWS = {
    "first": (QUESTION.format("now"), LONG.format("ninety")),
    "other": (QUESTION.format("Now"), "Nobody knows who built it, as all of the papers were lost at sea."),
    "near": (QUESTION.format("today"), "It stands on the left bank of the river, beside the mill of the monks."),
    "copy": (QUESTION.format("now"), LONG.format("ninety")),
    "answer": ("How many masons worked there, and how long?", LONG.format("ninety")),
    "alone": ("What does a ticket for the ferry cost?", "A ticket for the ferry costs four and a half euros."),
    "again": ("What does a ticket to the island cost?", "a ticket for the ferry costs  four and a half euros"),
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    def run(name: str, rows=ROWS, more=None, **duplicates):
        table = pa.Table.from_pylist([{"id": id, "question": q, "answer": a} for id, (q, a) in rows.items()])
        pq.write_table(table, tmp_path / "in.parquet", row_group_size=1)
        os.utime(tmp_path / "in.parquet", (0, 0))  # which is `collected_at`
        source = {"path": str(tmp_path / "in.parquet"), "id": "id", "source": "s"}
        plain = {"inputs": [source], "duplicates": duplicates, "output": str(tmp_path / name)} | (more or {})
        return prepare_inline(plain, monkeypatch)

    return run


def rows(run, name: str) -> dict[str, list[tuple[str, str | None]]]:
    found: dict[str, list] = {}
    for row in Artifact.load(Store(), f"{run.uri}/{name}").table().to_pylist():
        found.setdefault(row["id"], []).append((row["reason"], row["partner"]))
    return found


def kept(run) -> set[str]:
    return {id for split in SPLITS for id in run.split(split).table()["id"].to_pylist()}


class Started(Progress):
    """The names of the stages that were shown, and the names of their runs in the log."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.runs: set[str] = set()

    def start(self, stage, units, done) -> None:
        self.names.append(stage)
        self.runs.add(logs._about.get()["run"])


def test_the_progress_names_of_what_duplicates_are_looked_for(tmp_path, monkeypatch):
    table = pa.Table.from_pylist([{"id": id, "question": q, "answer": a} for id, (q, a) in ROWS.items()])
    pq.write_table(table, tmp_path / "in.parquet")
    asked = {"inputs": [{"path": str(tmp_path / "in.parquet"), "id": "id"}], "output": str(tmp_path / "out")}
    asked |= {"duplicates": {"questions": "remove", "answers": "list"}, "assess": {"embeddings": None}}
    progress = Started()
    made = prepare_inline(asked, monkeypatch, progress=progress)
    assert progress.names == [
        "collect", "group", "questions.verdicts", "questions.group", "answers.verdicts", "answers.group",
        "split", "write", "assess.assess", "assess.questions.group", "assess.answers.group", "assess.leaks.group",
        "assess.summary",
    ]  # fmt: skip
    assert progress.runs == {"out"}
    assert Artifact.find(Store(), f"{made.uri}/_work/questions/_work/groups") is not None


def test_questions_with_different_answers_are_listed_by_default(run):
    made = run("out")
    assert rows(made, "removed") == {"copy": [("exact_duplicate", "first")]}
    assert rows(made, "listed") == {"first": [("contradictory", "other")], "other": [("contradictory", "first")]}
    (listed, _) = Artifact.load(Store(), f"{made.uri}/listed").table().to_pylist()
    assert (listed["question"], listed["answer"], listed["contradictory"]) == (*ROWS["first"], 1)
    (example,) = made.report["contradictions"]
    assert example["question"] == ROWS["first"][0]
    assert example["answers"] == [{"id": id, "answer": ROWS[id][1]} for id in ("first", "other")]
    (reason,) = made.report["listed"]
    assert (reason["reason"], reason["records"]) == ("contradictory", 2)
    with open(f"{made.uri}/report.html") as page:
        assert "Different answers to: Who built" in page.read()


def test_questions_and_answers_are_removed_one_after_the_other(run):
    made = run("out", questions="remove", answers="remove")
    assert rows(made, "removed") == {
        "copy": [("exact_duplicate", "first")],
        "other": [("same_question", "first")],
        "near": [("near_question", "first")],
        "answer": [("same_answer", "first")],
        "again": [("same_answer", "alone")],
    }
    assert kept(made) == {"first", "alone"}
    assert rows(made, "listed") == {} and not made.report["contradictions"], (
        "`other` is not there to contradict `first`"
    )
    assert made.report["totals"]["duplicates"] == 5


def test_answers_of_records_that_are_removed_for_their_question_count_no_more(run):
    second = {"next": ("When was the mill of the monks built?", ROWS["near"][1])}
    made = run("out", ROWS | second, questions="remove", answers="remove")
    assert "next" in kept(made), "its answer is the one of `near`, which is removed"
    other = run("other", ROWS | second, answers="remove")
    assert rows(other, "removed")["next"] == [("same_answer", "near")]


def test_listed_questions_stay_together(run):
    made = run("out", questions="list", answers="list")
    listed = rows(made, "listed")
    assert listed["other"] == [("same_question", "first"), ("contradictory", "first")]
    assert listed["near"] == [("near_question", "first")] and listed["again"] == [("same_answer", "alone")]
    assert made.report["straddling"] == {"contradictory": 0, "duplicates": 0, "questions": 0}
    split = {row["id"]: row["split"] for name in SPLITS for row in made.split(name).table().to_pylist()}
    assert split["first"] == split["other"] == split["near"] and kept(made) == set(ROWS) - {"copy"}


def test_records_with_different_answers_to_one_question_are_in_one_split(run):
    questions = {number: f"How many mills did the monks of house {number} build?" for number in range(30)}
    more = {
        f"{side}{number}": (question, f"{question} The chronicle of {side} counts {number} of them.")
        for number, question in questions.items()
        for side in ("north", "south")
    }
    made = run("out", more)
    split = {row["id"]: row["split"] for name in SPLITS for row in made.split(name).table().to_pylist()}
    assert len(set(split.values())) == 3
    both = [(split[f"north{number}"], split[f"south{number}"]) for number in questions if f"north{number}" in split]
    assert len(both) > 10 and all(north == south for north, south in both)


def test_records_with_equal_questions_are_in_one_split_whatever_is_looked_for(run):
    """With equal answers they are duplicates, which stay here."""
    asked = {"plain": "How do I mend lamp {}?", "loud": "HOW do I  mend lamp {}", "other": "May I sell lamp {}?"}
    many = {f"{id}{n}": (q.format(n), f"The {n} answer says a bit.") for n in range(30) for id, q in asked.items()}
    made = run("out", many, more={"dedup": None}, contradictory="ignore")
    split = {row["id"]: row["split"] for name in SPLITS for row in made.split(name).table().to_pylist()}
    assert all(split[f"plain{n}"] == split[f"loud{n}"] for n in range(30)) and len(split) == 90
    assert made.report["straddling"] == {"questions": 0, "duplicates": 0}


def test_near_duplicates_that_stay_are_in_one_split(tmp_path, monkeypatch):
    text = "Open the cover of pump {0}, loosen bolt {1} with the long key, and take the filter {0} out of its bed {2}."
    pumps = [
        {"id": f"{side}{n}", "question": f"How do I clean pump {n * 7919}{side}?",
         "answer": " ".join(text.format(n * 7919 + at, n * 31 + at, side if at == 9 else "") for at in range(10))}
        for n in range(20) for side in ("a", "b")
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(pumps), tmp_path / "in.parquet")
    source = {"path": str(tmp_path / "in.parquet"), "id": "id"}
    plain = {"inputs": [source], "dedup": {"remove": False}, "output": str(tmp_path / "out")}
    made = prepare_inline(plain, monkeypatch)
    split = {row["id"]: row["split"] for name in SPLITS for row in made.split(name).table().to_pylist()}
    assert len(split) == 40 and all(split[f"a{n}"] == split[f"b{n}"] for n in range(20))
    assert made.report["straddling"]["duplicates"] == 0
    assert sum(reason == "near_duplicate" for some in rows(made, "listed").values() for reason, _ in some) == 20
    apart = prepare_inline(plain | {"dedup": None, "output": str(tmp_path / "apart")}, monkeypatch)
    split = {row["id"]: row["split"] for name in SPLITS for row in apart.split(name).table().to_pylist()}
    assert any(split[f"a{n}"] != split[f"b{n}"] for n in range(20)), "the test shows something"


def test_contradictory_records_are_removed_all(run):
    made = run("out", contradictory="remove")
    removed = rows(made, "removed")
    assert (removed["first"], removed["other"]) == ([("contradictory", "other")], [("contradictory", "first")])
    assert rows(made, "listed") == {} and len(made.report["contradictions"]) == 1
    assert made.report["totals"]["left_out"] == 2


def test_records_that_differ_in_case_alone_are_near_duplicates(run):
    one = {"first": ROWS["first"], "case": (ROWS["first"][0], ROWS["first"][1].upper())}
    made = run("out", one)
    assert rows(made, "removed") == {"case": [("near_duplicate", "first")]}


def test_five_questions_with_three_answers_each_are_shown_and_texts_up_to_a_length(run):
    words = ["mills", "boats", "towers", "bridges", "gardens", "wells", "walls"]
    many = {
        f"{word}{number}": (
            f"How many {word} did they build in this town?" + " please" * 60,
            f"The chronicle says of {word}: {number}, and it was {'a, b and ' * number} no more.",
        )
        for word in words
        for number in range(1, 5)
    }
    many["long"] = (f"Which {'x' * 2500}?", "Because of this, that and the other one of them.")
    many["other"] = (many["long"][0], "Nobody knows it, and nobody has asked until today.")
    table = {id: (question, answer) for id, (question, answer) in many.items()}
    made = run("out", table, questions="ignore", answers="ignore")
    found = made.report["contradictions"]
    assert [one["question"].split()[2] for one in found] == words[:5]
    assert [[answer["id"] for answer in one["answers"]] for one in found] == [
        [f"{word}{number}" for number in range(1, 4)] for word in words[:5]
    ]
    listed = Artifact.load(Store(), f"{made.uri}/listed").table().to_pylist()
    assert len(listed) == 28 and {row["contradictory"] for row in listed} == set(range(1, 8))


def test_what_is_not_looked_for_is_not_there(run):
    made = run("out", contradictory="ignore")
    assert rows(made, "listed") == {} and not made.report["listed"] and not made.report["contradictions"]


@pytest.mark.parametrize("found", ["list", "remove"])
def test_the_result_does_not_depend_on_units(run, monkeypatch, found):
    settings = {"questions": found, "answers": found, "contradictory": found}
    one = run("one", **settings)
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1)
    many = run("many", **settings)
    files = [len(Artifact.load(Store(), f"{run.uri}/_work/records").manifest.files) for run in (one, many)]
    assert files == [1, len(ROWS)]
    for name in ("removed", "listed", *SPLITS):
        made = [Artifact.load(Store(), f"{run.uri}/{name}").table().to_pylist() for run in (one, many)]
        assert json.dumps(made[0]) == json.dumps(made[1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=12))
def test_contradictions_are_numbered_in_order(records):
    questions, answers = (np.array([one[at] for one in records], np.uint64) for at in (0, 1))
    groups = contradictions(questions, answers, np.array([one[2] for one in records], bool))
    found = np.flatnonzero(groups)
    places, partners = places_and_partners(groups[found], answers[found])
    place, partner = (
        dict(zip(found.tolist(), one, strict=True)) for one in (places.tolist(), found[partners].tolist())
    )
    number: dict[int, int] = {}
    compared = [stays and answer > 0 for _, answer, stays in records]
    for at, (question, answer, _) in enumerate(records):
        alike = [n for n, one in enumerate(records) if compared[n] and one[0] == question]
        differing = [n for n in alike if records[n][1] != answer]
        if not (compared[at] and question and differing):
            assert groups[at] == 0
        else:
            assert groups[at] == number.setdefault(question, len(number) + 1)
            assert place[at] == alike.index(at)
            assert partner[at] == differing[0]
