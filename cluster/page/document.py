"""An HTML page in one file, without requests to any network.

All text is escaped (markup.py). The page's content policy forbids loading anything and every script but ours, which it
names by hash. The script opens folds for links and printing; the page is complete without it.
"""

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from importlib import resources

from cluster.page.markup import Child, Markup, Section, element, outside_text

_STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")
_SCRIPT = resources.files(__package__).joinpath("page.js").read_text("utf-8")


def document(title: str, header: Markup, sections: Sequence[Section | None], style: str = "") -> str:
    """The page as text that is valid UTF-8. style: CSS that follows the style sheet shared by all pages."""
    shown = [section for section in sections if section]
    style = _STYLE + style
    page = element(
        "html",
        _head(title, style),
        element(
            "body",
            header,
            element("div", _contents(shown), element("main", [s.html() for s in shown]), class_="page"),
            element("script", Markup(_SCRIPT)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def header(name: str, kind: str, finished: str, version: str, output: str, *more: Child) -> Markup:
    """The run's name and facts. finished: time in ISO 8601. more: further paragraphs."""
    moment = datetime.fromisoformat(finished)
    return element(
        "header",
        element("h1", outside_text(name)),
        element(
            "p",
            f"{kind}. Finished ",
            element("time", f"{moment:%Y-%m-%d %H:%M %Z}".strip(), datetime=finished),
            f", Raymill {version}. Output: ",
            element("code", output),
        ),
        more,
    )


def _head(title: str, style: str) -> Markup:
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(_SCRIPT)}'"
    )
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _contents(sections: Sequence[Section]) -> Markup:
    links = [element("li", element("a", section.title, href=f"#{section.id}")) for section in sections]
    return element("nav", element("ul", links), aria_label="Contents")
