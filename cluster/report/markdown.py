"""Markdown: texts of records as elements of a page, and cards in the format of the Hugging Face hub.

Headings, emphasis, code, lists, quotes, tables and rules are rendered. HTML in a text is shown as text. An address of a
link or image is shown as text, too: a page has nothing from a text that can be followed, loaded or run.

Every value of a card is escaped where it is placed, so that no name can start a tag, a link, a table cell or a code
fence; only what stands in a code block is marked `safe` in the template.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode
from markupsafe import Markup, escape

from raymill.cluster.report.sections import Content, join

# Reference definitions would hide a part of the text, and entities change it.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["reference", "entity"])
_ELEMENTS = {
    "paragraph": "p", "em": "em", "strong": "strong", "s": "s", "blockquote": "blockquote", "bullet_list": "ul",
    "list_item": "li", "thead": "thead", "tbody": "tbody", "tr": "tr", "th": "th", "td": "td", "table": "table",
}  # fmt: skip

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Characters with a meaning inside a line of Markdown, and those by which GitHub recognises addresses to link.
_MARKS = re.compile(r"([\\`*_\[\]#+|~$@]|:(?=//)|(?<=www)\.)")
# Control characters, separators of lines, marks and overrides of direction, and halves of UTF-16 pairs.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_LONGEST = 100_000  # characters of a text whose marks are rendered: the worst ones take two seconds
_BLANK_LINES = re.compile(r"\n{3,}")


def markdown(words: str) -> Markup:
    """A text as its Markdown means it; as it is, if it is very long or its elements are nested deeply."""
    found = None if len(words) > _LONGEST else _rendered_whole(_PARSER.parse(words))
    shown = _element("pre", words) if found is None else found
    return _element("div", shown, attributes=' class="markdown" dir="auto"')


def _rendered_whole(tokens: Sequence[Token]) -> Markup | None:
    """The elements of a text; None if it is nested too deeply, of which the parser leaves out the innermost."""
    deepest = max((one.level for token in tokens for one in (token, *(token.children or ()))), default=0)
    if deepest >= _PARSER.options["maxNesting"] - 1:
        return None
    return join(*map(_rendered, SyntaxTreeNode(tokens).children))


def _element(tag: str, *content: Content, attributes: str = "") -> Markup:
    return Markup("<{0}{1}>{2}</{0}>").format(tag, Markup(attributes), join(*content))


def _rendered(node: SyntaxTreeNode) -> Markup:
    kind, inner = node.type, join(*map(_rendered, node.children))
    if tag := _ELEMENTS.get(kind):
        return _element(tag, inner)
    if kind == "heading":
        # Not a heading of the page, whose order and contents a text must not change.
        return _element("p", _element("strong", inner), attributes=f' class="heading-{node.tag[1:]}"')
    if kind == "ordered_list":
        return _element("ol", inner, attributes=f' start="{int(node.attrs["start"])}"' if "start" in node.attrs else "")
    if kind in ("code_inline", "fence", "code_block"):
        shown = _element("code", node.content)
        return shown if kind == "code_inline" else _element("pre", shown)
    if kind in ("link", "image"):
        address = str(node.attrs.get("href") or node.attrs.get("src") or "")
        words = escape(node.content) if kind == "image" else inner
        return join(words, f" ({address})" if address and escape(address) != words else None)
    if kind in ("softbreak", "hardbreak"):
        return Markup("<br/>")
    if kind == "hr":
        return _element("p", "* * *")
    return inner if node.children else escape(node.content)


# ---- cards ----


def card(package: str, front: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The text of a card.

    Args:
        package: its file card.md is the template.
        front: the entries of the front matter.
        values: what the template names.
    """
    matter = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    return f"---\n{matter}---\n\n{rendered(package, 'card.md', values)}"


def rendered(package: str, template: str, values: Mapping[str, Any]) -> str:
    """The text of a document of which `template`, a file of the package, is the template. values: what it names."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("raymill.cluster.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup("" if value is None else escaped(value)),
    )
    body = environment.get_template(template).render(values)
    return f"{_BLANK_LINES.sub(chr(10) * 2, body).strip()}\n"


def escaped(value: object) -> str:
    """A value as text on one line, with everything that has a meaning in Markdown escaped."""
    text = _UNPRINTABLE.sub(" ", str(value)).strip()
    marked = _MARKS.sub(r"\\\1", text)
    return "".join(_ENTITIES.get(sign, sign) for sign in marked)
