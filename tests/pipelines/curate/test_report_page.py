"""The report's page: what it says is what report.json says, whatever a document holds."""

import base64
import copy
import hashlib
import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from raymill.cluster import formats
from raymill.cluster.report.page import valid_text
from raymill.cluster.report.sections import Cell
from raymill.pipelines.curate.report.gather import REPORT, funnel_text
from raymill.pipelines.curate.report.page import render
from tests.support.report_cases import GOLDEN, Page, faults, hostile


@pytest.fixture
def report() -> Any:
    return json.loads(GOLDEN.read_text("utf-8"))


def numbers(words: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*(?:\.\d+)?%?", words))


# What the example is


def test_the_example_follows_the_schema(report):
    assert list(faults(report, REPORT)) == []


def test_a_key_that_the_schema_does_not_know_is_a_fault(report):
    report["funnel"][0]["kept"] = 1
    del report["totals"]["wall_s"]
    assert set(faults(report, REPORT)) == {"report.totals.wall_s: missing", "report.funnel[0].kept: unknown"}


def test_the_example_adds_up(report):
    for before, stage in pairwise(report["funnel"]):
        assert sum(r["documents"] for r in stage["reasons"]) == stage["removed"]["documents"]
        assert before["left"]["documents"] - stage["removed"]["documents"] == stage["left"]["documents"]
    for side in ("input", "corpus"):
        for unit in ("documents", "characters"):
            total = report["totals"][side][unit]
            assert sum(s[side][unit] for s in report["sources"]) == total
            assert sum(s[side][unit] for s in report["languages"]) == total


# What the page says


def test_numbers_in_the_funnel_are_those_of_the_report(report):
    page = Page(render(report))
    shown = numbers(page.text["funnel"])
    given = report["totals"]["input"]
    for stage in report["funnel"]:
        for amount in (stage["left"], stage["removed"], *stage["reasons"]):
            assert f"{amount['documents']:,}" in shown
            assert f"{amount['characters']:,}" in shown
        assert formats.share(stage["left"]["documents"], given["documents"]) in page.text["funnel"]


def test_the_headline_says_what_was_kept_of_what(report):
    report["totals"] = {
        "input": {"documents": 8000, "characters": 50_000_000},
        "corpus": {"documents": 2000, "characters": 10_000_000, "tokens_estimate": 2_500_000},
        "wall_s": 125.0,
        "core_s": 7200.0,
    }
    report["stages"] = [
        {"stage": "measure", "units": 1, "documents": 8000, "text_bytes": 500_000_000, "wall_s": 99, "core_s": 9}
    ]
    words = " ".join(Page(render(report)).text["result"].split())
    for said in (
        "25.0% 2,000 of 8,000",
        "20.0% 10,000,000 of 50,000,000",
        "2.5M 2,500,000",
        "2 min 5 s",
        "2.0 core-hours",
    ):
        assert said in words
    assert "4.0 MB/s" in words
    assert "0.069 MB/s per core" in words


@pytest.mark.parametrize(
    ("section", "rows", "keys"),
    [
        ("languages", lambda r: [{**x["input"], "kept": x["corpus"]["documents"]} for x in r["languages"]], None),
        ("sources", lambda r: [{**x["input"], "kept": x["corpus"]["documents"]} for x in r["sources"]], None),
        ("personal-data", lambda r: r["personal_data"], ("documents", "found")),
        ("quarantine", lambda r: r["quarantine"], ("documents",)),
        ("time", lambda r: r["stages"], ("units", "documents")),
    ],
)
def test_numbers_in_a_table_are_those_of_the_report(report, section, rows, keys):
    shown = numbers(Page(render(report)).text[section])
    for row in rows(report):
        for key in keys or row:
            assert f"{row[key]:,}" in shown


def test_every_signal_bound_group_and_example_is_shown(report):
    page = Page(render(report))
    for signal in report["histograms"]:
        assert signal["signal"] in page.text["signals"]
        for bound in signal["bounds"]:
            assert bound["reason"] in page.text["signals"]
    for group in report["groups"]:
        assert group["group_id"] in page.text["groups"]
    for sample in report["samples"]:
        assert sample["id"] in page.text["examples"]


def test_an_example_shows_its_value_against_the_threshold(report):
    words = " ".join(Page(render(report)).text["examples"].split())
    assert "gopher_words 7 , at least 50 wanted" in words
    assert "gopher_bullet_line_fraction 0.9411 , at most 0.9 wanted" in words
    assert "similarity 0.9844 , threshold 0.8" in words


def test_two_packs_may_give_the_same_reason(report):
    report["samples"] = [
        {"reason": "empty", "stage": stage, "id": "a", "source": "s", "language": None, "value": 0, "threshold": 1,
         "excerpt": "x"}
        for stage in ("fineweb", "gopher_repetition")
    ]  # fmt: skip
    page = Page(render(report))
    assert {"sample-fineweb-empty", "sample-gopher-repetition-empty"} <= {a.get("id") for a in page.all("details")}
    words = " ".join(page.text["examples"].split())
    assert "fineweb_lines 0 , at least 1 wanted" in words
    assert "repetition_characters 0 , at least 1 wanted" in words


def test_a_signal_without_a_stage_is_found_by_the_reasons_of_its_bounds(report):
    for signal in report["histograms"]:
        signal.pop("stage", None)
    packs = [a["id"] for a in Page(render(report)).all("details") if (a.get("id") or "").startswith("signals-")]
    assert packs[0] == "signals-without-bounds"
    assert {"signals-gopher-quality", "signals-fineweb", "signals-bounds-that-removed-nothing"} <= set(packs)


def test_the_config_is_shown_as_yaml(report):
    assert "dedup:\n  threshold: 0.8\n" in Page(render(report)).text["config"]


def test_a_run_of_several_calls_has_no_rate_by_wall(report):
    report["totals"] |= {"wall_s": None, "core_s": 7200.0}
    report["stages"] = [
        {"stage": "measure", "units": 3, "documents": 9, "text_bytes": 90_000_000, "wall_s": None, "core_s": 7200.0}
    ]
    assert not list(faults(report, REPORT))
    page = Page(render(report))
    assert "Measure 3 9 90.0 – 2.0 100.0% – 0.013" in " ".join(page.text["time"].split())
    assert "Time in several calls 2.0 core-hours Throughput – MB/s" in " ".join(page.text["result"].split())


def test_the_cost_of_a_stage_is_shown_by_wall_and_by_core(report):
    report["stages"] = [
        {"stage": "measure", "units": 3, "documents": 9, "text_bytes": 90_000_000, "wall_s": 6.0, "core_s": 7200.0}
    ]
    words = " ".join(Page(render(report)).text["time"].split())
    assert "Measure 3 9 90.0 6.0 s 2.0 100.0% 15.0 0.013" in words


# Parts that are not there

EMPTY = {
    "languages": ([], "languages", "Languages were not identified"),
    "sources": ([], "sources", "No source had a document"),
    "histograms": ([], "signals", "No signal was measured"),
    "similarity": (None, "similarity", "were not looked for"),
    "groups": ([], "groups", "No duplicate group was found"),
    "samples": ([], "examples", "No examples were asked for"),
    "personal_data": ([], "personal-data", "No personal data was found"),
    "quarantine": ([], "quarantine", "Every document could be read"),
    "stages": ([], "time", "No stage was timed"),
    "funnel": ([], "funnel", "No documents were read"),
}


@pytest.mark.parametrize("key", EMPTY)
def test_an_empty_part_is_a_sentence_without_chart_or_table(report, key):
    empty, section, words = EMPTY[key]
    full = Page(render(report))
    assert words not in full.text[section]
    assert {"table", "svg", "article", "details"} & set(full.tags_in[section])
    page = Page(render({**report, key: empty}))
    assert words in page.text[section]
    assert not {"table", "svg", "article", "details"} & set(page.tags_in[section])


def test_warnings_come_first_and_only_when_there_are_any(report):
    sections = [a["id"] for a in Page(render(report)).all("section")]
    assert sections[0] == "warnings"
    for warning in report["warnings"]:
        assert warning in Page(render(report)).text["warnings"]
    assert "warnings" not in [a["id"] for a in Page(render({**report, "warnings": []})).all("section")]


def test_personal_data_that_was_switched_off_is_not_said_to_be_absent(report):
    report["personal_data"], report["run"]["config"]["personal_data"] = [], None
    assert "was not looked for" in Page(render(report)).text["personal-data"]


def test_a_run_that_kept_nothing_has_a_report(report):
    nothing = {"documents": 0, "characters": 0}
    report["totals"]["corpus"] = nothing | {"tokens_estimate": 0}
    for row in report["languages"] + report["sources"]:
        row["corpus"] = nothing
    report["funnel"][-1]["left"] = nothing
    report["samples"] = [sample for sample in report["samples"] if sample["reason"] != "kept"]
    assert "0.0%" in Page(render(report)).text["result"]
    assert funnel_text(report).splitlines()[-1].split() == ["Corpus", "0", "0", "0.0%"]


def test_a_run_that_read_nothing_has_a_report(report):
    nothing = {"documents": 0, "characters": 0}
    report["totals"] = {
        "input": nothing, "corpus": nothing | {"tokens_estimate": 0}, "wall_s": 0.0, "core_s": 0.0,
    }  # fmt: skip
    report["funnel"] = [{"stage": "read", "left": nothing, "removed": nothing, "reasons": []}]
    report["sources"] = [
        {
            "source": "a",
            "licence": None,
            "weight": 1.0,
            "input": nothing,
            "corpus": nothing,
            "reasons": [],
            "without_id": 0,
            "empty_texts": 0,
            "repeated_keys": 0,
            "without_newest_by": 0,
            "notes": {},
        }
    ]
    for signal in report["histograms"]:
        signal["documents"] = [0] * len(signal["documents"])
    report["similarity"]["documents"] = [0] * 40
    report |= {"languages": [], "groups": [], "samples": [], "personal_data": [], "quarantine": []}
    page = Page(render(report))
    assert "No documents were read" in page.text["funnel"]
    assert "No document has a value" in page.text["signals"]
    assert "No two documents reached the similarity of 0.8" in page.text["similarity"]


# What a document cannot do to it


def test_hostile_text_stays_text(report):
    source = render(hostile(report))
    assert "\x00" not in source
    assert source.encode("utf-8").decode("utf-8") == source
    page = Page(source)
    honest = Page(render(report))
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not page.all("img")
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in honest.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>window.hacked=1</script>" in page.text["examples"]


@given(st.text(st.characters(), max_size=40))
def test_escaped_text_is_valid_and_read_back_as_it_was(words):
    shown = valid_text(str(escape(Cell(words, "a", words))))
    shown.encode("utf-8")
    page = Page(shown)
    plain = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", words)
    plain = plain.replace("\r\n", "\n").replace("\r", "\n")
    assert page.all("td") == [{"class": "n a", "title": plain}]
    assert page.text.get("", " ")[1:] == plain


def test_a_very_long_id_is_cut(report):
    report["samples"][0]["id"] = "i" * 10_000
    assert "i" * 300 + "…" in Page(render(report)).text["examples"]
    assert "i" * 301 not in render(report)


def test_the_page_asks_for_nothing_and_its_policy_allows_its_style_and_script(report):
    source = render(report)
    page = Page(source)
    assert [a["href"] for a in page.all("link")] == ["data:,"]
    assert not [a for _, a in page.tags if "src" in a]
    assert not re.search(r"url\((?!#hatch\))|@import", source)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)
        assert inside
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in (policy or "")


# How it is built


def test_headings_go_down_one_level_at_a_time_and_tables_have_captions(report):
    page = Page(render(report))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("table")) == len(page.all("caption"))


def test_every_drawing_says_what_it_shows_or_is_hidden_from_screen_readers(report):
    for drawing in Page(render(report)).all("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"


def test_every_link_leads_somewhere_and_no_id_is_used_twice(report):
    page = Page(render(report))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in page.all("a")]
    assert len(links) > 20
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_a_usual_report_stays_under_a_megabyte(report):
    more = copy.deepcopy(report)
    long = "A sentence of an ordinary document, neither short nor long. " * 20
    more["samples"] = [{**s, "excerpt": long} for s in report["samples"] for _ in range(5)]
    assert len(render(report).encode()) < 400_000
    assert len(render(more).encode()) < 1_000_000
