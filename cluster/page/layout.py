"""The parts of a page: sections, tables, folds, notes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.page.markup import Child, Html, element

_LONGEST_NAME = 300  # characters; URLs serve as ids


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page. id: its anchor. title: its heading and its entry in the contents."""

    id: str
    title: str
    body: Html

    def html(self) -> Html:
        heading = element("h2", self.title, id=f"{self.id}-heading")
        return element("section", heading, self.body, id=self.id, aria_labelledby=f"{self.id}-heading")


@dataclass(frozen=True, slots=True)
class Column:
    title: Child
    numeric: bool = True


def table(
    caption: Child, columns: Sequence[Column], rows: Sequence[Sequence[Child]], foot: Sequence[Child] = ()
) -> Html:
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


def scroll_box(content: Child, label: str) -> Html:
    return element("div", content, class_="scroll", tabindex=0, role="group", aria_label=label)


def sentence(words: Child) -> Html:
    """A sentence in place of a table or chart without data."""
    return element("p", words, class_="nothing")


def note(words: Child) -> Html:
    return element("p", words, class_="note")


def fold(summary: Child, content: Child, *, opened: bool, anchor: str | None = None) -> Html:
    return element("details", element("summary", summary), content, open=opened, id=anchor)


def code(words: str) -> Html:
    """A name as in configs, ledger and command line."""
    return element("code", words)


def outside_text(words: str) -> Html:
    """A short text from the input, such as an id, with its own writing direction; cut at 300 characters."""
    return element("bdi", words if len(words) <= _LONGEST_NAME else words[:_LONGEST_NAME] + "…")


def name(words: Child) -> Html:
    """A name in a cell, which wraps only if it is very long."""
    return element("span", words, class_="name")


def anchor(*parts: str) -> str:
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


def _row(columns: Sequence[Column], cells: Sequence[Child]) -> Html:
    first, *rest = cells
    marked = [
        cell
        if isinstance(cell, Html) and cell.startswith("<td")
        else element("td", cell, class_="n" if c.numeric else None)
        for cell, c in zip(rest, columns[1:], strict=True)
    ]
    return element("tr", element("th", first, scope="row"), marked)
