"""Bounds on HTML pages, checked before they are parsed: parsing takes quadratic time in what they bound.

Parsers compare each attribute of a tag with all before it (lexbor, libxml2), and go through the open elements for each
tag (main content of resiliparse: 1 s for 8,000 nested elements, 5 s for 16,000) and through the options of a list. Of
400 real pages none has over 46 nested elements, or over 3,205 elements, so nesting is computed only for pages with over
_FEW_TAGS tags. `exceeded_bound` takes 0.1 ms for 100 kB, and 1 us for each tag of a page with more; the time is linear
for any bytes. Pages that are within these bounds and still take too long are ended by those of the child process
(cluster/guard.py).
"""

import re
from collections import Counter

import numpy as np

MAX_DEPTH = 1000
MAX_TAGS = 1_000_000
MAX_ATTRIBUTES = 1000
MAX_OPTIONS = 5000
_FEW_TAGS = 4000

_ATTRIBUTE = rb"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>"'][^\s>]*+|(?=>)))?+"""
_ATTRIBUTES = re.compile(_ATTRIBUTE)
# A comment; an element whose content is not HTML; a tag. Groups 2 to 4: / of an end tag, name, attributes.
_TAG = re.compile(
    rb"(?is)<!--.*?(?:-->|\Z)|<(script|style|textarea|title|xmp|iframe|noembed|noframes)\b.*?(?:</\1|\Z)"
    rb"|<(/?)([a-z][^\s/>]*+)((?:[\s/]++|" + _ATTRIBUTE + rb")*+)"
)
_VOID = frozenset(b"area base br col embed hr img input link meta param source track wbr".split())
# Name of an element -> names of open elements that its start tag closes, as in browsers: their end tags are optional.
_ENDS = {
    name: frozenset(ended.split())
    for names, ended in (
        (b"li", b"li p"),
        (b"dt dd", b"dt dd p"),
        (b"td th", b"td th p"),
        (b"tr", b"td th tr p"),
        (b"thead tbody tfoot", b"td th tr thead tbody tfoot p"),
        (b"option", b"option"),
        (b"optgroup", b"option optgroup"),
        (
            b"p div ul ol dl table section article aside nav header footer main form fieldset blockquote pre h1 h2 h3"
            b" h4 h5 h6 center figure address details",
            b"p",
        ),
    )
    for name in names.split()
}
# Elements that the end tag of an inline element around them does not go past, if another element is between.
_INLINE = frozenset(
    b"a abbr b big cite code del dfn em font i ins kbd label mark nobr q s samp small span strike strong sub sup time"
    b" tt u var".split()
)
_MOST_STEPS = 20_000_000  # through open elements for the end tags of a page


def exceeded_bound(html: bytes) -> str | None:
    """The bound that a page exceeds, in words; None if it exceeds none."""
    if (opened := html.count(b"<")) > _FEW_TAGS:
        opened -= html.count(b"</")
    if opened > MAX_TAGS:
        return f"over {MAX_TAGS:,} tags"
    if opened > _FEW_TAGS:
        return _exceeded_by_tree(html)
    return f"over {MAX_ATTRIBUTES:,} attributes of a tag" if has_huge_tag(html) else None


def has_huge_tag(html: bytes) -> bool:
    """Whether a tag has more than MAX_ATTRIBUTES attributes.

    Misses a tag with < in attribute values; `_exceeded_by_tree` finds it.
    """
    at = np.append(np.flatnonzero(np.frombuffer(html, np.uint8) == ord("<")), len(html))
    long = np.flatnonzero(np.diff(at) > 2 * MAX_ATTRIBUTES)
    pieces = (html[start:end] for start, end in zip(at[long].tolist(), at[long + 1].tolist(), strict=True))
    return any(len(piece.split(None, MAX_ATTRIBUTES)) > MAX_ATTRIBUTES and _is_huge(piece) for piece in pieces)


def _is_huge(piece: bytes) -> bool:
    tag = _TAG.match(piece)
    return bool(tag and tag[3] and _attribute_count(tag[4]) > MAX_ATTRIBUTES)


def _attribute_count(attributes: bytes) -> int:
    return sum(1 for _ in _ATTRIBUTES.finditer(attributes))


def _exceeded_by_tree(html: bytes) -> str | None:
    """The bound that a page with many tags exceeds. Opens and closes elements as browsers do."""
    open_elements: list[bytes] = []
    count = Counter[bytes]()  # open elements by name
    options = steps = 0

    def close() -> None:
        count[open_elements.pop()] -= 1

    for match in _TAG.finditer(html):
        name = match[3]
        if not name:
            continue
        name = name.lower()
        if match[2]:
            if not count[name]:
                continue
            if name in _INLINE:  # closes nothing if an element that is not inline is open within it
                at = len(open_elements) - 1
                while open_elements[at] != name and open_elements[at] in _INLINE:
                    at -= 1
                    steps += 1
                if open_elements[at] != name:
                    continue
                while len(open_elements) > at:
                    close()
            else:
                while open_elements[-1] != name:
                    close()
                close()
        else:
            if len(match[4]) > 2 * MAX_ATTRIBUTES and _attribute_count(match[4]) > MAX_ATTRIBUTES:
                return f"over {MAX_ATTRIBUTES:,} attributes of a tag"
            options = options + 1 if name == b"option" else 0 if name == b"select" else options
            if options > MAX_OPTIONS:
                return f"over {MAX_OPTIONS:,} options of a list"
            while open_elements and open_elements[-1] in _ENDS.get(name, ()):
                close()
            if name not in _VOID:
                open_elements.append(name)
                count[name] += 1
                if len(open_elements) > MAX_DEPTH:
                    return f"over {MAX_DEPTH:,} nested elements"
        if steps > _MOST_STEPS:
            return f"over {_MOST_STEPS:,} steps through nested elements"
    return None
