"""Metadata that an HTML page states: columns that inputs with pages can carry.

Read from the part of the page before its body, and in web archives also from the headers of the HTTP response. Values
are unchanged except for repeated white space, and cut after 2,000 characters.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from html import unescape
from typing import NamedTuple


class _Sources(NamedTuple):
    """Names of the `meta` tags and of the HTTP header that state a column, in lower case, the first choice first."""

    meta: tuple[str, ...]
    header: str = ""


# `title` is also stated by <title>, `canonical_url` by <link rel=canonical>, `page_language` by <html lang>.
_SOURCES = {
    "title": _Sources(("og:title", "twitter:title")),
    "canonical_url": _Sources(("og:url",)),
    "author": _Sources(("author", "article:author", "dc.creator")),
    "published": _Sources(("article:published_time", "datepublished", "date", "dc.date")),
    "page_language": _Sources(("content-language",), "content-language"),
    "robots": _Sources(("robots",), "x-robots-tag"),
    "tdm_reservation": _Sources(("tdm-reservation",), "tdm-reservation"),
}
PAGE_COLUMNS = tuple(_SOURCES)
# Columns that no document is named by. The last are those of web archives (warc.py).
NO_IDS = (*PAGE_COLUMNS, "truncated", "payload_digest")
USED_HEADERS = tuple(one.header for one in _SOURCES.values() if one.header)
_HEAD_CHARACTERS, _MOST_CHARACTERS = 200_000, 2000

_ATTRIBUTE = re.compile(r"""(?<![^\s/>="'])([^\s/>="']++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"']++))""")
_TAG = re.compile(
    r"""<!--(?:-?>|.*?(?:--!?>|\Z))|<(script|style|noscript)\b.*?(?:</\1|\Z)|<title\b[^<>]*+>(?P<title>.*?)(?:</title|\Z)"""
    r"""|<(?P<name>meta|link|html|body)(?=[\s/>])(?P<attributes>(?:"[^"]*+"|'[^']*+'|[^>"'])*+)""",
    re.IGNORECASE | re.DOTALL,
)


def page_columns(page: str, headers: Mapping[str, str], wanted: Collection[str]) -> dict[str, str | None]:
    """The wanted columns of a page, None for what it does not state.

    headers: of the HTTP response, with names in lower case. wanted: some of PAGE_COLUMNS.
    """
    stated = _stated(page[:_HEAD_CHARACTERS])
    return {name: _folded(_column(name, stated, headers)) or None for name in wanted}


def _column(name: str, stated: Mapping[str, list[str]], headers: Mapping[str, str]) -> str:
    sources = _SOURCES[name]
    values = [value for one in dict.fromkeys((name, *sources.meta)) for value in stated.get(one, ())]
    if header := headers.get(sources.header):
        values.append(header)
    if name == "tdm_reservation" and any("1" in map(str.strip, value.split(",")) for value in values):
        return "1"  # a reservation by any of them is in force
    if name == "robots":  # the directives of all tags and of the header are in force together
        directives = (one.strip() for value in values for one in value.lower().split(","))
        return ", ".join(dict.fromkeys(one for one in directives if one))
    return values[0] if values else ""


def _stated(head: str) -> dict[str, list[str]]:
    """Name of a `meta` tag or of a column -> the values that tags before the body state for it."""
    found = defaultdict[str, list[str]](list)
    for tag in _TAG.finditer(head):
        if tag["title"] is not None:
            found["title"].append(tag["title"])
            continue
        if not (name := (tag["name"] or "").lower()):
            continue
        if name == "body":
            break
        attributes: dict[str, str] = {}
        for one in _ATTRIBUTE.finditer(tag["attributes"]):
            attributes.setdefault(one[1].lower(), one[2] or one[3] or one[4] or "")
        if name == "html":
            found["page_language"].append(attributes.get("lang") or attributes.get("xml:lang", ""))
        elif name == "link":
            if "canonical" in attributes.get("rel", "").lower().split():
                found["canonical_url"].append(attributes.get("href", ""))
        else:
            named = (attributes[one] for one in ("name", "property", "itemprop", "http-equiv") if one in attributes)
            found[next(named, "").strip().lower()].append(attributes.get("content", ""))
    return {name: [value for value in values if value.strip()] for name, values in found.items()}


def _folded(value: str) -> str:
    return " ".join(unescape(value[: 2 * _MOST_CHARACTERS]).split())[:_MOST_CHARACTERS]
