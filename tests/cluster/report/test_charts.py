"""Charts: a value, its tick, its dot and its mark are at one place, and every bar is as long as its share."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.cluster.report import charts
from raymill.cluster.report.charts import (
    Axis,
    BarSegment,
    Frame,
    Line,
    Mark,
    bar,
    histogram,
    is_spread,
    line_chart,
    thinned,
    ticks,
)


def shapes(drawing: str, tag: str, style: str | None = None) -> list[dict[str, str]]:
    """The attributes of each shape, with its own text and its title's."""
    found = list(ElementTree.fromstring(f"<g>{drawing}</g>").iter(tag))
    made = [one.attrib | {"text": one.text or "", "title": one.findtext("title") or ""} for one in found]
    return [one for one in made if style is None or style in one.get("class", "").split()]


def percent(text: str) -> float:
    return float(text.removesuffix("%"))


# Axes


@pytest.mark.parametrize(
    ("axis", "places"),
    [
        (Axis(10.0, 30.0, False, 0), {10: 0, 15: 0.25, 30: 1, 5: 0, 31: 1}),
        (Axis(-1.0, 1.0, False, 0), {-1: 0, 0: 0.5, 1: 1}),
        (Axis.over([1.0, 10.0, 100.0], log=True), {1: 0, 10: 0.5, 100: 1, 1000: 1, 0: 0}),
        (Axis.over([0.0, 1.0, 10.0], log=True), {0: 0, 0.5: 0.25, 1: 0.5, 10: 1, -3: 0}),
        (Axis.over([-5.0, 2.0, 20.0], log=True), {-5: 0, 0: 0, 1: 0.25, 2: 0.5, 20: 1}),
        (Axis.over([0.0, 4.0], log=True), {0: 0, 1: 0.25, 4: 1}),
        (Axis.over([0.0, 1.0, 10.0], log=False), {0: 0, 1: 0.1, 10: 1}),
    ],
)
def test_a_value_is_placed_by_its_distance_on_the_scale(axis, places):
    assert {value: axis.fraction(value) for value in places} == pytest.approx(places)


@pytest.mark.parametrize(
    ("axis", "wanted"),
    [
        (Axis(0.0, 10.0, False, 0).ticks(4), [0, 2.5, 5, 7.5, 10]),
        (Axis(0.0, 10.0, False, 0).ticks(2), [0, 5, 10]),
        (Axis(0.0, 8.0, False, 0).ticks(4), [0, 2, 4, 6, 8]),
        (Axis(-3.0, 3.0, False, 0).ticks(6), [-3, -2, -1, 0, 1, 2, 3]),
        (Axis(0.0, 80.0, False, 0).ticks(10), [0, 10, 20, 30, 40, 50, 60, 70, 80]),
        (Axis.over([0.0, 1.0, 10.0], log=True).ticks(), [0, 1, 10]),
        (Axis.over([1.0, 10.0, 1000.0], log=True).ticks(), [1, 10, 100, 1000]),
        (Axis.over([2.0, 20.0, 2000.0], log=True).ticks(), [10, 100, 1000]),
        (Axis.over([1.0, 10.0, 1e5], log=True).ticks(), [1, 10, 100, 1e3, 1e4, 1e5]),
        (Axis.over([0.0, 1.0, 10.0, 1e6], log=True).ticks(), [0, 100, 1e4, 1e6]),
    ],
)
def test_the_ticks_of_an_axis_are_round_and_about_as_many_as_asked_for(axis, wanted):
    assert axis == pytest.approx(wanted)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 12))
def test_the_ticks_of_a_linear_axis_lie_on_it_one_round_step_apart(low, length, about):
    axis = Axis(low, low + length, False, 0)
    found = axis.ticks(about)
    slack = 1e-6 * length + 1e-9 * abs(low)
    assert all(low - slack <= tick <= axis.high + slack for tick in found)
    steps = [after - before for before, after in pairwise(found)]
    assert len(found) <= about + 1
    if steps:
        step = steps[0]
        assert steps == pytest.approx([step] * len(steps), rel=1e-3)
        assert float(f"{step:.2g}") == pytest.approx(step, rel=1e-3) and length / about <= step * (1 + 1e-3)
        assert step <= 2.5 * length / about
        assert found[0] - step < low + slack and found[-1] + step > axis.high - slack, "none is left out at an end"


def test_the_ticks_of_a_drawing_stand_below_their_values_and_inside_the_frame():
    frame = Frame(width=200, left=20, right=180, top=10, bottom=100)
    assert (frame.x(0), frame.x(0.25), frame.x(1), frame.y(0), frame.y(0.5), frame.y(1)) == (20, 60, 180, 100, 55, 10)
    assert ticks(Axis(0.0, 4.0, False, 0), frame) == [
        (20, "start", "0"), (60, "middle", "1"), (100, "middle", "2"), (140, "middle", "3"), (180, "end", "4"),
    ]  # fmt: skip
    drawing = histogram([0.0, 2.0, 4.0], [1, 2], [], log=False, label="x", frame=frame)
    labels = shapes(drawing, "text")[-5:]
    lines = [line for line in shapes(drawing, "line", "axis") if line["x1"] == line["x2"]]
    assert [(one["text"], one["class"].split()[1]) for one in labels] == [
        ("0", "start"), ("1", "middle"), ("2", "middle"), ("3", "middle"), ("4", "end"),
    ]  # fmt: skip
    for label, line in zip(labels, lines, strict=True):
        assert line["x1"] == line["x2"] == label["x"] and float(line["y1"]) == frame.bottom < float(line["y2"])
        assert float(label["y"]) > float(line["y2"])


@pytest.mark.parametrize(("place", "side"), [(11, "start"), (12, "middle"), (88, "middle"), (89, "end")])
def test_a_label_near_an_end_leans_inwards(place, side):
    found = ticks(Axis(-place, 100.0 - place, False, 0), Frame(left=0, right=100))
    assert [where for _, where, number in found if number == "0"] == [side]


# Bars


def test_segments_stand_side_by_side_and_are_as_wide_as_their_share():
    pieces = [
        BarSegment(1, "a", "one"),
        BarSegment(0, "b", "none"),
        BarSegment(2, "c", "two"),
        BarSegment(-1, "b", "none"),
    ]
    drawing = bar([*pieces, BarSegment(3, "d", "<three>")], 10, "label", style="thin")
    track, *rects = shapes(drawing, "rect")
    assert (track["x"], track["width"], track["class"]) == ("0", "1000", "track")
    assert [(one["class"], float(one["x"]), float(one["width"]), one["title"]) for one in rects] == [
        ("a", 0, 100, "one"), ("c", 100, 200, "two"), ("d", 300, 300, "<three>"),
    ]  # fmt: skip
    (svg,) = shapes(drawing, "svg")
    assert (svg["class"], svg["role"], svg["aria-label"]) == ("bar thin", "img", "label") and "aria-hidden" not in svg
    (hidden,) = shapes(bar(pieces, 10, ""), "svg")
    assert (hidden["class"], hidden["aria-hidden"]) == ("bar", "true") and not {"role", "aria-label"} & set(hidden)
    assert len(shapes(bar(pieces, 0, "no whole"), "rect")) == 1


def test_a_rare_segment_is_visible_also_at_the_end_of_a_full_bar():
    rects = shapes(bar([BarSegment(10**6, "a", ""), BarSegment(1, "b", "")], 10**6 + 1, "x"), "rect")[1:]
    assert [float(one["width"]) for one in rects] == pytest.approx([1000, charts._THINNEST], abs=0.01)
    assert float(rects[1]["x"]) + float(rects[1]["width"]) == 1000


# Lines


def test_a_value_has_its_dot_its_grid_line_and_its_label_at_one_height_and_a_step_all_at_one_place():
    points = [(float(step), float(value)) for step, value in zip(range(0, 101, 20), (0, 2, 4, 6, 8, 10), strict=True)]
    drawing = line_chart(
        [Line("loss", "fine", points, dots=True), Line("one", "lonely", [(60.0, 4.0)])],
        "what it shows",
        span=(0, 100),
        marks=[Mark(40, "restart"), Mark(80, "again")],
        height=300,
        show=lambda value: f"{value:g} nats",
    )
    bottom = max(float(line["y1"]) for line in shapes(drawing, "line", "axis"))
    assert 300 - 40 < bottom < 300
    dots = {dot["title"]: dot for dot in shapes(drawing, "circle")}
    assert list(dots) == [f"loss, {step:g}: {value:g} nats" for step, value in points] + ["one, 60: 4 nats"]
    heights = {title.rpartition(": ")[2]: float(dot["cy"]) for title, dot in dots.items()}
    grid, labels = shapes(drawing, "line", "grid"), shapes(drawing, "text", "end")
    labels = [label for label in labels if "nats" in label["text"]]
    assert len(grid) == len(labels)
    between = [float(before["y1"]) - float(after["y1"]) for before, after in pairwise(grid)]
    assert all(charts._TICK_EVERY / 2 < pixels < 3 * charts._TICK_EVERY for pixels in between), (
        "neither crowded nor bare"
    )
    for line, label in zip(grid, labels, strict=True):
        assert line["y1"] == line["y2"] and 0 < float(label["y"]) - float(line["y1"]) < 8
        if label["text"] in heights:
            assert float(line["y1"]) == pytest.approx(heights[label["text"]], abs=0.2)
    assert {"0 nats", "10 nats"} <= {label["text"] for label in labels} & set(heights)
    places = {title.partition(":")[0].rpartition(" ")[2]: percent(dot["cx"]) for title, dot in dots.items()}
    assert places == {f"{step:g}": step for step, _ in points}
    steps = [text for text in shapes(drawing, "text", "tick") if text["text"] in ("0", "25", "50", "75", "100")]
    assert [percent(text["x"]) for text in steps] == [0, 25, 50, 75, 100]
    assert [text["class"].split()[1] for text in steps] == ["start", "middle", "middle", "middle", "end"]
    below = [line for line in shapes(drawing, "line", "axis") if line["x1"] == line["x2"]]
    assert [percent(line["x1"]) for line in below] == [0, 25, 50, 75, 100]
    assert {float(line["y1"]) for line in below} == {bottom} and all(float(line["y2"]) > bottom for line in below)
    assert all(bottom < float(text["y"]) <= 300 for text in steps)
    (path,) = shapes(drawing, "path")
    assert path["class"] == "fine"
    drawn = [tuple(map(float, place.split())) for place in path["d"].removeprefix("M").split("L")]
    assert drawn == [(10 * step, heights[f"{value:g} nats"]) for step, value in points]
    marks = shapes(drawing, "line", "mark")
    assert [(percent(mark["x1"]), percent(mark["x2"]), mark["title"]) for mark in marks] == [
        (40, 40, "40: restart"), (80, 80, "80: again"),
    ]  # fmt: skip
    assert all(0 < float(mark["y1"]) < heights["10 nats"] and float(mark["y2"]) == bottom for mark in marks)
    outer, stretched = shapes(drawing, "svg")
    assert (outer["height"], outer["aria-label"], outer["role"]) == ("300", "what it shows", "img")
    assert outer["class"] == "lines", "the class that the style sheet makes wide and leaves room for labels"
    assert (stretched["viewBox"], stretched["height"], stretched["preserveAspectRatio"]) == (
        "0 0 1000 300",
        "300",
        "none",
    )


@pytest.mark.parametrize(("count", "numbered"), [(1, True), (20, True), (21, False)])
def test_marks_carry_numbers_while_these_do_not_overlap(count, numbered):
    marks = [Mark(step, "x") for step in range(1, count + 1)]
    drawing = line_chart([Line("a", "s", [(0, 1.0), (30, 2.0)])], "x", span=(0, 30), marks=marks)
    top = min(float(mark["y1"]) for mark in shapes(drawing, "line", "mark"))
    above = [text["text"] for text in shapes(drawing, "text", "tick") if float(text["y"]) < top]
    assert above == ([str(number) for number in range(1, count + 1)] if numbered else [])


@pytest.mark.parametrize("from_zero", [False, True])
def test_a_chart_leaves_a_twentieth_of_room_and_begins_at_zero_where_asked(from_zero):
    drawing = line_chart([Line("a", "s", [(0, 10.0), (1, 20.0)])], "x", span=(0, 1), from_zero=from_zero, height=200)
    low, high = (float(y) for y in re.findall(r"(?:M|L)[\d.]+ ([\d.]+)", drawing))
    bottom, top = 200 - charts._BELOW, charts._TOP
    first, last = (0.0 if from_zero else 9.5), 20.5
    wanted = [bottom - (value - first) / (last - first) * (bottom - top) for value in (10, 20)]
    assert [low, high] == pytest.approx(wanted, abs=0.06)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_a_line_of_one_value_stands_in_the_middle(value):
    drawing = line_chart([Line("a", "s", [(0, value), (1, value)])], "x", span=(0, 1), height=200)
    heights = [float(y) for y in re.findall(r"(?:M|L)[\d.]+ ([\d.]+)", drawing)]
    assert heights == pytest.approx([(200 - charts._BELOW + charts._TOP) / 2] * 2, abs=0.1)


def test_a_span_of_fewer_than_four_steps_has_ticks_at_whole_steps_alone():
    drawing = line_chart([Line("a", "s", [(1, 5.0), (2, 6.0)])], "x", span=(1, 2))
    bottom = max(float(line["y1"]) for line in shapes(drawing, "line", "axis"))
    assert [text["text"] for text in shapes(drawing, "text", "tick") if float(text["y"]) > bottom + 5] == ["1", "2"]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(2.5, 60.0, {5, 10, 20, 50}), (1.0, 1000.0, {1, 10, 100, 1000}), (0.2, 0.9, {0.2, 0.5})],
)
def test_the_ticks_of_a_logarithmic_chart_are_decades_or_finer_ones(low, high, labels):
    drawing = line_chart([Line("a", "s", [(0, low), (1, high)], dots=True)], "x", span=(0, 1), log=True, show=str)
    dots = [float(dot["cy"]) for dot in shapes(drawing, "circle")]
    labelled = zip(shapes(drawing, "line", "grid"), shapes(drawing, "text", "end"), strict=False)
    grid = {float(label["text"]): float(line["y1"]) for line, label in labelled}
    assert set(grid) == labels
    per_decade = (dots[0] - dots[1]) / math.log10(high / low)
    for value, height in grid.items():
        assert height == pytest.approx(dots[0] - per_decade * math.log10(value / low), abs=0.2)


@pytest.mark.parametrize(
    ("values", "spread"),
    [([1.0, 50.0], False), ([1.0, 50.1], True), ([50.1, 1.0, 2.0], True), ([0.0, 100.0], False), ([-1.0, 100.0], False),
     ([1.0, math.inf], False), ([1.0, math.nan, 60.0], True), ([], False)],
)  # fmt: skip
def test_values_are_spread_where_the_largest_is_over_fifty_times_the_smallest(values, spread):
    assert is_spread(values) is spread
    assert is_spread([1.0, 3.0], ratio=2) and not is_spread([1.0, 2.0], ratio=2)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-9, 9)), max_size=80), st.integers(1, 12))
def test_thinning_keeps_the_extremes_of_every_column_in_order(places, columns):
    points = sorted((float(x), float(y)) for x, y in dict(places).items())
    kept = thinned(points, columns)
    if len(points) <= 2 * columns:
        assert kept == points
        return
    first, last = points[0][0], points[-1][0]
    by_column: dict[int, list] = {}
    for point in points:
        by_column.setdefault(min(columns - 1, int(columns * (point[0] - first) / (last - first))), []).append(point)
    assert kept == sorted(kept) and set(kept) <= set(points)
    for column in by_column.values():
        shown = [point[1] for point in kept if point in column]
        values = [point[1] for point in column]
        assert (min(shown), max(shown)) == (min(values), max(values))
        assert len(shown) == len({min(values), max(values)})
