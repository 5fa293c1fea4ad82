"""HTML elements that escape their content, and the parts of a page made of them: sections, tables, folds, notes.

`element` treats only its own results as markup, everything else as text.

Documents and ids may hold markup, NULs and lone surrogates. Characters that HTML cannot hold become U+FFFD, so a page
is always valid UTF-8.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_LONGEST_NAME = 300  # characters; URLs serve as ids
_VOID = {"meta", "link", "rect", "line", "path", "circle", "br", "col"}


class Markup(str):
    """A string that is markup already."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]


def text(value: str) -> Markup:
    """Plain text as markup. A carriage return is a line end, other control characters are shown as U+FFFD."""
    plain = value.replace("\r\n", "\n").replace("\r", "\n")
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", plain), quote=True))


def join(*children: Child) -> Markup:
    """The children one after the other, without an element around them."""
    return Markup("".join(_flat(children)))


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`class_` is class, `aria_label` is aria-label; an attribute that is None or False is left out."""
    pairs = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        pairs.append(f" {name}" if value is True else f' {name}="{text(_plain(value))}"')
    start = f"<{tag}{''.join(pairs)}>"
    if tag in _VOID and not children:
        return Markup(start[:-1] + "/>")
    return Markup(f"{start}{join(*children)}</{tag}>")


def _plain(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, str):
            yield child if isinstance(child, Markup) else text(child)
        elif isinstance(child, int):
            yield str(child)
        elif child is not None:
            yield from _flat(child)


# --- parts of a page


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page. id: its anchor. title: its heading and its entry in the contents."""

    id: str
    title: str
    body: Markup

    def html(self) -> Markup:
        heading = element("h2", self.title, id=f"{self.id}-heading")
        return element("section", heading, self.body, id=self.id, aria_labelledby=f"{self.id}-heading")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. numeric: its cells are aligned to the right."""

    title: Child
    numeric: bool = True


def table(
    caption: Child, columns: Sequence[Column], rows: Sequence[Sequence[Child]], foot: Sequence[Child] = ()
) -> Markup:
    """A table; the first cell of each row is its heading. Wide tables scroll, also by keyboard."""
    heads = [
        element("th", c.title, scope="col", class_="n" if c.numeric else None) if c.title else element("td")
        for c in columns
    ]
    parts = [
        element("caption", element("span", caption)),
        element("thead", element("tr", heads)),
        element("tbody", [_row(columns, row) for row in rows]),
        element("tfoot", _row(columns, foot)) if foot else None,
    ]
    return scroll_box(element("table", parts), "Table, scrolls sideways")


def scroll_box(content: Child, label: str) -> Markup:
    """A box that scrolls sideways, also by keyboard. label: for screen readers."""
    return element("div", content, class_="scroll", tabindex=0, role="group", aria_label=label)


def sentence(words: Child) -> Markup:
    """A sentence in place of a table or chart without data."""
    return element("p", words, class_="nothing")


def note(words: Child) -> Markup:
    """A paragraph of explanation, in small type."""
    return element("p", words, class_="note")


def fold(summary: Child, content: Child, *, opened: bool, anchor: str | None = None) -> Markup:
    """Content below a summary; a click opens and closes it. anchor: its id, for links."""
    return element("details", element("summary", summary), content, open=opened, id=anchor)


def code(words: str) -> Markup:
    """A name as in configs, ledger and command line."""
    return element("code", words)


def with_code(words: str) -> Markup:
    """Words with what stands between backticks as code."""
    return join(*(code(part) if at % 2 else part for at, part in enumerate(words.split("`"))))


def outside_text(words: str) -> Markup:
    """A short text from the input, such as an id, with its own writing direction; cut at 300 characters."""
    return element("bdi", words if len(words) <= _LONGEST_NAME else words[:_LONGEST_NAME] + "…")


def name(words: Child) -> Markup:
    """A name in a cell, which wraps only if it is very long."""
    return element("span", words, class_="name")


def wrapped(content: Child) -> Markup:
    """A sentence in a cell, which wraps where the table has no room."""
    return element("span", content, class_="wrapped")


def anchor(*parts: str) -> str:
    """An id for links within the page: lower-case letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


def _row(columns: Sequence[Column], cells: Sequence[Child]) -> Markup:
    first, *rest = cells
    marked = [
        cell
        if isinstance(cell, Markup) and cell.startswith("<td")
        else element("td", cell, class_="n" if c.numeric else None)
        for cell, c in zip(rest, columns[1:], strict=True)
    ]
    return element("tr", element("th", first, scope="row"), marked)
