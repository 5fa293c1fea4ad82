"""What an HTML page states of itself: columns that an input with pages can carry.

Read from the part of the page before its body, and for `robots`, `tdm_reservation` and `page_language` also from the
HTTP header of a web archive. A value is as the page has it, without repeated white space, at most 2,000 characters.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from html import unescape

# Name -> meaning, for messages and the guide.
PAGE_COLUMNS = {
    "title": "title of the page",
    "canonical_url": "URL that the page names as its own (rel=canonical, og:url)",
    "author": "author (meta author, article:author)",
    "published": "time of publication (meta article:published_time, datePublished, date)",
    "page_language": "language that the page states (lang, Content-Language)",
    "robots": "directives for robots, lower case, such as `noindex, noai` (meta robots, X-Robots-Tag)",
    "tdm_reservation": "1 if text and data mining is reserved, 0 if it is not (tdm-reservation)",
}
_META = {
    "title": ("og:title", "twitter:title"),
    "canonical_url": ("og:url",),
    "author": ("author", "article:author", "dc.creator"),
    "published": ("article:published_time", "datepublished", "date", "dc.date"),
    "page_language": ("content-language",),
    "robots": ("robots",),
    "tdm_reservation": ("tdm-reservation",),
}
_HEADERS = {"page_language": "content-language", "robots": "x-robots-tag", "tdm_reservation": "tdm-reservation"}
USED_HEADERS = tuple(_HEADERS.values())
_HEAD_CHARACTERS, _MOST_CHARACTERS = 200_000, 2000

_ATTRIBUTE = re.compile(r"""([^\s/>="']++)\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"']++))""")
_TAG = re.compile(
    r"""<!--.*?(?:-->|\Z)|<(script|style|noscript)\b.*?(?:</\1|\Z)|<title\b[^>]*+>(?P<title>.*?)(?:</title|\Z)"""
    r"""|<(?P<name>meta|link|html|body)\b(?P<attributes>(?:"[^"]*+"|'[^']*+'|[^>"'])*+)""",
    re.IGNORECASE | re.DOTALL,
)


def page_columns(page: str, headers: Mapping[str, str], wanted: Collection[str]) -> dict[str, str | None]:
    """The wanted columns of a page; None where it states nothing. headers: of HTTP, names in lower case."""
    stated = _stated(page[:_HEAD_CHARACTERS])
    found = {name: _column(name, stated, headers) for name in wanted}
    return {name: _folded(value) or None for name, value in found.items()}


def _column(name: str, stated: Mapping[str, list[str]], headers: Mapping[str, str]) -> str:
    values = [value for one in dict.fromkeys((name, *_META[name])) for value in stated.get(one, ())]
    if header := headers.get(_HEADERS.get(name, ""), ""):
        values.append(header)
    if name == "robots":  # all of them hold
        directives = (one.strip() for value in values for one in value.lower().split(","))
        return ", ".join(dict.fromkeys(one for one in directives if one))
    return values[0] if values else ""


def _stated(head: str) -> dict[str, list[str]]:
    """What tags before the body state: by the name of a meta tag, or of a column."""
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
            found[next(named, "").lower()].append(attributes.get("content", ""))
    return {name: [value for value in values if value.strip()] for name, values in found.items()}


def _folded(value: str) -> str:
    return " ".join(unescape(value[: 2 * _MOST_CHARACTERS]).split())[:_MOST_CHARACTERS]
