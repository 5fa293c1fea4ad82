"""Planted problems of a data set are counted exactly, by id; gates fail on them and name what would fix them."""

import copy
import json
import math
import re
import shlex
from pathlib import Path

import pytest

from raymill.cluster.config import load_values
from raymill.cluster.errors import DataError
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.garbage import find_garbage
from raymill.cluster.run import RunFolder
from raymill.cluster.store.store import Store
from raymill.cluster.wording import of_the_command
from raymill.pipelines.prepare.assess.facts import Topics, same, units_of
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.job import PrepareJob
from raymill.pipelines.prepare.report.page import assessment_text
from raymill.pipelines.text.texts import Texts
from tests.support.assessments import gate, metric
from tests.support.inline import prepare_inline
from tests.support.page_tables import misaligned

# Twenty questions of a help desk: English, all different, none near another.
THINGS = (
    "invoice", "password", "printer", "calendar", "headset", "monitor", "keyboard", "license", "mailbox", "router",
    "badge", "projector", "backup", "database", "website", "camera", "laptop", "tablet", "scanner", "voicemail",
)  # fmt: skip
VERBS = ("repair", "replace", "order", "return", "configure")
WAYS = (
    "Open the settings page and follow the steps that are shown on the left side of the screen.",
    "Please call the service desk in the morning, because somebody has to look at it with you.",
    "Write down the number on its back, then fill in the form that your manager has sent you.",
    "Switch it off for a minute; when it starts again, the problem should have gone away.",
)


def ask(n: int) -> str:
    return f"What should I do when I want to {VERBS[n % 5]} the {THINGS[n]} in my office?"


def reply(n: int) -> str:
    return f"For the {THINGS[n]}: {WAYS[n % 4]} That was advice number {n} about {VERBS[n % 5]}."


def row(id: str, question: str, answer: str, queue: str | None = "it") -> dict:
    return {"id": id, "prompt": question, "completion": answer, "queue": queue}


CLEAN = [row(f"r{n:02}", ask(n), reply(n)) for n in range(20)]
PLANTED = [
    # The question of r03 in capitals and with other spaces, and another answer: r03 and p0 contradict each other.
    row("p0", ask(3).upper().replace(" ", "  "), "Nothing can be done about this, so please leave it alone."),
    # The question of r07 with one more word at the end (near), another answer.
    row("p1", ask(7)[:-1] + " today?", "Ask the colleague who sits next to you, who knows a lot about it."),
    # The answer of r11 to another question.
    row("p2", "Who will be able to help me with all of the things that have arrived this week?", reply(11)),
    row(
        "p3",
        "Which form is the right one for a travel request to our branch abroad?",
        "The blue one is right. It hangs beside the door of the kitchen.",
        None,
    ),
    row(
        "p4",
        "Wo finde ich eigentlich die Unterlagen für meine nächste Dienstreise nach Hamburg?",
        "Die Unterlagen liegen im Sekretariat und werden dort jeden Morgen ausgegeben.",
    ),
    row(
        "p5",
        "How is the name of the caf\u00c3\u00a9 written where we have our lunch together?",
        "It is written with an accent, which the old system could not show correctly.",
    ),
]
TOPICS = {"printing": ["printer", "paper jam"], "travel": ["travel request"], "holidays": ["leave form"]}


@pytest.fixture
def settings(tmp_path) -> dict:
    def write(name: str, rows: list[dict]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(one) + "\n" for one in rows))
        return str(tmp_path / name)

    columns = {"prompt": "prompt", "completion": "completion", "queue": "queue"}
    tickets = {"source": "tickets", "path": write("a.jsonl", CLEAN + PLANTED[:4]), "id": "id", "columns": columns}
    chats = {"source": "chats", "path": write("b.jsonl", PLANTED[4:]), "id": "id", "columns": columns}
    return {
        "inputs": [tickets, chats],
        "clean": {"normalize": False},
        "assess": {"topics": TOPICS},
        "split": {"stratify": ["queue"]},
        "output": str(tmp_path / "out"),
    }  # fmt: skip


def test_planted_problems_are_found_by_id(settings, monkeypatch):
    found = prepare_inline(settings, monkeypatch).assessment["findings"]
    assert found["records"] == 26
    assert sorted(found["contradictory"]["ids"]) == ["p0", "r03"]
    assert found["incomplete"] == {"records": 1, "ids": ["p3"]} and found["missing"] == {"queue": 1}
    questions, answers = found["questions"], found["answers"]
    assert (questions["compared"], questions["exact"], questions["near"]) == (26, 1, 1)
    # Which of a pair comes first depends on their splits.
    assert len(questions["ids"]) == 2 and set(questions["ids"]) <= {"p0", "r03", "p1", "r07"}
    assert (answers["exact"], answers["near"]) == (1, 0) and answers["ids"][0] in ("p2", "r11")
    assert found["expected"] == ["en"] and found["other_language"] == {"records": 1, "ids": ["p4"]}
    assert found["damaged"] == {"records": 1, "ids": ["p5"]}
    assert found["topics"] == {"printing": 1, "travel": 1, "holidays": 0} and found["on_topic"] == 2


def test_metrics_are_those_worked_out_by_hand(settings, monkeypatch):
    assessment = prepare_inline(settings, monkeypatch).assessment
    assert metric(assessment, "completeness") == 25 / 26
    assert metric(assessment, "consistency") == 24 / 26
    assert metric(assessment, "duplication") == 2 / 26
    assert metric(assessment, "duplication_of_answers") == 1 / 26
    assert metric(assessment, "language_quality") == 24 / 26
    assert metric(assessment, "coverage") == pytest.approx(2 / 3)
    assert metric(assessment, "relevance") == 2 / 26
    p = 24 / 26
    entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    assert metric(assessment, "source_diversity") == pytest.approx(entropy)
    # Of `queue` 25 records have `it` and one has none.
    p = 25 / 26
    assert metric(assessment, "balance_queue") == pytest.approx(-p * math.log2(p) - (1 - p) * math.log2(1 - p))
    assert metric(assessment, "balance_turns") == 0, "all have one"
    assert all(one["value"] is None or 0 <= one["value"] <= 1 for one in assessment["metrics"])


def test_the_score_leaves_out_what_is_not_measured(settings, monkeypatch):
    assessment = prepare_inline(settings, monkeypatch).assessment
    parts = {one["name"]: one for one in assessment["parts"]}
    assert parts["accuracy"]["value"] is None and parts["accuracy"]["weight"] == 0
    # Of 0.25, 0.20, 0.20, 0.15, 0.10, 0.10 without the first: 0.75.
    assert parts["completeness"]["weight"] == pytest.approx(0.20 / 0.75)
    assert metric(assessment, "structural_diversity") is None  # all records have one task type and one length
    diversity = (metric(assessment, "lexical_diversity") + metric(assessment, "semantic_diversity")) / 2
    bias = 1 - (24 / 26 - 1 / 2)  # the sources have 24 and 2 records
    assert assessment["score"] == pytest.approx(
        (0.20 * 25 / 26 + 0.20 * 24 / 26 + 0.15 * 2 / 26 + 0.10 * diversity + 0.10 * bias) / 0.75
    )
    assert "without accuracy" in assessment_text(assessment)


def test_failed_gates_name_records_and_a_command(settings, monkeypatch):
    run = prepare_inline(settings | {"gates": {"completeness": 0.9, "consistency": 1}}, monkeypatch)
    assessment = run.assessment
    assert run.report["passed"] is False and any("`duplication` is " in one for one in run.warnings)
    states = {one["name"]: one["state"] for one in assessment["gates"]}
    assert states == {
        "coverage": "failed", "duplication": "failed", "language_quality": "failed", "source_diversity": "failed",
        "completeness": "passed", "consistency": "failed",
    }  # fmt: skip
    assert "holidays (0 records)" in gate(assessment, "coverage")["mend"]
    assert "1 record (p4)" in gate(assessment, "language_quality")["mend"]
    assert "1 record (p5)" in gate(assessment, "language_quality")["mend"]
    assert "chats has 2" in gate(assessment, "source_diversity")["mend"]
    assert "2 records (" in gate(assessment, "consistency")["mend"]
    for one in assessment["gates"]:
        assert bool(one["mend"]) == (one["state"] == "failed")
        assert not one["mend"] or "`raymill " in one["mend"]


def test_the_fix_of_repeated_questions_fixes_them(settings, monkeypatch, tmp_path):
    near = settings | {"dedup": {"threshold": 0.9}}
    fixes = []
    for number, duplicates in enumerate(("ignore", "list", "remove")):
        asked = near | {"duplicates": {"questions": duplicates}, "output": str(tmp_path / str(number))}
        run = prepare_inline(asked, monkeypatch)
        fixes.append(gate(run.assessment, "duplication")["mend"])
    assert "-o duplicates.questions=remove --replace" in fixes[0] and fixes[0] == fixes[1] and fixes[2] == ""
    texts = [{"text": reply(n)} for n in range(5)] + [{"text": reply(0).upper()}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(one) + "\n" for one in texts))
    plain = {"inputs": [{"path": str(tmp_path / "t.jsonl")}], "records": {"shape": "text"}, "dedup": None}
    run = prepare_inline(plain | {"output": str(tmp_path / "texts")}, monkeypatch)
    fix = gate(run.assessment, "duplication")["mend"]
    assert fix.startswith("Texts that repeat") and "-o dedup.threshold=0.6 --replace" in fix


def fixed(settings: dict, fix: str, monkeypatch, name: str):
    """The assessment after each `raymill prepare` with settings that a fix has."""
    found = []
    for number, command in enumerate(re.findall(r"`raymill prepare CONFIG (-o .*?) --replace`", fix)):
        plain = copy.deepcopy({"kind": "prepare", "name": "test"} | settings)
        plain["output"] += f"-{name}-{number}"
        config = load_values(plain, "CONFIG", [word for word in shlex.split(command) if word != "-o"])
        found.append(prepare_inline(config.model_dump(mode="json", by_alias=True), monkeypatch).assessment)
    return found


def test_a_program_reads_calls_where_the_command_prints_commands(tmp_path, monkeypatch):
    (tmp_path / "in.csv").write_text("prompt,completion\n" + "How is it reset?,By the button at its back.\n" * 2)
    source = {"path": f"{tmp_path}/in.csv"}
    settings = {"inputs": [source], "duplicates": {"questions": "list"}, "dedup": None, "output": f"{tmp_path}/out"}
    run = prepare_inline(settings, monkeypatch)
    assert "raymill.prepare(" in str(run) and "raymill prepare" not in str(run)
    with of_the_command():
        assert str(run) == run.text and "`raymill prepare CONFIG -o duplicates.questions=remove --replace`" in str(run)


def test_the_commands_of_fixes_raise_their_gates(settings, monkeypatch):
    """Every command with settings that is printed is run."""
    bounds = {"completeness": 1, "consistency": 1, "bias": 1, "score": 1, "coverage": None}
    asked = settings | {"gates": bounds, "assess": {"embeddings": None, "topics": TOPICS}}
    before = prepare_inline(asked, monkeypatch).assessment
    failed = [one["name"] for one in before["gates"] if one["state"] == "failed"]
    assert failed == ["duplication", "language_quality", "source_diversity", "completeness", "consistency", "bias",
                      "score"]  # fmt: skip
    for name in failed[:-1]:
        (after,) = fixed(asked, gate(before, name)["mend"], monkeypatch, name)
        change = gate(after, name)["value"] - gate(before, name)["value"]
        assert (change < 0) if name == "duplication" else (change > 0), name
    even = fixed(asked, gate(before, "source_diversity")["mend"], monkeypatch, "even")[0]
    assert even["records"] == 4 and metric(even, "source_diversity") == 1
    lowest = min((one for one in before["parts"] if one["value"] is not None), key=lambda one: one["value"])
    assert lowest["name"] == "relevance"
    assert gate(before, "score")["mend"].startswith(
        "The lowest part is relevance (0.077). Mention no topic: 24 records ("
    )


def test_groups_with_too_few_records_are_fixed_by_balancing(settings, monkeypatch):
    rows = [row(f"r{n:02}", ask(n), reply(n), "it" if n % 5 else "hr") for n in range(20)]
    Store().write_bytes(settings["inputs"][0]["path"], "".join(json.dumps(one) + "\n" for one in rows).encode())
    asked = settings | {"inputs": settings["inputs"][:1], "gates": {"bias": 0.99, "source_diversity": None}}
    asked["assess"] = {"embeddings": None, "groups": ["queue"]}
    before = prepare_inline(asked, monkeypatch).assessment
    fix = gate(before, "bias")["mend"]
    assert "queue: hr has 4 of 20 records, and 50% are wanted; it has 16, of 50% (such as r" in fix
    (after,) = fixed(asked, fix, monkeypatch, "bias")
    assert metric(after, "representation_queue") > metric(before, "representation_queue") == pytest.approx(0.7)


def test_a_gate_without_its_input_is_not_measured(settings, monkeypatch):
    assessment = prepare_inline(settings | {"assess": {}}, monkeypatch).assessment
    assert gate(assessment, "coverage") == {
        "name": "coverage", "value": None, "bound": 0.95, "state": "not measured", "seen": "no `assess.topics`",
        "mend": "",
    }  # fmt: skip


def test_one_source_is_not_judged_by_its_diversity(settings, monkeypatch):
    assessment = prepare_inline(settings | {"inputs": settings["inputs"][:1]}, monkeypatch).assessment
    assert gate(assessment, "source_diversity")["state"] == "not measured"
    (line,) = (one for one in assessment_text(assessment).splitlines() if one.startswith("source_diversity"))
    assert line.endswith("at least 0.8  not measured (one source)")


def test_the_assessment_does_not_depend_on_units(settings, monkeypatch, tmp_path):
    one = prepare_inline(settings, monkeypatch).assessment
    monkeypatch.setattr("raymill.cluster.readers.freeze.bytes_of_unit", lambda size: 1 + size // 7)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.UNIT_BYTES", 1)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.ROWS", 2)
    many = prepare_inline(settings | {"output": str(tmp_path / "many")}, monkeypatch)
    assert len(units_of([many.split(name) for name in SPLITS])) > 3
    assert json.loads(json.dumps(many.assessment).replace("/many", "/out")) == one


def test_stated_groups_periods_and_annotators_are_compared(settings, monkeypatch):
    """Twice as many of one region and with longer texts, no record in March, three annotators of whom two agree."""
    rows = []
    for n in range(90):
        region = "south" if n % 3 else "north"
        answer = f"{reply(n % 20)} {n}" + " Then tell us how it went, so that we can help others too." * 4 * (
            n % 3 == 0
        )
        day = f"2026-0{(1, 2, 4)[n % 3]}-11"
        rows.append(row(f"g{n:02}", f"{ask(n % 20)} {n}", answer) | {"region": region, "day": day})
        rows[-1] |= {"anna": "good", "ben": "bad" if n % 9 == 0 else "good", "carl": "" if n % 2 else "good"}
    rows[0] |= dict.fromkeys(("anna", "ben", "carl"), "bad")
    path = settings["inputs"][0]["path"]
    Store().write_bytes(path, "".join(json.dumps(one) + "\n" for one in rows).encode())
    columns = settings["inputs"][0]["columns"] | {name: name for name in ("region", "day", "anna", "ben", "carl")}
    asked = {"groups": {"region": {"north": 0.5, "south": 0.5}}, "period": "day", "annotators": ["anna", "ben", "carl"]}
    plain = settings | {
        "inputs": [settings["inputs"][0] | {"columns": columns}], "dedup": None, "assess": asked,
        "gates": {"bias": 0.95, "accuracy": 0.95},
    }  # fmt: skip
    assessment = prepare_inline(plain, monkeypatch).assessment
    assert metric(assessment, "representation_region") == pytest.approx(1 - (2 / 3 - 1 / 2))
    (ratio,) = assessment["findings"]["lengths"]["region"]["ratios"]
    assert ratio["value"] == "north" and 1 < ratio["low"] < ratio["ratio"] < ratio["high"]
    assert metric(assessment, "length_parity_region") == pytest.approx(1 / ratio["ratio"])
    assert assessment["findings"]["periods"]["records"]["2026-03"] == 0
    agreed = assessment["findings"]["agreement"]
    assert agreed["records"] == 90 and agreed["differing"]["records"] == 9 and "g09" in agreed["differing"]["ids"]
    assert metric(assessment, "agreement") == pytest.approx(max(0, agreed["alpha"]))
    bias, accuracy = gate(assessment, "bias")["mend"], gate(assessment, "accuracy")["mend"]
    assert "north has 30 of 90 records, and 50% are wanted" in bias and "Without records: 2026-03" in bias
    assert "texts of north have" in bias and "9 records (" in accuracy
    page = Store().read_bytes(f"{plain['output']}/report.html").decode()
    assert "Mean length by region, as a ratio to south" in page


@pytest.mark.parametrize("shape", ["text", "preference"])
def test_other_shapes_are_assessed(tmp_path, monkeypatch, shape):
    rows = [{"text": reply(n)} if shape == "text" else {"prompt": ask(n), "chosen": reply(n), "rejected": WAYS[n % 4]}
            for n in range(10)]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    plain = {"inputs": [{"path": str(tmp_path / "in.jsonl")}], "records": {"shape": shape}}
    assessment = prepare_inline(plain | {"output": str(tmp_path / "out")}, monkeypatch).assessment
    assert metric(assessment, "duplication") == 0 and metric(assessment, "consistency") == 1
    assert metric(assessment, "duplication_of_answers") == (None if shape == "text" else 0)
    assert assessment["findings"]["values"]["turns"]["shown"] == {"0" if shape == "text" else "1": 10}


def test_records_that_balancing_repeats_count_in_the_balance_alone(settings, monkeypatch, tmp_path):
    """r08 and r09 are written four times; r09 and p0 contradict each other, and r09 has damaged characters."""
    damaged = row("r09", ask(9), f"{reply(9)} Caf\u00c3\u00a9.", "hr")
    rows = [*CLEAN[:7], CLEAN[8] | {"queue": "hr"}, damaged, row("p0", ask(9), PLANTED[0]["completion"])]
    path = settings["inputs"][0]["path"]
    Store().write_bytes(path, "".join(json.dumps(one) + "\n" for one in rows).encode())
    split = {"train": 1, "validation": 0, "test": 0}
    plain = settings | {"inputs": settings["inputs"][:1], "split": split, "clean": {"normalize": False}}
    without = prepare_inline(plain | {"output": str(tmp_path / "without")}, monkeypatch).assessment
    balanced = split | {"balance": {"by": ["queue"], "to": "largest"}}
    run = prepare_inline(plain | {"split": balanced, "output": str(tmp_path / "with")}, monkeypatch)
    assessment, found = run.assessment, run.assessment["findings"]
    assert (run.report["totals"]["written"], assessment["records"], found["copies"]) == (16, 10, 6)
    assert found["questions"]["compared"] == 10 and found["contradictory"]["records"] == 2
    assert metric(assessment, "consistency") == 8 / 10 and metric(assessment, "language_quality") == 9 / 10
    assert metric(assessment, "balance_queue") == 1, "8 of it and 8 of hr"
    shares = ("balance_", "structural_diversity", "representation")
    for one in without["metrics"]:
        if not one["name"].startswith(shares):
            assert one in assessment["metrics"], one["name"]
    assert (
        "Metrics of 10 records, without repeated records and variants (6)"
        in Store().read_bytes(f"{run.uri}/report.html").decode()
    )


def test_a_data_set_without_records_has_no_score(tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "Why?", "completion": "So."}) + "\n")
    plain = {"inputs": [{"path": str(tmp_path / "in.jsonl")}], "output": str(tmp_path / "out")}
    assessment = prepare_inline(plain, monkeypatch).assessment
    assert assessment["score"] is None and {one["state"] for one in assessment["gates"]} == {"not measured"}


def test_the_report_has_the_assessment(settings, monkeypatch):
    run = prepare_inline(settings, monkeypatch)
    page = (Store().read_bytes(f"{run.uri}/report.html")).decode()
    assert 'id="assessment"' in page and "holidays (0 records)" in page
    assert "Why records are not" not in page and misaligned(page) == []
    assert '<span class="failed">failed</span>' in page and "no <code>assess.label</code>, " in page
    assert '<span class="wrapped">records without an empty field</span>' in page, "wraps where the page is narrow"
    assert prepare_inline(settings, monkeypatch).assessment == run.assessment, "read from assessment.json"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a PRINTER, maybe", [True, False]),
        ("printers", [False, False]),
        ("the travel-request form", [False, True]),
        ("travel", [False, False]),
        ("", [False, False]),
    ],
)
def test_topics_are_whole_words_in_any_case(text, found):
    topics = Topics({"printing": ["printer", "paper jam"], "travel": ["travel request"]})
    assert topics.mentioned(Texts.from_strings(["travel", text, "request"]))[1].tolist() == found


def test_questions_are_the_same_but_for_case_spaces_and_final_marks():
    assert same("What  is\n2+3 ?") == same("what is 2+3") != same("what is 2*3")


def test_a_submitted_run_has_memory_for_the_assessment_without_deduplication(settings, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.prepare.job.document_count", lambda inputs: 2_000_000)
    largest = [
        PrepareJob(PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings | change))
        .work()
        .workers[0]
        .largest_task
        for change in ({}, {"dedup": None})
    ]
    assert largest[0] == largest[1], "questions and answers are compared in any case"


def test_a_submitted_run_has_memory_for_the_labels(settings, monkeypatch):
    monkeypatch.setattr("raymill.pipelines.prepare.job.document_count", lambda inputs: 1_000_000)
    plain = {"kind": "prepare", "name": "x"} | settings
    model = {"embeddings": {"model": "e5"}}
    largest = [
        PrepareJob(PrepareConfig.model_validate(plain | {"assess": assess})).work().workers[0].largest_task
        for assess in ({"embeddings": None}, model, model | {"label": "queue"})
    ]
    assert largest[0] <= largest[1] < largest[2]


def test_the_assessment_is_no_garbage(settings, monkeypatch):
    run = prepare_inline(settings, monkeypatch)
    found = find_garbage(Store(), run.uri, 0)
    assert found.unknown == []
    kept = {
        f"_work/assess/{name}" for name in ("facts", "model", "vectors", "learned", "summary", "questions/_work/groups")
    }
    assert all(Path(run.uri, folder).is_dir() for folder in kept)
    assert not kept & {one.folder for one in [*found.old, *found.young]}


def test_what_a_killed_attempt_left_beside_any_file_of_the_run_is_garbage(settings, monkeypatch):
    run = prepare_inline(settings | {"duplicates": {"questions": "list", "answers": "list"}}, monkeypatch)
    before = {one.item.uri for one in find_garbage(Store(), run.uri, -60).old}
    made = [path for path in Path(run.uri).rglob("*.parquet") if path.name[:6].isdigit() and str(path) not in before]
    left = [path.with_name(f"{path.name.split('.')[0][:-12]}{'0' * 12}.parquet") for path in made]
    for path, copy_of in zip(left, made, strict=True):
        path.write_bytes(copy_of.read_bytes())
    found = find_garbage(Store(), run.uri, -60)
    assert found.unknown == [] and len(left) > 10
    assert {one.item.uri for one in found.old} - before == {str(path) for path in left}


# --- the verb


def test_assess_with_other_settings_and_gates_as_exit_code(settings, monkeypatch, tmp_path, assess):
    run = prepare_inline(settings, monkeypatch)
    code, out, _ = assess(run.uri)
    assert code == 0 and "coverage" in out and "failed" in out
    code, out, _ = assess(run.uri, "--gate")
    assert code == 2 and "holidays (0 records)" in out
    path = tmp_path / "p.yaml"
    gates = {"coverage": 0.5, "duplication": 0.1, "language_quality": 0.9, "source_diversity": None}
    path.write_text(json.dumps({"kind": "prepare", "name": "x"} | settings | {"gates": gates}))
    code, out, _ = assess(run.uri, "--gate", "--config", str(path))
    assert code == 0 and "source_diversity" not in out
    code, out, _ = assess(run.uri, "--gate", "--config", str(path), "-o", "assess.topics=[printer,violin,opera]")
    assert code == 2 and "violin (0 records)" in out
    again = json.loads(Store().read_bytes(f"{run.uri}/assessment.json"))
    assert metric(again, "coverage") == pytest.approx(1 / 3)
    code, out, _ = assess(
        run.uri, "--gate", "-o", "assess.topics=[printer,violin,opera]", "-o", "gates.duplication=0.5"
    )
    assert code == 2 and "violin (0 records)" in out and "at most 0.5" in out
    code, _, err = assess(run.uri, "-o", "assess.topic=[printer]")
    assert code == 2 and "-o assess.topic=[printer]: no such setting" in err and "Did you mean topics?" in err
    assert "violin" in Store().read_bytes(f"{run.uri}/report.html").decode()
    assert prepare_inline(settings, monkeypatch).manifest == run.manifest, "the data set is the same"


def test_rules_of_another_config_are_counted(settings, monkeypatch, tmp_path, assess):
    run = prepare_inline(settings, monkeypatch)
    names = {one["name"] for one in run.assessment["metrics"]}
    path = tmp_path / "p.yaml"
    asked = settings | {"validate": {"question_chars": [65, 500]}, "gates": {"accuracy": 1}}
    path.write_text(json.dumps({"kind": "prepare", "name": "x"} | asked))
    code, out, _ = assess(run.uri, "--gate", "--config", str(path))
    again = json.loads(Store().read_bytes(f"{run.uri}/assessment.json"))
    short = again["findings"]["rules"]["question_too_short"]
    assert 0 < short < 26 and metric(again, "rule_conformity") == 1 - short / 26
    assert code == 2 and "Rules are broken (question_too_short" in out
    assert "rule_conformity" not in names


def test_rules_that_compare_all_records_are_named_as_not_checked(settings, monkeypatch, tmp_path, assess):
    made_with = {"validate": {"outliers": {"deviations": 6}}, "assess": {"embeddings": None}}
    run = prepare_inline(settings | made_with, monkeypatch)
    path = tmp_path / "p.yaml"

    def warned(**rules) -> tuple[str, dict]:
        asked = {"kind": "prepare", "name": "x"} | settings | made_with | {"validate": rules}
        path.write_text(json.dumps(asked))
        code, out, _ = assess(run.uri, "--config", str(path))
        assert code == 0
        return out, json.loads(Store().read_bytes(f"{run.uri}/assessment.json"))

    out, found = warned(answer_relevance={}, outliers={"deviations": 3}, question_chars=[65, 500])
    (conformity,) = (one for one in found["metrics"] if one["name"] == "rule_conformity")
    assert conformity["seen"].startswith("question_too_short ")
    assert conformity["seen"].endswith(", answer_relevance not checked, outliers not checked")
    text = (
        "validate.answer_relevance and validate.outliers are not checked here: rule_conformity is of the other rules."
    )
    assert f"warning: {text} To apply them, run `raymill prepare CONFIG --replace`." in out
    assert text in Store().read_bytes(f"{run.uri}/report.html").decode()
    # The data set was made with these outliers: they are not in it.
    out, found = warned(outliers={"deviations": 6}, question_chars=[65, 500])
    assert "not checked here" not in out and "not checked" not in str(found["metrics"])
    out, _ = warned(outliers={"deviations": 3})
    assert "warning: validate.outliers is not checked here" in out


def test_records_are_checked_again_when_a_list_of_the_rules_changed(settings, monkeypatch, tmp_path, assess):
    run = prepare_inline(settings, monkeypatch)
    monkeypatch.setattr("raymill.pipelines.prepare.assess.facts.ROWS", 7)
    path, words = tmp_path / "p.yaml", tmp_path / "words"
    asked = settings | {"validate": {"bad_words": {"paths": {"en": str(words)}}}, "assess": {"embeddings": None}}
    path.write_text(json.dumps({"kind": "prepare", "name": "x"} | asked))
    found = []
    for word in ("printer\n", "advice\n"):
        words.write_text(word)
        assess(run.uri, "--config", str(path))
        again = json.loads(Store().read_bytes(f"{run.uri}/assessment.json"))
        found.append(again["findings"]["rules"]["bad_words"])
    assert found[0] < found[1] == 21, found
    words.unlink()
    code, _, error = assess(run.uri, "--config", str(path))
    assert code == 2 and f"bad_words.paths: {words}: no such file" in error


def test_other_formats_and_terms_make_records_inconsistent(tmp_path, monkeypatch, assess):
    """Of 20 answers one is JSON and five have dates, one of them in another form; two records name the wifi."""
    rows = [row(f"r{n:02}", ask(n), reply(n)) for n in range(20)]
    rows[4]["completion"] = json.dumps({"advice": reply(4)})
    for n, day in enumerate(("2026-11-23", "2026-11-24", "2026-11-25", "2026-12-01", "11/23/2026")):
        rows[10 + n]["completion"] += f" It was written on {day} by us."
    for n in (1, 2):
        rows[n]["completion"] += " Turn the WiFi on."
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    terms = tmp_path / "terms.yaml"
    terms.write_text("router: gateway\n")
    plain = {
        "inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}], "output": str(tmp_path / "out"), "dedup": None,
        "assess": {"embeddings": None}, "gates": {"consistency": 1}, "clean": {"terminology": str(terms)},
    }  # fmt: skip
    run = prepare_inline(plain, monkeypatch)
    found = run.assessment["findings"]
    assert sorted(found["other_format"]["ids"]) == ["r04", "r14"] and found["terms"] == {"records": 0, "ids": []}
    assert found["forms"] == {"text": 19, "JSON": 1} and found["dates"] == {"2026-11-23": 4, "11/23/2026": 1}
    assert metric(run.assessment, "format_consistency") == metric(run.assessment, "consistency") == 18 / 20
    assert metric(run.assessment, "terminology_consistency") == 1
    assert "r04" in gate(run.assessment, "consistency")["mend"]
    terms.unlink()
    assert assess(run.uri)[0] == 0, "the terms are those of the run"
    path = tmp_path / "p.yaml"
    other = plain | {"clean": {"terminology": {"wifi": "Wi-Fi"}}}
    path.write_text(json.dumps({"kind": "prepare", "name": "x"} | other))
    code, out, _ = assess(run.uri, "--gate", "--config", str(path))
    again = json.loads(Store().read_bytes(f"{run.uri}/assessment.json"))
    assert sorted(again["findings"]["terms"]["ids"]) == ["r01", "r02"] and code == 2
    assert metric(again, "terminology_consistency") == 18 / 20 and metric(again, "consistency") == 16 / 20
    # The command that is printed fixes the terms: the config has them.
    assert "With terms that `clean.terminology` replaces".replace("`", "") in out.replace("`", "")
    fixed = prepare_inline(other, monkeypatch, replace=True).assessment
    assert metric(fixed, "terminology_consistency") == 1


def test_balance_is_measured_of_domain_language_category_and_complexity_where_they_differ(tmp_path, monkeypatch):
    rows = [row(f"r{n:02}", ask(n), reply(n)) | {"category": "ab"[n % 2]} for n in range(18)] + PLANTED[4:5]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows[:12]))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows[12:]))
    columns = {"prompt": "prompt", "completion": "completion"}
    inputs = [{"source": name, "path": f"{tmp_path}/{name}.jsonl", "id": "id", "columns": columns} for name in "ab"]
    plain = {"inputs": inputs, "dedup": None, "assess": {"embeddings": None}}
    run = prepare_inline(plain | {"output": str(tmp_path / "one")}, monkeypatch)
    names = {one["name"] for one in run.assessment["metrics"] if one["name"].startswith("balance_")}
    assert names == {"balance_task_type", "balance_length", "balance_turns", "balance_language"}
    assert metric(run.assessment, "domain_diversity") is None
    inputs[0] |= {"domain": "hr", "columns": columns | {"category": "category"}}
    inputs[1] |= {"domain": "it", "columns": columns | {"category": "category"}}
    plain["curriculum"] = {"stages": 2}
    run = prepare_inline(plain | {"output": str(tmp_path / "two")}, monkeypatch)
    p = 12 / 19
    evenness = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
    assert metric(run.assessment, "domain_diversity") == pytest.approx(evenness)
    (diversity,) = (one["value"] for one in run.assessment["parts"] if one["name"] == "diversity")
    assert metric(run.assessment, "structural_diversity") is None
    of = [metric(run.assessment, f"{kind}_diversity") for kind in ("lexical", "domain")]
    assert diversity == pytest.approx(sum(of) / 2)
    values = run.assessment["findings"]["values"]
    assert values["category"]["shown"] == {"a": 9, "b": 9, "": 1} and values["language"]["shown"]["de"] == 1
    assert set(values["complexity"]["shown"]) == {"1", "2"} and metric(run.assessment, "balance_complexity") > 0.99
    assert values["domain"]["ids"]["it"] and values["language"]["ids"]["de"] == ["p4"]


def test_a_report_of_an_earlier_version_is_refused_and_made_again(settings, monkeypatch, assess):
    asked = settings | {"assess": {"embeddings": None}}
    run = prepare_inline(asked, monkeypatch)
    plain = {name: value for name, value in run.report.items() if name != "listed"}
    for old in (plain, run.report | {"config": run.report["config"] | {"gone": 1}}):
        Store().write_bytes(f"{run.uri}/report.json", json.dumps(old).encode())
        code, _, error = assess(run.uri)
        assert code == 2 and ("without listed" if old is plain else "valid settings (gone: ") in error, error
        assert "raymill prepare CONFIG --replace" in error
    with pytest.raises(DataError, match="valid settings"):
        prepare_inline(asked, monkeypatch)
    again = prepare_inline(asked, monkeypatch, replace=True)
    assert again.fresh and again.manifest["digest"] == run.manifest["digest"]
    assert assess(run.uri)[0] == 0


def test_assess_says_what_it_wants(tmp_path, assess):
    assert assess(str(tmp_path / "none"))[0] == 2
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_text("x")
    code, _, err = assess(str(tmp_path / "some"))
    assert code == 2 and "wanted the output of `raymill prepare`" in err
    with pytest.raises(DataError, match="there is no run"):
        RunFolder(Store(), str(tmp_path / "none")).require("prepare")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"assess": {"topics": ["?"]}}, "has no word"),
        ({"gates": {"coverage": 1.2}}, "less than or equal to 1"),
        ({"gates": {"fun": 1}}, "fun"),
        ({"assess": {"groups": {"queue": {"it": 0.5, "hr": 0.4}}}}, "the shares sum to 0.9; wanted 1"),
        ({"assess": {"annotators": ["queue"]}}, "agreement takes two fields or more"),
        (
            {"assess": {"label": "queue", "embeddings": None}},
            "is measured by vectors of the texts, and `embeddings: null`",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, change, message):
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate({"kind": "prepare", "name": "x"} | settings | change)
