"""The demo of prepare: each planted defect is found by its own rule; its page in a browser; the commands it prints."""

import csv
import itertools
import shlex
from pathlib import Path

import pytest

from cluster import cli
from cluster.artifact import Artifact
from cluster.config import load
from cluster.progress import Silent
from cluster.session import Session
from cluster.store.store import Store
from pipelines.demo import helpdesk
from pipelines.demo.helpdesk import CONFIG, OUTPUT, config_text, next_steps, questions, write_inputs
from pipelines.prepare import job
from pipelines.prepare.assess.facts import is_copy
from pipelines.prepare.config import PrepareConfig
from pipelines.prepare.report import render
from pipelines.prepare.validate import REASONS
from tests.support.inline import InlineEngine
from tests.support.page_checks import assert_has_contrast, assert_is_quiet
from tests.support.report_cases import hostile


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The demo's run with 30 questions about Python, on no Ray."""
    folder = tmp_path_factory.mktemp("demo") / 'a "quoted" folder'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpdesk, "_DOCSTRINGS", 30)
        patch.setattr(job, "Engine", InlineEngine)
        write_inputs(f"{folder}-input")
        folder.mkdir()
        (folder / "prepare.yaml").write_text(config_text(str(folder)), "utf-8")
        config = load(str(folder / "prepare.yaml"))
        assert isinstance(config, PrepareConfig)
        yield job.prepare(config, Session(), Silent())


@pytest.fixture(scope="module")
def pages(run, tmp_path_factory):
    """The run's page, and the same with every text replaced."""
    written = {"example": Path(run.uri) / "report.html", "hostile": tmp_path_factory.mktemp("pages") / "hostile.html"}
    written["hostile"].write_text(render(hostile(run.report), hostile(run.assessment)), "utf-8")
    return written


def rows(run, name):
    found = Artifact.load(Store(), f"{run.uri}/{name}")
    return list(itertools.chain.from_iterable(table.to_pylist() for table in found.tables()))


def planted():
    with (helpdesk.DATA / "tickets.csv").open(newline="", encoding="utf-8") as file:
        return {row["ticket"]: row["planted"] for row in csv.DictReader(file) if row["planted"]}


def test_every_planted_defect_of_a_rule_is_removed_by_this_rule_and_no_sound_ticket_is(run):
    removed = {one["id"]: one["reason"] for one in rows(run, "removed") if one["source"] == "tickets"}
    wanted = {ticket: reason for ticket, reason in planted().items() if reason in REASONS}
    assert len(wanted) == 12
    assert {ticket: reason for ticket, reason in removed.items() if reason in REASONS} == wanted
    assert removed.keys() - wanted.keys() == {"T-1045"}, "the near-duplicate"


def test_a_row_with_too_few_fields_is_in_quarantine(run):
    (row,) = rows(run, "quarantine")
    assert row["problem"] == "broken_csv" and "tickets.csv line 60" in row["where"]


def test_contradictions_are_listed_and_texts_are_cleaned(run):
    listed = {one["id"] for one in rows(run, "listed") if one["reason"] == "contradictory"}
    assert listed == {"T-1016", "T-1046"}
    splits = [one for name in ("train", "validation", "test") for one in rows(run, name)]
    of_both = {one["split"] for one in splits if one["id"] in listed}
    assert len(of_both) == 1
    said = {one["id"]: [turn["content"] for turn in one["messages"]] for one in splits}
    assert "<EMAIL_1> or call <PHONE_1>" in said["T-1044"][0] and "<EMAIL_1> can change them" in said["T-1044"][1]
    assert said["T-1048"][0] == "How do I export to Markdown ?"
    assert said["T-1049"][1] == "Yes, you pay for ten months instead of twelve."


def test_no_account_is_in_two_splits_and_copies_are_in_train_alone(run):
    accounts = [{one["metadata"]["account"] for one in rows(run, name)} for name in ("train", "validation", "test")]
    assert all(not one & other for one, other in itertools.combinations(accounts, 2))
    copies = [{one["id"] for one in rows(run, name) if is_copy(one)} for name in ("train", "validation", "test")]
    assert copies[0] and not copies[1] and not copies[2]
    assert {one["stage"] for one in rows(run, "train")} == {1, 2, 3}
    learnt = {one["id"] for one in rows(run, "_work/assess/vectors")}
    assert learnt and not learnt & copies[0], "nothing is learnt of a record twice"


def test_the_gate_without_records_of_its_topics_fails_with_what_to_do(run):
    failed = {one["name"]: one["mend"] for one in run.assessment["gates"] if one["state"] == "failed"}
    assert "refunds (0 records)" in failed["coverage"]


def test_the_config_is_one_for_the_default_output():
    config = load(str(CONFIG))
    assert isinstance(config, PrepareConfig) and config.output == OUTPUT


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
        assert words[0].endswith("raymill") and words[1] in cli.VERBS


@pytest.mark.browser
@pytest.mark.parametrize(("name", "scheme"), [("example", "light"), ("example", "dark"), ("hostile", "light")])
def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages, name, scheme):
    assert_is_quiet(browser, pages[name], scheme)


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, scheme):
    assert_has_contrast(browser, pages["example"], scheme, at_least=300)
