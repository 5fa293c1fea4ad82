"""Analyses of errors, on items whose causes are planted."""

import dataclasses
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.store.store import Store
from raymill.pipelines.errors.config import ErrorsConfig
from raymill.pipelines.errors.job import ErrorsRun
from raymill.pipelines.errors.plan import plan_errors
from raymill.pipelines.generate.config import GenerateConfig
from raymill.pipelines.generate.job import GenerateJob
from raymill.pipelines.generate.plan import plan_generation
from tests.support.annotate_inline import annotate_inline
from tests.support.errors_inline import TOPICS, errors_inline, read_lines, write_lines
from tests.support.generate_inline import rows
from tests.support.inline import prepare_inline


def question(drawn, topic):
    return " ".join(drawn.choices(TOPICS[topic], k=drawn.randint(6, 14)))


def tickets(count, seed=0, rate=0.15, **rates):
    """Judged tickets. rates: value of the field channel -> its rate of errors."""
    drawn, found = random.Random(seed), []
    for number in range(count):
        topic, channel = drawn.choice([*TOPICS]), drawn.choice(["mail", "chat", "phone"])
        wrong = drawn.random() < rates.get(channel, rate)
        others = [one for one in TOPICS if one != topic]
        found.append(
            {
                "id": f"t{number}",
                "prompt": question(drawn, topic),
                "answer": drawn.choice(others) if wrong else topic,
                "label": topic,
                "channel": channel,
            }
        )
    return found


def settings_of(path, output, **more):
    columns = {"expected": "label", "fields": ["channel"]} | more.pop("columns", {})
    return {"input": str(path), "columns": columns, "compare": "label", "output": str(output)} | more


def data_set(folder, records, monkeypatch):
    """The output of `prepare` with (id, question, answer) of each record, all in train."""
    made = [{"id": id, "prompt": asked, "completion": answer} for id, asked, answer in records]
    write_lines(folder / "records.jsonl", made)
    prepare_inline(
        {
            "inputs": [{"path": str(folder / "records.jsonl"), "id": "id"}],
            "records": {"shape": "pairs"},
            "validate": {"answer_chars": None},
            "dedup": None,
            "split": {"train": 1.0, "validation": 0.0, "test": 0.0},
            "output": str(folder / "data"),
        },
        monkeypatch,
    )
    return str(folder / "data")


def topics(count, seed=7):
    drawn = random.Random(seed)
    named = [drawn.choice([*TOPICS]) for _ in range(count)]
    return [(f"r{n}", question(drawn, topic), topic) for n, topic in enumerate(named)]


# --- slices and confusions


def test_a_field_value_with_a_doubled_error_rate_is_found(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(1500, mail=0.30))
    run = errors_inline(settings_of(path, tmp_path / "out"), monkeypatch)
    found = [one for one in run.report["slices"] if one["found"]]
    (mail,) = (one for one in found if one["slice"] == "channel = mail")
    assert {one["by"] for one in found} <= {"field", "tree"}
    assert mail["difference_low"] > 0 and mail["p_corrected"] >= mail["p"]
    stored = json.loads((tmp_path / "out" / "slices.json").read_text())
    assert (stored["correction"], stored["slices"]) == ("Holm 1979", run.report["slices"])
    of_mail = [one for one in rows(run, "items") if "channel = mail" in one["slices"]]
    assert len(of_mail) == mail["items"] and sum(one["is_error"] for one in of_mail) == mail["errors"]
    lines = read_lines(run.findings["slice-1"]["candidates.jsonl"])
    assert {"id", "prompt", "answer", "expected", "error"} <= lines[0].keys()
    assert len(read_lines(run.findings["slice-1"]["seeds.jsonl"])) == len(lines)


def test_confusions_by_hand(tmp_path, monkeypatch):
    pairs = [("red", "red")] * 6 + [("red", "the red")] + [("red", "blue")] * 2 + [("red", "?")]
    pairs += [("blue", "blue")] * 9 + [("blue", "Red.")]
    log = [{"id": str(n), "prompt": f"word {n}", "answer": one, "label": want} for n, (want, one) in enumerate(pairs)]
    path = write_lines(tmp_path / "log.jsonl", log)
    run = errors_inline(settings_of(path, tmp_path / "out", columns={"fields": []}), monkeypatch)
    found = json.loads((tmp_path / "out" / "confusions.json").read_text())["confusions"]
    assert [(one["expected"], one["answer"], one["items"], one["of"]) for one in found] == [
        ("red", "blue", 2, 10),
        ("blue", "red", 1, 10),
        ("red", "(no class)", 1, 10),
    ]
    assert (found[0]["share_low"], found[0]["share_high"]) == pytest.approx((0.0567, 0.5098), abs=1e-4)  # Wilson, 2/10
    assert run.report["errors"] == 4


def test_the_result_is_equal_for_any_order_and_number_of_files(tmp_path, monkeypatch):
    some = tickets(300, mail=0.5)
    one = write_lines(tmp_path / "one" / "log.jsonl", some)
    random.Random(1).shuffle(some)
    for number in range(3):
        write_lines(tmp_path / "several" / f"{9 - number}.jsonl", some[number::3])
    data = data_set(tmp_path, topics(200), monkeypatch)
    runs = [
        errors_inline(settings_of(path, tmp_path / name, name="same", data=data), monkeypatch)
        for path, name in ((one, "first"), (tmp_path / "several", "second"))
    ]
    # The source of an item is the number of its input, which is one in both.
    assert runs[0].manifest["artifacts"]["items"] == runs[1].manifest["artifacts"]["items"]
    assert runs[0].manifest["artifacts"]["nearest"] == runs[1].manifest["artifacts"]["nearest"]
    assert runs[0].manifest["files"] == runs[1].manifest["files"]


# --- causes


def test_label_errors_model_errors_and_missing_knowledge_are_told_apart(tmp_path, monkeypatch):
    drawn = random.Random(5)
    data = data_set(tmp_path, topics(400), monkeypatch)
    log = tickets(200, rate=0)
    for number in range(20):  # the label is wrong, the model right
        log.append({"id": f"label{number}", "prompt": question(drawn, "login"), "answer": "login", "label": "billing"})
    for number in range(20):  # the model is wrong
        log.append({"id": f"model{number}", "prompt": question(drawn, "login"), "answer": "billing", "label": "login"})
    for number in range(20):  # no record is about it
        asked = f"quartz glacier moraine number{number} basalt tectonic"
        log.append({"id": f"new{number}", "prompt": asked, "answer": "billing", "label": "login"})
    path = write_lines(tmp_path / "log.jsonl", log)
    run = errors_inline(settings_of(path, tmp_path / "out", columns={"fields": []}, data=data), monkeypatch)
    causes = {one["id"]: one["cause"] for one in rows(run, "items") if one["is_error"]}
    planted = {"label": "label_error", "model": "model_error", "new": "missing"}
    for name, cause in planted.items():
        assert {causes[f"{name}{number}"] for number in range(20)} == {cause}
    patch = read_lines(run.findings["label-errors"]["patch.jsonl"])
    assert {one["id"] for one in patch} == {f"label{number}" for number in range(20)}
    assert patch[0] | {"id": ""} == {
        "id": "", "field": "completion", "old": "billing", "new": "login", "edited_by": "raymill errors",
        "reason": "label_error", "source": "out/label-errors", "status": "proposed",
    }  # fmt: skip
    seeds = read_lines(run.findings["missing-knowledge"]["seeds.jsonl"])
    assert {one["id"] for one in seeds} == {f"new{number}" for number in range(20)}
    near = [one for one in rows(run, "nearest") if one["id"] == "model3"]
    assert len(near) == 5 and {one["answer"] for one in near} == {"login"}
    assert [one["cosine"] for one in near] == sorted((one["cosine"] for one in near), reverse=True)


def test_wrong_labels_and_contradictions_of_train_near_an_error_are_found(tmp_path, monkeypatch):
    known = topics(400)
    wrong = {f"r{n}" for n in range(0, 400, 20)}
    others = {"billing": "login", "login": "delivery", "delivery": "billing"}
    known = [(id, asked, others[label] if id in wrong else label) for id, asked, label in known]
    asked = "how long does the warranty of the new password token last"
    known += [("c1", asked, "login"), ("c2", f"{asked}?", "delivery")]
    data = data_set(tmp_path, known, monkeypatch)
    log = [*tickets(120, rate=0.5), {"id": "warranty", "prompt": asked, "answer": "billing", "label": "login"}]
    path = write_lines(tmp_path / "log.jsonl", log)
    run = errors_inline(settings_of(path, tmp_path / "out", columns={"fields": []}, data=data), monkeypatch)
    assert {one["id"]: one["cause"] for one in rows(run, "items")}["warranty"] == "contradictory"
    assert {"c1", "c2"} <= {one["id"] for one in read_lines(run.findings["contradictions"]["candidates.jsonl"])}
    patch = read_lines(run.findings["training-label-errors"]["patch.jsonl"])
    found = {one["id"]: one["new"] for one in patch}
    assert len(wrong & found.keys()) >= 10, "of 20, those near an error"
    assert len(found.keys() - wrong) <= 3
    truth = {id: label for id, _, label in topics(400)}
    assert all(found[id] == truth[id] for id in wrong & found.keys())


# --- feedback of users


def test_ratings_and_corrections_in_logs_become_errors_and_an_accepted_patch(tmp_path, monkeypatch):
    log = [
        {"id": "up", "prompt": "one", "answer": "yes", "thumb": "up"},
        {"id": "down", "prompt": "two", "answer": "no", "thumb": "👎"},
        {"id": "fixed", "prompt": "three", "answer": "no", "thumb": "up", "better": "Yes, it does.", "who": "ada"},
        {"id": "kept", "prompt": "four", "answer": "Yes.", "thumb": "down", "better": "yes"},
        {"id": "silent", "prompt": "five", "answer": "yes"},
    ]
    path = write_lines(tmp_path / "log.jsonl", log)
    columns = {"rating": "thumb", "correction": "better", "edited_by": "who"}
    run = errors_inline({"input": str(path), "columns": columns, "output": str(tmp_path / "out")}, monkeypatch)
    assert {one["id"]: one["error"] for one in rows(run, "items")} == {"up": 0, "down": 1, "fixed": 1, "kept": 0}
    assert any("1 item without an expected answer" in one for one in run.warnings)
    assert read_lines(run.findings["corrections"]["patch.jsonl"]) == [
        {
            "id": "fixed", "field": "completion", "old": "no", "new": "Yes, it does.", "edited_by": "ada",
            "reason": "user_correction", "source": "out/corrections", "status": "accepted",
        }
    ]  # fmt: skip
    assert "seeds.jsonl" not in run.findings["corrections"]


def test_stars_and_scores_are_errors_from_the_bound_on(tmp_path, monkeypatch):
    log = [{"id": f"s{n}", "prompt": "p", "answer": "a", "stars": n} for n in range(1, 6)]
    log += [{"id": "scored", "prompt": "p", "answer": "a", "score": 0.2}]
    path = write_lines(tmp_path / "log.jsonl", log)
    columns = {"rating": "stars", "score": "score"}
    settings = {"input": str(path), "columns": columns, "points": 5, "output": str(tmp_path / "out")}
    run = errors_inline(settings | {"error_from": 0.6}, monkeypatch)
    assert {one["id"] for one in rows(run, "items") if one["is_error"]} == {"s1", "s2", "scored"}


# --- edges


@pytest.mark.parametrize(("rate", "errors"), [(0, 0), (1, 60)])
def test_no_errors_and_nothing_but_errors(rate, errors, tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(60, rate=rate))
    data = data_set(tmp_path, topics(60), monkeypatch)
    run = errors_inline(settings_of(path, tmp_path / "out", data=data), monkeypatch)
    assert run.report["errors"] == errors
    assert not any(one["found"] for one in run.report["slices"])
    assert ("No item is an error." in run.warnings) == (errors == 0)
    assert (tmp_path / "out" / "report.html").exists()


def test_a_broken_line_below_the_bound_is_a_warning(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(120, rate=3))
    Path(path).write_text(Path(path).read_text() + "{broken\n")
    run = errors_inline(settings_of(path, tmp_path / "out"), monkeypatch)
    assert any(one.startswith("1 item could not be read (broken_json, first ") for one in run.warnings)


def test_one_item_and_one_record_are_enough(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(1, rate=1))
    data = data_set(tmp_path, topics(1), monkeypatch)
    run = errors_inline(settings_of(path, tmp_path / "out", data=data), monkeypatch)
    assert (run.report["items"], run.report["errors"], run.report["slices"]) == (1, 1, [])


def test_without_a_judged_item_the_run_ends_with_what_to_do(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", [{"id": "a", "prompt": "p", "answer": "b", "thumb": None}] * 3)
    settings = {"input": str(path), "columns": {"rating": "thumb"}, "output": str(tmp_path / "out")}
    with pytest.raises(DataError, match="none of 3 items is judged"):
        errors_inline(settings, monkeypatch)


def test_a_missing_column_is_named_with_its_setting(tmp_path, monkeypatch):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(tickets(5)), path)
    with pytest.raises(DataError, match=r"no column labell \(columns.expected\)"):
        errors_inline(settings_of(path, tmp_path / "out", columns={"expected": "labell"}), monkeypatch)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give a run, or `inputs`"),
        ({"run": "/a", "input": "/b"}, "give a run, or `inputs`"),
        ({"input": "/b"}, "nothing states which answers are errors"),
        ({"input": "/b", "columns": {"score": "s"}, "points": 5}, "goes with `columns.rating`"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        ErrorsConfig.model_validate({"kind": "errors", "output": "/out"} | settings)


def test_items_with_one_id_are_one_whatever_their_order(tmp_path, monkeypatch):
    log = [{"id": "a", "prompt": "p", "answer": one, "label": "x"} for one in ("x", "y")]
    for name, some in (("first", log), ("second", log[::-1])):
        write_lines(tmp_path / name / "log.jsonl", some)
    found = []
    for name in ("first", "second"):
        settings = settings_of(tmp_path / name, tmp_path / f"out-{name}", columns={"fields": []})
        run = errors_inline(settings, monkeypatch)
        found.append([one["answer"] for one in rows(run, "items")])
        assert any("1 item with the id of another" in one for one in run.warnings)
    assert found[0] == found[1] and len(found[0]) == 1


def test_texts_of_records_are_no_markup_and_no_names_of_files(tmp_path, monkeypatch):
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)> ../../x \u202e \x00 {{ 7*7 }}"
    drawn = random.Random(2)
    log = [
        {"id": f"../{hostile}{n}", "prompt": f"{hostile} {question(drawn, 'login')}", "answer": f"{hostile}x",
         "label": hostile if n % 2 else f"{hostile}x", "channel": f"{hostile}{n % 2}"}
        for n in range(60)
    ]  # fmt: skip
    path = write_lines(tmp_path / "log.jsonl", log)
    run = errors_inline(settings_of(path, tmp_path / "out"), monkeypatch)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page
    found = [one for one in run.report["slices"] if one["found"]]
    assert found and {path.name for path in (tmp_path / "out" / "findings").iterdir()} == run.findings.keys()
    assert all(name.replace("-", "").isalnum() for name in run.findings)
    assert {path.name for path in tmp_path.iterdir()} == {"log.jsonl", "out"}


# --- of other kinds, and of the frame


def test_annotate_reads_the_candidates_and_generate_the_seeds(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(900, mail=0.5))
    run = errors_inline(settings_of(path, tmp_path / "out"), monkeypatch)
    files = run.findings["slice-1"]
    lines = read_lines(files["candidates.jsonl"])
    round = annotate_inline(
        {
            "kind": "annotate",
            "input": files["candidates.jsonl"],
            "task": {"type": "classify", "show": ["prompt", "answer", "expected"], "labels": [*TOPICS]},
            "choose": {"count": 20},
            "annotators": ["a1"],
            "output": str(tmp_path / "round"),
        },
        monkeypatch,
    )
    by_id = {one["id"]: one for one in lines}
    assert len(round.round.tasks) == 20
    for task in round.round.tasks:
        assert task.record == {name: by_id[task.id][name] for name in ("prompt", "answer", "expected")}
    settings = {
        "kind": "generate",
        "inputs": [{"path": files["seeds.jsonl"], "id": "id", "columns": ["expected"]}],
        "model": {"endpoint": "http://127.0.0.1:1/v1", "name": "m"},
        "make": {"template": "A ticket like {{ text }} of the topic {{ expected }}"},
        "output": str(tmp_path / "made"),
    }
    plan = plan_generation(GenerateConfig.model_validate(settings))
    assert plan["seeds"] == len(lines)
    assert GenerateJob(GenerateConfig.model_validate(settings)).frozen.files[0].uri == files["seeds.jsonl"]


def test_the_same_settings_find_the_run_and_damaged_findings_are_made_again(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(600, mail=0.5))
    settings = settings_of(path, tmp_path / "out")
    run = errors_inline(settings, monkeypatch)
    assert not errors_inline(settings, monkeypatch).fresh
    file = Path(run.findings["slice-1"]["candidates.jsonl"])
    before = file.read_text()
    file.write_text("x")
    again = errors_inline(settings, monkeypatch)
    assert again.fresh and file.read_text() == before
    write_lines(tmp_path / "log.jsonl", tickets(600, rate=0))
    with pytest.raises(DataError, match="made again"):
        errors_inline(settings, monkeypatch)
    anew = errors_inline(settings, monkeypatch, replace=True)
    assert anew.report["errors"] == 0 and not list((tmp_path / "out" / "findings").rglob("*.jsonl"))


def test_plan_and_dry_run_tell_the_items_and_write_nothing(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "log.jsonl", tickets(300))
    data = data_set(tmp_path, topics(60), monkeypatch)
    config = ErrorsConfig.model_validate({"kind": "errors"} | settings_of(path, tmp_path / "out", data=data))
    plan = plan_errors(config)
    assert plan["records"] == 60 and plan["items"] > 0
    lines = "\n".join(dry_run_lines(config))
    assert "60 training records" in lines and "to be made" in lines
    assert not (tmp_path / "out").exists()


def test_an_output_among_what_is_read_is_refused(tmp_path, monkeypatch):
    data = data_set(tmp_path, topics(20), monkeypatch)
    path = write_lines(tmp_path / "logs" / "log.jsonl", tickets(5))
    for output in (data, f"{data}/errors", str(tmp_path)):
        with pytest.raises((ConfigError, DataError)):
            errors_inline(settings_of(path, output, data=data), monkeypatch)


@pytest.mark.parametrize(
    "finding", [{"name": "../../.ssh", "files": ["id"]}, {"name": "slice-1", "files": ["../../passwd"]}, {"name": 3}, 3]
)
def test_a_report_of_others_names_no_file_outside_of_its_run(tmp_path, finding):
    report = {"findings": [finding]}
    run = ErrorsRun(Store(), str(tmp_path), {}, report, fresh=False)
    with pytest.raises(DataError, match="its findings are damaged"):
        _ = run.findings


@pytest.mark.parametrize(
    "change", [{"findings": None}, {"findings": [3]}, {"warnings": None}, {"warnings": [3]}, {"errors": []}, None]
)
def test_values_that_a_report_of_others_should_not_have_are_refused_with_its_file(tmp_path, change):
    good = {"findings": [], "warnings": [], "errors": 1, "items": 2}
    report = None if change is None else good | change
    run = ErrorsRun(Store(), str(tmp_path), {"name": 3, "kind": "errors", "artifacts": {}}, report, fresh=False)
    assert dataclasses.replace(run, report=good)._repr_html_()
    refused = 0
    for read in (lambda: run.summary, lambda: run.table, lambda: run.text, lambda: run.warnings, run._repr_html_):
        try:
            read()
        except DataError as error:
            assert f"{tmp_path}/report.json" in str(error)
            refused += 1
    assert refused >= 2


def test_a_field_of_a_column_of_structs_is_a_column_and_a_misspelt_one_is_named(tmp_path, monkeypatch):
    lines = [
        {
            "id": f"d{n}",
            "prompt": f"number {n}",
            "answer": "x",
            "score": n % 5 // 4,
            "of": {"channel": "ab"[n % 5 // 4]},
        }
        for n in range(60)
    ]
    source = {"kind": "errors", "input": str(write_lines(tmp_path / "log.jsonl", lines))}
    run = errors_inline(
        source | {"columns": {"score": "score", "fields": ["of.channel"]}, "output": str(tmp_path / "out")}, monkeypatch
    )
    assert run.findings.keys() >= {"slice-1"} and run.report["slices"][0]["slice"] == "of.channel = a"
    wrong = source | {"columns": {"score": "scor", "fields": []}, "output": str(tmp_path / "wrong")}
    with pytest.raises(DataError, match=r"none of 60 items is judged(.|\n)*has scor \(did you mean score\?\)"):
        errors_inline(wrong, monkeypatch)
    half = source | {"columns": {"score": "score", "fields": ["chanel"]}, "output": str(tmp_path / "half")}
    assert any("has chanel" in one for one in errors_inline(half, monkeypatch).report["warnings"])
