"""Every number of a training's report, against a plain computation; every caution at its limit."""

import json
import math
import re
import statistics
from html import unescape
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from markupsafe import escape

from raymill.cluster.report.sections import config_section, join
from raymill.cluster.store.store import Store
from raymill.training.methods import metric_words
from raymill.training.report import page
from raymill.training.report.gather import Log, _base_model, _recipe, _smoothed, _split, fit_of, restarts
from raymill.training.report.page import _as_table, _events, curves, measured_row, packed_share, tiles
from raymill.training.report.text import cautions, loss_words, perplexity_words, summary_text
from tests.support import training_report as made
from tests.support.report_fits import fit, validated

STEPS = 40


def records() -> list[dict]:
    """Steps with values that differ in every column; step 0 and step 17 have no loss."""
    found: list[dict] = [{"step": 0, "time": "", "workers": 3, "validation": made.measured(6.0), "validation_s": 0.5}]
    for step in range(1, STEPS + 1):
        record = {
            "step": step, "time": "", "workers": 1 + step % 3, "loss": 5 - step / 10, "grad_norm": step % 7 + 0.5,
            "learning_rate": 1e-3 / step, "tokens": 100 + step, "label_tokens": 50 + step, "seconds": 2.0 + step,
            "tokens_per_s": 1000.0 + step % 5, "mfu": 0.01 * step, "memory_gib": 1 + step / 100,
            "data_wait_s": 0.25 * (step % 4),
        }  # fmt: skip
        record |= {"compile_s": 3.0 * step} if step < 3 else {}
        record |= {"validation": made.measured(step / 10), "validation_s": step / 8} if step % 9 == 0 else {}
        if step == 17:
            del record["loss"]
        found.append(record)
    return found


def test_a_log_has_the_sums_medians_and_columns_of_its_records():
    lines = records()
    log = Log(iter(lines))
    taken = [line for line in lines if "loss" in line]
    assert log.lines == STEPS
    assert (log.tokens, log.label_tokens) == tuple(sum(line[n] for line in taken) for n in ("tokens", "label_tokens"))
    assert log.compile_s == 9.0
    assert log.validation_s == sum(line.get("validation_s", 0) for line in lines)
    assert list(log.workers) == [line["workers"] for line in taken]
    for name in ("mfu", "tokens_per_s"):
        assert log.median(name) == statistics.median(line[name] for line in taken)
    curves = log.curves()
    for name in ("loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_gib"):
        assert curves[name] == [(line["step"], pytest.approx(line[name], rel=1e-5)) for line in taken]
    waits = [(line["step"], pytest.approx(line["data_wait_s"] / line["seconds"], rel=1e-5)) for line in taken]
    assert curves["data_wait"] == waits
    assert [row["step"] for row in log.validation] == [0, 9, 18, 27, 36]
    assert [row["loss"] for row in log.validation] == [6.0, 0.9, 1.8, 2.7, 3.6]
    for row in log.rows():
        line = lines[row["step"]]
        assert row["data_wait"] == line["data_wait_s"] / line["seconds"]
        assert all(row[n] == line[n] for n in ("loss", "grad_norm", "learning_rate", "tokens_per_s", "memory_gib"))


@pytest.mark.parametrize("count", [0, 1, 2, 19, 20, 21, 1000])
def test_the_table_has_at_most_twenty_steps_with_the_first_and_the_last(count):
    rows = Log({"step": step, "time": "", "workers": 1, "loss": 1.0} for step in range(1, count + 1)).rows()
    steps = [row["step"] for row in rows]
    assert len(steps) == min(count, 20) and steps == sorted(set(steps))
    assert steps[:1] == [1][:count] and steps[-1:] == [count][: min(count, 1)]
    gaps = {b - a for a, b in pairwise(steps)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@examples(max_examples=30)
@given(st.lists(st.floats(-100, 100) | st.just(math.nan), min_size=1, max_size=120))
def test_the_smooth_curve_is_the_mean_weighted_by_age_in_values(values):
    decay = math.exp(-1 / max(1.0, len(values) / 40))
    for at, found in enumerate(_smoothed(values)):
        seen = [value for value in values[: at + 1] if math.isfinite(value)]
        weights = [decay**age for age in range(len(seen) - 1, -1, -1)]
        if not seen:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(sum(w * v for w, v in zip(weights, seen, strict=True)) / sum(weights))


def test_a_fit_has_the_totals_of_its_outcome_and_its_log(finished):
    job, packed, outcome = finished
    Store().write_bytes(job.folder.step_log, b"\n".join(json.dumps(line).encode() for line in records()))
    outcome |= {"steps": 44, "skipped": [41, 42], "ended": "patience", "unmoved": ["a"]}
    found = fit_of(job, packed, outcome)
    log = Log(records())
    assert found["totals"] == {
        "steps": 44, "planned_steps": 300, "unlogged_steps": 2, "tokens": log.tokens, "label_tokens": log.label_tokens,
        "seconds": 75.25, "tokens_per_s": 1002.0, "mfu": log.median("mfu"), "compile_s": 9.0,
        "validation_s": log.validation_s, "workers": [1, 2, 3], "trainable_parameters": 8192,
        "all_parameters": 140_000,
    }  # fmt: skip
    assert (found["best_step"], found["ended"], found["unmoved"]) == (275, "patience", ["a"])
    evaluation = made.EVALUATION
    assert (found["before"], found["after"]) == (evaluation["before"], evaluation["after"])
    assert found["generation"] == evaluation["generation"]
    notes, faq = found["corpora"]
    assert "prepared" not in notes and faq["prepared"] == {
        "name": "helpdesk", "versions": [], "digest": "d1ge57", "report": "/data/helpdesk/report.html",
    }  # fmt: skip
    shown = str(drawn(page.data, found | {"recipe": made.report()["fits"][0]["recipe"]}))
    assert "helpdesk, not tagged" in shown and 'data/helpdesk/report.html">its report</a>' in shown
    assert (notes["documents"], notes["text_bytes"], notes["path"]) == (100, 5000, "s3://bucket/notes/corpus")


@pytest.mark.parametrize("length", [1999, 2000, 2001])
def test_eight_answers_are_kept_and_their_texts_up_to_a_length(finished, length):
    job, packed, outcome = finished
    answers = [
        {"document": f"d{n}", "prompt": "p" * length, "reference": "r" * length, "generated": "g" * length}
        for n in range(10)
    ]
    Store().write_bytes(
        f"{job.folder.uri}/evaluation.json", json.dumps(made.EVALUATION | {"answers": answers}).encode()
    )
    found = fit_of(job, packed, outcome)["answers"]
    assert [answer["document"] for answer in found] == [f"d{n}" for n in range(8)]
    for key, sign in (("prompt", "p"), ("reference", "r"), ("generated", "g")):
        assert found[0][key] == sign * min(length, 2000) + "…" * (length > 2000)


def test_a_split_has_its_own_counters_and_the_share_of_its_positions():
    counted = {f"{what}/{split}": base + at for base, what in enumerate(("documents", "rows", "tokens", "label_tokens"))
               for at, split in ((10, "train"), (20, "test"))}  # fmt: skip
    assert _split("test", counted, 100) == {
        "split": "test", "documents": 20, "rows": 21, "tokens": 22, "label_tokens": 23, "filled": 22 / 2100,
    }  # fmt: skip
    assert _split("validation", counted, 100)["filled"] == 0


@pytest.mark.parametrize(
    ("changes", "key", "said"),
    [
        ({"method": "full"}, "method", "full"),
        ({"method": "lora", "lora": {"rank": 4, "alpha": 2.5}}, "method", "lora, rank 4, alpha 2.5"),
        ({"method": "prefix", "packing": {"mode": "none"}, "prefix": {"tokens": 3}}, "method",
         "prefix, 3 virtual tokens"),
        ({"method": "prompt", "packing": {"mode": "none"}, "prompt": {"tokens": 4}}, "method",
         "prompt, 4 virtual tokens"),
        ({"engine": "fsdp2"}, "engine", "fsdp2"),
        ({"engine": "zero2", "offload": "optimizer"}, "engine", "zero2, optimizer offloaded"),
        ({"precision": "bf16"}, "precision", "bf16"),
        ({}, "precision", "float32"),
        ({}, "sequence_length", 256),
        ({}, "tokens_per_step", 4096),
        ({"model": {"name": "org/base", "revision": "abc"}}, "base_model", "org/base, revision abc"),
        ({"model": "org/base"}, "base_model", "org/base"),
        ({"model": {"config": {"model_type": "gpt2", "vocab_size": 5}, "tokenizer": "t"}}, "base_model",
         "gpt2 with random weights, vocabulary 5"),
    ],
)  # fmt: skip
def test_a_recipe_tells_the_settings_of_its_method(changes, key, said):
    settings = made.config(**changes)
    assert _recipe(settings, made.ATTEMPTS)[key] == said
    assert _recipe(settings, made.ATTEMPTS)["base_model"] == _base_model(settings.model)


@pytest.mark.parametrize(
    ("changes", "odd"),
    [
        (lambda one: one["corpora"][0].update(documents=95, left_out={"empty": 5}), False),
        (lambda one: one["corpora"][0].update(documents=94, left_out={"empty": 3, "null": 3}), True),
        (lambda one: one["corpora"][0]["splits"][0].update(filled=0.75), False),
        (lambda one: one["corpora"][0]["splits"][0].update(filled=0.749), True),
        (lambda one: one["corpora"][0]["splits"][1].update(filled=0.1), False),
        (lambda one: one["corpora"][0]["splits"][0].update(filled=0.1, rows=0), False),
        (lambda one: one["curves"].update(data_wait=[(1, 0.05), (2, 0.15)]), False),
        (lambda one: one["curves"].update(data_wait=[(1, 0.05), (2, 0.16)]), True),
        (lambda one: one.update(validation=validated(3.0, 2.0, 2.015), best_step=10), False),
        (lambda one: one.update(validation=validated(3.0, 2.0, 2.025), best_step=10), True),
        (lambda one: one.update(validation=validated(3.0, 2.99), best_step=10), False),
        (lambda one: one.update(validation=validated(3.0, 3.0), best_step=10), True),
    ],
)
def test_a_caution_begins_right_after_its_limit(changes, odd):
    plain = fit(events=[], validation=validated(6.0, 3.0, 2.9))
    changes(plain)
    assert len(list(cautions(plain))) == odd


@pytest.mark.parametrize("count", [1, 3, 4])
def test_parameters_that_did_not_change_are_named_up_to_three(count):
    (said,) = cautions(fit(events=[], validation=validated(6.0, 3.0), best_step=10, unmoved=[*"abcd"[:count]]))
    assert said == f"{count} of the trained matrices did not change: {', '.join('abc'[:count])}{', …' * (count > 3)}."


def test_skipped_steps_and_restarts_are_counted_apart():
    events = [{"step": 1, "words": "restart"}, {"step": 2, "words": "skipped"}, {"step": 3, "words": "skipped"}]
    said = list(cautions(fit(events=events, validation=validated(6.0, 3.0), best_step=10)))
    assert said[0].startswith("2 steps skipped") and "restarted once" in said[1]


def test_lines_for_the_terminal_are_cut_at_their_width_and_perplexities_at_a_thousand():
    for method, cut in (("x" * 86, False), ("x" * 87, True), ("a\tb\x1b~", False)):
        plain = fit(name="name")
        plain["recipe"] |= {"method": method, "base_model": "base"}
        line = summary_text({"fits": [plain]}).splitlines()[0]
        assert len(line) <= 100 and line.endswith("...") == cut
    assert line == "name: a?b?~ on base"
    assert [perplexity_words(p) for p in (1.0, 999.94, 1000.0, math.inf)] == ["1.0", "999.9", "1k", "inf"]
    assert [loss_words(n) for n in (9.9996, 5.9999, 0.1, 0.09996, 0.00012345)] == [
        "10.000", "6.000", "0.100", "0.09996", "0.000123",
    ]  # fmt: skip


def test_a_share_of_packing_is_of_what_its_counter_counts():
    corpus = made.report()["fits"][0]["corpora"][0] | {"tokenised": {"examples": 50, "tokens": 200, "label_tokens": 80}}
    corpus["packing"] = {
        "documents_dropped": 5,
        "tokens_dropped": 5,
        "label_tokens_apart": 5,
        "pieces_without_label": 5,
    }
    assert [packed_share(corpus, name) for name in corpus["packing"]] == ["10.0%", "2.5%", "6.2%", ""]


def test_a_line_of_the_evaluation_has_the_change_from_before_to_after():
    before, after = made.measured(4.0), made.measured(3.5)
    row = measured_row("test", before, after, metric_words("full"))
    shares = [f"{measured['accuracy']:.1%}" for measured in (before, after)]
    assert row == (
        page.name("test"),
        "4.000",
        "3.500",
        "−0.5",
        "54.6",
        "33.1",
        *shares,
        "120,345",
    )
    assert measured_row("test", after, before, metric_words("full"))[3] == "+0.5"
    assert measured_row("test", None, after, metric_words("full"))[1:4] == ("–", "3.500", "–")
    assert len(measured_row("test", before, after, metric_words("probe"))) == len(row) - 2


# --- the page: every number of its tables is the report's


def drawn(part, *values) -> str:
    """What a part of the page makes of a fit, as HTML."""
    made = part(*values)
    return join(*made) if isinstance(made, list) else escape(made)


def text_of(part) -> str:
    html = part if isinstance(part, str) else escape(part)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def rows_of(html) -> list[list[str]]:
    """The texts of each row's cells, without the head."""
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", escape(html), re.S)
    ]
    return [[text_of(cell) for cell in row] for row in rows][1:]


def test_the_table_of_phases_has_the_numbers_of_each_phase_in_order():
    one, two = fit(name="one", validation=validated(7.5, 3.5), best_step=10), fit(name="two", validation=[])
    one["totals"] |= {"steps": 1200, "tokens": 34_000, "trainable_parameters": 10, "all_parameters": 40, "seconds": 75}
    two["totals"] |= {"steps": 7, "tokens": 8, "trainable_parameters": 20, "all_parameters": 40, "seconds": 5}
    two["recipe"] |= {"method": "probe"}
    method = one["recipe"]["method"]
    assert rows_of(drawn(page.phases, [one, two])) == [
        ["one", method, "1,200", "34,000", "7.500", "3.500", "33.1", "25.0%", "1 min 15 s"],
        ["two", "probe", "7", "8", "–", "–", "–", "50.0%", "5.0 s"],
    ]


def test_the_table_of_data_has_the_numbers_of_each_split_and_what_was_left_out():
    plain = fit()
    split = {"split": "train", "documents": 4001, "rows": 900, "tokens": 2000, "label_tokens": 500, "filled": 0.8125}
    empty = {"split": "test", "documents": 0, "rows": 0, "tokens": 0, "label_tokens": 0, "filled": 0.0}
    corpus = plain["corpora"][0] | {
        "name": "notes", "documents": 95, "text_bytes": 2_345_678, "left_out": {"no_label": 4, "empty": 1},
        "packing": {"documents_dropped": 5, "tokens_dropped": 10}, "splits": [split, empty],
        "tokenised": {"examples": 50, "tokens": 40, "label_tokens": 80},
    }  # fmt: skip
    plain["corpora"] = [corpus, corpus | {"name": "second", "left_out": {}, "packing": {}, "splits": [split]}]
    found = drawn(page.data, plain)
    rows = [[cell for cell in row if not cell.endswith(" tokens") and cell] for row in rows_of(found)]
    numbers = ["train", "4,001", "2,000", "500", "25.0%", "900", "81.2%"]
    assert rows[0] == ["notes", *numbers] and rows[2] == ["second", *numbers]
    assert rows[1][:4] == ["notes", "test", "0", "0"]
    assert rows[-4:] == [["left out: no label", "4", "4.0%"], ["left out: empty", "1", "1.0%"],
                         ["documents dropped", "5", "10.0%"], ["tokens dropped", "10", "25.0%"]]  # fmt: skip
    said = text_of(found)
    assert "notes : 95 documents, 2.3 MB of text, from" in said and "A row has 256 positions" in said
    assert "Left out or cut in notes" in said and "Left out or cut in second" not in said


def test_the_tables_of_scores_answers_and_folders_have_those_of_the_report():
    plain = fit(
        generation={"rougeL": 0.25, "f1": 0.5, "own_score": 0.125},
        folders=[
            {"kind": "adapter", "uri": "u/adapter", "bytes": 1_250_000, "code": "a = 1"},
            {"kind": "base", "uri": "u/base", "bytes": 9_000_000, "code": "b = 1"},
            {"kind": "merged", "uri": "u/merged", "bytes": 2_000, "code": "c = 1"},
        ],
        answers=[{"document": f"d{n}", "prompt": "p", "reference": "r", "generated": "g"} for n in range(5)],
    )
    answered = drawn(page.answers, plain)
    assert rows_of(answered) == [["ROUGE-L", "0.25"], ["F1 of words", "0.5"], ["own score", "0.125"]]
    assert str(answered).count("<details open") == 3 and str(answered).count("<details") == 5
    titles = [re.findall(rf"{title}.{{0,40}}?excerpt[^>]*>(.)", str(answered), re.S)
              for title in ("Prompt", "Reference", "Generated")]  # fmt: skip
    assert titles == [["p"] * 5, ["r"] * 5, ["g"] * 5]
    exported = drawn(page.export, plain)
    assert rows_of(exported) == [
        ["adapter", "u/adapter", "1.2"],
        ["base", "u/base", "9.0"],
        ["merged", "u/merged", "0.0"],
    ]
    folds = re.findall(r"<details.*?</details>", str(exported), re.S)
    assert [("open" in one[:14], "c = 1" in one, "a = 1" in one) for one in folds] == [
        (False, False, True), (True, True, False),
    ]  # fmt: skip


def test_the_table_of_curves_has_the_steps_and_validations_in_order():
    row = {"step": 2, "loss": 1.5, "loss_smooth": 1.25, "learning_rate": 0.125, "grad_norm": 2.5, "tokens_per_s": 5000,
           "memory_gib": 0.75, "data_wait": 0.0625}  # fmt: skip
    plain = fit(rows=[row, row | {"step": 30, "loss": None}])
    plain["validation"] = [{"step": step, "loss": 3.5, "perplexity": 33.0, "accuracy": 0.25, "label_tokens": 1}
                           for step in (0, 2, 9)]  # fmt: skip
    plain["totals"]["steps"] = 1234
    found = _as_table(plain)
    checked, blank = ["3.500", "33.0", "25.0%"], [""] * 4
    rest = ["0.125", "2.5", "5k", "0.75", "6.25%"]
    assert rows_of(found) == [
        ["0", "", "", *checked, *blank, ""],
        ["2", "1.500", "1.250", *checked, *rest],
        ["9", "", "", *checked, *blank, ""],
        ["30", "", "1.250", "", "", "", *rest],
    ]  # fmt: skip
    assert "2 steps of 1,234, and every validation" in text_of(found)


def test_the_headline_has_the_numbers_of_the_totals():
    plain = fit(validation=validated(7.5, 3.5), best_step=10)
    plain["totals"] |= {"steps": 1, "tokens": 34_000, "tokens_per_s": 2500.0, "mfu": 0.125, "seconds": 75,
                        "compile_s": 5.0, "validation_s": 7.0, "trainable_parameters": 10,
                        "all_parameters": 40}  # fmt: skip
    said = text_of(tiles(plain))
    assert "Validation loss 7.500 → 3.500 lowest at step 10" in said
    assert "34k 2.5k a second of a step (median), MFU 12.5%" in said
    assert "Time 1 min 15 s 1 step, 7.0 s of it validation, 5.0 s of it compiling" in said
    assert "25.0% 10 of 40" in said
    first, last = (plain["validation"][at]["accuracy"] for at in (0, -1))
    assert f"next token right {first:.1%} → {last:.1%}" in said
    risen = text_of(tiles(plain | {"validation": validated(3.5, 7.5)}))
    assert "Validation loss 3.500 → 7.500 exported: step 10" in risen
    plain["totals"] |= {"tokens_per_s": None, "mfu": None, "compile_s": 0.0}
    assert "speed was not measured Time 1 min 15 s 1 step, 7.0 s of it validation Par" in text_of(tiles(plain))


def test_lines_for_the_terminal_have_the_numbers_of_the_totals():
    plain = fit(validation=[], events=[], before={"test": made.measured(4.0)})
    plain["after"] = {"test": made.measured(2.0), "validation": made.measured(1.0)}
    plain["totals"] |= {"steps": 1200, "tokens": 34_000, "tokens_per_s": 2500.0, "seconds": 17.0, "compile_s": 5.0,
                        "validation_s": 7.0, "trainable_parameters": 10, "all_parameters": 4000}  # fmt: skip
    plain["recipe"] |= {"method": "full", "base_model": "b"}
    before, after = (made.measured(loss) for loss in (4.0, 2.0))
    assert summary_text({"fits": [plain | {"name": "n"}]}).splitlines() == [
        "n: full on b",
        f"  test        loss 4.000 -> 2.000, perplexity {math.exp(4):.1f} -> {math.exp(2):.1f}, accuracy "
        f"{before['accuracy']:.1%} -> {after['accuracy']:.1%}",
        "  trained     0.2% of 4k parameters",
        "  took        1,200 steps, 34k tokens in 17.0 s, 7.0 s of validation, 5.0 s of compiling",
        "  tokens/s    2.5k of the steps' own time (median), 2k of the whole 17.0 s",
    ]


@pytest.mark.parametrize("events", [0, 20, 21, 22])
def test_twenty_interruptions_are_listed_and_the_others_counted(events):
    plain = fit(events=[{"step": 1000 + n, "words": f"w{n}"} for n in range(events)])
    found = join(*_events(plain))
    items = re.findall(r"<li>(.*?)</li>", found)
    assert items == [f"step {1000 + n:,}: w{n}" for n in range(min(events, 20))]
    more = {21: "And 1 more interruption.", 22: "And 2 more interruptions."}.get(events, "")
    assert text_of(found).endswith(more) and ("And" in text_of(found)) == bool(more)


def test_events_are_in_the_order_of_steps_and_tell_what_changed():
    starts = [{"time": f"t{n}", "workers": workers, "step": step} for n, (workers, step) in
              enumerate([(2, 0), (2, 8), (1, 5), (4, 5)])]  # fmt: skip
    assert restarts(starts[::-1], [6, 9]) == [
        {"step": 5, "words": "2 → 1 workers"}, {"step": 5, "words": "1 → 4 workers"}, {"step": 6, "words": "skipped"},
        {"step": 8, "words": "restart"}, {"step": 9, "words": "skipped"},
    ]  # fmt: skip


def test_the_order_of_examples_and_the_rows_of_each_stage_are_reported():
    plain = fit()
    assert "Order:" not in text_of(drawn(page.data, plain)), "shuffled, as in reports of earlier versions"
    plain["recipe"] |= {"order": "curriculum"}
    plain["corpora"][0] |= {"stages": {"1": 1200, "2": 34}}
    said = text_of(drawn(page.data, plain))
    assert "Order: curriculum; every epoch goes from the easiest curriculum stage to the hardest." in said
    assert "Rows of each stage: 1: 1,200; 2: 34" in said


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ("reverse", "from the hardest curriculum stage to the easiest."),
        ("mixed", "every step has all stages in their shares."),
    ],
)
def test_other_orders_of_examples_are_reported(order, said):
    plain = fit()
    plain["recipe"] |= {"order": order}
    assert f"Order: {order}; " in text_of(drawn(page.data, plain)) and said in text_of(drawn(page.data, plain))


def test_the_longest_bar_equals_the_one_of_the_split_with_the_most_tokens():
    plain = fit()
    splits = [split | {"tokens": tokens, "rows": 10_000 - tokens} for split, tokens in
              zip(plain["corpora"][0]["splits"], (1000, 500, 250), strict=True)]  # fmt: skip
    plain["corpora"] = [plain["corpora"][0] | {"splits": splits}]
    widths = [
        float(width) for width in re.findall(r'width="([\d.]+)" height="10" class="kept"', str(drawn(page.data, plain)))
    ]
    assert len(widths) == 3 and widths[1:] == [widths[0] / 2, widths[0] / 4]


def test_the_text_around_the_losses_says_of_which_weights_they_are():
    plain = fit(before={}, after={"test": made.measured(2.0)}, best_step=1275)
    plain["merged_check"] = {"prompts": 8, "equal_tokens": True, "max_abs_difference": 3.14159e-6, "skipped": None}
    found = drawn(page.evaluation, plain)
    assert rows_of(found)[0][:4] == ["test", "–", "2.000", "–"]
    said = text_of(found)
    assert "After: the exported weights, of step 1,275." in said
    assert "those with the adapter: prompts 8, equal tokens yes, max abs difference 3.14e-06." in said
    assert "Label tokens" in said, "the last column"
    plain |= {"best_step": None, "merged_check": {"equal_tokens": False}}
    said = text_of(drawn(page.evaluation, plain))
    assert "After: the exported weights. " in said and "adapter: equal tokens no." in said
    assert text_of(drawn(page.evaluation, plain | {"after": {}})) == "No held-out split was measured."
    assert measured_row("test", made.measured(4.0), made.measured(4.0), metric_words("full"))[3] == "+0"


def test_scores_and_answers_are_shown_without_each_other():
    answer = {"document": "d", "prompt": " \n", "reference": "x" * 600, "generated": "x" * 601}
    shown = drawn(page.answers, fit(generation={}, answers=[answer]))
    assert "<table" not in str(shown) and text_of(shown).count("Empty: no visible text.") == 1
    assert re.findall(r'excerpt" dir="auto"(?: (tabindex)="0")?', str(shown)) == ["", "tabindex"], "601 scroll"
    scores = {"number_match": 0.25, "number_match_flexible": 0.5, "answered_flexible": 0.75, "exact_match": 1.0}
    found = drawn(page.answers, fit(generation=scores, answers=[]))
    assert rows_of(found) == [
        ["number right (strict)", "0.25"], ["number right (flexible)", "0.5"], ["answered (flexible)", "0.75"],
        ["exact match", "1"],
    ]  # fmt: skip
    assert "Greedy answers to held-out prompts" in text_of(found)
    probe = fit(generation={"f1": 0.5}, answers=[])
    probe["recipe"] |= {"method": "probe"}
    assert "Classes given to held-out documents; from 0 to 1" in text_of(drawn(page.answers, probe))


@pytest.mark.parametrize(("kinds", "opened"), [(["adapter"], 0), (["adapter", "full"], 1), (["adapter", "merged"], 1)])
def test_the_code_of_whole_weights_is_unfolded_or_else_the_one_of_the_first_folder(kinds, opened):
    folders = [{"kind": kind, "uri": kind, "bytes": 1, "code": kind} for kind in kinds]
    folds = re.findall(r"<details( open)?", str(drawn(page.export, fit(folders=folders))))
    assert [bool(one) for one in folds] == [at == opened for at in range(len(kinds))]


def test_the_config_is_shown_in_its_order():
    said = text_of(config_section({"kind": "train", "corpus": [{"path": "p"}], "a": "Größe"}))
    assert said.endswith("kind: train corpus: - path: p a: Größe")


def test_the_header_tells_the_recipe():
    plain = fit()
    plain["totals"] |= {"workers": [1]}
    plain["recipe"] |= {"engine": "zero2", "precision": "bf16", "tokens_per_step": 65_536, "sequence_length": 2048}
    recipe = plain["recipe"]
    assert text_of(page.recipe(plain)) == (
        f"Base model: {recipe['base_model']} . Method: {recipe['method']}. Engine: zero2, bf16, attention sdpa, "
        "1 worker, 65,536 tokens a step in rows of 2,048."
    )
    plain["totals"] |= {"workers": [2, 4, 8]}
    assert "2 or 4 or 8 workers," in text_of(page.recipe(plain))


def test_a_loss_that_did_not_fall_is_not_called_the_lowest():
    plain = fit(validation=validated(3.5, 3.5), best_step=10)
    assert "3.500 → 3.500 exported: step 10" in text_of(tiles(plain))
    plain["recipe"] |= {"method": "probe"}
    first, last = (plain["validation"][at]["accuracy"] for at in (0, -1))
    assert f"{metric_words('probe').right} right {first:.1%} → {last:.1%}" in text_of(tiles(plain))


@pytest.mark.parametrize(
    ("points", "steps", "told"), [(50, 100, False), (49, 100, True), (50, 101, False), (300, 300, False)]
)
def test_curves_of_fewer_points_than_half_of_the_steps_are_explained(points, steps, told):
    plain = fit()
    plain["curves"]["loss"], plain["totals"]["steps"] = [(step, 1.0) for step in range(points)], steps
    assert ("each column of a curve shows its lowest and highest value" in text_of(curves(plain)[0])) is told
