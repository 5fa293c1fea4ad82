"""Sections of the report page in their details: what comes first, what is open, what is folded, shaded and cut."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from raymill.cluster.report.charts import SMALL, Bounds, hatch, histogram
from raymill.pipelines.curate.report import page
from raymill.pipelines.curate.report.gather import funnel_text
from raymill.pipelines.curate.stages.tallies import edges, is_count
from raymill.pipelines.rules import RULES
from raymill.pipelines.text.word_diff import word_diff
from tests.support.report_cases import GOLDEN


@pytest.fixture
def report() -> Any:
    return json.loads(GOLDEN.read_text("utf-8"))


def words(html: str) -> str:
    return " ".join(re.sub(r"<title>.*?</title>|<[^>]+>", " ", html).split())


def rows(html: str) -> list[list[str]]:
    """The cells of all rows of all tables."""
    return [
        [words(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in re.findall(r"<tr>.*?</tr>", html)
    ]


def folds(html: str) -> list[tuple[bool, str]]:
    """(open, summary) of each fold."""
    return [
        (" open" in tag, words(text)) for tag, text in re.findall(r"<details([^>]*)><summary>(.*?)</summary>", html)
    ]


def amount(documents: int, characters: int = 0) -> dict[str, int]:
    return {"documents": documents, "characters": characters}


def test_near_duplicates_are_removed_from_the_threshold_on(report):
    assert "≥ 0.8" in (shown := words(escape(page.similarity(report)))) and "≤" not in shown


# --- tables


def test_languages_are_sorted_by_documents_and_those_after_the_fifteenth_are_folded(report):
    given_documents = [3, 9, 5] + [2] * 11
    for more in (1, 2, 3):
        counts = given_documents + [1] * more
        names = [f"l{at:02}" for at in range(len(counts))]
        report["languages"] = [
            {"language": name, "input": amount(count, 70 + at), "corpus": amount(count - 1, 7 + at)}
            for at, (name, count) in enumerate(zip(names, counts, strict=True))
        ]
        report["totals"]["input"] = amount(100, 1000)
        body = escape(page.languages(report))
        found = [row for row in rows(body) if row[0].startswith("l")]
        order = sorted(zip(names, counts, strict=True), key=lambda one: (-one[1], one[0]))
        assert [(row[0], row[2]) for row in found] == [(name, str(count)) for name, count in order]
        assert found[0][3:] == ["9.0%", "8", "88.9%", "71", "8"]
        rest = max(len(counts) - 15, 0)
        plural = "language" if rest == 1 else "languages"
        assert folds(body) == ([(False, f"{rest} more {plural}")] if rest else [])
        assert ("The most frequent languages" in body) == (rest > 0) == ("All languages" not in body)


@pytest.mark.parametrize(
    ("documents", "level"),
    [
        (1000, 6), (500, 6), (499, 5), (200, 5), (199, 4), (100, 4), (99, 3), (50, 3), (49, 2), (20, 2), (19, 1),
        (5, 1), (4, 0), (1, 0), (0, 0),
    ],
)  # fmt: skip
def test_a_cell_is_shaded_by_the_share_of_the_source_that_a_reason_removed(report, documents, level):
    reasons = [{"stage": "c4", "reason": "short", **amount(documents)}]
    other = [{"stage": "c4", "reason": "short", **amount(7)}]
    source = {"licence": None, "weight": 1.0}
    report["sources"] = [
        source | {"source": "a", "input": amount(1000), "corpus": amount(1000 - documents), "reasons": reasons},
        source | {"source": "b", "input": amount(10), "corpus": amount(3), "reasons": other},
    ]
    body = escape(page.sources(report))
    cell = rf'<td class="n heat-{level}" title="{documents:,} of 1,000 documents">'
    assert re.search(cell, body)
    assert f'<td class="n kept" title="{1000 - documents:,} of 1,000 documents">' in body
    assert '<td class="n heat-6" title="7 of 10 documents">70.0%' in body


def test_reasons_of_the_sources_are_in_the_order_of_their_stages(report):
    def reason(stage: str, name: str) -> dict[str, Any]:
        return {"stage": stage, "reason": name, **amount(1)}

    source = {"licence": None, "weight": 1.0, "input": amount(9), "corpus": amount(5)}
    report["sources"] = [
        source | {"source": "a", "reasons": [reason("s1", "x"), reason("s2", "y")]},
        source | {"source": "b", "reasons": [reason("s1", "w"), reason("s2", "y"), reason("s3", "v")]},
        source | {"source": "c", "input": amount(0), "corpus": amount(0), "reasons": []},
    ]
    found = [row[:2] for row in rows(escape(page.sources(report))) if row[1] in ("S1", "S2", "S3")]
    assert found == [["x", "S1"], ["w", "S1"], ["y", "S2"], ["v", "S3"]]


def test_quarantine_personal_data_and_skipped_files_are_shown_row_by_row(report):
    report["quarantine"] = [
        {"source": "a", "problem": "bad_utf8", "documents": 1234, "examples": [f"place{at}" for at in range(7)]}
    ]
    body = escape(page.quarantine(report))
    assert rows(body)[1][:3] == ["a", "bad_utf8", "1,234"]
    assert re.findall(r"place\d", body) == [f"place{at}" for at in range(5)]
    report["totals"]["input"] = amount(200)
    report["personal_data"] = [
        {"kind": "email", "documents": 20, "found": 31, "redacted": True},
        {"kind": "phone", "documents": 1, "found": 1, "redacted": False},
    ]
    assert rows(escape(page.personal_data(report)))[1:] == [
        ["email", "20", "10.0%", "31", "replaced by a placeholder"],
        ["phone", "1", "0.5%", "1", "left as it is"],
    ]
    report["skipped"] = [
        {"source": "a", "inside": False, "reason": ".png", "count": 1200},
        {"source": "b", "inside": True, "reason": "redirect", "count": 3},
    ]
    assert rows(escape(page.skipped(report)))[1:] == [
        ["a", "file", ".png", "1,200"],
        ["b", "inside a file", "redirect", "3"],
    ]


def test_the_cost_of_stages_is_shared_and_summed(report):
    plain = {"units": 4, "documents": 5, "text_bytes": 0, "wall_s": 10.0}
    report["stages"] = [plain | {"stage": "measure", "core_s": 3600.0}, plain | {"stage": "select", "core_s": 1200.0}]
    report["totals"] |= {"wall_s": 25.0, "core_s": 5400.0}
    _, first, second, last = rows(escape(page.times(report)))
    assert first == ["Measure", "4", "5", "–", "10.0 s", "1.0", "75.0%", "–", "–"]
    assert second[5:7] == ["0.333", "25.0%"]
    assert last[:6] == ["Whole run", "", "", "", "25.0 s", "1.5"]
    assert "first run, times include compiling the kernels; `raymill warm`" in words(escape(page.times(report)))


# --- the funnel


def step(name: str, left: int, removed: int, **reasons: int) -> dict[str, Any]:
    return {
        "stage": name,
        "left": amount(left, 10 * left),
        "removed": amount(removed, 10 * removed),
        "reasons": [{"reason": reason, **amount(count, 10 * count)} for reason, count in reasons.items()],
    }


def test_the_two_stages_that_removed_the_most_are_open_and_name_their_largest_reasons(report):
    report["totals"]["input"] = amount(1000, 10_000)
    last = step("corpus", 540, 0)
    last["left"]["characters"] = 5000
    report["funnel"] = [
        step("read", 1000, 0),
        step("one", 900, 100, a=10, b=30, c=60),
        step("two", 600, 300, d=100, e=200, f=0),
        step("three", 550, 50, g=20, h=30),
        step("four", 540, 10, only=10),
        step("five", 540, 0),
        last,
    ]
    body = escape(page.funnel(report))
    assert folds(body)[:3] == [
        (True, "3 reasons: c 60, b 30, …"),
        (True, "2 reasons: e 200, d 100"),
        (False, "2 reasons: h 30, g 20"),
    ]
    text = words(body)
    assert "Reason: only" in text and text.count("removes nothing") == 1
    assert "400 characters cut out of documents or replaced by placeholders" in text
    assert "54.0% 540 documents" in text and "−30.0% 300 documents" in text
    table = [row for row in rows(body) if row[0] == "Two"]
    assert table == [["Two", "300", "600", "60.0%", "3,000", "6,000", "60.0%"]]
    assert [row for row in rows(body) if row[0] == "d"] == [["d", "", "100", "10.0%", "1,000", "10.0%"]]


def test_the_terminal_names_as_many_reasons_as_fit_and_counts_the_others(report):
    report["totals"]["input"] = amount(100)
    names = {f"reason_number_{at:02}": 20 - at for at in range(8)}
    report["funnel"] = [step("one", 50, 50, **names)]
    (line,) = funnel_text(report).splitlines()[1:]
    shown = re.findall(r"reason_number_\d\d \d+", line)
    assert shown == [f"{name} {count}" for name, count in list(names.items())[: len(shown)]]
    assert line.endswith(f", +{8 - len(shown)} more") and len(line) <= 100
    assert len(line) + len(", reason_number_00 20") > 100
    report["funnel"] = [step("one", 50, 50, **{"x" * 99: 1, "y" * 99: 2})]
    assert funnel_text(report).endswith("50.0%  2 reasons")


# --- signals and examples


def test_the_stages_whose_bounds_removed_the_most_are_open(report):
    def signal(name: str, stage: str, *reasons: str) -> dict[str, Any]:
        bounds = [{"reason": reason, "minimum": 1.5, "maximum": None} for reason in reasons]
        plain = {"description": "d", "scale": "linear", "edges": [0.0, 1.0, 2.0], "documents": [3, 4]}
        return plain | {"signal": name, "stage": stage, "bounds": bounds}

    report["funnel"] = [
        step("s1", 9, 5, a=5), step("s2", 9, 7, b=3, c=4), step("s3", 9, 6, d=2, unbounded=4), step("s4", 9, 0),
    ]  # fmt: skip
    report["histograms"] = [
        signal("plain", ""), signal("one", "s1", "a"), signal("two", "s2", "b"), signal("three", "s2", "c"),
        signal("four", "s3", "d"), signal("five", "s4", "none"),
    ]  # fmt: skip
    body = escape(page.signals(report))
    assert folds(body) == [
        (True, "Without bounds 1 signal"),
        (False, "S1 1 signal, 5 documents removed"),
        (True, "S2 2 signals, 7 documents removed"),
        (True, "S3 1 signal, 6 documents removed"),
        (False, "S4 1 signal"),
    ]
    assert re.findall(r"<h4><code>(\w+)", body) == ["plain", "one", "three", "two", "four", "five"]
    assert "under 1.5: c removed 4" in words(body)
    assert words(body).count("without a bound") == 1
    assert "Documents removed for reasons without a bound: unbounded 4." in words(body)
    assert 'aria-label="two: histogram of 7 documents, removed under 1.5"' in body


def test_three_groups_are_open_and_equal_texts_are_said_to_be_equal(report):
    def group(number: int, similarity: float | None, kept: str, removed: str) -> dict[str, Any]:
        sides = {"kept": {"id": f"k{number}", "source": "a", "excerpt": kept},
                 "removed": {"id": f"r{number}", "source": "b", "excerpt": removed}}  # fmt: skip
        return {"group_id": str(number), "documents": number + 2, "similarity": similarity} | sides

    report["groups"] = [
        group(0, 0.9, "one two three", "one 2 three"),
        group(1, None, "same", "same"),
        group(2, 0.8125, "old", "new"),
        group(3, 1.0, "x", "y"),
    ]
    body = escape(page.groups(report))
    assert folds(body) == [
        (True, "2 documents similarity 0.9, group 0"),
        (True, "3 documents equal text, group 1"),
        (True, "4 documents similarity 0.8125, group 2"),
        (False, "5 documents similarity 1, group 3"),
    ]
    assert "<del>two</del><ins>2</ins>" in body and body.count("The excerpts are equal.") == 1
    assert "Kept k0 from a Removed r0 from b" in words(body)


def test_the_definitions_of_patterns_take_no_room_and_are_not_read_aloud():
    (tag,) = re.findall("<svg[^>]*>", hatch())
    assert all(attribute in tag for attribute in ('width="0"', 'height="0"', 'aria-hidden="true"'))


@pytest.mark.parametrize(
    ("excerpt", "scrolls"),
    [("x" * 600, False), ("x" * 601, True), ("a\n" * 10 + "a", False), ("a\n" * 11 + "a", True)],
)
def test_a_long_excerpt_scrolls(report, excerpt, scrolls):
    plain = {"stage": "corpus", "reason": "kept", "id": "a", "source": "s", "value": None, "threshold": None}
    report["samples"] = [plain | {"language": "zh_Hans", "excerpt": excerpt}]
    (tag,) = re.findall(r'<div class="excerpt"[^>]*>', escape(page.samples(report)))
    assert ('tabindex="0"' in tag) == scrolls and 'lang="zh-Hans"' in tag


def test_examples_are_in_the_order_of_the_funnel_and_the_kept_ones_are_open(report):
    report["funnel"] = [step("s1", 9, 3, b=1, a=2), step("s2", 9, 1, a=1)]
    report["totals"]["corpus"] = amount(7) | {"tokens_estimate": 1}
    plain = {"id": "a", "source": "s", "language": None, "value": None, "threshold": None, "excerpt": "x"}
    keys = [("s2", "a"), ("s9", "z"), ("s1", "a"), ("corpus", "kept"), ("s1", "b"), ("s1", "a")]
    report["samples"] = [plain | {"stage": stage, "reason": reason} for stage, reason in keys]
    assert folds(escape(page.samples(report))) == [
        (True, "Kept 7 documents, 1 shown"),
        (False, "b S1, 1 document, 1 shown"),
        (False, "a S1, 2 documents, 2 shown"),
        (False, "a S2, 1 document, 1 shown"),
        (False, "z S9, 1 shown"),
    ]


# --- histograms


@given(
    st.lists(st.integers(0, 3), min_size=12, max_size=30).filter(any),
    st.one_of(st.none(), st.integers(0, 40)),
    st.booleans(),
)
def test_a_histogram_shows_the_bins_from_the_first_to_the_last_with_documents_or_the_bound(documents, bound, log):
    """With one more at either end; from 0 and at least ten where the signal is a fraction."""
    ends = [float(at) for at in range(len(documents) + 1)]
    bounds = [] if bound is None else [{"reason": "r", "minimum": None, "maximum": float(bound)}]
    drawing = histogram(ends, documents, bounds, log=log, label="x")
    inside = [at for at, count in enumerate(documents) if count or at == bound]
    first = max(inside[0] - 1, 0) if log else 0
    last = min(max(inside[-1], first + 8) + 2, len(documents))
    shown = re.findall(r"<title>([\d.,]+) to ([\d.,]+): (\d+) documents", drawing)
    assert [int(low) for low, _, _ in shown] == [at for at, count in enumerate(documents) if count]
    lefts = [
        float(x)
        for x in re.findall(
            r'<rect x="([\d.]+)" y="[\d.]+" width="[\d.]+" height="[\d.]+" class="(?:kept|cut|removed)"', drawing
        )
    ]
    if log:
        before = inside[0] < documents.index(next(filter(None, documents)))  # the bin of the bound
        assert (lefts[0] > SMALL.left + 0.1) == (before or inside[0] > 0)
    else:
        width = (SMALL.right - SMALL.left) / (last - first)
        assert lefts == pytest.approx(
            [SMALL.left + at * width for at, count in enumerate(documents) if count], abs=0.06
        )


@pytest.mark.parametrize(
    ("most", "marks"), [(1, 1), (3, 1), (4, 2), (6, 1), (8, 2), (39, 1), (40, 2), (41, 2), (1000, 2)]
)
def test_a_grid_line_stands_at_half_the_height_where_its_number_is_right_or_nearly_so(most, marks):
    drawing = histogram([0.0, 1.0, 2.0], [most, 0], [], log=False, label="x")
    assert drawing.count('class="grid"') == marks


@pytest.mark.parametrize(
    ("minimum", "maximum", "ends"),
    [(1.0, 3.0, (1.0, 4.0)), (1.5, 2.5, (1.5, 2.5)), (0.0, 9.0, (0.0, 9.0)), (2.0, 2.0, (2.0, 2.0))],
)
def test_a_bound_is_drawn_at_the_edge_of_the_kept_bin_that_holds_it(minimum, maximum, ends):
    counts = Bounds(minimum, maximum, counts=False)
    found = counts.ends([0.0, 1.0, 2.0, 3.0, 4.0])
    assert found[0] == ends[0]
    whole = Bounds(minimum, maximum, counts=True).ends([0.0, 1.0, 2.0, 3.0, 4.0])
    if minimum == int(minimum) and maximum < 4:
        assert whole == (minimum, float(int(maximum) + 1))


def test_a_signal_is_drawn_on_the_scale_of_its_values():
    """Fractions from 0 to 1, mean lengths to 20, scores of judges to 10, counts by powers of ten."""
    for rule in RULES.values():
        for signal, text in rule.signals.items():
            counted = not re.search(r"/|\d to 1\)|mean|expected score", text)
            assert is_count(signal) == counted, f"{signal}: {text}"
            whole = edges(signal)
            ends = {"judge_score": (0, 10), "judge_score_margin": (-5, 5)}
            least, most = ends.get(signal, (0, 1e8 if counted else 20 if "mean" in signal else 1))
            assert (whole[0], whole[-1]) == (least, most)
            assert all(low < high for low, high in pairwise(whole)) and len(whole) == (42 if counted else 41)
    assert is_count("characters") and is_count("tokens") and not is_count("language_score")


# --- word diffs


@pytest.mark.parametrize("context", [1, 3, 12])
def test_equal_words_are_left_out_where_that_leaves_out_more_than_ten(context):
    for length in range(2 * context + 5, 2 * context + 16):  # words and spaces, with the space before the change
        text = "".join(f"w{at // 2}" if at % 2 else " " for at in range(length))
        parts = word_diff(f"{text}", f"{text} changed", context=context)
        left_out = [part for part in parts if part.kind == "skipped"]
        assert bool(left_out) == (length > 2 * context + 10), length
        if left_out:
            middle = range(context, length - context)
            assert left_out[0].text == str(sum(at % 2 for at in middle))
