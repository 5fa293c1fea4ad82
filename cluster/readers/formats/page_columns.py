"""Metadata that an HTML page states: columns that inputs with pages can carry.

Read from the part of the page before its body, and in web archives also from the headers of the HTTP response; `robots`
and `tdm_reservation` also from the body, where browsers and robots find them too. Values are unchanged except for
repeated white space, and cut after 2,000 characters, `robots` after 65,536. Directives of a tag for one robot
(`<meta name=googlebot content=noindex>`) have its name before them, as in the header X-Robots-Tag.

Tags are found as the HTML standard splits a page into tags, by expressions of linear time. The tree that the extractor
parses is not used: to find and read these tags in it takes 4.3 ms for a page of 173 kB, and this less than 1 ms.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from raymill.cluster.character_references import unescaped


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
# Characters of `robots`: a directive that is cut off would be one that the page did not state.
_MOST_DIRECTIVES = 65_536

# Attributes as browsers read them: a quote within a name, or after a value, is part of a name.
_ATTRIBUTE = re.compile(
    r"""([^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"([^"]*+)(?:"|\Z)|'([^']*+)(?:'|\Z)|([^\s>"'][^\s>]*+)|(?=>)))?+"""
)
_NAMELESS = _ATTRIBUTE.pattern.replace("([^", "(?:[^")
_TAG = re.compile(
    r"<(?:!--(?:-?>|.*?(?:--!?>|\Z))|[!?/][^>]*+"
    r"|(?P<raw>script|style|textarea|xmp|iframe|noembed|noframes)(?=[\s/>]).*?(?:</(?P=raw)(?=[\s/>])|\Z)"
    r"|title(?=[\s/>])[^>]*+>(?P<title>.*?)(?:</title|\Z)"
    rf"|(?P<name>[a-z][^\s/>]*+)(?P<attributes>(?:[\s/]++|{_NAMELESS})*+))",
    re.IGNORECASE | re.DOTALL,
)
_RESERVED = re.compile(r"""[\s"']*+0*+1(?:\.0*+)?+[\s"']*+(?:;.*)?""", re.DOTALL)
_META = re.compile(r"<meta(?=[\s/])", re.IGNORECASE)
# Part of a tag that may be one of these. Others are found by "&", as a name may have letters as references.
_OF_RESERVATIONS = re.compile(r"bots?[\s/>\"']|tdm-reservation", re.IGNORECASE)
_FOR_A_ROBOT = re.compile(r"[\w-]{1,60}bot")  # names of `meta` tags for one robot: googlebot, GPTBot
_NEAR = 1000  # characters after `<meta` in which the name of a tag of the body is looked for, and up to the next >


def page_columns(page: str, headers: Mapping[str, str], wanted: Collection[str]) -> dict[str, str | None]:
    """The wanted columns of a page, None for what it does not state.

    headers: of the HTTP response, with names in lower case. wanted: some of PAGE_COLUMNS.
    """
    stated = _stated(page, _reservations_end(page) if {"robots", "tdm_reservation"} & {*wanted} else 0)
    return {name: _value(name, stated, headers) or None for name in wanted}


def _value(name: str, stated: Mapping[str, list[str]], headers: Mapping[str, str]) -> str:
    return _folded(_column(name, stated, headers), _MOST_DIRECTIVES if name == "robots" else _MOST_CHARACTERS)


def _column(name: str, stated: Mapping[str, list[str]], headers: Mapping[str, str]) -> str:
    sources = _SOURCES[name]
    values = [value for one in dict.fromkeys((name, *sources.meta)) for value in stated.get(one, ())]
    if header := headers.get(sources.header):
        values.append(header)
    if name == "tdm_reservation" and _reserves(values):
        return "1"  # a reservation by any of them is in force
    if name == "robots":  # the directives of all tags and of the header are in force together
        directives = (one.strip() for value in values for one in value.lower().split(","))
        return ", ".join(dict.fromkeys(one for one in directives if one))
    return values[0] if values else ""


def _reserves(values: Iterable[str]) -> bool:
    """Whether a value of `tdm-reservation` is 1, also in quotes, as 01, or with parameters."""
    return any(_RESERVED.fullmatch(unescaped(one)) for value in values for one in value.split(","))


def _reservations_end(page: str) -> int:
    """Where the last `meta` tag begins that may state `robots` or `tdm_reservation`; 0 if there is none.

    Such a tag is in force in the body too. Few pages have one there, so that the tags of few bodies are read.
    """
    last = 0
    metas = [tag.start() for tag in _META.finditer(page)]
    for start, following in itertools.pairwise([*metas, len(page)]):
        end = page.find(">", start, following)
        tag = page[start : end if end >= 0 else following]
        near = page[start : min(following, start + _NEAR)]
        if "&" in tag or _OF_RESERVATIONS.search(tag) or _OF_RESERVATIONS.search(near):
            last = start + 1
    return last


def _stated(page: str, reservations_end: int) -> dict[str, list[str]]:
    """Name of a `meta` tag or of a column -> the values that tags before the body state for it.

    reservations_end: up to here, also those of the body for `robots` and `tdm_reservation`.
    """
    found = defaultdict[str, list[str]](list)
    in_body = False
    for tag in _TAG.finditer(page):
        if tag.start() >= reservations_end and (in_body or tag.start() >= _HEAD_CHARACTERS):
            break
        if tag["title"] is not None:
            if not in_body:
                found["title"].append(tag["title"])
            continue
        name = (tag["name"] or "").lower()
        if name == "body":
            in_body = True
        if name not in ("meta", "link", "html") or (in_body and name != "meta"):
            continue
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
            name, content = unescaped(next(named, "")).strip().lower(), attributes.get("content", "")
            if _FOR_A_ROBOT.fullmatch(name):
                found["robots"] += [f"{name}: {directive}" for directive in content.split(",")]
            elif not in_body or name in ("robots", "tdm-reservation"):
                found[name].append(content)
    return {name: [value for value in values if value.strip()] for name, values in found.items()}


def _folded(value: str, most: int) -> str:
    return " ".join(unescaped(value[: 2 * most]).split())[:most]
