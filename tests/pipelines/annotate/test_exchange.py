"""Tasks for other labelling tools, and the labels that come back.

The files in exchange/ are as the tools write them.
"""

import csv
import io
import json
import resource
import tracemalloc
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raymill.cluster.errors import ConfigError, DataError, StorageError, UserError
from raymill.pipelines.annotate.annotations import Annotation, latest
from raymill.pipelines.annotate.ballots import read_ballots
from raymill.pipelines.annotate.exchange import importing
from raymill.pipelines.annotate.exchange.export import as_names, export_round
from raymill.pipelines.annotate.exchange.importing import import_labels
from raymill.pipelines.annotate.finish import finish_round
from raymill.pipelines.annotate.round import Round
from tests.support.rounds import round_of
from tests.support.sampled import sampled

FILES = Path(__file__).parent / "exchange"
FORMATS = {"label-studio": "json", "argilla": "json", "prodigy": "jsonl", "csv": "csv"}
RECORDS = [
    {"prompt": "I was charged twice 😀 for invoice 7", "one": "Sorry!", "two": "=SUM(A1)", "three": "'We\nwill'"},
    {"prompt": '"Quoted", <b>bold</b> & $prompt\r\nnext line', "one": "-a", "two": "ب ت", "three": None},
    {"prompt": "How do I export?", "one": "x", "two": "y", "three": "z"},
]
# Type -> (task, labels that it can have).
KINDS = {
    "classify": ({"type": "classify", "labels": ["billing", "login & out", "=other"]}, ["billing", "=other"]),
    "several": (
        {"type": "classify", "several": True, "labels": ["a", "b|c", "d"]},
        [["a", "d"], ["b|c"], []],
    ),
    "rate": ({"type": "rate", "points": 5}, ["4", "1"]),
    "rate_of_many": ({"type": "rate", "points": 20}, ["14", "1"]),
    "compare": ({"type": "compare", "answers": ["one", "two"]}, ["two", "tie", "one"]),
    "rank": ({"type": "rank", "answers": ["one", "two", "three"]}, [["three", "one", "two"], ["two", "one", "three"]]),
    "correct": ({"type": "correct"}, ["I was charged\ntwice ", "-", ""]),
    "write": ({"type": "write"}, ["An answer", '["a", "list"]', "{}"]),
    "span": (
        {"type": "span", "labels": ["thing", "person"]},
        [
            [{"start": 0, "end": 1, "label": "person"}, {"start": 6, "end": 13, "label": "thing"}],
            [{"start": 6, "end": 13, "label": "person"}, {"start": 6, "end": 13, "label": "thing"}],
            [],
        ],
    ),
    "check": ({"type": "check", "source": "two"}, ["supported", "not in the source"]),
}


def round_with_labels(folder: Path, kind: str) -> Round:
    """Labels of all statuses, with and without times."""
    task, values = KINDS[kind]
    task = {"show": ["prompt"], **task}
    round = round_of(folder, task, [{name: one[name] for name in columns_of(task)} for one in RECORDS])
    at = "2026-11-0{}T10:00:00.250000+00:00"
    answers = [
        Annotation("t1", "a1", "labelled", values[0], seconds=12.5, at=at.format(1), guideline="v1"),
        Annotation("t1", "a2", "skipped", reason="not in my language: 日本語", seconds=3.0, at=at.format(2)),
        Annotation("t1", "a3", "skipped", at=at.format(2)),
        Annotation("t2", "a1", "labelled", values[-2], at=at.format(3), guideline="v2"),
        Annotation("t2", "a2", "draft", values[0] if kind != "span" else [], at=at.format(4)),
    ]
    round.answers.add(answers)
    if kind in ("correct", "several", "write"):
        round.answers.add([Annotation("t2", "a3", "labelled", values[-1], at=at.format(5))])
    return round


def columns_of(task: dict) -> list[str]:
    return list(dict.fromkeys([*task["show"], *task.get("answers", []), *filter(None, [task.get("source")])]))


def counted(round: Round) -> set[str]:
    """The labels of a round, but for where they are from."""
    return {repr(replace(one, origin="")) for one in latest(round.answers.read()).values()}


def test_a_table_that_was_cut_within_a_row_is_refused(tmp_path):
    round = round_with_labels(tmp_path / "round", "classify")
    file = tmp_path / "tasks.csv"
    export_round(round, str(file), "csv")
    whole = file.read_bytes()
    file.write_bytes(whole.rstrip(b"\r\n"))  # without the end of its last line, as some tools write it
    before = import_labels(round, [str(file)])
    file.write_bytes(whole[: whole.rindex(b",", 0, -40)])
    with pytest.raises(DataError, match=r"it ends within a row, after \d+ of \d+ cells"):
        import_labels(round, [str(file)])
    assert before["new"] == 0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_comes_back_the_same(kind, format, tmp_path):
    round = round_with_labels(tmp_path / "round", kind)
    file = tmp_path / f"tasks.{FORMATS[format]}"
    if (format, kind) == ("prodigy", "rank"):
        with pytest.raises(ConfigError, match="Prodigy has no interface for rankings"):
            export_round(round, str(file), format)
        return
    told = export_round(round, str(file), format)
    assert (told["tasks"], told["labels"], told["left_out"]) == (3, len(counted(round)), 0)
    copy = round_of(tmp_path / "copy", round.task.model_dump(), [row.record for row in round.tasks])
    found = import_labels(copy, [str(file)])
    assert counted(copy) == counted(round)
    assert {one["reason"] for one in found["left_out"]} == {"draft", "skipped"}
    assert found["new"] == len(counted(round))
    before = sorted(path.name for path in (tmp_path / "copy" / "answers").iterdir())
    again = import_labels(copy, [str(file), str(file)])
    assert (again["new"], again["known"]) == (0, 2 * len(counted(round)))
    assert import_labels(round, [str(file)])["new"] == 0  # into the round that it is of
    assert sorted(path.name for path in (tmp_path / "copy" / "answers").iterdir()) == before
    finish_round(copy)


# --- files as the tools write them


def helpdesk(folder: Path) -> Round:
    texts = ("I was charged twice", "I cannot sign in", "How do I export\na report?")
    task = {"type": "classify", "show": ["prompt"], "labels": ["billing", "login", "other"]}
    return round_of(folder, task, [{"prompt": text} for text in texts])


def short(round: Round) -> list[tuple]:
    """(task, annotator, status, value) of each label, and its problem if it has one."""
    found = [(one.task, one.annotator, one.status, one.value, *filter(None, [one.problem])) for one in
             round.answers.read()]  # fmt: skip
    return sorted(found, key=repr)


def reasons(found: dict) -> dict[str, int]:
    return {one["reason"]: one["labels"] for one in found["left_out"]}


def test_all_of_an_export_of_label_studio_comes_in(tmp_path):
    round = helpdesk(tmp_path)
    found = import_labels(round, [str(FILES / "label_studio.json")], {"1": "a1", "ann@example.org": "a2"})
    assert reasons(found) == {
        "no_key": 1, "unknown_annotator": 1, "changed_task": 1, "skipped": 1, "draft": 1,
    }  # fmt: skip
    first = next(one for one in found["left_out"] if one["reason"] == "no_key")
    assert first["first"] == "label_studio.json, task 4, annotation 1"
    assert (found["labels"], found["new"], found["known"]) == (5, 5, 0)
    by_place = {(one.task, one.annotator): one for one in round.answers.read()}
    one = by_place["t1", "a1"]
    assert (one.value, one.at, one.seconds) == ("billing", "2026-11-20T10:05:00.500000+00:00", 12.4)
    assert (one.guideline, one.origin) == ("0a1b2c3d4e5f", "label-studio:label_studio.json")
    assert (by_place["t1", "a2"].status, by_place["t2", "a2"].status) == ("skipped", "draft")
    assert by_place["t3", "a1"].problem == "changed_task"
    left_out = {reason: len(some) for reason, some in read_ballots(round).left_out.items()}
    assert left_out == {"unknown_annotator": 1, "changed_task": 1, "skipped": 1, "draft": 1}
    warnings = finish_round(round)["warnings"]
    assert any("another text than the task has (first: a1, t3)" in one for one in warnings)
    assert "no_key" in found.text and "--as 9=a1" in found.text


def test_flat_exports_of_label_studio_have_the_same_labels(tmp_path):
    names = {"1": "a1", "9": "a3"}
    every = helpdesk(tmp_path / "json")
    import_labels(every, [str(FILES / "label_studio.json")], names)
    for name in ("label_studio_min.json", "label_studio.csv", "label_studio.tsv"):
        round = helpdesk(tmp_path / name)
        found = import_labels(round, [str(FILES / name)], names)
        wanted = {one.key for one in every.answers.read() if one.status == "labelled"}
        assert {one.key for one in round.answers.read()} == wanted, name
        assert reasons(found) == {"no_key": 1, "changed_task": 1}
        assert import_labels(every, [str(FILES / name)], names)["new"] == 0
    assert found["files"][0]["format"] == "label-studio"


def test_an_unknown_annotator_counts_once_it_has_a_name(tmp_path):
    round = helpdesk(tmp_path)
    file = str(FILES / "label_studio_min.json")
    found = import_labels(round, [file])
    assert found["unknown_annotators"] == [{"annotator": "1", "labels": 2}, {"annotator": "9", "labels": 1}]
    assert len(read_ballots(round).left_out["unknown_annotator"]) == 3
    assert import_labels(round, [file], {"1": "a1", "9": "a2"})["new"] == 3
    given = {(one.task, one.annotator) for some in read_ballots(round).given.values() for one in some}
    assert given == {("t1", "a1"), ("t2", "a2")}
    assert len(read_ballots(round).left_out["unknown_annotator"]) == 3  # as they came in
    with pytest.raises(ConfigError, match="nobody is none of the round's annotators"):
        import_labels(round, [file], {"1": "nobody"})


BY_TYPE = {
    "label_studio_ranker.json": (
        {"type": "rank", "show": ["prompt"], "answers": ["one", "two"]},
        {"prompt": "q1", "one": "x", "two": "y"},
        [["two", "one"], ["two", "one"], ["two", "one"]],
    ),
    "label_studio_pairwise.json": (
        {"type": "compare", "show": ["prompt"], "answers": ["one", "two"]},
        {"prompt": "q1", "one": "x", "two": "y"},
        ["one", "two", "tie"],
    ),
    "label_studio_spans.json": (
        {"type": "span", "show": ["text"], "labels": ["person", "author"]},
        {"text": "😀 Ada wrote to Charles"},
        [
            [
                {"start": 2, "end": 5, "label": "author"},
                {"start": 2, "end": 5, "label": "person"},
                {"start": 15, "end": 22, "label": "person"},
            ],
            [{"start": 2, "end": 5, "label": "person"}],
            [],
        ],
    ),
    "label_studio_text.json": ({"type": "correct", "show": ["prompt"]}, {"prompt": "teh cat"}, ["the cat", "The cat."]),
    "label_studio_rating.json": ({"type": "rate", "show": ["prompt"]}, {"prompt": "q1"}, ["4", "9"]),
    "prodigy_spans.jsonl": (
        {"type": "span", "show": ["text"], "labels": ["person", "author"]},
        {"text": "😀 Ada wrote to Charles"},
        [[{"start": 2, "end": 5, "label": "person"}], []],
    ),
}


@pytest.mark.parametrize("name", BY_TYPE)
def test_labels_of_each_type_are_read(name, tmp_path):
    task, record, values = BY_TYPE[name]
    round = round_of(tmp_path, task, [record])
    found = import_labels(
        round, [str(FILES / name)], {"1": "a1", "2": "a2", "3": "a3"} if "label_studio" in name else {}
    )
    assert [one.value for one in sorted(round.answers.read(), key=lambda one: one.annotator)] == values
    assert reasons(found) == ({"bad_value": 1} if "rating" in name else {})
    left_out = {reason: len(some) for reason, some in read_ballots(round).left_out.items()}
    assert left_out == reasons(found)


def test_responses_of_argilla_have_their_status_in_flat_records(tmp_path):
    names = {"11111111-1111-1111-1111-111111111111": "a1", "22222222-2222-2222-2222-222222222222": "a2"}
    round = helpdesk(tmp_path / "flat")
    found = import_labels(round, [str(FILES / "argilla_flat.json")], names)
    assert short(round) == [
        ("t1", "a1", "labelled", "billing"),
        ("t1", "a2", "skipped", None),
        ("t2", "a1", "draft", "login"),
        ("t3", "a2", "labelled", "other", "changed_task"),
    ]
    assert next(one for one in round.answers.read() if one.status == "skipped").reason == "not my area"
    assert found["files"][0] == {
        "file": str(FILES / "argilla_flat.json"), "format": "argilla", "labels": 4, "new": 4, "notes": [],
    }  # fmt: skip
    nested = helpdesk(tmp_path / "nested")
    found = import_labels(nested, [str(FILES / "argilla_nested.json")], names)
    assert [one[2] for one in short(nested)] == ["labelled"] * 4
    assert "do not tell drafts and discarded records from labels" in found["files"][0]["notes"][0]
    assert "do not tell drafts" in found.text


def test_lines_of_prodigy_are_read(tmp_path):
    round = helpdesk(tmp_path)
    found = import_labels(round, [str(FILES / "prodigy.jsonl")])
    assert short(round) == [
        ("t1", "a1", "labelled", "billing"),
        ("t1", "a2", "skipped", None),
        ("t2", "2026-11-20_10-00-00", "labelled", "login"),
        ("t2", "a1", "skipped", None),
    ]
    assert {one.reason for one in round.answers.read()} == {"", "rejected"}
    assert {one.at for one in round.answers.read() if one.task == "t1"} == {
        "2026-11-20T10:00:00+00:00", "2026-11-20T10:01:00+00:00",
    }  # fmt: skip
    assert reasons(found) == {"skipped": 2, "unknown_annotator": 1}


def test_a_table_that_a_person_filled_in_is_read(tmp_path):
    round = helpdesk(tmp_path)
    found = import_labels(round, [str(FILES / "table.csv")])
    assert short(round) == [
        ("t1", "a1", "labelled", "billing"),
        ("t1", "a2", "labelled", "login"),
        ("t2", "a1", "labelled", "nonsense"),
    ]
    assert reasons(found) == {"bad_value": 1, "no_annotator": 1}
    assert reasons(import_labels(round, [str(FILES / "table.csv")], {"": "a3"})) == {"bad_value": 1}
    assert ("t2", "a3", "labelled", "login") in short(round)


# --- times, changes, drafts


def table(path: Path, *rows: dict) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def test_a_changed_label_without_a_time_is_later_than_the_earlier_one(tmp_path):
    round = helpdesk(tmp_path / "round")
    first = table(tmp_path / "1.jsonl", {"raymill_id": "t1", "label": "login", "annotator": "a1"})
    second = table(tmp_path / "2.jsonl", {"raymill_id": "t1", "label": "billing", "annotator": "a1"})
    assert import_labels(round, [first])["new"] == 1
    assert import_labels(round, [second])["new"] == 1
    assert latest(round.answers.read())["t1", "a1"].value == "billing"
    assert import_labels(round, [first, second])["new"] == 0  # files of before
    assert latest(round.answers.read())["t1", "a1"].value == "billing"
    rows = [{"raymill_id": id, "label": "login", "annotator": "a1"} for id in ("t1", "t2")]
    third = table(tmp_path / "3.jsonl", *rows)  # changed back
    assert import_labels(round, [third])["new"] == 2
    assert latest(round.answers.read())["t1", "a1"].value == "login"
    assert import_labels(round, [first, second, third])["new"] == 0
    round.answers.add([Annotation("t1", "a1", "withdrawn", at="2999-01-01T00:00:00+00:00")])
    assert import_labels(round, [first, second])["new"] == 0
    again = table(tmp_path / "4.jsonl", rows[0])  # as the tool still has it
    assert import_labels(round, [again])["new"] == 0
    assert ("t1", "a1") not in latest(round.answers.read())


def test_a_draft_does_not_replace_a_label(tmp_path):
    round = helpdesk(tmp_path / "round")
    file = table(
        tmp_path / "1.jsonl",
        {"raymill_id": "t1", "label": "billing", "annotator": "a1", "at": "2026-01-01"},
        {"raymill_id": "t1", "label": "login", "annotator": "a1", "at": "2026-01-02", "status": "draft"},
        {"raymill_id": "t2", "label": "login", "annotator": "a1", "at": "2026-01-02", "status": "draft"},
    )
    found = import_labels(round, [file])
    assert reasons(found) == {"draft": 2}
    assert short(round) == [("t1", "a1", "labelled", "billing"), ("t2", "a1", "draft", "login")]
    later = table(tmp_path / "2.jsonl", {"raymill_id": "t2", "label": "login", "annotator": "a1", "at": "2026-01-03"})
    assert import_labels(round, [later])["new"] == 1
    assert latest(round.answers.read())["t2", "a1"].status == "labelled"


def test_a_label_of_a_changed_task_does_not_replace_one_of_the_task(tmp_path):
    round = helpdesk(tmp_path / "round")
    row = {"raymill_id": "t1", "label": "billing", "annotator": "a1", "at": "2026-01-01"}
    import_labels(round, [table(tmp_path / "1.jsonl", row)])
    other = row | {"label": "login", "at": "2026-01-02", "prompt": "I was charged thrice"}
    found = import_labels(round, [table(tmp_path / "2.jsonl", other)])
    assert (found["new"], reasons(found)) == (1, {"changed_task": 1})
    ballots = read_ballots(round)
    assert [one.value for one in ballots.given["t1"]] == ["billing"]
    assert [one.value for one in ballots.left_out["changed_task"]] == ["login"]
    corrected = other | {"prompt": "I was charged twice\r\n"}  # the same label, with the text as it is
    assert import_labels(round, [table(tmp_path / "3.jsonl", corrected)])["new"] == 1
    assert [one.value for one in read_ballots(round).given["t1"]] == ["login"]
    assert not read_ballots(round).left_out


def test_times_that_the_tool_replaced_are_restored(tmp_path):
    """Label Studio gives imported annotations the time of the import, Argilla none."""
    round = round_with_labels(tmp_path / "round", "classify")
    export_round(round, str(tmp_path / "tasks.json"), "label-studio", {"1": "a1"})
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    people = [one["completed_by"] for one in tasks[0]["annotations"]]
    assert 1 in people and {"email": "a2"} in people
    for task in tasks:
        for one in task.get("annotations", []):
            one["created_at"] = one["updated_at"] = "2026-12-24T00:00:00Z"
    tasks[1]["annotations"][0]["result"][0]["value"]["choices"] = ["login & out"]
    (tmp_path / "back.json").write_text(json.dumps(tasks))
    found = import_labels(round, [str(tmp_path / "back.json")], {"1": "a1"})
    assert found["new"] == 1  # the one that was changed there
    assert latest(round.answers.read())["t2", "a1"].at == "2026-12-24T00:00:00+00:00"


def test_a_label_that_was_changed_in_a_table_is_later_than_the_time_of_its_row(tmp_path):
    round = round_with_labels(tmp_path / "round", "classify")
    export_round(round, str(tmp_path / "tasks.csv"), "csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tasks.csv").read_text("utf-8-sig"), newline="")))
    row = next(one for one in rows if (one["raymill_id"], one["annotator"]) == ("t1", "a1"))
    row["label"] = "login & out"
    with (tmp_path / "back.csv").open("w", newline="") as file:
        (back := csv.DictWriter(file, rows[0])).writeheader()
        back.writerows(rows)
    assert import_labels(round, [str(tmp_path / "back.csv")])["new"] == 1
    one = latest(round.answers.read())["t1", "a1"]
    assert (one.value, one.seconds, one.guideline) == ("login & out", None, "")
    assert one.at > "2026-11-01T10:00:00.250000+00:00"


# --- exported files


@pytest.mark.parametrize("kind", KINDS)
def test_the_labelling_config_has_the_fields_and_labels(kind, tmp_path):
    round = round_with_labels(tmp_path / "round", kind)
    told = export_round(round, str(tmp_path / "tasks.json"), "label-studio")
    assert told["beside"] == [str(tmp_path / "tasks.xml")]
    view = ET.parse(tmp_path / "tasks.xml").getroot()
    named = {one.get("name"): one for one in view.iter() if one.get("name")}
    data = json.loads((tmp_path / "tasks.json").read_text())[0]["data"]
    for one in view.iter():
        if (value := one.get("value", "")).startswith("$"):
            assert value[1:] in data
    assert all(one.get("toName") in named for one in named.values() if one.get("toName"))
    labels = [one.get("value") for one in named["label"]]
    wanted = round.task.labels or (round.task.choices if kind in ("compare", "check") else ())
    assert labels == list(wanted)
    for task in json.loads((tmp_path / "tasks.json").read_text()):
        for item in (item for one in task.get("annotations", []) for item in one["result"]):
            assert item["from_name"] in named
            assert named[item["from_name"]].get("toName") == item["to_name"]


def test_predictions_are_pre_labels(tmp_path):
    task = {"type": "classify", "show": ["prompt"], "labels": ["a", "b"]}
    rows = {"t1": {"prediction": "b", "certainty": 0.83}, "t2": {"prediction": "no label", "certainty": 0.9}}
    round = round_of(tmp_path / "round", task, [{"prompt": "x"}, {"prompt": "y"}], **rows)
    for format, ending in FORMATS.items():
        export_round(round, str(tmp_path / f"{format}.{ending}"), format)
    first, second = json.loads((tmp_path / "label-studio.json").read_text())
    assert first["predictions"][0]["score"] == 0.83
    assert first["predictions"][0]["result"][0]["value"] == {"choices": ["b"]}
    assert "predictions" not in second
    first, second = json.loads((tmp_path / "argilla.json").read_text())
    assert first["suggestions"] == {"label": {"value": "b", "score": 0.83, "agent": "raymill"}}
    assert second["suggestions"] == {}
    first, second = map(json.loads, (tmp_path / "prodigy.jsonl").read_text().splitlines())
    assert first["accept"] == ["b"] and "accept" not in second and "answer" not in first
    first, second = csv.DictReader(io.StringIO((tmp_path / "csv.csv").read_text("utf-8-sig")))
    assert (first["prediction"], first["certainty"], first["label"], second["prediction"]) == ("b", "0.83", "", "")
    for format, ending in FORMATS.items():  # predictions are no labels
        assert import_labels(round, [str(tmp_path / f"{format}.{ending}")])["labels"] == 0


def test_cells_are_no_formulas(tmp_path):
    round = round_with_labels(tmp_path / "round", "compare")
    export_round(round, str(tmp_path / "tasks.csv"), "csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "tasks.csv").read_text("utf-8-sig"), newline="")))
    assert rows[0]["two"] == "'=SUM(A1)"
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


def test_argilla_loads_records_json_with_the_settings_beside_it(tmp_path):
    round = round_with_labels(tmp_path / "round", "classify")
    export_round(round, str(tmp_path / "set" / "records.json"), "argilla")
    settings = json.loads((tmp_path / "set" / ".argilla" / "settings.json").read_text())
    assert [one["name"] for one in settings["questions"]] == ["label", "reason"]
    assert settings["distribution"] == {"strategy": "overlap", "min_submitted": 2}
    copy = round_of(tmp_path / "copy", round.task.model_dump(), [row.record for row in round.tasks])
    assert import_labels(copy, [str(tmp_path / "set")])["new"] == 5
    for row in json.loads((tmp_path / "set" / "records.json").read_text()):
        assert all(one["value"] is not None for some in row["responses"].values() for one in some)


def test_columns_with_names_that_a_tool_cannot_have(tmp_path):
    columns = ["id", "label", "annotator", "Name with spaces", "field_2", "raymill_id", "status", "record"]
    record = {name: f"text of {name}" for name in columns}
    task = {"type": "classify", "show": columns, "labels": ["a", "b"]}
    round = round_of(tmp_path / "round", task, [record])
    round.answers.add([Annotation("t1", "a1", "labelled", "a", at="2026-11-01T00:00:00+00:00")])
    for format, ending in FORMATS.items():
        export_round(round, file := str(tmp_path / f"{format}.{ending}"), format)
        copy = round_of(tmp_path / format, task, [record])
        found = import_labels(copy, [file])
        assert (found["new"], found["left_out"]) == (1, []), format
        assert counted(copy) == counted(round)
        changed = round_of(tmp_path / f"{format}-2", task, [record | {"Name with spaces": "another"}])
        assert reasons(import_labels(changed, [file])) == {"changed_task": 1}, format


def test_what_cannot_be_exported_is_refused(tmp_path):
    round = round_with_labels(tmp_path / "round", "classify")
    file = tmp_path / "tasks.csv"
    export_round(round, str(file), "csv")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        export_round(round, str(file), "csv")
    assert file.read_bytes() == before
    with pytest.raises(ConfigError, match="is none of label-studio, argilla, prodigy, csv"):
        export_round(round, str(tmp_path / "x"), "xlsx")
    one = round_of(tmp_path / "2", {"type": "classify", "several": True, "labels": ["a"], "show": ["prompt"]}, [])
    with pytest.raises(ConfigError, match="Argilla needs two labels"):
        export_round(one, str(tmp_path / "x.json"), "argilla")
    bad = round_of(tmp_path / "3", {"type": "classify", "labels": ["a\x07", "b"], "show": ["prompt"]}, [])
    with pytest.raises(ConfigError, match="control character"):
        export_round(bad, str(tmp_path / "x.json"), "label-studio")
    many = {"type": "rank", "answers": [f"a{number}" for number in range(51)], "show": ["prompt"]}
    with pytest.raises(ConfigError, match="ranks at most 50"):
        export_round(round_of(tmp_path / "4", many, []), str(tmp_path / "x.json"), "argilla")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round", "tasks.csv"]
    round.answers.add([Annotation("t3", "a1", "labelled", "nonsense"), Annotation("gone", "a1", "labelled", "billing")])
    assert export_round(round, str(tmp_path / "x.json"), "label-studio")["left_out"] == 2


# --- files that anybody may have written


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", None),
        (b"[]", None),
        (b"\xff\xfe\xfd", "no text in UTF-8"),
        (b"\x80abc", "no text in UTF-8"),
        (b"[1, 2]", "its records are no objects"),
        (b'{"a": 1}', "its first record has a"),
        (b'{"a": 1}\n{"a": ', "record 2 cannot be read: it is no whole JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'[{"data": ', "cannot be read"),
        (b"name,value\n1,2\n", "its first record has name, value"),
        (b"id,label,annotator\n\x00,\x00,\x00\n", None),
    ],
)
def test_other_files_are_named(content, message, tmp_path):
    round = helpdesk(tmp_path / "round")
    (tmp_path / "file").write_bytes(content)
    if message is None:
        import_labels(round, [str(tmp_path / "file")])
        return
    with pytest.raises(DataError, match=message) as raised:
        import_labels(round, [str(FILES / "label_studio.json"), str(tmp_path / "file")])
    assert str(tmp_path / "file") in str(raised.value)
    assert round.answers.read() == []  # of the other file too


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        import_labels(helpdesk(tmp_path / "round"), [str(tmp_path / "nothing.json")])
    with pytest.raises(UserError):
        import_labels(helpdesk(tmp_path / "round"), [str(tmp_path)])


def test_files_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "_LARGEST", 100)
    with pytest.raises(StorageError, match=r"label_studio\.json"):
        import_labels(helpdesk(tmp_path / "round"), [str(FILES / "label_studio.json")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" + "[]," * 10_000_000 + "[]]", r"more than 10,000,000 values"),
        ("{}\n" * 5_000_001, r"more than 10,000,000 values"),
        ("raymill_id,label,annotator\n" + "\n" * 10_000_001, r"more than 10,000,000 values"),
        ("raymill_id,label,annotator" + ",c" * 1_000_000 + "\n" + "t1\n" * 10_000, r"1,000,003 columns, and more than"),
    ],
    ids=["lists", "lines", "empty lines", "columns"],
)
def test_a_file_with_more_values_than_memory_is_refused_before_they_are_made(content, message, tmp_path):
    round = helpdesk(tmp_path / "round")
    (tmp_path / "file").write_text(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=message):
        import_labels(round, [str(tmp_path / "file")])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


@pytest.mark.parametrize(
    "content",
    [
        '{"raymill_id": "t1", "label": "billing", "annotator": "a1"}\n' + '{"key": 1000}\n' * 200_000,
        '[{"raymill_id": "t1", "label": "billing", "annotator": "a1"}' + ', {"key": 1000}' * 200_000 + "]",
        "raymill_id,label,annotator\nt1,billing,a1\n" + "t1,,\n" * 200_000,
    ],
    ids=["lines", "array", "table"],
)
def test_records_without_a_label_take_no_memory(content, tmp_path):
    round = helpdesk(tmp_path / "round")
    (tmp_path / "file").write_text(content)
    tracemalloc.start()
    found = import_labels(round, [str(tmp_path / "file")])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found["labels"] == 1 and most < 4 * len(content) + (10 << 20)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"raymill_id": "' + "x" * 3_000_000 + '"}]', "record 1 cannot be read: it is too large"),
        ('raymill_id,label,annotator\nt1,billing,"' + "x\n" * 500_000 + '"', "a row has more than 1,000 characters"),
        ("raymill_id,label,annotator\nt1,billing," + "x" * 1000, "a row has more than 1,000 characters"),
    ],
    ids=["value", "lines of a cell", "line"],
)
def test_a_record_has_a_bound(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "_LONGEST_RECORD", 1000)
    (tmp_path / "file").write_text(content)
    with pytest.raises(DataError, match=message):
        import_labels(helpdesk(tmp_path / "round"), [str(tmp_path / "file")])


def test_an_import_has_a_bound_on_its_labels_in_all_files(tmp_path, monkeypatch):
    for name in ("x.csv", "y.csv"):
        (tmp_path / name).write_text("raymill_id,label,annotator\n" + "t1,billing,a1\n" * 2)
    round, files = helpdesk(tmp_path / "round"), [str(tmp_path / "x.csv"), str(tmp_path / "y.csv")]
    monkeypatch.setattr(importing, "_MOST_LABELS", 3)
    with pytest.raises(DataError, match=r"y\.csv: there are more than 3 labels"):
        import_labels(round, files)
    assert round.answers.read() == []
    round.answers.add([Annotation("t2", "a1", "labelled", "billing")])
    monkeypatch.setattr(importing, "_MOST_LABELS", 4)
    monkeypatch.setattr(importing, "MOST", 4)
    with pytest.raises(DataError, match=r"y\.csv: there are more than 3 labels.* and 4 into a round"):
        import_labels(round, files)
    monkeypatch.setattr(importing, "MOST", 5)
    assert import_labels(round, files)["labels"] == 4


def test_ids_and_names_of_megabytes_are_not_stored(tmp_path):
    round, long = helpdesk(tmp_path / "round"), "x" * 1_000_000
    rows = [f"{long}{n},billing,a1" for n in range(3)] + [f"t1,billing,{long}{n}" for n in range(2)]
    (tmp_path / "x.csv").write_text("\n".join(["raymill_id,label,annotator", *rows, "t1,billing,a1", "t9,billing,a1"]))
    found = import_labels(round, [str(tmp_path / "x.csv")])
    assert reasons(found) == {"long_name": 5, "unknown_task": 1}
    assert [one.task for one in round.answers.read()] == ["t1", "t9"]
    assert len(found.text) < 2000


def test_hostile_values_are_labels_that_do_not_count(tmp_path):
    round = helpdesk(tmp_path / "round")
    values = [10**17, "9" * 5000, "deep", "\x1b[31mred\x00", "\ud800", True, None, [["billing"]], {"choices": {"a": 1}}]
    rows = [{"raymill_id": "t1", "label": value, "annotator": f"a1\x1b]0;{at}\x07"} for at, value in enumerate(values)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    text = text.replace('"' + "9" * 5000 + '"', "9" * 5000).replace('"deep"', "[" * 900 + "]" * 900)
    text += '{"raymill_id": "t2", "label": "nonsense \\ud83d", "annotator": "a1", "at": NaN, "seconds": 1e999}\n'
    text += '{"raymill_id": "t3", "label": 1e999, "annotator": "a1", "at": 1e300, "seconds": -1}\n'
    (tmp_path / "x.jsonl").write_text(text)
    found = import_labels(round, [str(tmp_path / "x.jsonl")])
    assert reasons(found) == {"bad_value": 2, "unknown_annotator": 8}  # null is no label
    assert import_labels(round, [str(tmp_path / "x.jsonl")])["new"] == 0
    finish_round(round)
    export_round(round, str(tmp_path / "out.json"), "label-studio")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["t1", "a1", "billing", "accept", "draft", "discarded", "left", "2026-11-20T10:00:00Z", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["label", "start", "end", "labels", "choices", "ranker", "text", "result", "value", "rank",
                         "user_id", "email", "id", "globalOffsets"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def places_in(value: object, path: tuple = ()) -> list[tuple]:
    """The path of each value within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, one in items for inner in places_in(one, (*path, key)))]


def with_value(value: object, path: tuple, other: object) -> object:
    """A copy with another value at a path."""
    if not path:
        return other
    if isinstance(value, dict):
        return {**value, path[0]: with_value(value[path[0]], path[1:], other)}
    assert isinstance(value, list)
    return [with_value(one, path[1:], other) if at == path[0] else one for at, one in enumerate(value)]


def golden(name: str) -> object:
    text = (FILES / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)


@pytest.mark.parametrize("kind", sampled(["classify", "several", "rank", "compare", "span", "correct", "rate"], 2))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_value_anywhere_is_a_reason_or_an_error_that_names_the_file(kind, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    task, _ = KINDS[kind]
    round = round_of(folder / "round", {"show": ["prompt"], **task}, [
        dict.fromkeys(columns_of({"show": ["prompt"], **task}), "I was charged twice")])  # fmt: skip
    name = data.draw(st.sampled_from(sorted(path.name for path in FILES.iterdir() if "json" in path.suffix)))
    value = golden(name)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(places_in(value)))
        value = with_value(value, path, data.draw(JSON))
    content = json.dumps(value) if data.draw(st.booleans()) or not isinstance(value, list) else (
        "".join(f"{json.dumps(one)}\n" for one in value))  # fmt: skip
    (folder / "file.json").write_text(content)
    try:
        found = import_labels(round, [str(folder / "file.json")], {"1": "a1"})
    except UserError as error:
        assert str(folder / "file.json") in str(error)
        return
    assert str(found) and json.dumps(found)
    assert import_labels(round, [str(folder / "file.json")], {"1": "a1"})["new"] == 0
    read_ballots(round)
    for format, ending in FORMATS.items():
        if (format, kind) != ("prodigy", "rank"):
            export_round(round, str(folder / f"{format}.{ending}"), format)


CELLS = st.text(max_size=12) | st.sampled_from(["t1", "a1", "billing", "a;d", "[1", '["a"]', "'=x", "skipped", "draft",
                                                "1e999", "NaN", "2026-13-01", "4.0", "three > one > two"])  # fmt: skip


@pytest.mark.parametrize("kind", sampled(KINDS, 3))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(st.lists(CELLS, max_size=8), max_size=4), delimiter=st.sampled_from(",;\t"))
def test_any_cell_of_a_table_is_a_reason_or_an_error_that_names_the_file(kind, rows, delimiter, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    task = {"show": ["prompt"], **KINDS[kind][0]}
    round = round_of(folder / "round", task, [dict.fromkeys(columns_of(task), "I was charged twice")])
    header = ["raymill_id", "label", "annotator", "status", "at", "seconds", "raymill_digest", "reason"]
    with (folder / "file.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    found = import_labels(round, [str(folder / "file.csv")])
    assert str(found) and json.dumps(found)
    assert import_labels(round, [str(folder / "file.csv")])["new"] == 0
    finish_round(round)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16")))
def test_any_bytes_are_an_error_that_names_the_file(content, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "file").write_bytes(content)
    try:
        import_labels(helpdesk(folder / "round"), [str(folder / "file")])
    except UserError as error:
        assert str(folder / "file") in str(error)


def test_names_on_the_command_line(tmp_path):
    assert as_names(["1=a1", "ann=x@y=a2", "=a3"]) == {"1": "a1", "ann=x@y": "a2", "": "a3"}
    assert as_names(None) == {}
    for wrong in (["a1"], ["1="], ["1=a1", "1=a2"]):
        with pytest.raises(ConfigError, match=r"is not of the form 1=a1|has two names"):
            as_names(wrong)


def test_the_text_of_a_record_is_compared_once_for_all_its_labels(tmp_path, monkeypatch):
    """A record may have 16 MiB of either, so comparing each label takes time with the square."""
    round, compared = helpdesk(tmp_path / "round"), []
    monkeypatch.setattr(importing, "_same", lambda given, ours: compared.append(given) is None)
    labels = [{"completed_by": f"a{number}", "result": []} for number in range(50)]
    (tmp_path / "x.json").write_text(
        json.dumps([{"data": {"raymill_id": id, "prompt": id}, "annotations": labels} for id in ("t1", "t2")])
    )
    assert import_labels(round, [str(tmp_path / "x.json")])["labels"] == 100
    assert compared == ["t1", "t2"]
