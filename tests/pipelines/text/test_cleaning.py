"""HTML remnants: what goes, what stays, and that no text takes long."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymill.pipelines.text.cleaning import straight_quotes, without_html

CASES = {
    "paragraphs": ("<p>One</p><p>Two &amp; three</p>", "One\n\nTwo & three"),
    "breaks": ("One<br>two<BR/>three<br />four", "One\ntwo\nthree\nfour"),
    "words in a line": ("a <b>bold</b> <span style='x:1'>word</span>", "a bold word"),
    "attributes": ('<a href="https://example.com?a=1&b=2" title="&quot;">here</a>', "here"),
    "items": ("Do:<ul>\n<li>one</li>\n<li>two</li></ul>then", "Do:\n- one\n- two\nthen"),
    "a table": ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\n\nc"),
    "scripts and comments": ("a<!-- x < y -->b<script type='x'>if (1<2) {}</script>c<STYLE>p{}</style>d", "abcd"),
    "entities": ("5 &lt; 6&nbsp;&euro; &#8220;x&#x201d;", "5 < 6 € “x”"),
    "blank lines": ("a<div></div><div></div><div></div>b", "a\n\nb"),
    "code": ("Use `<br>` or\n```\n<p>&amp;</p>\n```\nnot <br>", "Use `<br>` or\n```\n<p>&amp;</p>\n```\nnot"),
    "spaces before code": ("one<br>use `x` now", "one\nuse `x` now"),
    "a tag with attributes that nothing ends": ('see <a href="/x">here, a<b', "see here, a<b"),
    "a comparison beside tags": ("<p>if a<b or i<j</p>", "if a<b or i<j"),
    "attributes without values": ("<OL reversed><li>one</ol><table nowrap ><td>a", "- one\n\na"),
}

STAYS = (
    "a < b and c > d",
    "if a<b and c>d",
    "a<b>c and x<i>y",
    "for (i=0; i<s && s>t; i++)",
    "<title> stands for a title, <u for more",
    "if p<q p2 and q>p",
    "an end </b> alone",
    "vector<int> v; map<string, T>",
    "<3 you",
    "see ?a=1&copy=2&lt",
    "AT&T; R&D",
    "write to <ann@example.com>",
    "<https://example.com>",
    "<placeholder> stays",
    "<!-- no end",
    "<script> no end",
    "  kept as it is \n\n\n ",
)


@pytest.mark.parametrize("name", CASES)
def test_html_becomes_text(name):
    html, text = CASES[name]
    assert without_html(html) == text


@pytest.mark.parametrize("text", STAYS)
def test_what_is_no_html_stays(text):
    assert without_html(text) == text


@given(st.text("<>/pbrli !-&;amp\"'`\n#6script", max_size=200))
def test_nothing_is_added_but_dashes_and_lines(text):
    found = without_html(text)
    assert found.count("<") <= text.count("<") + text.count("&")
    assert len(found) <= 2 * len(text) + 2


@pytest.mark.parametrize("part", ["<!--", "<script>", "<a href='", '<a "', " ", "<li>", "`", "<p ", "&#", "\n \n", "<"])
def test_time_is_linear(part):
    def seconds(count: int) -> float:
        began = time.process_time()
        without_html("&" + part * count)
        return time.process_time() - began

    assert seconds(100_000) < 5, "a quadratic one takes minutes"


# --- Typographic quotation marks become straight ones, but in code.


STAY = "\u00ab non \u00bb 5\u2032 3\u2033 Hawai\u02bbi m\u02bci"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\u201cIt\u2019s \u2018fine\u2019\u201d, \u201eja\u201f \u201ani\u201b", "\"It's 'fine'\", \"ja\" 'ni'"),
        (STAY, STAY),
        ("\u2019a `\u2019b` \u2019c ``\u2019 ` \u2019`` \u2019d", "'a `\u2019b` 'c ``\u2019 ` \u2019`` 'd"),
        ("an ` alone \u2019a\nand ` another \u2019b", "an ` alone 'a\nand ` another 'b"),
        ("\u2019a\n```py\n\u2019b `\n````\n\u2019c", "'a\n```py\n\u2019b `\n````\n'c"),
        ("\u2019a\n  ~~~\n\u2019b\n```\n\u2019c\n  ~~~\n\u2019d", "'a\n  ~~~\n\u2019b\n```\n\u2019c\n  ~~~\n'd"),
        ("````\n\u2019b\n```\n\u2019c\n````\n\u2019d", "````\n\u2019b\n```\n\u2019c\n````\n'd"),
        ("\u2019a\n```\n\u2019never closed", "'a\n```\n\u2019never closed"),
        ("within a ``` line \u2019a", "within a ``` line 'a"),
    ],
)  # fmt: skip
def test_quotation_marks_are_straight_outside_of_code(text, wanted):
    assert straight_quotes(text) == wanted
    assert straight_quotes(wanted) == wanted


MARKS = "\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f"


@given(st.text(alphabet=f"ab \n`~{MARKS}"))
def test_nothing_else_changes(text):
    found = straight_quotes(text)
    assert len(found) == len(text)
    assert all(one == other or (one in MARKS and other in "'\"") for one, other in zip(text, found, strict=True))
    if "`" not in text and "~~~" not in text:
        assert not set(found) & set(MARKS)


def test_many_marks_of_code_without_an_end_take_linear_time():
    """0.1 s of 300 kB; in quadratic time minutes."""
    for hostile in ("\u2019`\n", "``` ", "~~~", "`` ` ``` ", "\n```", "\n~~~~ `", " \t"):
        text = hostile * (300_000 // len(hostile)) + "\u2019`"
        assert len(straight_quotes(text)) == len(text)
