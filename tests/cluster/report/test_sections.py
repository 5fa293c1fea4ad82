"""The parts of a report, and sections from facts alone."""

import re
from html.parser import HTMLParser
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup, escape

from raymill.cluster.report.page import page, valid_text
from raymill.cluster.report.sections import (
    Cell,
    DataTable,
    Facts,
    Figure,
    Fold,
    Items,
    Listing,
    Passage,
    Section,
    Tile,
    Tiles,
    anchor,
    code,
    join,
    note,
    outside,
    plain_sections,
    sentence,
    styled,
    warnings_section,
    with_code,
)
from tests.support.report_cases import HOSTILE, Page, hostile


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (join("a<", Markup("<b>"), 0, None, "c", code("&")), "a&lt;<b>0c<code>&amp;</code>"),
        (styled("a b", "x<", code("y"), tag="p"), '<p class="a b">x&lt;<code>y</code></p>'),
        (with_code("set `a<b` or `c`"), "set <code>a&lt;b</code> or <code>c</code>"),
        (Items(["a<b", code("c"), 3]), "<ul><li>a&lt;b</li><li><code>c</code></li><li>3</li></ul>"),
        (Items(["a"], "events", ordered=True), '<ol class="events"><li>a</li></ol>'),
        (Tiles([("a<", "b<", "c<")]),
         '<dl class="tiles"><div><dt>a&lt;</dt><dd><strong>b&lt;</strong><span>c&lt;</span></dd></div></dl>'),
        (Facts([("a", code("b"))]), '<dl class="facts"><div><dt>a</dt><dd><code>b</code></dd></div></dl>'),
        (Figure("h<", ["w"], Markup("<svg/>"), level=4),
         "<figure><figcaption><h4>h&lt;</h4>w</figcaption><svg/></figure>"),
        (Passage(["a<", code("b")], "zh_Hans"),
         '<div class="excerpt" dir="auto" lang="zh-Hans">a&lt;<code>b</code></div>'),
        (Passage(["a"], 'zh" onload="x'), '<div class="excerpt" dir="auto">a</div>'),
        (Fold(["sum<"], ["inner<", None, note("n")]),
         '<details><summary>sum&lt;</summary>inner&lt;<p class="note">n</p></details>'),
        (Fold(["sum"], [], opened=True, anchor="a"), '<details open id="a"><summary>sum</summary></details>'),
    ],
)  # fmt: skip
def test_a_part_has_its_content_as_text_or_as_parts(made, wanted):
    assert escape(made) == wanted


def test_every_character_that_html_cannot_hold_is_replaced_and_no_other():
    line_ends, controls = {"\t": "\t", "\n": "\n", "\r": "\n"}, [*range(0x20), *range(0x7F, 0xA0)]
    for code_point in range(0x110000):
        character = chr(code_point)
        if (
            (code_point in controls and character not in line_ends)
            or 0xD800 <= code_point < 0xE000
            or (code_point in (0xFFFE, 0xFFFF))
        ):
            assert valid_text(character) == "\ufffd", hex(code_point)
        else:
            assert valid_text(character) == line_ends.get(character, character), hex(code_point)
    assert valid_text("a\r\nb\rc\n\rd") == "a\nb\nc\n\nd"
    assert escape("<&>\"'") == "&lt;&amp;&gt;&#34;&#39;"


class Cells(HTMLParser):
    """(part of the table, tag, class, scope, text) of each cell, row by row."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.part, self.rows, self.caption = "", [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag in ("thead", "tbody", "tfoot", "caption"):
            self.part = tag
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append([self.part, tag, found.get("class"), found.get("scope"), ""])

    def handle_data(self, data):
        if self.part == "caption":
            self.caption += data
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1][-1] += data


def test_a_table_has_its_rows_in_order_with_numbers_to_the_right_and_the_foot_below():
    own = Cell("own", "heat-1", "1 of 2")
    rows = [("z", 1234, "own", "x"), ("a", own, "y", None)]
    made = escape(DataTable("a < b", ["name", ">documents", "", "words"], rows, foot=("all", 3, "", "w")))
    found = Cells(made)
    assert found.caption == "a < b"
    assert found.rows == [
        [["thead", "th", None, "col", "name"], ["thead", "th", "n", "col", "documents"],
         ["thead", "td", None, None, ""], ["thead", "th", None, "col", "words"]],
        [["tbody", "th", None, "row", "z"], ["tbody", "td", "n", None, "1,234"], ["tbody", "td", None, None, "own"],
         ["tbody", "td", None, None, "x"]],
        [["tbody", "th", None, "row", "a"], ["tbody", "td", "n heat-1", None, "own"], ["tbody", "td", None, None, "y"],
         ["tbody", "td", None, None, ""]],
        [["tfoot", "th", None, "row", "all"], ["tfoot", "td", "n", None, "3"], ["tfoot", "td", None, None, ""],
         ["tfoot", "td", None, None, "w"]],
    ]  # fmt: skip
    assert "tfoot" not in escape(DataTable("x", ["a"], [("z",)]))
    assert 'tabindex="0"' in made and 'role="group"' in made and 'aria-label="Table' in made
    for short in (("a", 1, 2), ("a", 1, 2, 3, 4)):
        with pytest.raises(ValueError, match="zip"):
            escape(DataTable("x", ["a", "b", "c", "d"], [short]))


def test_a_title_of_a_column_may_be_markup():
    assert '<th scope="col" class="n"><b>&gt;a</b></th>' in escape(
        DataTable("x", ["", Markup(">") + Markup("<b>{}</b>").format(">a")], [])
    )


@pytest.mark.parametrize("length", [0, 299, 300, 301, 1000])
def test_a_text_from_outside_is_cut_at_300_characters_with_a_sign_of_it(length):
    words = "x" * length
    shown = outside(words).removeprefix("<bdi>").removesuffix("</bdi>")
    assert shown == (words if length <= 300 else "x" * 300 + "…")


def test_a_section_is_named_by_its_heading_and_warnings_are_counted():
    made = escape(Section("where", "The <title>", [Markup("<p>body</p>"), "text<"]))
    assert made == (
        '<section id="where" aria-labelledby="where-heading"><h2 id="where-heading">The &lt;title&gt;</h2><p>body</p>'
        "text&lt;</section>"
    )
    assert warnings_section([]) is None
    assert warnings_section(["a<"]) == Section("warnings", "1 warning", [Items([Markup("a&lt;")])])


@given(st.lists(st.text("aZ9 -_.!é", max_size=8), max_size=4))
def test_an_anchor_is_lower_case_letters_digits_and_single_hyphens_between_them(parts):
    wanted = ["-".join(re.findall(r"[a-z0-9]+", part.lower())) for part in parts]
    assert anchor(*parts) == "-".join(wanted)


def test_parts_have_the_classes_that_the_style_sheet_knows():
    style = resources.files("raymill.cluster.report").joinpath("page.css").read_text()
    classes = set(re.findall(r"\.([a-z]+)", style))
    parts = (
        sentence("x"),
        note("x"),
        Passage(["x"]),
        Listing("x", "label"),
        DataTable("x", ["a"], []),
        Tiles([]),
        Facts([]),
    )
    for made in map(escape, parts):
        assert (found := set(re.findall(r'class="(\w+)"', made))) and found <= classes


FACTS = {
    "files": 1234,
    "seconds": 0.25,
    "kept_words": {"a": 5, "the": 60_000},
    "skipped_files": [{"name": "a.png", "bytes": 12, "why": None}],
    "empty": [],
    "warnings": ["1 file was skipped"],
    "config": {"kind": "count"},
}


def test_facts_are_tiles_and_tables_with_their_names_as_titles():
    warned, result, kept, skipped, empty, config = plain_sections(FACTS)
    assert warned == Section("warnings", "1 warning", [Items(["1 file was skipped"])])
    assert result == Section("result", "Result", [Tiles([("Files", "1,234", ""), ("Seconds", "0.25", "")])])
    (table,) = [one for one in skipped.content if one]
    assert isinstance(table, DataTable) and table.columns == ["Name", ">Bytes", "Why"]
    assert (skipped.id, skipped.title) == ("skipped-files", "Skipped files")
    assert '<td class="n">60,000</td>' in escape(kept) and "None." in escape(empty) and config.id == "config"


def test_facts_may_have_small_print_and_tables_notes():
    facts = {
        "kept": Tile(0.5, "0.4 to 0.6"),
        "cost": Tile("0.10", ""),
        "by_name": [{"name": "a", "mean": None}, {"mean": 2}],
    }
    facts["by_name"][1]["name"] = "words " * 9
    facts["warnings"] = ["Enlarge `sample`."]
    warned, result, table, _ = plain_sections(facts, {"by_name": "Of all `files`."})
    assert result.content == [Tiles([("Kept", "0.5", "0.4 to 0.6"), ("Cost", "0.10", "")])]
    shown = escape(table)
    assert "Of all <code>files</code>." in shown and "<caption>" not in shown and shown.count("By name") == 1
    assert '<th scope="col" class="n">Mean</th>' in shown, "a number in any row makes a column of numbers"
    assert '<span class="wrapped"><bdi>words words' in shown and '<span class="wrapped"><bdi>a<' not in shown
    assert "Enlarge <code>sample</code>." in escape(warned)


def test_a_page_of_facts_shows_hostile_texts_as_texts():
    run = ("n", "2026-03-04T05:06:07+00:00", "1", "o")
    honest, attacked = (Page(page("Count report", *run, plain_sections(one))) for one in (FACTS, hostile(FACTS)))
    assert {tag for tag, _ in attacked.tags} == {tag for tag, _ in honest.tags}
    assert HOSTILE[:40] in attacked.text["warnings"] and "a.png" in honest.text["skipped-files"]
