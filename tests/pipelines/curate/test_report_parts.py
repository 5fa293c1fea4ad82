"""What the report is made of: charts, numbers, word diffs, and the funnel for a terminal."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster import formats
from raymill.cluster.report.charts import SMALL, Axis, BarSegment, Bounds, bar, histogram
from raymill.pipelines.curate.report.gather import funnel_text, stage_name
from raymill.pipelines.curate.stages.tallies import edges, histograms
from raymill.pipelines.rules.rule import Check
from raymill.pipelines.text.word_diff import DiffPart, word_diff
from tests.support.report_cases import GOLDEN

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
    assert Bounds(**(NOWHERE | bounds), counts=counts).style(low, high) == style


@pytest.mark.parametrize("signal", ["fineweb_list_ratio", "gopher_mean_word_length", "gopher_words"])
def test_a_bound_is_an_edge_and_what_lies_on_it_is_with_what_stays(signal):
    """A minimum and a maximum stay themselves; the next number beyond each is in another bin."""
    least, most = (0.123, 0.456) if "ratio" in signal else (3.3, 12.3)
    checks = [Check("short", signal, minimum=least), Check("long", signal, maximum=most)]
    bounds = edges(signal, checks)
    values = np.array([np.nextafter(least, 0), least, most, np.nextafter(most, np.inf)])
    below, lowest, highest, above = (np.searchsorted(bounds, values, side="right") - 1).tolist()
    assert below + 1 == lowest <= highest == above - 1
    counted = histograms({signal: np.append(values, np.nan)}, {signal: checks}).to_pylist()
    rows = [row for row in counted if row["bin"] in (below, above)]
    assert [row["documents"] for row in rows] == [1, 1]


def test_a_logarithmic_axis_gives_zero_a_slot_of_its_own():
    axis = Axis.over([0.0, 1.0, 10.0, 100.0], log=True)
    assert [round(axis.fraction(v), 4) for v in (0, 1, 10, 100)] == [0, 0.3333, 0.6667, 1]
    assert axis.fraction(0.5) == pytest.approx(1 / 6)
    assert axis.fraction(1000) == 1
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
    drawing = bar([BarSegment(size, "kept", "t") for size in sizes], sum(sizes) + rest, "label")
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
        (stage_name("exact_duplicates"), "Exact duplicates"),
        (stage_name("c4"), "C4"),
    ],
)
def test_a_number_reads_well(shown, wanted):
    assert shown == wanted


def test_a_word_diff_marks_whole_phrases():
    assert word_diff("the quick brown fox ran", "the slow red fox ran away") == [
        DiffPart("same", "the "),
        DiffPart("removed", "quick brown"),
        DiffPart("added", "slow red"),
        DiffPart("same", " fox ran"),
        DiffPart("added", " away"),
    ]


def test_a_word_diff_of_unspaced_script_goes_by_characters():
    assert word_diff("人人生而自由", "人人生来自由") == [
        DiffPart("same", "人人生"),
        DiffPart("removed", "而"),
        DiffPart("added", "来"),
        DiffPart("same", "自由"),
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


def test_the_terminal_funnel_is_an_aligned_table():
    report = json.loads(GOLDEN.read_text("utf-8"))
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
