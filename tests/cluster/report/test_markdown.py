"""Markdown of records is rendered, and a text cannot put anything else on a page."""

import re
from html.parser import HTMLParser

import pytest
from markupsafe import escape

from raymill.cluster.report.markdown import markdown
from raymill.cluster.report.page import valid_text

_SAFE = {
    "div", "p", "strong", "em", "s", "code", "pre", "br", "ul", "ol", "li", "blockquote",
    "table", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("# Log in\n\nPress **once**.",
         '<p class="heading-1"><strong>Log in</strong></p><p>Press <strong>once</strong>.</p>'),
        ("two\nlines", "<p>two<br/>lines</p>"),
        ("3. a\n4. b", '<ol start="3"><li><p>a</p></li><li><p>b</p></li></ol>'),
        ("- a\n  - b", "<ul><li><p>a</p><ul><li><p>b</p></li></ul></li></ul>"),
        ("> `a<b`", "<blockquote><p><code>a&lt;b</code></p></blockquote>"),
        ("```html\n<b>\n```", "<pre><code>&lt;b&gt;\n</code></pre>"),
        ("|a|b|\n|-|-|\n|1|2|",
         "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2</td></tr></tbody></table>"),
        ("[here](https://a.org)", "<p>here (https://a.org)</p>"),
        ("<https://a.org?b&c>", "<p>https://a.org?b&amp;c</p>"),
        ("![logo](https://a.org/x.png)", "<p>logo (https://a.org/x.png)</p>"),
        ("[gone]: https://a.org", "<p>[gone]: https://a.org</p>"),
        ("&lt; is not <", "<p>&amp;lt; is not &lt;</p>"),
        ("", ""),
    ],
)  # fmt: skip
def test_markdown_is_rendered_and_what_it_refers_to_is_shown_as_text(words, wanted):
    assert markdown(words) == f'<div class="markdown" dir="auto">{wanted}</div>'


@pytest.mark.parametrize(
    "words",
    ["*" * 500 + "a" + "*" * 500, ">" * 500 + " read this", ">" * 20 + " a",
     "\n".join("  " * n + "- a" for n in range(25)),
     "~~a" * 50_000],
    ids=["stars", "quotes", "20 quotes", "lists", "length"],
)  # fmt: skip
def test_what_is_nested_deeply_or_very_long_is_shown_as_it_is(words):
    assert markdown(words) == f'<div class="markdown" dir="auto"><pre>{escape(words)}</pre></div>'


def test_quotes_and_emphasis_of_some_levels_are_rendered():
    assert "<blockquote>" * 9 + "<p>a</p>" in markdown(">" * 9 + " a")
    assert "<strong>" * 8 + "a" in markdown("*" * 16 + "a" + "*" * 16)


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<div onclick=a>\nb\n</div>", "<!-- a -->",
        "[a](javascript:alert(1))", "[a](data:text/html,<script>)", '[a](http://b "onload=c")', "![a](x\"onerror=b)",
        "```\"><script>\n<script>\n```", "|<script>|\n|-|\n|<b>|", "# <h1 id=verdict>", "<svg/onload=a>",
        "</div></main><p>Fit for training", "a\x00b\x1b[0m\ud800", "`</code><script>`", "<http://a.org/\"><script>",
    ],
)  # fmt: skip
def test_hostile_texts_stay_texts(hostile):
    made = markdown(hostile)
    seen = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append((tag, dict(attrs).keys() - {"class", "dir", "start"}))

    Tags().feed(made)
    assert {tag for tag, _ in seen} <= _SAFE
    assert not any(attributes for _, attributes in seen)
    assert not re.search(r"<[^>]*(?:href|src|on[a-z]+|style|id)=", made)
    valid_text(made).encode("utf-8")


@pytest.mark.parametrize("mark", [">", "- ", "* ", "1. ", "**a ", "[", "!["])
def test_deep_nesting_ends(mark):
    assert markdown(mark * 1000)
