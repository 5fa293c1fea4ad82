"""The report of a training: curves that lose nothing, numbers that are those of the run, quotes that stay text."""

import base64
import dataclasses
import hashlib
import json
import math
import re
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raymill.cluster.report import charts
from raymill.cluster.report.charts import Line, Mark, is_spread, line_chart, thinned
from raymill.cluster.store.store import Store
from raymill.training.records.job import Job
from raymill.training.report.gather import REPORT, Log, combine_reports, fit_of, gather, restarts
from raymill.training.report.page import render
from raymill.training.report.text import cautions, summary_text
from tests.support import training_report as made
from tests.support.page_tables import misaligned
from tests.support.report_cases import Page, faults
from tests.support.report_fits import fit, hostile, validated

# Lines


@settings(max_examples=50)
@given(st.lists(st.floats(allow_nan=True), max_size=200), st.integers(1, 20))
def test_thinning_keeps_order_and_the_lowest_and_the_highest(values, columns):
    points = list(enumerate(values))
    kept = thinned(points, columns)
    finite = [point for point in points if math.isfinite(point[1])]
    assert set(kept) <= set(finite)
    assert [x for x, _ in kept] == sorted({x for x, _ in kept})
    assert len(kept) <= 2 * columns or len(kept) == len(finite) <= 2 * columns
    if finite:
        assert min(y for _, y in kept) == min(y for _, y in finite)
        assert max(y for _, y in kept) == max(y for _, y in finite)


def test_one_spike_among_a_hundred_thousand_steps_is_drawn():
    points = [(step, 1.0 + 99 * (step == 77_777)) for step in range(100_000)]
    kept = thinned(points)
    assert (77_777, 100.0) in kept
    assert len(kept) <= 2 * charts._COLUMNS


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**7), st.floats(1e-9, 1e12)), min_size=1, max_size=30, unique_by=lambda p: p[0]
    ),
    st.booleans(),
)
def test_a_line_stays_inside_its_chart(points, log):
    points = sorted(points)
    drawing = line_chart(
        [Line("a", "s", points, dots=True)], "label", span=(points[0][0], points[-1][0]), log=log, height=200
    )
    path = re.search(r'd="M([^"]*)"', drawing)
    places = [tuple(map(float, place.split())) for place in path[1].split("L")] if path else []
    assert len(places) == (len(points) if len(points) > 1 else 0)
    dots = [(float(x) * 10, float(y)) for x, y in re.findall(r'cx="([\d.]+)%" cy="([\d.]+)"', drawing)]
    assert len(dots) == len(points)
    for x, y in [*places, *dots]:
        assert 0 <= x <= 1000
        assert 18 <= y <= 200 - 24
    assert 'role="img" aria-label="label"' in drawing


def test_higher_values_stand_higher_and_later_ones_further_right():
    drawing = line_chart([Line("a", "s", [(1, 2.0), (2, 8.0), (3, 4.0)])], "x", span=(1, 3))
    (x1, y1), (x2, y2), (x3, y3) = (
        map(float, place.split()) for place in re.search(r'd="M([^"]*)"', drawing)[1].split("L")
    )
    assert (x1, x2, x3) == (0, 500, 1000)
    assert y2 < y3 < y1


def test_a_logarithmic_chart_puts_a_factor_at_the_same_distance_everywhere():
    drawing = line_chart([Line("a", "s", [(1, 1.0), (2, 10.0), (3, 100.0)])], "x", span=(1, 3), log=True)
    heights = [float(y) for y in re.findall(r"(?:M|L)[\d.]+ ([\d.]+)", drawing)]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_a_logarithmic_axis_of_less_than_two_decades_still_has_ticks():
    drawing = line_chart([Line("a", "s", [(1, 2.5), (2, 60.0)])], "x", span=(1, 2), log=True)
    assert {"5", "10", "20", "50"} <= set(re.findall(r">([\d.]+)</text>", drawing))


def test_marks_say_what_happened_and_carry_numbers():
    drawing = line_chart([Line("a", "s", [(0, 1.0), (10, 2.0)])], "x", span=(0, 10), marks=[Mark(5, "restart <b>")])
    assert "<title>5: restart &lt;b&gt;</title>" in drawing
    assert 'x1="50.00%"' in drawing
    assert re.search(r'x="50.00%"[^>]*>1</text>', drawing)


def test_a_line_of_one_value_has_an_axis():
    assert "NaN" not in line_chart([Line("a", "s", [(1, 0.0), (2, 0.0)])], "x", span=(1, 2))
    assert "<circle" in line_chart([Line("a", "s", [(1, 3.0)])], "x", span=(1, 1))


def test_values_far_apart_are_called_spread():
    assert is_spread([0.1, 100.0]) and not is_spread([1.0, 40.0])
    assert not is_spread([0.0, 100.0]) and not is_spread([]) and not is_spread([math.nan])


# From the log to curves


def log(**changes: Any) -> Log:
    return Log(made.records(**changes))


def test_a_log_adds_up_and_finds_the_validations():
    found = log()
    assert found.tokens == 300 * 4000
    assert found.label_tokens == 300 * 3900
    assert [measured["step"] for measured in found.validation] == [*range(0, 301, 25)]
    assert found.curves()["loss"][0][0] == 1
    assert len(found.curves()["loss"]) == 300


def test_what_was_not_measured_is_left_out_and_a_broken_loss_is_too():
    records = made.records(steps=10)
    for record in records:
        record.pop("memory_gib", None)
    records[5]["loss"] = math.nan
    found = Log(records)
    assert found.curves()["memory_gib"] == []
    assert [step for step, _ in found.curves()["loss"]] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert all(math.isfinite(value) for value in found.columns["loss_smooth"])
    assert found.rows()[4]["loss"] is None
    assert found.median("mfu") is None


def test_the_smooth_curve_follows_a_level_and_damps_noise():
    records = [{"step": n, "time": "", "workers": 1, "loss": 2.0 + (n % 2)} for n in range(1, 2001)]
    smooth = Log(records).columns["loss_smooth"]
    assert smooth[0] == 3.0
    assert all(value == pytest.approx(2.5, abs=0.02) for value in smooth[200:])


def test_data_wait_is_a_share_of_the_step():
    found = Log([{"step": 1, "time": "", "workers": 1, "loss": 1.0, "seconds": 0.5, "data_wait_s": 0.1}])
    assert found.curves()["data_wait"] == [(1, 0.2)]


def test_a_restart_is_reported_by_step_and_a_changed_number_of_workers_too():
    again = {**made.ATTEMPTS[1], "attempt": "c", "time": "2026-01-02T03:06:05+00:00", "step": 200}
    assert restarts([again, *made.ATTEMPTS], [77]) == [
        {"step": 77, "words": "skipped"},
        {"step": 150, "words": "2 → 1 workers"},
        {"step": 200, "words": "restart"},
    ]
    assert restarts(made.ATTEMPTS[:1], []) == []


# From storage to the report


def test_a_report_is_gathered_from_what_a_run_leaves(finished):
    report = gather(*finished)
    assert list(faults(report, REPORT)) == []
    (fit,) = report["fits"]
    assert fit["totals"]["tokens"] == 1_200_000
    assert fit["totals"]["workers"] == [1, 2]
    assert [event["words"] for event in fit["events"]] == ["skipped", "2 → 1 workers"]
    notes = fit["corpora"][0]
    assert notes["left_out"] == {"empty": 7}
    assert notes["packing"] == {"documents_split": 4}
    assert notes["splits"][0]["filled"] == 2000 / (10 * 256)
    assert notes["splits"][1]["filled"] == 0
    assert [(folder["kind"], folder["bytes"]) for folder in fit["folders"]] == [("adapter", 123), ("base", 9)]
    assert "../base" in fit["folders"][0]["code"]
    assert "PeftModel" in fit["folders"][0]["code"]


def test_steps_that_the_log_lost_are_counted(finished):
    job, packed, outcome = finished
    kept = Store().read_bytes(job.folder.step_log).splitlines(keepends=True)[6:]  # step 0 to 5 are gone
    lost = dataclasses.replace(job, folder=dataclasses.replace(job.folder, uri=f"{job.folder.uri}-lost"))
    Store().write_bytes(lost.folder.step_log, b"".join(kept))
    counted = [fit_of(one, packed, outcome)["totals"]["unlogged_steps"] for one in (job, lost)]
    assert counted == [0, 4]  # the made-up run logs the step that it says it passed over


def test_the_report_tells_the_attention_of_every_beginning_and_its_warning(finished):
    job, packed, outcome = finished
    begun = sorted(Store().list_files(job.folder.attempts), key=lambda file: file.uri)[-1].uri
    changed = json.loads(Store().read_bytes(begun)) | {"attention": "varlen", "attention_warning": "slow"}
    Store().write_bytes(begun, json.dumps(changed).encode())
    report = gather(job, packed, outcome)
    assert report["fits"][0]["recipe"]["attention"] == "sdpa and varlen"
    assert "attention sdpa and varlen" in " ".join(Page(render(report)).text.values())
    assert any("Computed with slow" in warning for warning in report["warnings"])
    assert "notes: 1 file is passed over (1 .csv)." in report["warnings"]


def test_a_report_keeps_no_password(finished):
    assert "password" not in json.dumps(gather(*finished))


def test_a_run_that_was_not_evaluated_nor_exported_has_a_report(finished, tmp_path):
    for name in ("evaluation.json", "export/manifest.json", "steps.jsonl"):
        (tmp_path / "run" / name).unlink()
    report = gather(*finished)
    assert report["fits"][0]["folders"] == []
    words = Page(render(report)).text
    assert "No step was logged" in words["curves"]
    assert "No held-out split" in words["evaluation"]
    assert "Nothing was exported" in words["export"]


def test_the_report_of_phases_has_a_part_for_each(finished):
    job, packed, outcome = finished
    reports = []
    for name in ("instruct", "domain"):
        config = made.config(name=f"two-{name}", output=job.folder.uri)
        reports.append(gather(Job(config, job.folder, "", (), 300), packed, outcome))
    report = combine_reports(made.config(name="two", output=job.folder.uri), reports)
    page = Page(render(report))
    ids = [section["id"] for section in page.all("section")]
    assert ids.index("two-instruct-curves") < ids.index("two-domain-curves")
    assert "two-instruct" in page.text["result"]
    assert all(warning.startswith("two-") for warning in report["warnings"])


# The page


@pytest.fixture
def report() -> Any:
    return made.report()


def words(report: Any, section: str) -> str:
    return " ".join(Page(render(report)).text[section].split())


def test_the_headline_says_how_the_loss_fell_and_what_it_took(report):
    report["fits"][0]["validation"] = [
        {"step": 0, **made.measured(6.2)}, {"step": 50, **made.measured(3.125)}, {"step": 99, **made.measured(3.5)},
    ]  # fmt: skip
    report["fits"][0]["best_step"] = 50
    said = words(report, "result")
    assert "Validation loss 6.200 → 3.125 lowest at step 50" in said
    assert "492.7 → 22.8" in said
    assert "1.2M" in said
    assert "1 min 15 s 300 steps" in said
    assert "5.9% 8,192 of 140,000" in said


def test_the_header_names_model_method_and_workers(report):
    said = words(report, "")
    assert "llama with random weights, hidden 64" in said
    assert "Method: lora, rank 16, alpha 32" in said
    assert "1 or 2 workers" in said


def test_every_curve_is_drawn_and_described_and_stands_in_a_table(report):
    page = Page(render(report))
    labels = [drawing["aria-label"] for drawing in page.all("svg") if drawing.get("role") == "img"]
    for title in ("Loss by step", "Learning rate", "Gradient norm", "Tokens a second", "Memory", "Waiting for data"):
        assert any(label.startswith(title) for label in labels), title
    assert "lowest 2.8" in labels[0]
    shown = page.text["curves"]
    for row in report["fits"][0]["rows"]:
        assert f"{row['step']:,}" in shown
    for measured in report["fits"][0]["validation"]:
        assert f"{measured['step']:,}" in shown
    assert "step 150: 2 → 1 workers" in " ".join(shown.split())


def test_the_gradient_norm_of_a_wild_start_is_drawn_on_a_logarithmic_axis(report):
    assert "Before clipping. Logarithmic." in words(report, "curves")
    report["fits"][0]["curves"]["grad_norm"] = [(1, 0.5), (2, 0.7)]
    assert "Logarithmic" not in words(report, "curves")


def test_numbers_of_data_and_evaluation_are_those_of_the_report(report):
    data, evaluation = words(report, "data"), words(report, "evaluation")
    for corpus in report["fits"][0]["corpora"]:
        for split in corpus["splits"]:
            for key in ("documents", "rows", "tokens", "label_tokens"):
                assert f"{split[key]:,}" in data
    assert "left out: empty 12 0.2%" in data
    assert "documents split 120 2.4%" in data
    assert "validation 6.250 2.950 −3.3" in evaluation
    assert "tolerance 0.0001" in evaluation


def test_numbers_are_aligned_as_numbers(report):
    assert misaligned(render(report)) == []
    phases = made.report()
    phases["fits"] *= 2
    assert misaligned(render(phases)) == []


def test_answers_are_shown_with_their_scores(report):
    said = words(report, "answers")
    assert "F1 of words 0.214" in said
    assert "BLEU 3.41" in said
    for answer in report["fits"][0]["answers"]:
        assert answer["document"] in said
        assert answer["generated"].strip() in said


def test_a_run_without_any_of_its_parts_has_a_report(report):
    (fit,) = report["fits"]
    fit |= {"validation": [], "events": [], "rows": [], "corpora": [], "before": {}, "after": {}, "answers": [],
            "generation": {}, "merged_check": None, "folders": [], "best_step": None}  # fmt: skip
    fit["curves"] = {name: [] for name in fit["curves"]}
    page = Page(render(report))
    assert "generated no answers" in page.text["answers"]
    assert not [drawing for drawing in page.all("svg") if drawing.get("role") == "img"]


def test_hostile_text_stays_text(report):
    source = render(hostile(report))
    assert source.encode("utf-8").decode("utf-8") == source
    page, honest = Page(source), Page(render(report))
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not page.all("img")
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in honest.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on") or name == "style"]
    assert "<script>window.hacked=1</script>" in page.text["answers"]


def test_the_page_asks_for_nothing_and_its_policy_allows_its_style_and_script(report):
    source = render(report)
    page = Page(source)
    assert not [a for _, a in page.tags if "src" in a]
    assert not re.search(r"url\((?!#hatch\))|@import", source)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_headings_links_and_drawings_are_in_order(report):
    page = Page(render(report))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))
    for drawing in page.all("svg"):
        inner = drawing.get("preserveaspectratio") == "none" and "class" not in drawing
        assert inner or drawing.get("aria-label") or drawing.get("aria-hidden") == "true"
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {(a["href"] or "").removeprefix("#") for a in page.all("a")} <= set(ids)


@pytest.mark.slow
def test_a_million_steps_make_a_page_under_a_megabyte(report):
    began = time.process_time()
    found = Log(iter(made.records(steps=1_000_000, every=2000)))
    (fit,) = report["fits"]
    fit |= {"curves": found.curves(), "rows": found.rows(), "validation": found.validation}
    fit["totals"]["steps"] = 1_000_000
    source = render(report)
    print(f"{len(source.encode()) / 1e3:.0f} kB, {time.process_time() - began:.1f} s of CPU")
    assert len(source.encode()) < 1_000_000
    assert len(json.dumps(report)) < 1_000_000


def test_twenty_thousand_steps_make_a_page_under_half_a_megabyte(report):
    found = log(steps=20_000, every=100)
    (fit,) = report["fits"]
    fit |= {"curves": found.curves(), "rows": found.rows(), "validation": found.validation}
    assert len(render(report).encode()) < 500_000


def test_a_terminal_shows_a_few_plain_lines(report):
    lines = summary_text(report).split("\n")
    assert lines[0].startswith("notes-lora: lora, rank 16, alpha 32 on llama with random weights")
    assert "loss 6.250 -> 2.897, perplexity 518.0 -> 18.1" in lines[1]
    assert lines[1].endswith("at step 225")
    assert any(line.endswith("tokens in 1 min 15 s, 6.5 s of validation") for line in lines)
    assert any(
        line.startswith("  tokens/s") and "of the steps' own time (median), 15.9k of the whole 1 min 15 s" in line
        for line in lines
    )
    assert "loss 6.300 -> 3.010" in lines[2]
    assert "5.9% of 140k parameters" in lines[3]
    for line in [*lines, *summary_text(hostile(report)).split("\n")]:
        assert len(line) <= 100
        assert line.isascii() and line.isprintable()


def test_the_time_that_compiling_took_is_shown_where_there_was_any(report):
    assert "compiling" not in summary_text(report) + render(report)
    report["fits"][0]["totals"]["compile_s"] = Log([{"step": 1, "compile_s": 30.0}, {"step": 2}]).compile_s
    assert "6.5 s of validation, 30.0 s of compiling" in summary_text(report)
    assert "300 steps, 6.5 s of it validation, 30.0 s of it compiling" in Page(render(report)).text["result"]


def test_page_and_terminal_have_the_same_losses_to_three_decimals(report):
    (fit,) = report["fits"]
    fit |= {"validation": validated(6.0012, 5.9982), "best_step": 10}
    fit |= {"before": {"test": made.measured(6.0031)}, "after": {"test": made.measured(5.9999)}}
    page, terminal = Page(render(report)), summary_text(report)
    assert "loss 6.001 -> 5.998" in terminal and "Validation loss 6.001 → 5.998" in page.text["result"]
    assert "loss 6.003 -> 6.000" in terminal and "test 6.003 6.000 −0.0032" in page.text["evaluation"]


def test_where_nothing_was_better_than_the_start_the_numbers_are_those_of_what_is_exported(report):
    (fit,) = report["fits"]
    fit |= {"validation": validated(3.0, 3.25, 3.5), "best_step": 10}
    assert "loss 3.000 -> 3.250" in summary_text(report) and "at step 10" in summary_text(report)
    assert "3.000 → 3.250 exported: step 10" in Page(render(report)).text["result"]


def test_a_probe_is_reported_in_documents_and_classes_and_has_no_perplexity(report):
    report["fits"][0]["recipe"]["method"] = "probe"
    page = " ".join(Page(render(report)).text.values())
    for words in (page, summary_text(report)):
        assert "perplexity" not in words.lower()
        assert "label tokens" not in words.lower() and "next token" not in words
    assert "share of documents whose class" in page
    assert "means over documents" in page


# What to know before believing


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ended": "patience"}, "Stopped early, after 300 of 300 steps"),
        ({"validation": []}, "no validation split"),
        (
            {"validation": validated(3.0, 3.1, 3.2), "best_step": 10},
            "below its initial value, 3.000. The exported weights, of step 10",
        ),
        (
            {"validation": validated(3.0, 3.0), "best_step": 10},
            "have the same, so they are no better than the base model",
        ),
        ({"validation": validated(3.0, 2.0, 2.5), "best_step": 10}, "lowest at step 10 (2.000) and rose to 2.500"),
        ({"unmoved": ["a.lora_A", "b.lora_A"]}, "2 of the trained matrices did not change: a.lora_A, b.lora_A."),
        ({"events": [{"step": 4, "words": "restart"}] * 2}, "restarted 2 times"),
        ({"events": [{"step": 4, "words": "skipped"}]}, "1 step skipped"),
        ({"damaged_checkpoints": ["The checkpoint of step 9 is damaged"]}, "The checkpoint of step 9 is damaged"),
        (
            {"slow_worker": {"rank": 3, "share": 0.75, "ratio": 1.31}},
            "rank 3 was the slowest in 75.0% of the steps, its forward passes 1.3 times",
        ),
        ({"totals": made.report()["fits"][0]["totals"] | {"unlogged_steps": 7}}, "lacks 7 of the 300 steps"),
        (
            {"recipe": made.report()["fits"][0]["recipe"] | {"attention_warning": "attention sdpa, slow."}},
            "Computed with attention sdpa, slow.",
        ),
    ],
)
def test_what_stands_out_is_said(changes, said):
    assert any(said in caution for caution in cautions(fit(**changes)))


def test_of_sampled_answers_the_report_has_mean_rewards_and_steps_without_different_ones():
    """The loss is minus the mean reward. Steps whose answers have equal rewards have no loss in steps.jsonl."""
    equal = {"step": 1, "workers": 1, "reward_mean": 0.0, "groups_without_spread": 4.0}
    assert Log([equal, equal | {"step": 2}, equal | {"step": 3, "loss": -0.5}]).without_spread == 2
    before = fit()
    recipe = before["recipe"] | {"objective": "grpo"}
    totals = before["totals"] | {"steps": 2, "planned_steps": 2, "steps_without_spread": 2}
    found = before | {"recipe": recipe, "totals": totals, "validation": validated(0.0, 0.0), "best_step": 10}
    said = " ".join(cautions(found | {"unmoved": ["a"]}))
    assert "In 2 of 2 steps the answers to each prompt had equal rewards, so nothing was trained." in said
    assert "did not change" not in said and "is better" not in said
    assert "mean reward never rose above its initial value, 0. " in said
    rewarded = found | {"validation": validated(-0.25, -0.75), "totals": totals | {"steps_without_spread": 1}}
    assert "mean reward 0.250 -> 0.750, positive reward" in summary_text({"fits": [rewarded]})
    assert not any("equal rewards" in one for one in cautions(rewarded))
    page = render(made.report() | {"fits": [rewarded]})
    assert "Validation reward" in page and "0.250 → 0.750" in page and "highest at step 10" in page


def test_rewards_that_were_trained_on_stand_beside_those_of_held_out_prompts():
    """Step 3 had equal rewards, so it has no loss. The divergence is measured with a penalty alone."""
    measured = validated(-0.25, -0.75, -0.5)
    steps = [
        {"step": 0, "workers": 1, "validation": measured[0]},
        {"step": 1, "workers": 1, "loss": 0.1, "reward_mean": 0.25, "kl": 0.01},
        {"step": 2, "workers": 1, "loss": 0.1, "reward_mean": 0.5, "kl": 0.03, "validation": measured[1]},
        {"step": 3, "workers": 1, "reward_mean": 1.0, "validation": measured[2]},
    ]
    found = Log(steps).rewards
    assert [tuple(one.values()) for one in found] == [
        (0, 0.25, None, None), (2, 0.75, 0.375, 0.02), (3, 0.5, 1.0, None),
    ]  # fmt: skip
    page = render(made.report() | {"fits": [fit() | {"rewards": found}]})
    assert "Held-out prompts" in page and "0.375" in page
    assert "Held-out prompts" not in render(made.report())


def test_what_judges_of_sampled_answers_took_is_a_table():
    """Two judges, of which one has no price."""
    tokens = {"input": 12_345, "cached": 0, "output": 678, "reasoning": 0}
    one = {"setting": "grpo.rewards.0.judge", "model": "one", "tries": 1024, "tokens": tokens, "cost": 0.5}
    judges = [one, one | {"setting": "grpo.rewards.2.judge", "model": "two", "tries": 7, "cost": None}]
    page = render(made.report() | {"fits": [fit() | {"judges": judges}]})
    table = page[page.index("Requests to judges of sampled answers") :]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table[: table.index("</table>")])
    assert cells == ["one", "1,024", "12,345", "678", "0.5", "two", "7", "12,345", "678", ""]
    assert "Requests to judges" not in render(made.report())


def test_a_single_row_that_could_not_be_read_is_said():
    odd = fit()
    odd["corpora"][0]["left_out"] = {"broken_json": 1, "empty": 2}
    assert "notes: 1 row could not be read: 1 broken_json." in cautions(odd)
    odd["corpora"][0]["left_out"] = {"bad_utf8": 2, "truncated": 1}
    odd["corpora"][0]["first_left_out"] = {"bad_utf8": "a.jsonl line 7", "truncated": "b.jsonl.gz after line 9"}
    rest = "the rest of a file was lost, and how many documents it held is not known"
    seen = "2 bad_utf8 (such as a.jsonl line 7), 1 truncated (b.jsonl.gz after line 9)"
    assert f"notes: 3 rows could not be read: {seen}; {rest}." in cautions(odd)


def test_badly_filled_rows_many_left_out_documents_and_waiting_are_said():
    odd = fit()
    odd["corpora"][0]["left_out"] = {"empty": 2500}
    odd["corpora"][0]["splits"][0]["filled"] = 0.4
    odd["curves"]["data_wait"] = [(1, 0.3), (2, 0.5)]
    said = " ".join(cautions(odd))
    assert "33.3% of the documents of notes were left out" in said
    assert "60.0% of the places in the training rows of notes are padding" in said
    assert "waited for data 40.0% of the time" in said


@pytest.mark.parametrize(
    ("packing", "said"),
    [
        ({"documents_dropped": 478, "tokens_dropped": 123_500},
         "faq: 478 of 800 examples (59.8%) are longer than a row of 256 tokens and left out, with 123,500 of "
         "247,000 tokens (50.0%)."),
        ({"documents_truncated": 4, "tokens_truncated": 24_700},
         "faq: 4 of 800 examples (0.5%) are longer than a row of 256 tokens and truncated: 24,700 of 247,000 tokens "
         "(10.0%) are lost."),
        ({"documents_split": 300, "label_tokens_apart": 123_100},
         "faq: 300 of 800 examples (37.5%) are longer than a row of 256 tokens and split: 123,100 of 246,200 label "
         "tokens (50.0%) are in pieces without their question."),
        ({"documents_dropped": 8, "tokens_dropped": 2470}, None),
        ({"documents_split": 300}, None),
    ],
)  # fmt: skip
def test_more_than_one_percent_lost_for_length_is_said(packing, said):
    short = fit(events=[], validation=validated(6.0, 3.0, 2.9))
    short["corpora"][1]["packing"] = packing
    assert list(cautions(short)) == ([said] if said else [])


def test_a_training_in_which_nothing_stands_out_has_no_cautions():
    assert list(cautions(fit(events=[], validation=validated(6.0, 3.0, 2.9)))) == []
