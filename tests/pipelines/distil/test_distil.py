"""A distillation: the sample, the judges, the classifier, and its use by curate and prepare."""

import json
import random
from pathlib import Path

import fasttext
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster.asking.pending import AskingStopped
from raymill.cluster.errors import ConfigError, DataError, UserError
from raymill.cluster.frame.dry_run import dry_run_lines
from raymill.cluster.record import OtherSettings
from raymill.pipelines.distil import stages
from raymill.pipelines.distil.config import DistilConfig
from raymill.pipelines.distil.job import DistilJob, DistilRun
from raymill.pipelines.distil.plan import plan_distillation
from raymill.pipelines.language.fasttext_file import read_model_file
from tests.support.changed_work import change
from tests.support.distil_inline import (
    POINTS,
    JudgeServer,
    distil_inline,
    document,
    numbers_of,
    points,
    prose_points,
    texts_of_python,
    write_documents,
)
from tests.support.generate_inline import rows
from tests.support.inline import InlineEngine, curate_inline, prepare_inline
from tests.support.many_units import write_small_row_groups
from tests.support.word_vectors import word_vectors


@pytest.fixture
def server():
    with JudgeServer() as server:
        yield server


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    return write_documents(tmp_path_factory.mktemp("docs") / "in", 320)


@pytest.fixture
def settings(server, documents, tmp_path) -> dict:
    return settings_of(server, documents, tmp_path)


@pytest.fixture(scope="module")
def finished(documents, tmp_path_factory) -> DistilRun:
    """A run with these settings, for tests that only read it."""
    folder = tmp_path_factory.mktemp("finished")
    with JudgeServer() as server, pytest.MonkeyPatch.context() as patch:
        return distil_inline(settings_of(server, documents, folder), patch)


def settings_of(server: JudgeServer, documents: Path, folder: Path) -> dict:
    prices = {"input": 0.10, "output": 0.40}
    return {
        "inputs": [{"source": "docs", "path": str(documents), "id": "id"}],
        "sample": 240,
        "held_out": 0.4,
        "judges": [{"model": {"endpoint": server.url, "name": "judge", "prices": prices}}],
        "classifier": {"buckets": 1000},
        "output": str(folder / "out"),
    }


def model_of(folder: Path) -> bytes:
    return (folder / "classifier" / "model.bin").read_bytes()


def test_a_sample_is_judged_and_a_classifier_trained_on_its_scores(settings, server, monkeypatch, tmp_path):
    settings["judges"][0]["model"]["terms"] = "no-training"
    run = distil_inline(settings, monkeypatch)
    report, scores = run.report, rows(run, "scores")
    assert report["documents"] == 320 and report["sample"] == report["judged"] == len(scores) == 240
    assert server.stats()["requests"] == 240
    for row in scores:
        (given,) = row["judges"]
        assert given["score"] == row["score"] == points(document(int(row["document"][1:]))) and given["reason"]
    assert report["f1"] > 0.8 and report["f1_low"] < report["f1"] < report["f1_high"] + 1e-9
    assert {row["part"] for row in scores} == {"train", "validation", "test"}
    assert report["train"] + report["validation"] + report["test"] == 240
    assert sum(one["documents"] for one in report["by_score"]) == 240
    assert sum(one["documents"] for one in report["calibration"]) == report["test"]
    confused = [[row[f"classifier_{score}"] for score in range(6)] for row in report["confusion"]]
    assert sum(map(sum, confused)) == report["test"]
    assert sum(confused[score][score] for score in range(6)) > 0.5 * report["test"]
    shown = report["examples"]
    assert [one["score"] for one in shown] == [str(score) for score in range(6) for _ in range(2)]
    assert max(len(one["text"]) for one in shown) == 300
    for one in shown:
        whole = document(int(one["document"][1:]))
        assert whole.startswith(one["text"]) and points(whole) == int(one["score"]) and one["reason"]
    assert report["cost"] == pytest.approx((server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6)
    assert report["judge_cost_per_million"] == pytest.approx(report["cost"] / 240 * 1e6)
    beside = json.loads((tmp_path / "out/classifier/threshold.json").read_text())
    assert beside["min_score"] == report["min_score"] and beside["max_chars"] == 5000
    (judge,) = beside["judges"]
    assert judge["model"] == "judge" and judge["terms"] == "no-training" and len(judge["template"]) == 16
    assert (tmp_path / "out/judges/judge/report.html").exists() and "Confusion" in (
        (tmp_path / "out/report.html").read_text()
    )
    assert f"F1 {report['f1']:.3f}" in str(run) and '{"judge_score": {"classifier"' in str(run)


def test_the_classifier_separates_prose_from_code_on_real_texts(settings, server, monkeypatch, tmp_path):
    server.points, texts = prose_points, texts_of_python()
    (tmp_path / "python.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    changes = {"inputs": [str(tmp_path / "python.jsonl")], "sample": len(texts), "threshold": {"score": 4}}
    report = distil_inline(settings | changes | {"classifier": {}}, monkeypatch).report
    of_all = 2 * report["good_share"] / (1 + report["good_share"])  # F1 of keeping all
    assert report["f1_low"] > of_all and report["f1"] > 0.8
    for row in report["calibration"]:
        if row["documents"] > 20:
            assert row["mean_of_classifier"] == pytest.approx(row["mean_of_judges"], abs=0.5)


def test_curate_and_prepare_apply_it_with_its_threshold(finished, monkeypatch, tmp_path):
    folder = tmp_path / "others"
    folder.mkdir()
    texts = [document(number) for number in range(1000, 1200)]
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    rules = {"packs": [], "judge_score": {"classifier": f"{finished.uri}/classifier"}}
    given = {"inputs": [str(folder)], "language": None, "dedup": None, "personal_data": None, "rules": rules}
    curated = curate_inline(given | {"output": str(tmp_path / "curated")}, monkeypatch)
    kept = {number for row in rows(curated, "corpus") for number in numbers_of(row["text"])}
    wanted = {number for number in range(1000, 1200) if points(document(number)) >= 3}
    assert len(kept & wanted) > 0.8 * len(kept | wanted)
    assert {row["reason"] for row in rows(curated, "removed")} == {"low_judge_score"}

    # Of a plain text `prepare` makes a question and an answer, which has all of the text.
    off = {"question_chars": None, "answer_chars": None, "truncated_answers": "keep"}
    given = {"inputs": [{"path": str(folder), "columns": {"text": "text"}}], "validate": off | {"rules": rules}}
    prepared = prepare_inline(given | {"output": str(tmp_path / "prepared"), "dedup": None}, monkeypatch)
    written = [row for split in ("train", "validation", "test") for row in rows(prepared, split)]
    taken = {number for row in written for number in numbers_of(json.dumps(row))}
    assert len(taken & wanted) > 0.8 * len(taken | wanted)
    assert {row["reason"] for row in rows(prepared, "removed")} == {"low_judge_score"}
    least = json.loads(Path(finished.uri, "classifier/threshold.json").read_text())["min_score"]
    assert all(row["metadata"]["quality_score"] >= least - 1e-4 for row in written)


def test_the_fasttext_library_reads_the_classifier(finished):
    theirs = fasttext.load_model(f"{finished.uri}/classifier/model.bin")
    texts = {row["id"]: row["text"] for row in rows(finished, "sample")}
    for row in rows(finished, "scores")[:40]:
        labels, probabilities = theirs.predict(texts[row["id"]], k=6)
        expected = sum(int(one.removeprefix("__label__")) * p for one, p in zip(labels, probabilities, strict=True))
        assert expected == pytest.approx(row["classifier"], abs=3e-4)


def test_the_same_command_again_asks_nothing(settings, server, monkeypatch):
    first = distil_inline(settings, monkeypatch)
    again = distil_inline(settings, monkeypatch)
    assert not again.fresh and again.manifest["digest"] == first.manifest["digest"]
    assert server.stats()["requests"] == 240


def test_what_does_not_change_the_result_does_not_make_another_run(settings, monkeypatch, tmp_path):
    for name in ("people.csv", "moved.csv"):
        (tmp_path / name).write_text("document,score\nd1,2\n")
    first = distil_inline(settings | {"people": str(tmp_path / "people.csv")}, monkeypatch)
    judge = settings["judges"][0]
    elsewhere = {"concurrency": 2, "tries": 2, "prices": {"input": 1, "output": 1}}
    changes = {
        "budget": 7.0,
        "execution": {"attempts": 2},
        "answers": str(tmp_path / "store"),
        "people": str(tmp_path / "moved.csv"),
        "judges": [judge | {"model": judge["model"] | elsewhere}],
    }
    again = distil_inline(settings | changes, monkeypatch)
    assert not again.fresh and again.manifest["digest"] == first.manifest["digest"]
    (tmp_path / "moved.csv").write_text("document,score\nd1,3\n")
    for other in (
        {"people": str(tmp_path / "moved.csv")},
        {"seed": 1},
        {"held_out": 0.3},
        {"classifier": {"epochs": 3}},
        {"judges": [judge | {"make": {"template": "score", "max_chars": 10}}]},
        {"judges": [judge | {"sampling": {"temperature": 1}}]},
    ):
        with pytest.raises(OtherSettings):
            distil_inline(settings | changes | other, monkeypatch)


def test_another_threshold_trains_again_and_asks_nothing(settings, server, monkeypatch, tmp_path):
    before = distil_inline(settings, monkeypatch)
    run = distil_inline(settings | {"threshold": {"score": 4, "share": 0.25}}, monkeypatch, replace=True)
    assert server.stats()["requests"] == 240 and run.report["min_score"] > before.report["min_score"]
    assert run.report["kept_share"] == pytest.approx(0.25, abs=0.15)
    assert run.report["good_share"] < before.report["good_share"]


def test_a_larger_sample_asks_about_the_new_documents_alone(settings, server, monkeypatch, tmp_path):
    small = {row["id"] for row in rows(distil_inline(settings | {"sample": 200}, monkeypatch), "sample")}
    large = {row["id"] for row in rows(distil_inline(settings, monkeypatch, replace=True), "sample")}
    assert small < large and server.stats()["requests"] == server.stats()["different"] == 240


def test_neither_order_nor_files_change_the_sample_or_the_classifier(settings, monkeypatch, tmp_path):
    distil_inline(settings, monkeypatch)
    lines = [json.dumps({"id": f"d{n}", "text": document(n)}) for n in reversed(range(320))]
    (tmp_path / "one.jsonl").write_text("\n".join([*lines, lines[3]]) + "\n")
    other = settings | {
        "inputs": [{"source": "docs", "path": str(tmp_path / "one.jsonl"), "id": "id"}],
        "output": str(tmp_path / "other"),
        "answers": str(tmp_path / "out/answers"),
    }
    with monkeypatch.context() as patch:
        write_small_row_groups(patch)
        distil_inline(other, monkeypatch)
    samples = [{row["id"] for row in rows(tmp_path / name, "sample")} for name in ("out", "other")]
    assert samples[0] == samples[1] and len(samples[0]) == 240
    assert model_of(tmp_path / "out") == model_of(tmp_path / "other")
    distil_inline(settings | {"seed": 1, "output": str(tmp_path / "third")}, monkeypatch)
    assert model_of(tmp_path / "third") != model_of(tmp_path / "out")


def test_if_the_estimate_of_the_documents_was_too_high_more_are_drawn(settings, monkeypatch, tmp_path):
    distil_inline(settings, monkeypatch)
    monkeypatch.setattr(stages, "document_count", lambda inputs: 50_000)
    distil_inline(settings | {"output": str(tmp_path / "other")}, monkeypatch)
    assert (tmp_path / "other/_work/drawn.1").exists()
    assert model_of(tmp_path / "out") == model_of(tmp_path / "other")


def test_unreadable_and_blank_documents_are_left_out_and_the_others_are_normalized(settings, monkeypatch, tmp_path):
    given = [{"id": f"d{n}", "text": document(n) + " cafe\u0301"} for n in range(240)]
    lines = [*map(json.dumps, [*given, {"id": "blank", "text": " \n "}]), "{"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(stages, "document_count", lambda inputs: 50_000)  # so the input is read twice
    settings |= {"inputs": [{"path": str(tmp_path / "in.jsonl"), "id": "id"}], "sample": 300}
    run = distil_inline(settings | {"execution": {"max_bad_documents": 0.1}}, monkeypatch)
    assert (tmp_path / "out/_work/drawn.1").exists()
    assert run.report["sample"] == 240 and run.report["quarantined"] == len(rows(run, "quarantine")) == 1
    words = read_model_file(tmp_path / "out/classifier/model.bin").entries.to_arrow().to_pylist()
    assert "café" in words and "cafe\u0301" not in words


def test_a_sample_that_is_larger_than_the_input_has_all_documents(settings, monkeypatch):
    run = distil_inline(settings | {"sample": 1000}, monkeypatch)
    assert run.report["sample"] == 320
    assert any("The sample has 320 of 1,000 documents" in one for one in run.warnings)


def test_of_documents_that_are_alike_one_is_judged(settings, server, monkeypatch, tmp_path):
    """Else copies of what the classifier was trained on would be in its test."""
    alike = [{"id": f"d{n}-{m}", "text": document(n) + f" copy {m}"} for n in range(100) for m in range(3)]
    (tmp_path / "alike.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alike))
    settings |= {"inputs": [{"path": str(tmp_path / "alike.jsonl"), "id": "id"}], "sample": 300}
    write_small_row_groups(monkeypatch)
    run = distil_inline(settings, monkeypatch)
    assert run.report["sample"] == server.stats()["requests"] == 100 and run.report["near_duplicates"] == 200
    assert len({number for row in rows(run, "sample") for number in numbers_of(row["text"])}) == 100
    run = distil_inline(settings | {"dedup": None, "output": str(tmp_path / "all")}, monkeypatch)
    assert run.report["sample"] == 300 and run.report["near_duplicates"] == 0


def test_texts_without_spaces_are_classified_by_their_characters(settings, server, monkeypatch, tmp_path):
    signs = "山川田人口目手足力火水木金土日月年上下中"
    draw, texts = random.Random(0), []
    for number in range(240):
        level = number % 6
        text = [draw.choice(signs[:10] if draw.random() < level / 5 else signs[10:]) for _ in range(200)]
        texts.append("".join(text) + f"{number}点{level}")
    (tmp_path / "signs.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in texts))
    server.points = lambda text: int(text[-1])
    settings |= {"inputs": [str(tmp_path / "signs.jsonl")]}
    words = distil_inline(settings, monkeypatch)
    assert any("set `classifier.char_ngrams`" in one for one in words.warnings)
    changes = {"classifier": {"char_ngrams": [1, 2], "word_ngrams": 1}, "output": str(tmp_path / "characters")}
    characters = distil_inline(settings | changes, monkeypatch)
    assert not any("char_ngrams" in one for one in characters.warnings)
    assert characters.report["f1"] > 0.9 > words.report["f1"]


def test_a_budget_stops_it_and_a_larger_one_continues(settings, server, monkeypatch, tmp_path):
    calm = distil_inline(settings | {"output": str(tmp_path / "calm")}, monkeypatch)
    server.asked.clear(), server.answered.clear()
    server.seconds = 0.01
    with pytest.raises(AskingStopped, match=r"the budget of 0.004 has no room"):
        distil_inline(settings | {"budget": 0.004}, monkeypatch)
    assert not (tmp_path / "out/manifest.json").exists() and 0 < server.stats()["requests"] < 240
    run = distil_inline(settings | {"budget": 5.0}, monkeypatch)
    assert server.stats()["requests"] == 240 and server.stats()["twice"] == 0
    assert model_of(tmp_path / "out") == model_of(tmp_path / "calm")
    assert run.manifest["artifacts"]["scores"] == calm.manifest["artifacts"]["scores"]


def test_documents_that_a_judge_does_not_score_are_left_out_with_a_warning(settings, server, monkeypatch, tmp_path):
    monkeypatch.setattr("raymill.cluster.asking.ask.pause_before", lambda tries, wait: 0.01)
    server.share = 0.3
    run = distil_inline(settings, monkeypatch)
    removed = rows(tmp_path / "out/judges/judge", "removed")
    assert run.report["judged"] == 240 - len(removed) < 240
    assert {row["part"] for row in rows(run, "scores") if row["score"] is None} == {None}
    (about,) = [one for one in run.warnings if "have no score" in one]
    assert about.startswith(f"{len(removed)} of 240 documents have no score: judge judge left out ")
    assert about.endswith("see judges/judge/removed.") and "refused (the model refused" in about


def test_judges_are_compared_with_each_other_and_with_people(settings, monkeypatch, tmp_path):
    with JudgeServer() as milder:
        milder.shift = 1
        settings["judges"] = [*settings["judges"], {"model": {"endpoint": milder.url, "name": "mild"}}]
        settings["judges"][0]["name"] = "strict"
        people = "".join(f"d{n},{points(document(n))}\n" for n in range(0, 320, 2))
        (tmp_path / "people.csv").write_text("document,score\n" + people)
        run = distil_inline(settings | {"people": str(tmp_path / "people.csv")}, monkeypatch)
    found = {one["between"]: one for one in run.report["agreement"]}
    assert {*found} == {
        *("strict and mild", "strict and people", "strict and classifier", "mild and people", "mild and classifier"),
        "people and classifier",
    }
    strict, both = found["strict and people"], found["strict and mild"]
    labelled = sum(row["people"] is not None for row in rows(run, "scores"))
    assert strict["kappa"] == strict["equal_share"] == 1 and strict["documents"] == labelled > 80
    assert both["kappa_low"] < both["kappa"] < both["kappa_high"] < 1 and both["documents"] == 240
    assert found["people and classifier"]["documents"] < labelled
    for row in rows(run, "scores"):
        assert row["score"] == pytest.approx(sum(one["score"] for one in row["judges"]) / 2)
    assert [one["judge"] for one in run.report["judges"]] == ["strict", "mild"]
    assert "agreement of strict and people: kappa 1.000" in str(run)


def test_scores_of_people_that_match_no_document_are_a_warning(settings, monkeypatch, tmp_path):
    (tmp_path / "people.csv").write_text("document,score\nhttps://elsewhere,3\n")
    run = distil_inline(settings | {"people": str(tmp_path / "people.csv")}, monkeypatch)
    assert (
        "None of the documents of `people` (1) is in the sample: the column document needs ids as in the column "
        "document of sample/." in run.warnings
    )
    (tmp_path / "more.csv").write_text(
        "document,score\nhttps://elsewhere,3\n" + "".join(f"d{n},2\n" for n in range(320))
    )
    matched = settings | {"people": str(tmp_path / "more.csv"), "output": str(tmp_path / "matched")}
    assert not any("None of the" in one for one in distil_inline(matched, monkeypatch).warnings)


def test_a_classifier_that_does_not_filter_is_a_warning(settings, server, monkeypatch, tmp_path):
    # Of no connection with the text, and the same in whichever order the texts are asked about.
    server.points = lambda text: random.Random(f"3 {text}").randint(0, 5)
    run = distil_inline(settings | {"threshold": {"score": 1}}, monkeypatch)
    assert any("keeps all documents of the test part, so it does not filter" in one for one in run.warnings)
    assert any("The agreement of judge and classifier may be by chance (" in one for one in run.warnings)


def test_the_page_shows_intervals_beside_their_numbers_and_what_the_tables_are(finished):
    page, report = Path(finished.uri, "report.html").read_text(), finished.report
    assert f"<strong>{report['f1']:.3f}</strong><span>{report['f1_low']:.3f} to {report['f1_high']:.3f} (95%)" in page
    assert "F1 low" not in page and "Quadratic weighted kappa: 1 is full agreement" in page
    assert f"{report['train']} train, {report['validation']} validation, {report['test']} test" in page
    assert not any("may be by chance" in one or "does not filter" in one for one in finished.warnings)


def test_the_budget_is_of_all_judges_together(settings, server, monkeypatch, tmp_path):
    settings["judges"] = [settings["judges"][0] | {"name": "one"}, settings["judges"][0] | {"name": "two"}]
    settings["judges"][1] |= {"make": {"template": "score", "max_chars": 100}}
    alone = distil_inline(settings, monkeypatch).report["judges"]
    budget = alone[0]["cost"] + alone[1]["cost"] / 2
    server.tokens = (0, 0)
    with pytest.raises(AskingStopped, match=r"judge two \(what the other judges left of `budget`\): the budget of"):
        distil_inline(settings | {"output": str(tmp_path / "less"), "budget": budget}, monkeypatch)
    assert alone[0]["cost"] < (server.tokens[0] * 0.1 + server.tokens[1] * 0.4) / 1e6 <= budget


def test_a_damaged_classifier_is_written_again(settings, server, monkeypatch, tmp_path):
    distil_inline(settings, monkeypatch)
    file, before = tmp_path / "out/classifier/model.bin", model_of(tmp_path / "out")
    for damage in ("gone", "short", "changed"):
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(before[:-1] + (b"" if damage == "short" else bytes([before[-1] ^ 1])))
        made = distil_inline(settings, monkeypatch, verify=damage == "changed")
        assert made.fresh and model_of(tmp_path / "out") == before, damage
    assert server.stats()["requests"] == 240


def test_scores_need_good_documents_and_others_in_each_part(settings, monkeypatch):
    with pytest.raises(
        DataError, match=r"sample: 20 of 20 documents have a score, and each part needs good ones.*Enlarge"
    ):
        distil_inline(settings | {"sample": 20}, monkeypatch)


def test_what_cannot_work_is_refused_before_anything_is_asked(settings, server, monkeypatch, tmp_path):
    judge = settings["judges"][0]
    own = {"template": {"prompt": "Rate: {{ text }}", "record": {"text": "{{ text }}"}}}
    (tmp_path / "a.csv").write_text("id,score\nd1,7 points\n")
    (tmp_path / "b.csv").write_text("document,score\nd1,7 points\n")
    (tmp_path / "c.csv").write_text("document,score\nd1,7\n")
    for changes, said in (
        ({"judges": [judge | {"make": own}]}, r"judges.0.make.template: .* without `score`"),
        ({"judges": [judge | {"make": {"template": "score", "points": 3}}]}, r"make.points: no variable"),
        (
            {"people": str(tmp_path / "a.csv")},
            r"a.csv: no column document \(people.id\). It has: id, score. Set `people.id` to one",
        ),
        (
            {"people": str(tmp_path / "b.csv")},
            r"people.score: .*'7 points' of d1; wanted numbers from 0 to 5, the points",
        ),
        (
            {"people": str(tmp_path / "c.csv")},
            r"people.score: .* score 7 of d1; wanted numbers from 0 to 5, the points of",
        ),
        ({"threshold": {"score": 6}}, r"threshold.score: 6 given, and the rubric has 5 points"),
        ({"people": str(tmp_path / "a.txt")}, r"no such file|ends in .csv"),
        ({"judges": [judge | {"model": judge["model"] | {"key_env": "NO_SUCH_KEY"}}]}, "NO_SUCH_KEY is not set"),
    ):
        with pytest.raises(ConfigError if "a.txt" not in str(changes) else Exception, match=said):
            distil_inline(settings | changes, monkeypatch)
        if said != "NO_SUCH_KEY is not set":  # a plan needs no key
            with pytest.raises(Exception, match=said):
                plan_distillation(DistilConfig.model_validate({"kind": "distil"} | settings | changes))
    assert server.stats()["requests"] == 0
    for changes, said in (
        ({"judges": [judge, judge]}, "judge is the name of several"),
        ({"judges": [{"model": judge["model"] | {"prices": None}}], "budget": 1}, "judge has none"),
        ({"judges": []}, "at least 1"),
        ({"dedup": {"keeper": "newest", "newest_by": "date"}}, "keeper is position or longest"),
        ({"classifier": {"char_ngrams": [4, 2]}}, "the smaller one first"),
    ):
        with pytest.raises(ValueError, match=said):
            DistilConfig.model_validate({"kind": "distil"} | settings | changes)


def test_a_job_has_absolute_paths(settings, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.csv").write_text("document,score\nd1,2\n")
    relative = settings | {"people": "people.csv", "answers": "store", "output": "out"}
    work = DistilJob(DistilConfig.model_validate({"kind": "distil"} | relative)).work()
    assert work.config["people"]["path"] == f"{tmp_path}/people.csv" == work.must_exist[0]
    assert work.config["answers"] == f"{tmp_path}/store" and work.config["output"] == f"{tmp_path}/out"


def test_a_plan_and_a_dry_run_ask_nothing(settings, server, monkeypatch):
    config = DistilConfig.model_validate({"kind": "distil"} | settings)
    plan = plan_distillation(config)
    assert plan["sample"] == 240 and plan["judges"]["judge"]["requests"] == 240 and plan["cost"] > 0
    assert "240 documents are judged" in str(plan)
    assert "judge: judge at" in "\n".join(dry_run_lines(config))
    assert server.stats()["requests"] == 0


def test_the_prompt_has_the_rubric_first_and_the_text_last(settings, monkeypatch, tmp_path):
    rubric = [f"It says {word}." for word in POINTS]
    settings["judges"][0]["make"] = {"template": "score", "rubric": rubric}
    distil_inline(settings, monkeypatch)
    (first, *_) = (tmp_path / "out/answers").glob("*.parquet")
    prompt = json.loads(pq.read_table(first)["request"][0].as_py())["messages"][1]["content"]
    assert all(point in prompt.partition("Text:\n")[0] for point in rubric)
    assert len(numbers_of(prompt.partition("Text:\n")[2])) == 1


def with_vectors(settings, server, **how) -> dict:
    """The settings of a linear classifier on the vectors of the server, which count words."""
    model = {"endpoint": server.url, "name": "vectors", "price": 0.02} | how
    return {name: one for name, one in settings.items() if name != "classifier"} | {"embedding": model}


def test_a_linear_classifier_on_vectors_is_trained_and_applied(settings, server, documents, monkeypatch, tmp_path):
    server.dimensions = 256
    asked = with_vectors(settings, server)
    run = distil_inline(asked, monkeypatch)
    report = run.report
    assert report["f1"] > 0.8 and report["f1_low"] < report["f1"] <= report["f1_high"] + 1e-9
    assert server.stats()["requests"] < 240 + 240 / 8, "vectors are asked for in batches"
    (spent,) = report["embeddings"]
    assert report["embedding_cost_per_million"] == pytest.approx(spent["tokens"] * 0.02 / 240)
    assert "classifier_documents_per_second" not in report, "an endpoint's speed is not the classifier's"
    for row in report["calibration"]:
        if row["documents"] > 20:
            assert row["mean_of_classifier"] == pytest.approx(row["mean_of_judges"], abs=0.6)
    assert sorted(path.name for path in (tmp_path / "out/classifier").iterdir()) == ["head.json", "threshold.json"]
    assert '"embedding": {"endpoint"' in str(run)
    before = server.stats()["requests"]
    other = distil_inline(
        asked | {"output": str(tmp_path / "same"), "answers": str(tmp_path / "out/answers")}, monkeypatch
    )
    head = (tmp_path / "out/classifier/head.json").read_bytes()
    assert (tmp_path / "same/classifier/head.json").read_bytes() == head and server.stats()["requests"] == before
    assert other.report["f1"] == report["f1"]

    rule = {"classifier": str(tmp_path / "out/classifier"), "embedding": asked["embedding"]}
    curated = {
        "inputs": [{"source": "docs", "path": str(documents), "id": "id"}],
        "rules": {"packs": [], "judge_score": rule},
        "dedup": None,
        "output": str(tmp_path / "lessons"),
    }
    lessons = curate_inline(curated, monkeypatch)
    scores = {row["id"]: row["judge_score"] for row in rows(lessons, "attributes")}
    for row in rows(run, "scores"):
        assert scores[row["document"]] == pytest.approx(row["classifier"], abs=1e-4)
    kept = {row["id"] for row in rows(lessons, "corpus")}
    assert kept == {id for id, score in scores.items() if score >= report["min_score"]} and 0 < len(kept) < 320
    assert lessons.report["embeddings"][0]["tokens"] > 0
    assert "vectors at http" in (tmp_path / "lessons/report.html").read_text()
    asked_before = server.stats()["requests"]
    (tmp_path / "lessons/manifest.json").unlink()
    curated["rules"]["judge_score"] = rule | {"embedding": rule["embedding"] | {"price": 1.0, "concurrency": 2}}
    assert curate_inline(curated, monkeypatch).fresh and server.stats()["requests"] == asked_before

    records = [{"prompt": f"What is number {n}?", "completion": document(n)} for n in range(40)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    prepared = {
        "inputs": [str(tmp_path / "in.jsonl")],
        "validate": {"rules": {"judge_score": rule}, "truncated_answers": "keep"},
        "assess": {"embeddings": None},
        "output": str(tmp_path / "set"),
    }
    made = prepare_inline(prepared, monkeypatch)
    removed = rows(made, "removed")
    assert {row["reason"] for row in removed} == {"low_judge_score"} and 5 < len(removed) < 35
    assert all(float(row["value"]) < 0 for row in removed)
    assert 40 * 60 < made.report["embeddings"][0]["tokens"] < 40 * 90, "one vector for the rule and metadata"


def test_the_vectors_of_a_folder_are_computed_in_the_process(settings, server, monkeypatch, tmp_path):
    made = []

    class Words:
        def embed(self, texts):
            made.append(len(texts))
            return word_vectors(texts, 256)

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "modules.json").write_text("[]")
    monkeypatch.setattr("raymill.pipelines.embedder._sentence_model", Loading(Words()))
    asked = {name: one for name, one in settings.items() if name != "classifier"} | {"embedding": str(folder)}
    report = distil_inline(asked, monkeypatch).report
    assert report["f1"] > 0.8 and made == [240]
    assert report["classifier_documents_per_second"] > 0 and "embeddings" not in report
    beside = json.loads((tmp_path / "out/classifier/threshold.json").read_text())
    assert beside["embedding"] == str(folder)


class Loading:
    def __init__(self, made):
        self.made = made

    def load(self):
        return lambda store, path, setting: self.made


def test_a_plan_asks_for_no_vectors(settings, server, documents, monkeypatch, tmp_path):
    config = DistilConfig.model_validate({"kind": "distil"} | with_vectors(settings, server))
    plan = plan_distillation(config)
    assert "text vectors" in str(plan) and plan["embedding"]["cost"] > 0 and not server.asked


class StoppedBeforeJudging(InlineEngine):
    """Is interrupted when the sample is made."""

    def run(self, stage):
        if stage.name.startswith("ask"):
            raise UserError("stopped")
        return super().run(stage)


@pytest.mark.parametrize("copies", [0, 2], ids=["dropped", "twice"])
@pytest.mark.parametrize("artifact", ["_work/drawn.0", "_work/taken", "_work/attributes", "sample"])
def test_a_row_of_an_unfinished_sample_that_was_changed_is_refused(
    settings, tmp_path, monkeypatch, server, artifact, copies
):
    with pytest.raises(UserError, match="stopped"):
        distil_inline(settings, monkeypatch, engine=StoppedBeforeJudging)
    change(tmp_path / "out" / artifact, lambda table: pa.concat_tables([table[1:], *[table[:1]] * copies]))
    with pytest.raises(DataError, match=r"changed after (it was|they were) written\. Delete the folder"):
        distil_inline(settings, monkeypatch)
    assert server.stats()["requests"] == 0
