"""HTML elements that escape their content: `element` treats only its own results as markup, everything else as text.

Documents and ids may hold markup, NULs and lone surrogates. Characters that HTML cannot hold become U+FFFD, so a page
is always valid UTF-8.
"""

import html
import re
from collections.abc import Iterable

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = {"meta", "link", "rect", "line", "path", "circle", "br", "col"}


class Html(str):
    """A string that is markup already."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]


def text(value: str) -> Html:
    """Plain text as markup. A carriage return is a line end, other control characters are shown as U+FFFD."""
    plain = value.replace("\r\n", "\n").replace("\r", "\n")
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", plain), quote=True))


def join(*children: Child) -> Html:
    return Html("".join(_flat(children)))


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """`class_` is class, `aria_label` is aria-label; an attribute that is None or False is left out."""
    pairs = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        name = key.rstrip("_").replace("_", "-")
        pairs.append(f" {name}" if value is True else f' {name}="{text(_plain(value))}"')
    start = f"<{tag}{''.join(pairs)}>"
    if tag in _VOID and not children:
        return Html(start[:-1] + "/>")
    return Html(f"{start}{join(*children)}</{tag}>")


def _plain(value: str | float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _flat(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if isinstance(child, str):
            yield child if isinstance(child, Html) else text(child)
        elif isinstance(child, int):
            yield str(child)
        elif child is not None:
            yield from _flat(child)
