"""A round of annotation: its tasks, the labels that come in, and what is made of them."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from raymill.cluster.config import load
from raymill.cluster.errors import ConfigError, DataError, StorageError
from raymill.cluster.record import OtherSettings
from raymill.cluster.store.store import Store
from raymill.pipelines.annotate.annotations import Annotation, latest
from raymill.pipelines.annotate.ballots import read_ballots
from raymill.pipelines.annotate.config import AnnotateConfig
from raymill.pipelines.annotate.exchange.export import export_round
from raymill.pipelines.annotate.finish import finish_round
from raymill.pipelines.annotate.round import Round
from tests.support.annotate_inline import annotate_inline, settings_of, simulated_answers, true_label, write_records
from tests.support.rounds import labels_of


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("in") / "tickets.parquet", 300)


def test_tasks_have_the_records_and_their_ids_and_are_given_to_two_each(records, tmp_path, monkeypatch):
    run = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch)
    tasks = run.round.tasks
    assert len(tasks) == 40
    whole = {row["id"]: row["prompt"] for row in pq.read_table(records).to_pylist()}
    assert all(row.record == {"prompt": whole[row.id]} for row in tasks)
    assert all(row.probability == 40 / 300 and row.chosen_by == "random" for row in tasks)
    assert all(len(set(row.annotators)) == 2 for row in tasks)
    assert {one["tasks"] for one in run.report["annotators"]} <= {26, 27}
    again = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch)
    assert not again.fresh


def test_neither_units_nor_files_change_the_choice(records, tmp_path, monkeypatch):
    choose = {"count": 30, "random": 0.5, "uncertainty": 0.5, "label": "label"}
    one = annotate_inline(settings_of(records, tmp_path / "one", choose=choose), monkeypatch)
    folder = tmp_path / "parts"
    folder.mkdir()
    table = pq.read_table(records)
    for number in range(5):  # in another order, in other files
        pq.write_table(table.slice((4 - number) * 60, 60), folder / f"{number}.parquet")
    two = annotate_inline(settings_of(folder, tmp_path / "two", choose=choose), monkeypatch)
    assert [row.id for row in one.round.tasks] == [row.id for row in two.round.tasks]


def test_uncertain_records_are_those_between_the_labels(tmp_path, monkeypatch):
    """Probabilities in a column: those near a half are chosen."""
    path = write_records(tmp_path / "in.parquet", 200, p=lambda number: [number / 200, 1 - number / 200])
    task = {"type": "classify", "show": ["prompt"], "labels": ["yes", "no"]}
    choose = {"count": 20, "uncertainty": 0.95, "probabilities": "p"}
    run = annotate_inline(settings_of(path, tmp_path / "out", task=task, choose=choose), monkeypatch)
    chosen = [row for row in run.round.tasks if row.chosen_by == "uncertainty"]
    assert {row.id for row in chosen} == {f"r{number}" for number in range(91, 110)}
    assert all(row.prediction in ("yes", "no") and 0.5 <= row.certainty < 0.56 for row in chosen)


def test_wrong_labels_are_found_by_a_classifier_of_the_others(tmp_path, monkeypatch):
    planted = {f"r{number}" for number in range(0, 300, 30)}
    path = write_records(tmp_path / "in.parquet", 300)
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        if row["id"] in planted:
            row["label"] = "login" if row["label"] != "login" else "other"
    pq.write_table(pa.Table.from_pylist(rows), path)
    choose = {"count": 20, "label_errors": 0.95, "label": "label"}
    run = annotate_inline(settings_of(path, tmp_path / "out", choose=choose), monkeypatch)
    assert len(planted & {row.id for row in run.round.tasks}) >= 9


def test_tasks_and_disputes_have_their_priority_and_topic(records, tmp_path, monkeypatch):
    choose = {"count": 20, "uncertainty": 0.5, "label": "label"}
    settings = settings_of(records, tmp_path / "out", choose=choose, expertise="channel")
    round = annotate_inline(settings, monkeypatch).round
    tasks = {row.id: row for row in round.tasks}
    assert sorted(row.priority for row in tasks.values()) == list(range(1, 21))
    uncertain = sorted((row for row in tasks.values() if row.chosen_by == "uncertainty"), key=lambda row: row.priority)
    assert [row.score for row in uncertain] == sorted((row.score for row in uncertain), reverse=True)
    given = [Annotation(row.id, name, "labelled", label) for row in round.tasks[:4]
             for name, label in zip(row.annotators, ("login", "other"), strict=True)]  # fmt: skip
    round.answers.add(given)
    finish_round(round, "majority")
    queue = pq.read_table(tmp_path / "out/adjudication/queue.parquet").to_pylist()
    assert {row["id"] for row in queue} == {row.id for row in round.tasks[:4]}
    assert all((row["topic"], row["priority"]) == (tasks[row["id"]].topic, tasks[row["id"]].priority) for row in queue)
    assert {row["topic"] for row in queue} <= {"mail", "chat"}
    for format, key in (("csv", "raymill_priority"), ("label-studio", '"raymill_priority": ')):
        export_round(round, str(tmp_path / f"{format}.txt"), format)
        assert key in (tmp_path / f"{format}.txt").read_text()


def test_diverse_records_are_of_all_clusters(records, tmp_path, monkeypatch):
    choose = {"count": 20, "diversity": 0.9, "clusters": 3}
    run = annotate_inline(settings_of(records, tmp_path / "out", choose=choose), monkeypatch)
    labels = [true_label(row) for row in run.round.tasks if row.chosen_by == "diversity"]
    assert sorted(map(labels.count, set(labels))) == [6, 6, 6]  # a cluster for each wording
    with pytest.raises(ValidationError, match="clusters: divide the records of `diversity`"):
        AnnotateConfig.model_validate(settings_of(records, tmp_path / "out", choose={"clusters": 3}))


def test_records_of_earlier_rounds_teach_and_are_not_chosen_again(records, tmp_path, monkeypatch):
    first = annotate_inline(settings_of(records, tmp_path / "1"), monkeypatch)
    first.round.answers.add(simulated_answers(first.round, {"a1": 1, "a2": 1, "a3": 1}))
    choose = {"count": 40, "uncertainty": 0.5, "labelled": [str(tmp_path / "1")]}
    with pytest.raises(DataError, match="has no labels yet"):
        annotate_inline(settings_of(records, tmp_path / "2", choose=choose), monkeypatch)
    finish_round(first.round)
    path = tmp_path / "1" / "labels" / "labels.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"labels\.parquet: is damaged .*finish\(\)` again"):
        annotate_inline(settings_of(records, tmp_path / "2", choose=choose), monkeypatch)
    path.write_bytes(content)
    second = annotate_inline(settings_of(records, tmp_path / "2", choose=choose), monkeypatch)
    assert not {row.id for row in first.round.tasks} & {row.id for row in second.round.tasks}
    assert not [one for one in second.warnings if "No labels" in one]
    predicted = [row for row in second.round.tasks if row.prediction]
    assert np.mean([row.prediction == true_label(row) for row in predicted]) > 0.9


def test_simulated_annotators_of_known_skill_are_recognised(tmp_path, monkeypatch):
    path = write_records(tmp_path / "in.parquet", 400)
    skills = {"a1": 0.95, "a2": 0.85, "a3": 0.6}
    run = annotate_inline(settings_of(path, tmp_path / "out", choose={"count": 300}, overlap=3), monkeypatch)
    round = run.round
    round.answers.add(simulated_answers(round, skills))
    found = finish_round(round)
    for row in found["by_annotator"]:
        assert row["accuracy_low"] <= skills[row["annotator"]] <= row["accuracy_high"]
        assert row["labels"] == 300
    labels = labels_of(round)
    right = [labels[row.id]["label"] == true_label(row) for row in round.tasks]
    sure = [row["posterior"] for row in labels.values()]
    assert np.mean(right) == pytest.approx(np.mean(sure), abs=0.05)
    assert (
        found["krippendorff_alpha"]["low"] < found["krippendorff_alpha"]["value"] < found["krippendorff_alpha"]["high"]
    )
    written = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert written["krippendorff_alpha"] == found["krippendorff_alpha"]
    assert (written["annotators"], written["items"], written["votes"]) == (3, 300, 900)
    true = {label: np.mean([row["label"] == label for row in pq.read_table(path).to_pylist()]) for label in
            ("billing", "login", "other")}  # fmt: skip
    for row in found["labels"]:
        assert row["low"] - 0.03 <= true[row["label"]] <= row["high"] + 0.03


def test_a_narrower_interval_takes_more_tasks(records, tmp_path, monkeypatch):
    run = annotate_inline(settings_of(records, tmp_path / "out", choose={"count": 100}), monkeypatch)
    run.round.answers.add(simulated_answers(run.round, {"a1": 0.8, "a2": 0.8, "a3": 0.8}))
    alpha = run.finish()["krippendorff_alpha"]
    for width in (0.05, 0.1, 0.2):
        found = run.finish(width=width)
        wanted = 100 * ((alpha["high"] - alpha["low"]) / width) ** 2 - 100
        assert found["further_tasks"] == {"width": width, "tasks": pytest.approx(wanted, abs=1)}
    assert f"An interval of alpha of {width:g} takes about" in found.text


def test_the_same_labels_again_change_nothing_and_later_ones_count(records, tmp_path, monkeypatch):
    round = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch).round
    some = simulated_answers(round, {"a1": 1, "a2": 1, "a3": 1})
    assert round.answers.add(some)
    assert not round.answers.add(some)
    before = finish_round(round)
    assert round.answers.add(some[:5], "import")  # in another file
    assert finish_round(round)["votes"] == before["votes"] == 80
    task = round.tasks[0]
    wrong = "login" if true_label(task) != "login" else "other"
    changed = Annotation(task.id, task.annotators[0], "labelled", wrong, at="2027-01-01T00:00:00+00:00")
    round.answers.add([changed])
    assert finish_round(round)["votes"] == 80
    assert wrong in {vote["value"] for vote in labels_of(round)[task.id]["votes"]}
    round.answers.add([Annotation(task.id, task.annotators[0], "withdrawn", at="2027-01-02T00:00:00+00:00")])
    assert finish_round(round)["votes"] == 79


def test_what_does_not_count_has_a_reason(records, tmp_path, monkeypatch):
    round = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch).round
    one, two, three, four = (row.id for row in round.tasks[:4])
    given = [
        Annotation("nothing", "a1", "labelled", "login"),
        Annotation(one, "somebody", "labelled", "login"),
        Annotation(two, "a1", "labelled", "no such label"),
        Annotation(three, "a1", "draft", "login"),
        Annotation(four, "a1", "skipped", reason="in a language that I cannot read"),
    ]
    round.answers.add(given)
    found = finish_round(round)
    assert {row["reason"]: row["labels"] for row in found["left_out"]} == {
        "unknown_task": 1, "unknown_annotator": 1, "bad_value": 1, "draft": 1, "skipped": 1,
    }  # fmt: skip
    assert found["votes"] == 0
    assert found["krippendorff_alpha"]["value"] is None
    assert found["status"]["skipped"] == 1
    assert sum("left out" in warning for warning in found["warnings"]) == 3
    assert labels_of(round)[four]["status"] == "skipped"


def test_an_expert_decides_what_others_disagree_about(records, tmp_path, monkeypatch):
    people = ["a1", "a2", {"name": "chief", "expert": True}]
    round = annotate_inline(settings_of(records, tmp_path / "out", annotators=people), monkeypatch).round
    task = round.tasks[0]
    round.answers.add([Annotation(task.id, "a1", "labelled", "login"), Annotation(task.id, "a2", "labelled", "other")])
    finish_round(round, "majority")
    row = labels_of(round)[task.id]
    assert (row["label"], row["status"], row["posterior"]) == (None, "disputed", 0.5)
    assert pq.read_table(f"{round.uri}/adjudication/queue.parquet")["id"].to_pylist() == [task.id]
    round.answers.add([Annotation(task.id, "chief", "labelled", "billing")])
    finish_round(round, "majority")
    row = labels_of(round)[task.id]
    assert (row["label"], row["status"], row["decided_by"], len(row["votes"])) == ("billing", "decided", "chief", 3)
    assert pq.read_table(f"{round.uri}/adjudication/queue.parquet").num_rows == 0


def test_labels_carry_the_version_of_the_guideline(records, tmp_path, monkeypatch):
    guide = tmp_path / "guide.md"
    guide.write_text("First.")
    task = {"type": "classify", "show": ["prompt"], "labels": ["billing", "login", "other"], "guideline": str(guide)}
    settings = settings_of(records, tmp_path / "out", task=task)
    round = annotate_inline(settings, monkeypatch).round
    text, first = round.guideline()
    assert text == "First."
    round.answers.add(simulated_answers(round, {"a1": 1, "a2": 1, "a3": 1}, guideline=first))
    guide.write_text("Second.")
    assert round.guideline() == ("First.", first)
    annotate_inline(settings, monkeypatch)
    text, second = round.guideline()
    assert text == "Second." and second != first
    found = finish_round(round)
    assert found["stale_guideline"] == 80
    assert labels_of(round)[round.tasks[0].id]["guideline"] == first
    guide.unlink()
    annotate_inline(settings, monkeypatch)
    assert round.guideline() == ("Second.", second)
    guide.write_text("First.")
    annotate_inline(settings, monkeypatch)
    assert round.guideline() == ("First.", first), "also a version that was there before"
    guide.unlink()
    with pytest.raises(ConfigError, match="there is no file"):
        annotate_inline(settings_of(records, tmp_path / "other", task=task), monkeypatch)


def test_gold_tasks_measure_and_do_not_bias(tmp_path, monkeypatch):
    path = write_records(tmp_path / "in.parquet", 300, known=lambda number: "login" if number < 100 else None)
    settings = settings_of(path, tmp_path / "out", gold="known", gold_share=0.25)
    round = annotate_inline(settings, monkeypatch).round
    gold = [row for row in round.tasks if row.gold is not None]
    assert len(gold) == 10
    assert all(row.gold == "login" and row.probability is None for row in gold)
    round.answers.add([Annotation(row.id, row.annotators[0], "labelled", "login") for row in gold])
    found = finish_round(round, "gold")
    assert sum(row["gold"] for row in found["by_annotator"]) == 10
    assert sum(row["gold_right"] for row in found["by_annotator"]) == 10
    assert found["labels"] == []


KINDS = {
    "several": ({"type": "classify", "several": True, "labels": ["a", "b", "c"]}, ["c", "a"], ["a", "c"]),
    "rate": ({"type": "rate", "points": 5}, 4, "4"),
    "compare": ({"type": "compare", "answers": ["one", "two"]}, "tie", "tie"),
    "rank": ({"type": "rank", "answers": ["one", "two", "three"]}, ["three", "one", "two"], ["three", "one", "two"]),
    "correct": ({"type": "correct"}, "corrected", "corrected"),
    "write": ({"type": "write"}, "an answer", "an answer"),
    "span": (
        {"type": "span", "labels": ["X", "Y"]},
        [{"start": 6, "end": 10, "label": "Y"}, {"start": 0, "end": 5, "label": "X"}],
        [{"start": 0, "end": 5, "label": "X"}, {"start": 6, "end": 10, "label": "Y"}],
    ),
    "check": ({"type": "check", "source": "two"}, "not in the source", "not in the source"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_type_become_one(kind, tmp_path, monkeypatch):
    task, given, kept = KINDS[kind]
    texts = dict.fromkeys(("one", "two", "three"), lambda number: f"first part of text {number}")
    path = write_records(tmp_path / "in.parquet", 20, **texts)
    settings = settings_of(path, tmp_path / "out", task={"show": ["one"], **task}, choose={"count": 5})
    round = annotate_inline(settings, monkeypatch).round
    round.answers.add([Annotation(row.id, name, "labelled", given) for row in round.tasks for name in row.annotators])
    found = finish_round(round)
    assert found["status"]["agreed"] == 5
    assert found["observed"]["value"] == 1.0
    free = found["randolph_kappa"]
    assert "any texts" in free["problem"] if kind in ("correct", "write") else free["value"] == 1.0
    label = labels_of(round)[round.tasks[0].id]["label"]
    assert (label if isinstance(kept, str) else json.loads(label)) == kept


@pytest.mark.parametrize("kind", ["compare", "rank"])
def test_answers_that_are_compared_have_strengths(kind, tmp_path, monkeypatch):
    texts = dict.fromkeys(("one", "two"), lambda number: f"text {number}")
    path = write_records(tmp_path / "in.parquet", 8, **texts)
    task = {"type": kind, "show": ["prompt"], "answers": ["one", "two"]}
    settings = settings_of(path, tmp_path / "out", task=task, choose={"count": 8}, overlap=1)
    round = annotate_inline(settings, monkeypatch).round
    best = ["two"] * 6 + ["one"] * 2
    values = best if kind == "compare" else [[one, "one" if one == "two" else "two"] for one in best]
    given = zip(round.tasks, values, strict=True)
    round.answers.add([Annotation(row.id, row.annotators[0], "labelled", value) for row, value in given])
    first, second = finish_round(round)["answers"]
    assert (first["answer"], first["log_odds"], second["answer"]) == ("one", 0, "two")
    assert second["log_odds"] == pytest.approx(np.log(3)) and second["low"] < second["log_odds"] < second["high"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "+1.099" in page and "Bradley and Terry" in page


def test_words_that_most_marked_are_the_span(tmp_path, monkeypatch):
    path = write_records(tmp_path / "in.parquet", 5, text=lambda number: "Ada Lovelace wrote to Charles Babbage")
    task = {"type": "span", "show": ["text"], "labels": ["person"]}
    settings = settings_of(path, tmp_path / "out", task=task, choose={"count": 1}, overlap=3)
    round = annotate_inline(settings, monkeypatch).round
    ends = {"a1": (0, 12), "a2": (0, 12), "a3": (0, 3)}
    second = {"start": 22, "end": 37, "label": "person"}
    round.answers.add(
        [
            Annotation(round.tasks[0].id, name, "labelled", [{"start": a, "end": b, "label": "person"}, second])
            for name, (a, b) in ends.items()
        ]
    )
    finish_round(round, "majority", 0.5)
    row = labels_of(round)[round.tasks[0].id]
    assert json.loads(row["label"]) == [{"start": 0, "end": 12, "label": "person"}, second]
    assert row["posterior"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": {"type": "classify", "show": ["prompt"]}}, "labels: classify needs them"),
        ({"task": {"type": "rate", "show": ["prompt"], "labels": ["x"]}}, "labels: rate has its own"),
        ({"task": {"type": "compare", "show": ["prompt"], "answers": ["a"]}}, "needs two columns"),
        ({"task": {"type": "check", "show": ["prompt"]}}, "source: goes with"),
        ({"choose": {"random": 0.5, "uncertainty": 0.8}}, "add up to 1.3"),
        ({"choose": {"disagreement": 0.5}}, "needs `votes`"),
        ({"choose": {"uncertainty": 1.0}}, "leave nothing to it"),
        ({"choose": {"random": 0.0, "uncertainty": 1.0}}, "greater than 0"),
        ({"annotators": ["a", "a"], "overlap": 1}, "named twice"),
        ({"overlap": 4}, "there are 3"),
        ({"annotators": ["../x"], "overlap": 1}, "String should match"),
        ({"annotators": [{"name": "a", "topics": ["x"]}], "overlap": 1}, "go with `expertise`"),
    ],
)
def test_wrong_settings_are_named(change, message, tmp_path):
    with pytest.raises(ValidationError, match=message):
        AnnotateConfig.model_validate(settings_of(tmp_path, tmp_path / "out", **change))


def test_damaged_labels_are_named(records, tmp_path, monkeypatch):
    round = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch).round
    label = dict.fromkeys(Annotation.__dataclass_fields__, "") | {"seconds": None}
    of_a_list = (json.dumps(label | {"status": ["labelled"]}) + "\n").encode()
    for content in (b"{", b"[]\n", b'{"task": 1}\n', b"\xff\xfe\n", of_a_list):
        file = tmp_path / "out" / "answers" / "page-x.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        with pytest.raises(DataError, match="is damaged"):
            read_ballots(round)
    (tmp_path / "out" / "manifest.json").write_text(json.dumps({"kind": "annotate", "config": {}}))
    with pytest.raises(DataError, match="manifest"):
        Round.at(Store(), str(tmp_path / "out"))


def test_the_latest_label_counts_whatever_the_order_of_files():
    one = Annotation("t", "a", "labelled", "x", at="2026-01-01")
    two = Annotation("t", "a", "labelled", "y", at="2026-01-02")
    assert latest([one, two])["t", "a"].value == "y"
    assert one.key != two.key
    assert one.key == Annotation("t", "a", "labelled", "x", seconds=3, at="2026-01-01", origin="csv").key


def test_without_a_random_task_nothing_is_estimated_for_all_records(records, tmp_path, monkeypatch):
    choose = {"count": 40, "uncertainty": 0.9, "label": "label", "strata": ["channel"]}
    round = annotate_inline(settings_of(records, tmp_path / "out", choose=choose), monkeypatch).round
    by_random = {row.id for row in round.tasks if row.chosen_by == "random"}
    given = simulated_answers(round, {"a1": 1, "a2": 1, "a3": 1})
    round.answers.add([one for one in given if one.task not in by_random])
    assert finish_round(round)["labels"] == []
    round.answers.add([one for one in given if one.task in by_random])
    found = finish_round(round)["labels"]
    assert sum(row["share"] for row in found) == pytest.approx(1)


def test_a_missing_column_is_named_with_its_setting_and_source_is_a_column(records, tmp_path, monkeypatch):
    for change, message in (
        ({"task": {"type": "write", "show": ["promt"]}}, r"no column promt \(task.show\).*Did you mean prompt"),
        ({"gold": "known"}, r"no column known \(gold\)"),
        ({"choose": {"strata": ["source"]}}, r"no column source \(choose.strata\)"),
    ):
        with pytest.raises(DataError, match=message):
            annotate_inline(settings_of(records, tmp_path / "out", **change), monkeypatch)
    path = write_records(tmp_path / "in.parquet", 40, source=lambda number: f"s{number % 2}")
    settings = settings_of(path, tmp_path / "out", choose={"count": 10, "strata": ["source"]})
    assert {row.stratum for row in annotate_inline(settings, monkeypatch).round.tasks} == {"source=s0", "source=s1"}


def test_a_tie_is_disputed_whatever_posterior_is_enough(records, tmp_path, monkeypatch):
    round = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch).round
    task = round.tasks[0]
    round.answers.add([Annotation(task.id, "a1", "labelled", "login"), Annotation(task.id, "a2", "labelled", "other")])
    assert finish_round(round, "majority", 0.1)["status"]["disputed"] == 1


def test_a_record_is_judged_by_a_classifier_that_was_not_trained_on_it(tmp_path, monkeypatch):
    """Labels at random of texts without a word in common: only a classifier of the record itself could be right."""
    path = write_records(tmp_path / "in.parquet", 300, words=lambda number: f"unique{number} alone{number}")
    task = {"type": "classify", "show": ["words"], "labels": ["billing", "login", "other"]}
    choose = {"count": 200, "uncertainty": 0.5, "label": "label"}
    tasks = annotate_inline(settings_of(path, tmp_path / "out", task=task, choose=choose), monkeypatch).round.tasks
    labels = {row["id"]: row["label"] for row in pq.read_table(path).to_pylist()}
    assert np.mean([row.prediction == labels[row.id] for row in tasks]) < 0.5


def test_a_round_of_others_shows_no_file_that_it_names(records, tmp_path, monkeypatch):
    secret = tmp_path / "key.pem"
    secret.write_text("SECRET")
    round = annotate_inline(settings_of(records, tmp_path / "out"), monkeypatch).round
    manifest = tmp_path / "out/manifest.json"
    plain = json.loads(manifest.read_text())
    plain["config"]["task"]["guideline"] = str(secret)
    manifest.write_text(json.dumps(plain))
    found = Round.at(Store(), round.uri)
    assert found.guideline() == ("", "")
    finish_round(found)
    assert not list((tmp_path / "out").glob("guidelines/*"))
    (tmp_path / "out/guidelines").mkdir()
    for name in ("../../key", str(secret), "0" * 12 + "/../../../key", ""):
        (tmp_path / "out/guidelines/current").write_text(name)
        with pytest.raises(DataError, match="current: is damaged"):
            found.guideline()
    (tmp_path / "out/guidelines/current").write_text("0" * 12)
    (tmp_path / "out/guidelines" / ("0" * 12 + ".md")).symlink_to(secret)
    with pytest.raises(StorageError, match="a link to"):
        Round.at(Store(), round.uri)


@pytest.mark.parametrize("form", ["a.jsonl", {"path": "a.jsonl"}, [{"path": "a.jsonl"}]])
@pytest.mark.parametrize("name", ["input", "inputs"])
def test_one_input_needs_no_list(form, name, tmp_path):
    settings = settings_of(tmp_path / "a.jsonl", tmp_path / "out")
    del settings["input"]
    (one,) = AnnotateConfig.model_validate(settings | {name: form}).inputs
    assert one.path == "a.jsonl" or one.path.endswith("/a.jsonl")


@pytest.mark.parametrize("given", ["a.jsonl", {"path": "a.jsonl"}, [{"path": "a.jsonl"}]])
@pytest.mark.parametrize(
    ("override", "wanted"),
    [("inputs=[{path: b.jsonl}]", "b.jsonl"), ("inputs.0.path=b.jsonl", "b.jsonl"), ("input=b.jsonl", "b.jsonl"),
     ("inputs.0.source=s", "a.jsonl")],
)  # fmt: skip
def test_an_override_of_inputs_replaces_the_input_of_the_file_and_the_other_way_round(
    tmp_path, monkeypatch, given, override, wanted
):
    monkeypatch.chdir(tmp_path)
    settings = settings_of(tmp_path / "a.jsonl", tmp_path / "out")
    del settings["input"]
    for name in ("input", "inputs"):
        (tmp_path / "c.yaml").write_text(json.dumps(settings | {"kind": "annotate", name: given}))
        (one,) = load("c.yaml", [override]).inputs
        assert one.path == str(tmp_path / wanted)


def test_a_broken_line_below_the_bound_is_a_warning(tmp_path, monkeypatch):
    rows = pq.read_table(write_records(tmp_path / "tickets.parquet", 200)).to_pylist()
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    run = annotate_inline(settings_of(path, tmp_path / "out"), monkeypatch)
    (said,) = [one for one in run.warnings if "could not be read" in one]
    assert re.fullmatch(r"1 record could not be read \(broken_json, first .*in\.jsonl.*\); see `quarantine`\.", said)
    assert said in run.text


def test_the_drift_of_an_annotator_has_an_interval(tmp_path, monkeypatch):
    path = write_records(tmp_path / "in.parquet", 400)
    round = annotate_inline(settings_of(path, tmp_path / "out", choose={"count": 300}, overlap=3), monkeypatch).round
    answers = simulated_answers(round, {"a1": 0.95, "a2": 0.9, "a3": 0.95})
    late = {row.id for row in round.tasks[150:]}
    worse = simulated_answers(round, {"a1": 0.95, "a2": 0.9, "a3": 0.5}, seed=1)
    round.answers.add([other if one.annotator == "a3" and one.task in late else one
                       for one, other in zip(answers, worse, strict=True)])  # fmt: skip
    found = {row["annotator"]: row for row in finish_round(round)["by_annotator"]}
    assert found["a3"]["drift_low"] <= -0.45 <= found["a3"]["drift_high"] < -0.2
    for name in ("a1", "a2"):
        assert found[name]["drift_low"] < 0.02 and found[name]["drift_high"] > -0.02
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{found['a3']['drift']:+.3f} ({found['a3']['drift_low']:+.3f} to" in page


def test_candidates_near_records_of_a_reference_that_few_are_near_are_chosen(tmp_path, monkeypatch):
    """Of 300 tickets 6 are about parcels, as half of what the model will be asked."""
    rows = pq.read_table(write_records(tmp_path / "in.parquet", 300)).to_pylist()
    rare = {f"r{number}" for number in range(0, 300, 50)}
    for row in rows:
        if row["id"] in rare:
            row["prompt"] = f"The parcel with tracking number {row['id']} has not arrived by courier"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    asked = ["My parcel did not come, where is the courier", "I was charged twice for an invoice"]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in asked))
    choose = {"count": 20, "coverage": 0.5, "reference": str(tmp_path / "asked.jsonl")}
    settings = settings_of(tmp_path / "in.parquet", tmp_path / "out", choose=choose)
    run = annotate_inline(settings, monkeypatch)
    chosen = {row.id for row in run.round.tasks if row.chosen_by == "coverage"}
    assert len(chosen) == 10 and len(chosen & rare) == 5
    assert not annotate_inline(settings, monkeypatch).fresh
    (tmp_path / "asked.jsonl").write_text(json.dumps({"prompt": "How do I export a report"}) + "\n")
    with pytest.raises(OtherSettings):
        annotate_inline(settings, monkeypatch)
    assert not rare & {row.id for row in annotate_inline(settings, monkeypatch, replace=True).round.tasks
                       if row.chosen_by == "coverage"}  # fmt: skip
    with pytest.raises(DataError, match=r"choose.reference.* no column prompt \(task.show\)"):
        (tmp_path / "asked.jsonl").write_text(json.dumps({"text": "other"}) + "\n")
        annotate_inline(settings | {"output": str(tmp_path / "other")}, monkeypatch)
