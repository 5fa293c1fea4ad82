"""HTML remnants: what goes, what stays, and that no text takes long."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text.html_remnants import without_html

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
