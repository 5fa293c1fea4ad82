"""The report's page and its terminal funnel: what they say is what report.json says, whatever a document holds."""

import base64
import copy
import hashlib
import json
import re
import types
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report import formats
from pipelines.report.charts import SMALL, Axis, Limits, Segment, bar, histogram
from pipelines.report.markup import element, text
from pipelines.report.page import render
from pipelines.report.schema import Report
from pipelines.report.text import funnel_text
from pipelines.report.word_diff import Piece, word_diff
from tests.browser import Browser, missing

GOLDEN = Path(__file__).parent / "golden" / "report.json"
HOSTILE = (
    "</script></style></title><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
    "\"'><svg onload=window.hacked=1>&lt;b&gt;&amp;\x00\x08\x1b[31m\ud800\udfff\uffff\u202e\r\n]]>-->" + "w" * 10_000
)


@pytest.fixture
def report() -> Any:
    return json.loads(GOLDEN.read_text("utf-8"))


class Page(HTMLParser):
    """A parsed page: its elements with their attributes, and its text by section."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.tags_in: dict[str, list[str]] = {}
        self.section = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self.section = dict(attributes)["id"] or ""
        self.tags_in.setdefault(self.section, []).append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + " " + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def hostile(value: Any, key: str = "") -> Any:
    """The report with every string of it replaced, but those that code reads."""
    if isinstance(value, dict):
        return {k: hostile(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v, key) for v in value]
    if isinstance(value, str) and key not in ("scale", "finished", "stage", "reason"):
        return HOSTILE
    return value


def numbers(words: str) -> set[str]:
    return set(re.findall(r"\d[\d,]*(?:\.\d+)?%?", words))


# What the example is


def faults(value: Any, kind: Any, where: str = "report") -> Iterator[str]:
    """Where a value differs from its type in schema.py."""
    if get_origin(kind) in (Union, types.UnionType):
        if not any(not list(faults(value, option)) for option in get_args(kind)):
            yield f"{where}: {value!r} is no {kind}"
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            yield f"{where}: {value!r}"
    elif get_origin(kind) is list:
        for place, item in enumerate(value):
            yield from faults(item, get_args(kind)[0], f"{where}[{place}]")
    elif is_typeddict(kind):
        hints = get_type_hints(kind)
        yield from (f"{where}.{key}: missing" for key in kind.__required_keys__ - value.keys())
        yield from (f"{where}.{key}: unknown" for key in value.keys() - hints.keys())
        for key in value.keys() & hints.keys():
            yield from faults(value[key], hints[key], f"{where}.{key}")
    elif kind is not Any:
        plain = get_origin(kind) or kind
        if not isinstance(value, (int, float) if plain is float else plain):
            yield f"{where}: {value!r} is no {kind}"


def test_the_example_follows_the_schema(report):
    assert list(faults(report, Report)) == []


def test_a_key_that_the_schema_does_not_know_is_a_fault(report):
    report["funnel"][0]["kept"] = 1
    del report["totals"]["wall_s"]
    assert set(faults(report, Report)) == {"report.totals.wall_s: missing", "report.funnel[0].kept: unknown"}


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
        {"source": "a", "licence": None, "weight": 1.0, "input": nothing, "corpus": nothing, "reasons": []}
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
    shown = element("p", words, title=words)
    shown.encode("utf-8")
    page = Page(shown)
    plain = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", words)
    plain = plain.replace("\r\n", "\n").replace("\r", "\n")
    assert page.all("p") == [{"title": plain}]
    assert page.text.get("", " ")[1:] == plain


def test_an_attribute_that_is_false_or_none_is_left_out():
    assert element("details", "x", open=False, id=None, class_="a") == '<details class="a">x</details>'
    assert element("details", open=True, tabindex=0) == '<details open tabindex="0"></details>'
    assert text("<&>\"'") == "&lt;&amp;&gt;&quot;&#x27;"


def test_the_page_asks_for_nothing_and_its_policy_knows_its_style_and_script(report):
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


# Charts

NOWHERE = {"minimum": float("-inf"), "maximum": float("inf")}


@pytest.mark.parametrize(
    ("low", "high", "counts", "bounds", "style"),
    [
        (0.0, 0.1, False, {}, "kept"),
        (0.0, 0.1, False, {"minimum": 0.1}, "removed"),
        (0.1, 0.2, False, {"minimum": 0.1}, "kept"),
        (0.1, 0.2, False, {"minimum": 0.15}, "cut"),
        (0.1, 0.2, False, {"maximum": 0.2}, "kept"),
        (0.2, 0.3, False, {"maximum": 0.2}, "removed"),
        (0.0, 0.1, False, {"maximum": 0.0}, "cut"),  # the bound itself stays, and 0 is common
        (0.0, 1.0, True, {"maximum": 0}, "kept"),  # holds only 0
        (1.0, 1.6, True, {"maximum": 0}, "removed"),
        (1.6, 2.5, True, {"minimum": 2}, "kept"),  # holds only 2
        (4.0, 6.3, True, {"minimum": 5}, "cut"),
    ],
)
def test_a_bin_has_the_colour_of_what_happens_to_all_of_its_documents(low, high, counts, bounds, style):
    assert Limits(**(NOWHERE | bounds), counts=counts).style(low, high) == style


def test_a_logarithmic_axis_gives_zero_a_slot_of_its_own():
    axis = Axis.over([0.0, 1.0, 10.0, 100.0], log=True)
    assert [round(axis.place(v), 4) for v in (0, 1, 10, 100)] == [0, 0.3333, 0.6667, 1]
    assert axis.place(0.5) == pytest.approx(1 / 6)
    assert axis.place(1000) == 1
    assert axis.ticks() == [0, 1, 10, 100]


@pytest.mark.parametrize(
    ("edges", "log", "ticks"),
    [
        ([0.0, 1.0], False, [0, 0.25, 0.5, 0.75, 1]),
        ([0.0, 0.3], False, [0, 0.1, 0.2, 0.3]),
        ([0.65, 1.0], False, [0.7, 0.8, 0.9, 1.0]),
        ([1.0, 10.0, 1e6], True, [1, 100, 1e4, 1e6]),
    ],
)
def test_ticks_are_round_numbers(edges, log, ticks):
    assert Axis.over(edges, log).ticks() == pytest.approx(ticks)


def test_a_histogram_tells_every_bin_and_draws_its_bounds():
    edges = [0.0, 0.1, 0.2, 0.3, 0.4]
    bounds = [{"reason": "a", "minimum": 0.1, "maximum": None}, {"reason": "b", "minimum": None, "maximum": 0.3}]
    drawing = histogram(edges, [9, 100, 0, 4], bounds, log=False, label="x")
    titles = re.findall(r"<title>(.*?)</title>", drawing)
    assert titles == ["0 to 0.1: 9 documents", "0.1 to 0.2: 100 documents", "0.3 to 0.4: 4 documents"]
    assert re.findall(r'class="(kept|removed|cut)"', drawing) == ["removed", "kept", "removed"]
    assert re.findall(r">([≥≤] [\d.]+)<", drawing) == ["≥ 0.1", "≤ 0.3"]
    heights = [float(h) for h in re.findall(r'height="([\d.]+)" class="(?:kept|removed)"', drawing)]
    tallest = SMALL.bottom - SMALL.top
    assert heights == pytest.approx([0.3 * tallest, tallest, 0.2 * tallest], abs=0.01)


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=20).filter(any),
    st.booleans(),
    st.one_of(st.none(), st.floats(0, 1e7)),
    st.one_of(st.none(), st.floats(0, 1e7)),
)
def test_a_histogram_stays_inside_its_frame(documents, log, minimum, maximum):
    edges = (
        [0.0, *(10 ** (n / 2) for n in range(len(documents)))] if log else [n / 4 for n in range(len(documents) + 1)]
    )
    bounds = [{"reason": "r", "minimum": minimum, "maximum": maximum}]
    drawing = histogram(edges, documents, bounds, log=log, label="x")
    shapes = re.findall(r'<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.-]+)" height="([\d.-]+)"', drawing)
    for x, y, width, height in (map(float, shape) for shape in shapes):
        assert SMALL.left - 0.01 <= x
        assert x + width <= SMALL.right + 0.02
        assert SMALL.top - 0.01 <= y
        assert y + height <= SMALL.bottom + 0.02
        assert width >= 0
        assert height >= 0
    shown = sum(int(n.replace(",", "")) for n in re.findall(r": ([\d,]+) documents", drawing))
    assert shown == sum(documents)


@given(st.lists(st.integers(0, 10**9), max_size=12), st.integers(0, 10**10))
def test_a_bar_never_leaves_its_track_and_shows_what_is_rare(sizes, rest):
    drawing = bar([Segment(size, "kept", "t") for size in sizes], sum(sizes) + rest, "label")
    rects = re.findall(r'x="([\d.]+)" y="0" width="([\d.]+)" height="10" class="kept"', drawing)
    assert len(rects) == sum(size > 0 for size in sizes)
    for x, width in ((float(x), float(w)) for x, w in rects):
        assert width >= 2
        assert x + width <= 1000.01


# Words and numbers


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (formats.share(1, 3), "33.3%"),
        (formats.share(1, 100_000), "<0.1%"),
        (formats.share(99_999, 100_000), ">99.9%"),
        (formats.share(0, 5), "0.0%"),
        (formats.share(5, 5), "100.0%"),
        (formats.share(0, 0), "–"),
        (formats.short(950), "950"),
        (formats.short(12_345), "12.3k"),
        (formats.short(999_950), "1M"),
        (formats.short(77_000_000), "77M"),
        (formats.short(3_100_000_000_000), "3.1T"),
        (formats.decimal(0.30000000000000004), "0.3"),
        (formats.decimal(0.98437), "0.9844"),
        (formats.decimal(0.0000123), "1.23e-05"),
        (formats.decimal(100_000), "100,000"),
        (formats.decimal(float("nan")), "nan"),
        (formats.duration(3.14159), "3.1 s"),
        (formats.duration(59.97), "1 min 0 s"),
        (formats.duration(3725), "1 h 2 min"),
        (formats.core_hours(360), "0.100"),
        (formats.core_hours(3_600_000), "1,000"),
        (formats.megabytes_per_s(0, 3.0), "–"),
        (formats.megabytes_per_s(5_000_000, 0.0), "–"),
        (formats.stage_name("exact_duplicates"), "Exact duplicates"),
        (formats.stage_name("c4"), "C4"),
    ],
)
def test_a_number_reads_well(shown, wanted):
    assert shown == wanted


def test_a_word_diff_marks_whole_phrases():
    assert word_diff("the quick brown fox ran", "the slow red fox ran away") == [
        Piece("same", "the "),
        Piece("removed", "quick brown"),
        Piece("added", "slow red"),
        Piece("same", " fox ran"),
        Piece("added", " away"),
    ]


def test_a_word_diff_of_unspaced_script_goes_by_characters():
    assert word_diff("人人生而自由", "人人生来自由") == [
        Piece("same", "人人生"),
        Piece("removed", "而"),
        Piece("added", "来"),
        Piece("same", "自由"),
    ]


def test_a_word_diff_skips_long_equal_runs_and_says_how_much():
    same = "word " * 300
    pieces = word_diff(f"{same}a", f"{same}b", context=4)
    assert [piece.kind for piece in pieces] == ["same", "skipped", "same", "removed", "added"]
    assert pieces[0].text == pieces[2].text == "word word "
    assert pieces[1].text == "296"


def test_where_both_texts_were_cut_the_torn_ends_are_no_difference():
    assert [p.kind for p in word_diff("one two three four fi…", "one 2 three four five s…")] == [
        "same",
        "removed",
        "added",
        "same",
        "same",
    ]
    assert [p.kind for p in word_diff("one two…", "one three…")] == ["same", "removed", "added", "same"]


@given(st.text("ab 人c.\n", max_size=60), st.text("ab 人c.\n", max_size=60))
def test_a_word_diff_holds_both_texts(first, second):
    pieces = word_diff(first, second)
    for words, own in ((first, "removed"), (second, "added")):
        rebuilt = "".join(piece.text for piece in pieces if piece.kind in ("same", own))
        assert re.sub(r"\s+", " ", rebuilt) == re.sub(r"\s+", " ", words)


# The terminal


def stage(name: str, left: int, removed: int, reasons: dict[str, int]) -> dict[str, Any]:
    return {
        "stage": name,
        "left": {"documents": left, "characters": 0},
        "removed": {"documents": removed, "characters": 0},
        "reasons": [{"reason": reason, "documents": n, "characters": 0} for reason, n in reasons.items()],
    }


def test_the_terminal_funnel_is_an_aligned_table(report):
    report["totals"]["input"]["documents"] = 12_000
    report["funnel"] = [
        stage("read", 12_000, 0, {}),
        stage("gopher_quality", 9_500, 2_500, {"gopher_long_doc": 100, "gopher_short_doc": 2_400, "empty": 0}),
        stage("corpus", 9_500, 0, {}),
    ]
    assert funnel_text(report).splitlines() == [
        "stage           removed    left  of input  top reasons",
        "Read                  0  12,000    100.0%",
        "Gopher quality    2,500   9,500     79.2%  gopher_short_doc 2,400, gopher_long_doc 100",
        "Corpus                0   9,500     79.2%",
    ]


@given(
    st.lists(
        st.tuples(
            st.text(max_size=60), st.integers(0, 10**13), st.dictionaries(st.text(max_size=60), st.integers(0, 10**13))
        ),
        max_size=5,
    )
)
def test_the_terminal_funnel_fits_in_100_columns_of_plain_text(stages):
    report = json.loads(GOLDEN.read_text("utf-8"))
    report["funnel"] = [stage(name, left, left, reasons) for name, left, reasons in stages]
    lines = funnel_text(report).split("\n")
    assert len(lines) == 1 + len(stages)
    for line in lines:
        assert len(line) <= 100
        assert line.isascii()
        assert line.isprintable()


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if what := missing():
        pytest.skip(what)
    with Browser() as running:
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    report = json.loads(GOLDEN.read_text("utf-8"))
    written = {}
    for name, content in (("example", report), ("hostile", hostile(report))):
        written[name] = tmp_path_factory.mktemp("pages") / f"{name}.html"
        written[name].write_text(render(content), "utf-8")
    return written


OPEN_ALL = "for (const fold of document.querySelectorAll('details')) fold.open = true;"

# WCAG 2.2, 1.4.3: the contrast of every visible text with what is painted behind it.
LOW_CONTRAST = """
const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n.length > 3 ? n[3] : 1]; };
const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const behind = e => { const layers = [];
  for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255]); };
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let seen = 0;
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ['SCRIPT', 'title'].includes(e.tagName) || !e.checkVisibility()) continue;
  const style = getComputedStyle(e), ground = behind(e);
  const ink = over(parse(e instanceof SVGElement ? style.fill : style.color), ground);
  const [a, b] = [light(ink), light(ground)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  seen++;
  const what = `${e.tagName}.${e.className.baseVal ?? e.className}`;
  if (ratio < 4.5) found.push(`${what} ${ratio.toFixed(2)} ${walker.currentNode.data.slice(0, 30)}`);
}
return [seen, found];
"""


@pytest.mark.browser
@pytest.mark.parametrize(("name", "scheme"), [("example", "light"), ("example", "dark"), ("hostile", "light")])
def test_the_page_is_quiet_and_never_wider_than_the_window(browser, pages, name, scheme):
    browser.open(pages[name], width=1440, scheme=scheme)
    browser.script(OPEN_ALL)
    for width in (1440, 768, 360):
        browser.resize(width)
        assert browser.script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    assert browser.script("return window.hacked") is None
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].as_uri()]


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")])
def test_every_text_has_the_contrast_that_wcag_asks_for(browser, pages, scheme, paper):
    browser.open(pages["example"], width=768, scheme=scheme)
    browser.script(OPEN_ALL)
    assert browser.script("return getComputedStyle(document.documentElement).backgroundColor") == paper
    seen, faint = browser.script(LOW_CONTRAST)
    assert seen > 1000
    assert faint == []


@pytest.mark.browser
def test_the_contrast_check_finds_what_is_faint(browser, pages):
    browser.open(pages["example"], width=768)
    browser.script("document.querySelector('h1').style.color = '#999'")
    seen, faint = browser.script(LOW_CONTRAST)
    assert seen > 100
    assert len(faint) == 1
    assert faint[0].startswith("BDI. 2.85 peps-and-friends")


@pytest.mark.browser
def test_the_policy_stops_a_script_that_is_not_ours(browser, pages):
    browser.open(pages["example"], width=768)
    browser.script("const s = document.createElement('script'); s.text = 'window.hacked = 1'; document.body.append(s);")
    assert browser.script("return window.hacked") is None
    assert any("Content Security Policy" in line for line in browser.complaints())


@pytest.mark.browser
def test_wide_tables_scroll_in_boxes_that_the_keyboard_reaches(browser, pages):
    browser.open(pages["example"], width=360)
    browser.script(OPEN_ALL)
    wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)"
    assert browser.script(f"return {wide}.length") > 5
    assert browser.script(f"return {wide}.every(box => box.tabIndex === 0 && box.ariaLabel)")


@pytest.mark.browser
def test_a_fold_opens_from_the_keyboard(browser, pages):
    browser.open(pages["example"], width=1440)
    closed = "const e = document.activeElement; return e.tagName === 'SUMMARY' && !e.parentElement.open"
    for _ in range(80):
        browser.press("\ue004")  # Tab
        if browser.script(closed):
            break
    assert browser.script(closed)
    browser.press("\ue007")  # Enter
    assert browser.script("return document.activeElement.parentElement.open")


@pytest.mark.browser
def test_a_link_to_an_example_opens_its_fold(browser, pages):
    is_open = "return document.getElementById('sample-c4-too-few-sentences').open"
    browser.open(pages["example"], width=1440)
    assert browser.script(is_open) is False
    browser.open(pages["example"], width=1440, fragment="#sample-c4-too-few-sentences")
    assert browser.script(is_open) is True


@pytest.mark.browser
def test_texts_keep_their_own_direction(browser, pages):
    browser.open(pages["example"], width=768)
    browser.script(OPEN_ALL)
    direction = "return getComputedStyle(document.querySelector(`.excerpt[lang='${arguments[0]}']`)).direction"
    found = [browser.script(direction, language) for language in ("ar", "he", "zh", "en")]
    assert found == ["rtl", "rtl", "ltr", "ltr"]


@pytest.mark.browser
def test_paper_shows_what_is_folded_away(browser, pages):
    browser.open(pages["example"], width=768)
    shown = "return document.querySelector('details:not([open]) .excerpt').checkVisibility()"
    assert browser.script(shown) is False
    browser.emulate(media="print")
    assert browser.script(shown) is True
    browser.emulate(media="")
