"""Markdown whose values are only text: no name can start a tag, a link, a table cell or a code fence."""

import re
from collections.abc import Iterable, Sequence

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# What Markdown gives a meaning inside a line, and what GitHub's kind makes links of: addresses, written out or not.
_MARKS = re.compile(r"([\\`*_\[\]#+|~$@]|:(?=//)|(?<=www)\.)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def plain(value: object) -> str:
    """A value on one line, as a reader sees it and nothing more."""
    text = _UNPRINTABLE.sub(" ", str(value)).strip()
    marked = _MARKS.sub(r"\\\1", text)
    return "".join(_ENTITIES.get(sign, sign) for sign in marked)


def literal(value: str) -> str:
    """A Python literal of a text that may stand in a fenced block: it holds no line end and no backtick."""
    escaped = ascii(value).replace("`", "\\x60")
    # `ascii` quotes with an apostrophe where it can; this project's own style is the double quote.
    return f'"{escaped[1:-1]}"' if escaped[0] == "'" and '"' not in escaped else escaped


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Every cell of `rows` is escaped; `head` is ours."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def code(lines: Iterable[str]) -> str:
    return "\n".join(["```python", *lines, "```"])
