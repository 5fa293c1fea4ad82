"""The parts of a report. Strings are text and are escaped; parts and Markup are placed as they are.

A part is drawn by the macro of its name in templates/parts.html, wherever it is placed: in a section, a fold, a cell.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from raymill.cluster.formats import count, decimal, plural

_LONGEST_NAME = 300  # characters; URLs serve as ids
_LONG_EXCERPT = 600  # characters; a longer one scrolls in a box of its own, as one with more lines
_LONG_LINES = 10
_WRAPPED = 24  # characters; a longer text in a cell wraps
NO_NOTES: Mapping[str, str] = MappingProxyType({})
_NUMBER, _TEXT = '<td class="n">{}</td>', "<td>{}</td>"
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")


def svg_number(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


HTML = Environment(
    loader=PackageLoader("raymill.cluster.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    finalize=lambda value: "" if value is None else value,
)
HTML.filters["n"] = svg_number


def macro(template: str, name: str, *values: Any) -> Markup:
    """What a macro of a template makes of these values."""
    return getattr(HTML.get_template(template).module, name)(*values)


class Part:
    """A piece of a report. `__html__` is how Jinja2 and MarkupSafe place it without escaping."""

    def __html__(self) -> str:
        return macro("parts.html", type(self).__name__, self)


Content = str | int | Part | None


@dataclass(frozen=True)
class Section(Part):
    """A section of the page. id: its anchor. title: its heading, and its entry in the contents."""

    id: str
    title: str
    content: Sequence[Content]


@dataclass(frozen=True)
class Cell(Part):
    """A numeric cell with its own style class and a text shown on hovering."""

    content: str
    style: str
    title: str


@dataclass(frozen=True)
class DataTable(Part):
    """A table; the first cell of each row is its heading. Wide tables scroll, also by keyboard.

    columns: titles; the cells of one that begins with `>` are numbers, aligned to the right. Integers have separators.
    """

    caption: Content
    columns: Sequence[str]
    rows: Sequence[Sequence[Content]]
    foot: Sequence[Content] = ()

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """(title, numeric) of each column."""
        return [(one[1:] if one.startswith(">") else one, one.startswith(">")) for one in self.columns]

    def cells(self, row: Sequence[Content]) -> Iterator[Content]:
        """The cells of a row after its heading, as elements."""
        for cell, column in zip(row[1:], self.columns[1:], strict=True):
            shown = f"{cell:,}" if isinstance(cell, int) else "" if cell is None else cell
            is_numeric = column.startswith(">")
            yield cell if isinstance(cell, Cell) else Markup(_NUMBER if is_numeric else _TEXT).format(shown)


@dataclass(frozen=True)
class Tiles(Part):
    """Headline numbers: (title, number, small print) of each."""

    tiles: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Fold(Part):
    """Content below a summary; a click opens and closes it. anchor: its id, for links."""

    summary: Sequence[Content]
    content: Sequence[Content]
    opened: bool = False
    anchor: str | None = None


@dataclass(frozen=True)
class Items(Part):
    """A list. style: class of the list. ordered: numbered."""

    items: Sequence[Content]
    style: str | None = None
    ordered: bool = False


@dataclass(frozen=True)
class Facts(Part):
    """Names and values, one a line."""

    facts: Sequence[tuple[str, Content]]


@dataclass(frozen=True)
class Figure(Part):
    """A drawing below its heading and some content."""

    heading: Content
    words: Sequence[Content]
    drawing: Content
    level: int = 3


@dataclass(frozen=True)
class Passage(Part):
    """A text of a document, which sets its own writing direction. A long one scrolls in a box the keyboard reaches."""

    content: Sequence[str]
    language: str | None = None

    @property
    def scrolls(self) -> bool:
        """Whether the text is too long to be shown whole."""
        characters, lines = sum(map(len, self.content)), sum(one.count("\n") for one in self.content)
        return characters > _LONG_EXCERPT or lines > _LONG_LINES

    @property
    def tag(self) -> str | None:
        """The language as HTML names it; None if it is no language tag."""
        known = self.language and _LANGUAGE_TAG.fullmatch(self.language)
        return self.language.replace("_", "-") if self.language and known else None


@dataclass(frozen=True)
class Listing(Part):
    """A config or code in a box that scrolls sideways. label: for screen readers."""

    text: str
    label: str


def warnings_section(warnings: Sequence[str]) -> Section | None:
    """The warnings as a list; None without any."""
    title = plural(len(warnings), "warning").capitalize()
    return Section("warnings", title, [Items(list(map(with_code, warnings)))]) if warnings else None


def table_section(id: str, title: str, table: DataTable, *, words: Content = None, none: str) -> Section:
    """A section of one table below a note. none: the sentence in their place if the table has no rows."""
    content = [note(words) if words else None, table] if table.rows else [sentence(none)]
    return Section(id, title, content)


def config_section(config: Mapping[str, Any]) -> Section:
    """The settings of a run as YAML."""
    words = yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100)
    return Section("config", "Config", [note("As this run used it."), Listing(words, "The config")])


def join(*children: Content) -> Markup:
    """The children one after the other."""
    return Markup("").join(escape(child) for child in children if child is not None)


def styled(style: str, *content: Content, tag: str = "span") -> Markup:
    """An element with a style class."""
    return Markup('<{0} class="{1}">{2}</{0}>').format(tag, style, join(*content))


def heading(title: Content, aside: Content = None) -> Markup:
    """The heading of a fold, with a few words beside it."""
    return join(Markup("<h3>{}</h3>").format(title), None if aside is None else styled("aside", aside))


def note(*words: Content) -> Markup:
    """A paragraph of explanation, in small type."""
    return styled("note", *words, tag="p")


def sentence(*words: Content) -> Markup:
    """A sentence in place of a table or chart without data."""
    return styled("nothing", *words, tag="p")


def code(words: str) -> Markup:
    """A name as in configs, ledger and command line."""
    return Markup("<code>{}</code>").format(words)


def with_code(words: str) -> Markup:
    """Words with what stands between backticks as code."""
    return join(*(code(part) if at % 2 else part for at, part in enumerate(words.split("`"))))


def outside(words: str) -> Markup:
    """A short text from the input, such as an id, with its own writing direction; cut at 300 characters."""
    return Markup("<bdi>{}</bdi>").format(words if len(words) <= _LONGEST_NAME else words[:_LONGEST_NAME] + "…")


def name(words: str) -> Markup:
    """A text from the input as a name in a cell, which wraps only if it is very long."""
    return styled("name", outside(words))


def wrapped(words: Content) -> Markup:
    """A sentence in a cell, which wraps where the table has no room."""
    return styled("wrapped", words)


def anchor(*parts: str) -> str:
    """An id for links within the page: lower-case letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


# ---- sections from facts alone ----


class Tile(NamedTuple):
    """A number of a report. small: a line in small type below it, such as its interval or unit."""

    number: float | str
    small: str


def plain_sections(facts: Mapping[str, Any], notes: Mapping[str, str] = NO_NOTES) -> list[Section | None]:
    """The sections of facts, for a kind of run that lists no sections of its own. Warnings come first, the config last.

    Numbers become tiles, mappings of numbers and lists of records tables. Names are titles: `skipped_files` is `Skipped
    files`.

    Args:
        facts: names to numbers, to tiles, to mappings of numbers, or to lists of records with equal keys.
        notes: name of a table -> sentences that explain its columns.
    """
    shown = {name: Tile(value, "") if isinstance(value, int | float) else value for name, value in facts.items()}
    tiles = [
        (_title(name), one.number if isinstance(one.number, str) else _number(one.number), one.small)
        for name, one in shown.items()
        if isinstance(one, Tile)
    ]
    found: list[Section | None] = [warnings_section(facts.get("warnings", ()))]
    found.append(Section("result", "Result", [Tiles(tiles)]) if tiles else None)
    for name, value in facts.items():
        if name in ("warnings", "config") or not isinstance(value, Mapping | list):
            continue
        rows = value if isinstance(value, list) else [{"name": key, "number": one} for key, one in value.items()]
        first = [key for key, one in rows[0].items() if not isinstance(one, Mapping)] if rows else []
        numeric = {key for row in rows for key, one in row.items() if isinstance(one, int | float)}
        columns = [f"{'>' if key in numeric else ''}{_title(key)}" for key in first]
        # Without a caption: the heading above it says the same.
        table = DataTable(None, columns, [[_cell(row[key]) for key in first] for row in rows])
        words = with_code(notes[name]) if name in notes else None
        found.append(table_section(anchor(name), _title(name), table, words=words, none="None."))
    return [*found, config_section(facts["config"]) if "config" in facts else None]


def _title(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")


def _number(value: float) -> str:
    return count(value) if isinstance(value, int) else decimal(value)


def _cell(value: Any) -> Content:
    if isinstance(value, int | float):
        return _number(value)
    words = "" if value is None else str(value)
    return wrapped(outside(words)) if len(words) > _WRAPPED else outside(words)
