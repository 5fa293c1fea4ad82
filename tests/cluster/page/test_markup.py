"""Elements escape what is text and nothing else, and tables put each value where its column is."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.page import markup
from cluster.page.markup import Column, Markup, Section, anchor, element, fold, join, outside_text, table, text


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (element("p"), "<p></p>"),
        (element("br"), "<br/>"),
        (element("line", x1=1.0, y1=2), '<line x1="1" y1="2"/>'),
        (element("rect", element("title", "a"), x=0), '<rect x="0"><title>a</title></rect>'),
        (element("p", "a<b", 3, None, Markup("<i>"), ["&", [Markup("</i>")]]), "<p>a&lt;b3<i>&amp;</i></p>"),
        (element("p", class_="c d", aria_label='say "x"', http_equiv="e"),
         '<p class="c d" aria-label="say &quot;x&quot;" http-equiv="e"></p>'),
        (element("details", open=True, hidden=False, id=None), "<details open></details>"),
        (element("p", a=1.5, b=0.126, c=10.0, d=100, e=-0.25, f="1.50"),
         '<p a="1.5" b="0.13" c="10" d="100" e="-0.25" f="1.50"></p>'),
        (join("a", Markup("<b>"), 0, None, ("c",)), "a<b>0c"),
    ],
)  # fmt: skip
def test_an_element_has_its_attributes_and_its_children_as_text_or_as_markup(made, wanted):
    assert made == wanted and isinstance(made, Markup)


def test_every_character_that_html_cannot_hold_is_replaced_and_no_other():
    line_ends, controls = {"\t": "\t", "\n": "\n", "\r": "\n"}, [*range(0x20), *range(0x7F, 0xA0)]
    for code in range(0x110000):
        character = chr(code)
        if (code in controls and character not in line_ends) or 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF):
            wanted = "\ufffd"
        else:
            wanted = {"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&quot;", "'": "&#x27;"} | line_ends
            wanted = wanted.get(character, character)
        assert text(character) == wanted, hex(code)
    assert text("a\r\nb\rc\n\rd") == "a\nb\nc\n\nd"


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
    columns = [
        Column("name", numeric=False),
        Column("documents"),
        Column("", numeric=False),
        Column("words", numeric=False),
    ]
    own = element("td", "own", class_="bar")
    made = table("a < b", columns, [("z", 1, own, "x"), ("a", 2, "y", None)], foot=("all", 3, "", "w"))
    found = Cells(made)
    assert found.caption == "a < b"
    assert found.rows == [
        [["thead", "th", None, "col", "name"], ["thead", "th", "n", "col", "documents"],
         ["thead", "td", None, None, ""], ["thead", "th", None, "col", "words"]],
        [["tbody", "th", None, "row", "z"], ["tbody", "td", "n", None, "1"], ["tbody", "td", "bar", None, "own"],
         ["tbody", "td", None, None, "x"]],
        [["tbody", "th", None, "row", "a"], ["tbody", "td", "n", None, "2"], ["tbody", "td", None, None, "y"],
         ["tbody", "td", None, None, ""]],
        [["tfoot", "th", None, "row", "all"], ["tfoot", "td", "n", None, "3"], ["tfoot", "td", None, None, ""],
         ["tfoot", "td", None, None, "w"]],
    ]  # fmt: skip
    assert "tfoot" not in table("x", columns, [("z", 1, "", "x")])
    assert 'tabindex="0"' in made and 'role="group"' in made and 'aria-label="Table' in made
    for short in (("a", 1, 2), ("a", 1, 2, 3, 4)):
        with pytest.raises(ValueError, match="zip"):
            table("x", columns, [short])


@pytest.mark.parametrize("length", [0, 299, 300, 301, 1000])
def test_a_text_from_outside_is_cut_at_300_characters_with_a_sign_of_it(length):
    words = "x" * length
    shown = outside_text(words).removeprefix("<bdi>").removesuffix("</bdi>")
    assert shown == (words if length <= 300 else "x" * 300 + "…")


def test_a_fold_is_open_or_closed_below_its_summary_and_a_section_is_named_by_its_heading():
    assert fold("sum", "inner", opened=False) == "<details><summary>sum</summary>inner</details>"
    assert fold("sum", "inner", opened=True, anchor="a") == '<details open id="a"><summary>sum</summary>inner</details>'
    made = Section("where", "The title", Markup("<p>body</p>")).html()
    heading = re.search(
        r'<section id="where" aria-labelledby="([^"]+)"><h2 id="([^"]+)">The title</h2><p>body</p>', made
    )
    assert heading and heading[1] == heading[2]


@given(st.lists(st.text("aZ9 -_.!é", max_size=8), max_size=4))
def test_an_anchor_is_lower_case_letters_digits_and_single_hyphens_between_them(parts):
    wanted = ["-".join(re.findall(r"[a-z0-9]+", part.lower())) for part in parts]
    assert anchor(*parts) == "-".join(wanted)


def test_short_parts_have_the_class_that_the_style_sheet_gives_them():
    style = (markup.__file__.rpartition("/")[0]) + "/page.css"
    with open(style) as file:
        classes = set(re.findall(r"\.([a-z]+)", file.read()))
    for made in (
        markup.sentence("x"),
        markup.note("x"),
        markup.name("x"),
        markup.wrapped("x"),
        markup.scroll_box("x", "label"),
    ):
        assert set(re.findall(r'class="(\w+)"', made)) <= classes and ">x<" in made
    assert markup.code("a<b") == "<code>a&lt;b</code>"
