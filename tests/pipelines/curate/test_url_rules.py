"""Rules of the URL on web archives: they decide before the text of a page is extracted."""

import json

import pytest

from raymill.cluster.artifact import Artifact
from raymill.cluster.errors import DataError
from raymill.cluster.plan.plan import Prices, plan_of
from raymill.cluster.readers.formats import warc
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.job import plan as subject
from raymill.pipelines.curate.questions.explain import explain
from raymill.pipelines.curate.questions.run_reader import RunReader
from raymill.pipelines.curate.questions.what_if import compare_decisions
from raymill.pipelines.curate.report.page import render
from tests.support.inline import curate_inline
from tests.support.warc_records import record, response

TEXT = "The mill at the river number {} turns from morning to evening, and whoever comes by can hear its wheel. "
URLS = [
    "http://fine.org/1", "http://bad.com/2", "http://a.bad.com/3", "http://fine.org/casino/4", "http://fine.org/5",
    "http://fine.org/free-chat/6", "http://fine.org/free/7", "http://fine.org/hot-deal/8", "http://bad.com/9",
]  # fmt: skip
REMOVED = {
    URLS[1]: "blocked_url", URLS[2]: "blocked_url", URLS[3]: "banned_url_word", URLS[5]: "soft_url_words",
    URLS[7]: "banned_url_substring", URLS[8]: "blocked_url",
}  # fmt: skip
LISTS = {"domains": "bad.com\n", "banned": "casino\n", "soft": "free\nchat\n", "substrings": "hotdeal\n"}


def page(number: int) -> bytes:
    return f"<html><body><article><p>{TEXT.format(number) * 8}</p></article></body></html>".encode()


@pytest.fixture
def settings(tmp_path):
    for name, content in LISTS.items():
        (tmp_path / name).write_text(content)
    parts = [record("warcinfo", b"x")]
    for number, url in enumerate(URLS):
        # A page that is removed is one that could not be parsed, so it shows if it is.
        content = b"<div>" * 3000 if url in REMOVED else page(number)
        one = record("response", response(content), number).replace(f"http://x/{number}".encode(), url.encode())
        parts.append(one)
    gone = record("response", response(page(1), status="404 Not Found")).replace(b"http://x/0", b"http://bad.com/gone")
    (tmp_path / "a.warc").write_bytes(b"".join([*parts, gone]))
    return {
        "inputs": [{"path": str(tmp_path / "a.warc"), "columns": ["url"]}],
        "output": str(tmp_path / "run"),
        "language": {"keep": ["en"]},
        "rules": {
            "packs": [],
            "url_blocklist": {"paths": [str(tmp_path / "domains")]},
            "url_words": {name: [str(tmp_path / name)] for name in ("banned", "soft", "substrings")},
        },
    }


def ledger(run) -> dict[str, str]:
    return {row["url"]: row["reason"] for row in Artifact.load(Store(), f"{run.uri}/removed").table().to_pylist()}


def test_pages_that_rules_of_the_url_remove_are_not_parsed_and_are_in_the_ledger(settings, monkeypatch):
    run = curate_inline(settings, monkeypatch)
    assert ledger(run) == REMOVED and run.report["quarantine"] == []
    assert run.corpus.table()["url"].to_pylist() == [url for url in URLS if url not in REMOVED]
    by_stage = {step["stage"]: step["removed"]["documents"] for step in run.report["funnel"]}
    assert [*by_stage][:4] == ["read", "url_blocklist", "url_words", "language"]
    assert (by_stage["url_blocklist"], by_stage["url_words"], by_stage["language"]) == (3, 3, 0)
    # Of a page with another status nothing is decided.
    assert {one["reason"]: one["count"] for one in run.report["skipped"]} == {
        "record of kind warcinfo": 1, "response with status 404": 1,
    }  # fmt: skip
    (source,) = run.report["sources"]
    assert source["empty_texts"] == 0
    (languages,) = run.report["languages"]
    assert languages["input"]["documents"] == len(URLS) - len(REMOVED)
    sizes = {one["signal"]: sum(one["documents"]) for one in run.report["histograms"]}
    assert sizes["characters"] == sizes["language_score"] == len(URLS) - len(REMOVED)
    assert sizes["url_blocked"] == len(URLS)
    shown = render(run.report)
    assert "http://a.bad.com/3" in shown and "Empty: no visible text" not in shown
    said = explain(RunReader(Store(), run.uri), "http://fine.org/casino/4")
    assert "removed by url_words: banned_url_word" in said


def test_the_rules_decide_the_same_of_records_with_a_text(settings, monkeypatch, tmp_path):
    lines = [json.dumps({"url": url, "text": TEXT.format(number) * 8}) for number, url in enumerate(URLS)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    settings["inputs"][0]["path"] = str(tmp_path / "b.jsonl")
    run = curate_inline(settings, monkeypatch)
    assert ledger(run) == REMOVED
    # These have a text, so other bounds can be tried.
    before = config(settings)
    settings["rules"]["url_words"]["max_soft"] = 2
    total = compare_decisions(before, config(settings))["total"]
    assert total["after"]["documents"] == total["before"]["documents"] + 1


def config(settings) -> CurateConfig:
    return CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)


@pytest.mark.parametrize("most", [1, 2, 4, 100])
def test_the_number_of_records_judged_at_a_time_changes_nothing(settings, monkeypatch, tmp_path, most):
    whole = curate_inline(settings, monkeypatch)
    monkeypatch.setattr(warc, "_JUDGED", most)
    again = curate_inline(settings | {"output": str(tmp_path / "again")}, monkeypatch)
    assert again.manifest["digest"] == whole.manifest["digest"]


def test_records_before_damage_are_judged_too(settings, monkeypatch, tmp_path):
    content = (tmp_path / "a.warc").read_bytes()
    (tmp_path / "a.warc").write_bytes(content[: content.index(b"hot-deal") + 200])
    run = curate_inline(settings | {"execution": {"max_bad_documents": 1.0}}, monkeypatch)
    assert ledger(run) == {url: reason for url, reason in REMOVED.items() if url not in URLS[7:]}
    assert [one["problem"] for one in run.report["quarantine"]] == ["truncated"]


def test_what_if_does_not_count_pages_without_a_text(settings, monkeypatch):
    curate_inline(settings, monkeypatch)
    before = config(settings)
    settings["rules"]["url_blocklist"] = None
    with pytest.raises(DataError, match=r"6 pages that rules\.url_blocklist, rules\.url_words remove have no text"):
        compare_decisions(before, config(settings))
    other = config(settings | {"rules": before.rules, "language": {"keep": ["de"]}})
    assert compare_decisions(before, other)["total"]["after"]["documents"] == 0


def test_another_bound_of_such_a_rule_measures_archives_again(settings, monkeypatch, tmp_path):
    curate_inline(settings, monkeypatch)
    settings["rules"]["url_words"]["max_soft"] = 2
    settings["execution"] = {"max_bad_documents": 1.0}
    run = curate_inline(settings, monkeypatch, replace=True)
    assert URLS[5] not in ledger(run)
    assert [one["documents"] for one in run.report["quarantine"]] == [1]  # it was parsed


@pytest.mark.parametrize("blocked", ["bad.com", "bad.com\nfine.org"])
def test_a_plan_prices_the_extraction_of_the_pages_that_rules_of_the_url_leave(
    settings, tmp_path, monkeypatch, blocked
):
    monkeypatch.setattr("raymill.cluster.plan.trial.TIMES", 1)
    (tmp_path / "domains").write_text(blocked)
    config = CurateConfig.model_validate({"kind": "curate", "name": "test"} | settings)
    plan = plan_of(subject(config), (2,), Prices())
    left = 0 if "fine" in blocked else len(URLS) - len(REMOVED)
    # The pages that are removed cannot be parsed.
    assert (plan["sample"]["documents"], plan["sample"]["unreadable"]) == (len(URLS), 0)
    assert plan["sample"]["passed"] == pytest.approx(left / len(URLS))
    assert not [one for one in plan["assumed"] if "page is extracted" in one]
