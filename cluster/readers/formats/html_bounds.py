"""Bounds on an HTML page that hold before it is parsed: parsers take the square of what is beyond them.

Parsers compare each attribute of a tag with all before it (lexbor, libxml2), walk through the open elements for each
tag (main content of resiliparse: 1 s for 8,000 nested elements, 5 s for 16,000), and through the options of a list. Of
400 real pages none has over 46 nested or 3,205 elements. So a page with few tags needs no look at its nesting:
`bounded` takes 0.2 ms for 100 kB, and 1 us for each tag of a page with over _FEW_TAGS of them. It takes linear time for
any bytes. What gets past it and takes too long is ended by the bounds of the child process (cluster/guard.py).
"""

import re
from collections import Counter

MAX_DEPTH = 1000
MAX_TAGS = 1_000_000
MAX_ATTRIBUTES = 1000
MAX_OPTIONS = 5000
_FEW_TAGS = 4000

_ATTRIBUTE = rb"""[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+(?:"|\Z)|'[^']*+(?:'|\Z)|[^\s>"'][^\s>]*+|(?=>)))?+"""
_ATTRIBUTES = re.compile(_ATTRIBUTE)
# A comment; an element whose content is no HTML; a tag: / if it is an end, name, attributes.
_TAG = re.compile(
    rb"(?is)<!--.*?(?:-->|\Z)|<(script|style|textarea|title|xmp|iframe|noembed|noframes)\b.*?(?:</\1|\Z)"
    rb"|<(/?)([a-z][^\s/>]*+)((?:[\s/]++|" + _ATTRIBUTE + rb")*+)"
)
_VOID = frozenset(b"area base br col embed hr img input link meta param source track wbr".split())
# Elements that end an open one of these names before them, as browsers do, since their end tags are often left out.
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
# Elements that an end tag of another name within them does not close.
_INLINE = frozenset(
    b"a abbr b big cite code del dfn em font i ins kbd label mark nobr q s samp small span strike strong sub sup time"
    b" tt u var".split()
)
_MOST_STEPS = 20_000_000  # through open elements, of a page


def bounded(html: bytes) -> str | None:
    """What of a page is over a bound, in words; None if nothing is."""
    opened = html.count(b"<") - html.count(b"</")
    if opened > MAX_TAGS:
        return f"over {MAX_TAGS:,} tags"
    if opened > _FEW_TAGS:
        return _over(html)
    return f"over {MAX_ATTRIBUTES:,} attributes of a tag" if has_huge_tag(html) else None


def has_huge_tag(html: bytes) -> bool:
    """Whether a tag has more than MAX_ATTRIBUTES.

    Misses one that has < in the values of its attributes, which `_over` finds.
    """
    pieces = (piece for piece in html.split(b"<") if len(piece) > 2 * MAX_ATTRIBUTES)
    return any(len(piece.split(None, MAX_ATTRIBUTES)) > MAX_ATTRIBUTES and _is_huge(b"<" + piece) for piece in pieces)


def _is_huge(piece: bytes) -> bool:
    tag = _TAG.match(piece)
    return bool(tag and tag[3] and _attribute_count(tag[4]) > MAX_ATTRIBUTES)


def _attribute_count(attributes: bytes) -> int:
    return sum(1 for _ in _ATTRIBUTES.finditer(attributes))


def _over(html: bytes) -> str | None:
    """What is over a bound of a page with many tags. Follows the open elements as browsers do."""
    open_elements: list[bytes] = []
    count = Counter[bytes]()  # of them, by name
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
            if name in _INLINE:  # it closes nothing if another element is open within it
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
            return f"over {MAX_DEPTH:,} nested elements"
    return None
