"""Texts of records in Markdown, as elements of a page: what their author meant is seen, and nothing else can happen.

Headings, emphasis, code, lists, quotes, tables and rules are rendered. HTML in a text is shown as text. An address of a
link or image is shown as text, too: a page has nothing from a text that can be followed, loaded or run.
"""

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from cluster.page.markup import Markup, element, join, text

# Reference definitions would hide a part of the text, and entities change it.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["reference", "entity"])
_ELEMENTS = {
    "paragraph": "p", "em": "em", "strong": "strong", "s": "s", "blockquote": "blockquote", "bullet_list": "ul",
    "list_item": "li", "thead": "thead", "tbody": "tbody", "tr": "tr", "th": "th", "td": "td", "table": "table",
}  # fmt: skip


def markdown(words: str) -> Markup:
    """A text as its Markdown means it."""
    root = SyntaxTreeNode(_PARSER.parse(words))
    return element("div", [_rendered(node) for node in root.children], class_="markdown", dir="auto")


def _rendered(node: SyntaxTreeNode) -> Markup:
    kind, inner = node.type, (_rendered(child) for child in node.children)
    if tag := _ELEMENTS.get(kind):
        return element(tag, inner)
    if kind == "heading":
        # Not a heading of the page, whose order and contents a text must not change.
        return element("p", element("strong", inner), class_=f"heading-{node.tag[1:]}")
    if kind == "ordered_list":
        return element("ol", inner, start=str(node.attrs["start"]) if "start" in node.attrs else None)
    if kind in ("code_inline", "fence", "code_block"):
        shown = element("code", node.content)
        return shown if kind == "code_inline" else element("pre", shown)
    if kind in ("link", "image"):
        address = str(node.attrs.get("href") or node.attrs.get("src") or "")
        words = text(node.content) if kind == "image" else join(inner)
        return join(words, f" ({address})" if address and text(address) != words else None)
    if kind in ("softbreak", "hardbreak"):
        return element("br")
    if kind == "hr":
        return element("p", "* * *")
    if node.children:
        return join(inner)
    return text(node.content)
