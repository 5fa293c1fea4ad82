"""The demo of prepare: each planted defect is found by its own rule; its page in a browser; the commands it prints."""

import csv
import itertools
import json
import shlex
from collections import Counter
from pathlib import Path

import pytest

from raymill.cluster import cli
from raymill.cluster.artifact import Artifact
from raymill.cluster.config import load
from raymill.cluster.examples import content
from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.pipelines.demo import helpdesk
from raymill.pipelines.demo.helpdesk import CONFIGS, OUTPUT, config_text, next_steps, questions, write_inputs
from raymill.pipelines.prepare import job
from raymill.pipelines.prepare.assess.facts import is_copy
from raymill.pipelines.prepare.assess.settings import Gates
from raymill.pipelines.prepare.config import PrepareConfig
from raymill.pipelines.prepare.records import (
    tables,
    validate,
)
from raymill.pipelines.prepare.report.gather import _LEFT_OUT, REPORT
from raymill.pipelines.prepare.report.page import render
from raymill.pipelines.rules import RULES
from tests.support.inline import without_ray
from tests.support.page_checks import assert_has_contrast, assert_is_quiet
from tests.support.report_cases import faults, hostile

# What the stages after validation, and those of tables, give as reasons.
REASONS_OF_REMOVED = {*validate.REASONS, *tables.REASONS, *_LEFT_OUT}

# Reasons that no record of the demo has.
NOT_SHOWN = {
    "terms_forbidden": "no model made records of the demo",
    "text_too_short": "of plain texts, shape text",
    "text_too_long": "of plain texts, shape text",
    "language_low_score": "all texts of the demo are in some language",
    "unrelated_answer": "takes more records than the demo has",
    "inappropriate": "takes a classifier of one's own",
    "bad_tools": "of conversations with a column `tools`",
    "bad_history": "of pairs with a column `history`",
    "a_chat": "of plain texts, shape text",
    "no_answer": "every plain text has a template",
    "a_preference": "a whole source has the wrong shape",
    "not_a_preference": "a whole source has the wrong shape",
    "no_prompt": "of preferences, shape preference",
    "different_questions": "of preferences, shape preference",
    "equal_answers": "of preferences, shape preference",
    "bad_margin": "of preferences, shape preference",
    "bad_ranking": "of preferences, shape preference",
    "tied_answers": "of preferences, shape preference",
    "undesirable": "of data for KTO",
    "bad_label": "of data for KTO",
    "bad_choices": "of multiple-choice questions",
    "over_synthetic": "of records that a model made",
    "schema_too_slow": "takes a pattern that has been made to be slow",
    "bytes_not_utf8": "of columns of bytes",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What an output's name ends with -> the demo's run there, with 30 questions about Python, on no Ray."""
    folder = tmp_path_factory.mktemp("demo") / 'a "quoted" folder'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpdesk, "_DOCSTRINGS", 30)
        without_ray(patch)
        write_inputs(f"{folder}-input")
        made = {}
        for end in CONFIGS:
            output = Path(f"{folder}{end}")
            output.mkdir()
            (output / "prepare.yaml").write_text(config_text(str(folder), end), "utf-8")
            config = load(str(output / "prepare.yaml"))
            assert isinstance(config, PrepareConfig)
            made[end] = job.prepare(config, Session(), Progress())
        yield made


@pytest.fixture(scope="module")
def run(runs):
    return runs[""]


@pytest.fixture(scope="module")
def pages(run, tmp_path_factory):
    """The run's page, and the same with every text replaced."""
    written = {"example": Path(run.uri) / "report.html", "hostile": tmp_path_factory.mktemp("pages") / "hostile.html"}
    written["hostile"].write_text(render(hostile(run.report), hostile(run.assessment)), "utf-8")
    return written


def rows(run, name):
    found = Artifact.load(Store(), f"{run.uri}/{name}")
    return list(itertools.chain.from_iterable(table.to_pylist() for table in found.tables()))


def planted(name):
    """(id, what is planted) of every record of a file, in its order."""
    text = (helpdesk.DATA / name).read_text("utf-8")
    found = csv.DictReader(text.splitlines(True)) if name.endswith(".csv") else map(json.loads, text.splitlines())
    return [(one.get("id") or one.get("ticket") or one["order"], one["planted"]) for one in found]


def reasons(run, *names):
    return {one["reason"] for name in names for one in rows(run, name)}


@pytest.mark.parametrize(
    ("end", "name", "known"),
    [("", "tickets.csv", validate.REASONS.keys() - {"empty"}), ("-orders", "orders.csv", REASONS_OF_REMOVED)],
)
def test_every_planted_defect_of_a_rule_is_removed_by_this_rule_and_no_sound_record_is(runs, end, name, known):
    source = name.partition(".")[0]
    removed = {one["id"]: one["reason"] for one in rows(runs[end], "removed") if one["source"] == source}
    wanted = {id: reason for id, reason in planted(name) if reason in known}
    assert {id: reason for id, reason in removed.items() if reason in known} == wanted
    others = {"T-1045"} if source == "tickets" else set()
    assert removed.keys() - wanted.keys() == others, "the near-duplicate"


def test_what_is_no_record_is_in_quarantine(runs):
    found = {
        (row["problem"], row["where"].rpartition("/")[2])
        for end in ("", "-orders")
        for row in rows(runs[end], "quarantine")
    }
    wanted = {
        (reason, name)
        for name in ("tickets.csv", "chats.jsonl", "notes.jsonl", "orders.csv")
        for _, reason in planted(name)
        if reason in content.REASONS
    }
    lines = (helpdesk.DATA / "tickets.csv").read_text("utf-8").count("\n")
    assert found == wanted | {("broken_csv", f"tickets.csv line {lines}")} and len(wanted) == 8


def test_the_reports_follow_their_schema(runs):
    assert [fault for one in runs.values() for fault in faults(one.report, REPORT)] == []


def test_every_reason_is_shown_or_it_is_stated_why_not(runs):
    shown = {reason for one in runs.values() for reason in reasons(one, "removed", "listed")}
    shown |= {row["problem"] for one in runs.values() for row in rows(one, "quarantine")}
    of_curate = {reason for rule in RULES.values() for reason in rule.reasons}
    assert shown & of_curate >= {"contaminated", "bad_words"}
    every = {*validate.REASONS, *REASONS_OF_REMOVED, *content.REASONS} - of_curate
    assert every - shown == NOT_SHOWN.keys()


def test_what_is_planted_for_the_next_month_is_removed(runs):
    removed = {one["id"]: one["reason"] for one in rows(runs["-next"], "removed") if one["source"] == "later"}
    for id, defect in planted("later.jsonl"):
        if reason := defect.partition(",")[0] if defect and not defect.startswith("in ") else "":
            assert removed[id] == reason
    assert {"L-6", "L-7"} <= removed.keys(), "the first ones of contradictions too"


def test_contradictions_are_listed_and_texts_are_cleaned(run):
    listed = {one["id"] for one in rows(run, "listed") if one["reason"] == "contradictory"}
    assert listed == {"T-1016", "T-1046", "T-1010", "T-1059"}
    splits = [one for name in SPLITS for one in rows(run, name)]
    for pair in ({"T-1016", "T-1046"}, {"T-1010", "T-1059"}):
        assert len({one["split"] for one in splits if one["id"] in pair}) == 1
    said = {one["id"]: [turn["content"] for turn in one["messages"]] for one in splits}
    assert "<EMAIL_1> or call <PHONE_1>" in said["T-1044"][0] and "<EMAIL_1> can change them" in said["T-1044"][1]
    assert said["T-1048"][0] == "How do I export to Markdown ?"
    assert said["T-1049"][1] == "Yes, you pay for ten months instead of twelve."


def test_records_of_the_first_data_set_stay_in_their_split(runs):
    both_runs = (runs[""], runs["-next"])
    before, after = ({one["id"]: one["split"] for name in SPLITS for one in rows(run, name)} for run in both_runs)
    both = before.keys() & after.keys()
    assert len(both) > 20 and {before[id] for id in both} == {*SPLITS}
    assert {id: before[id] for id in both} == {id: after[id] for id in both}


def test_orders_are_split_by_time(runs):
    days = [[one["metadata"]["created"] for one in rows(runs["-orders"], name)] for name in SPLITS]
    assert all(days) and max(days[0]) <= min(days[1]) and max(days[1]) <= min(days[2])
    assert runs["-orders"].report["older"] == 0
    answers = [json.loads(one["output"]) for name in SPLITS for one in rows(runs["-orders"], name)]
    assert all(one["item"] and one["amount"] > 0 for one in answers)


def test_every_queue_is_in_every_split_by_its_share(run):
    queues = Counter((one["metadata"]["queue"], name) for name in SPLITS for one in rows(run, name) if not is_copy(one))
    totals = Counter(one for one, _ in queues.elements())
    assert len(totals) == 5
    for queue, total in totals.items():
        for name, share in zip(SPLITS, (0.8, 0.1, 0.1), strict=True):
            # Accounts have up to seven records, which are in one split.
            assert abs(queues[queue, name] - share * total) <= 3, (queue, name)


def test_folds_have_whole_accounts_and_no_record_for_testing(run):
    folds = {}
    for name in SPLITS[:2]:
        for one in rows(run, name):
            folds.setdefault(one["fold"], set()).add(one["metadata"]["account"])
    assert folds.keys() == {*range(5)}
    assert all(not (one - {None}) & other for one, other in itertools.combinations(folds.values(), 2))
    assert {one["fold"] for one in rows(run, "test")} == {None}


def test_sources_have_their_shares_and_queues_equal_numbers(runs):
    run = runs["-next"]
    assert {"over_share", "over_class"} <= reasons(run, "removed")
    train = Counter(one["metadata"]["queue"] for one in rows(run, "train"))
    assert max(train.values()) == 10 and len([one for one in train.values() if one == 10]) >= 3
    assert reasons(run, "listed") == set(), "all that is found is removed"


def test_every_default_gate_fails_in_one_of_the_data_sets_with_what_to_do(runs):
    failed = {
        (end, one["name"]): one["mend"]
        for end, run in runs.items()
        for one in run.assessment["gates"]
        if one["state"] == "failed"
    }
    assert {name for _, name in failed} == {*Gates().model_dump(exclude_none=True, exclude={"trained"})}
    assert all(failed.values())
    assert "refunds (0 records)" in failed["", "coverage"]
    assert "T-1059" in failed["", "duplication"]
    assert ("-next", "language_quality") in failed


def test_no_account_is_in_two_splits_and_copies_are_in_train_alone(run):
    accounts = [{one["metadata"]["account"] for one in rows(run, name)} - {None} for name in SPLITS]
    assert all(not one & other for one, other in itertools.combinations(accounts, 2))
    copies = [{one["id"] for one in rows(run, name) if is_copy(one)} for name in SPLITS]
    assert copies[0] and not copies[1] and not copies[2]
    assert {one["stage"] for one in rows(run, "train")} == {1, 2, 3}
    fitted = {one["id"] for one in rows(run, "_work/assess/vectors")}
    assert fitted and not fitted & copies[0], "nothing is fitted to a record twice"


def test_the_configs_are_for_the_default_output():
    for end, file in CONFIGS.items():
        config = load(str(file))
        assert isinstance(config, PrepareConfig) and config.output == f"{OUTPUT}{end}"


def test_questions_are_the_same_each_time_and_have_answers(monkeypatch):
    monkeypatch.setattr(helpdesk, "_DOCSTRINGS", 3)
    found = list(questions())
    assert found == list(questions()) and len({one["id"] for one in found}) == 3
    assert all(one["question"].startswith(f"What does {one['module']}.") and one["answer"] for one in found)


def test_every_printed_command_has_a_verb(capsys):
    lines = [line.strip() for line in next_steps("out folder").splitlines() if line.startswith("    ")]
    assert len(lines) == 5
    for line in lines:
        words = shlex.split(line)
        assert words[0].endswith("raymill") and words[1] in cli.verbs()


@pytest.mark.browser
@pytest.mark.parametrize(("name", "scheme"), [("example", "light"), ("example", "dark"), ("hostile", "light")])
def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages, name, scheme):
    assert_is_quiet(browser, pages[name], scheme)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, scheme):
    assert_has_contrast(browser, pages["example"], scheme, at_least=300)
