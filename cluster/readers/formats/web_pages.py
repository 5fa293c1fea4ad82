"""HTML pages of any origin: their bounds, their charset, their main content."""

import codecs
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from raymill.cluster.entry import Entry
from raymill.cluster.guard import Exceeded, Guard
from raymill.cluster.readers.formats.extractors import extract, load
from raymill.cluster.readers.formats.html_bounds import bounded
from raymill.cluster.readers.formats.page_columns import PAGE_COLUMNS, USED_HEADERS, page_columns
from raymill.cluster.readers.inputs import DEFAULT_EXTRACTOR, Extractor
from raymill.cluster.readers.reader import Rows, count_characters, refused
from raymill.cluster.readers.streams import in_charset

_from_bytes = Entry("charset_normalizer:from_bytes")  # few pages need it

_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
_LEFT_OUT = "characters of HTML pages are not in the texts: outside the main content, or repeated"
# Browsers decode these as Windows-1252.
_BROWSER_CHARSETS = dict.fromkeys(("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"), "cp1252")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_JAPANESE = b"\x1b$"  # begins characters of ISO-2022-JP
_DETECTED_BYTES = 10_000


class Bounded(Exception):
    """A page that is over a bound of html_bounds.py; its message says over which."""


class HtmlPage(NamedTuple):
    """A page to parse.

    Attributes:
        content_type: header of the response with its type, if there is one; its charset is tried.
        columns: names of the wanted PAGE_COLUMNS. headers: of the response, names in lower case; for the columns.
    """

    html: bytes
    content_type: str
    extractor: Extractor
    columns: Sequence[str] = ()
    headers: Mapping[str, str] = {}


class Parsed(NamedTuple):
    """What a page has: its main content, the characters besides white space that it shows, its columns."""

    text: str
    shown: int
    columns: Mapping[str, str | None]


def add_page(
    rows: Rows,
    html: bytes,
    where: str,
    id: str | None,
    carried: Sequence[str | None],
    content_type: str = "",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add the page's main content as a document, or its problem.

    content_type, headers: as of HtmlPage. carried: nulls for PAGE_COLUMNS, which are filled in.
    """
    extractor = rows.input.extractor or DEFAULT_EXTRACTOR
    load(extractor)
    columns = [name for name in rows.input.columns if name in PAGE_COLUMNS]
    used = {name: headers[name] for name in USED_HEADERS if name in headers} if columns else {}
    try:
        page = _pages(HtmlPage(html, content_type, extractor, columns, used), rows.limits.of_parser(where, len(html)))
    except Exceeded as exceeded:
        rows.refuse(refused(exceeded, "failed_extraction"), f"{where} ({exceeded.seen})", id, carried)
        return
    except Bounded as over:
        rows.refuse("bounded_extraction", f"{where} ({over})", id, carried)
        return
    except Exception as error:
        # Parsers raise many kinds of exceptions on damaged pages, and one page must not stop the run.
        rows.refuse("failed_extraction", f"{where} ({type(error).__name__})", id, carried)
        return
    if page.columns:
        pairs = zip(rows.input.columns, carried, strict=True)
        carried = [page.columns.get(name) if value is None else value for name, value in pairs]
    if page.text:
        rows.notes[_LEFT_OUT] += max(page.shown - count_characters(page.text), 0)
        rows.add(page.text, where, id, carried)
    else:
        rows.refuse("empty_extraction", where, id, carried)


def _main_content(page: HtmlPage) -> Parsed:
    """The main content and the columns of a page.

    Raises:
        Bounded: it is not parsed.
    """
    if over := bounded(page.html):
        raise Bounded(over)
    text = decoded(page.html, page.content_type)
    columns = page_columns(text, page.headers, page.columns) if page.columns else {}
    return Parsed(*extract(text, page.extractor), columns)


_pages = Guard(_main_content)


def decoded(html: bytes, content_type: str) -> str:
    """The page decoded by the first charset that fits, else by the one that is detected, with replaced characters.

    Tried in order: the charset of a byte order mark, ISO-2022-JP if it has its escapes, UTF-8, the charset of the HTTP
    header, the one that the page's first 1,024 bytes name. UTF-8 comes before the declarations since many servers
    declare ISO-8859-1 by default, and text in another charset is rarely valid UTF-8. Source:
    https://html.spec.whatwg.org/#determining-the-character-encoding
    """
    declarations = [content_type, html[:1024].decode("latin-1")]
    marks = [charset for mark, charset in _BOMS if html.startswith(mark)]
    if _JAPANESE in html:  # it consists of ASCII, so it is valid UTF-8 as well
        marks.append("iso2022_jp")
    for charset in [*marks, "utf-8", *(match[1].lower() for match in map(_CHARSET.search, declarations) if match)]:
        try:
            return in_charset(html, _BROWSER_CHARSETS.get(charset, charset))
        except (LookupError, ValueError):
            continue
    for charset in _detected(html):
        try:
            return in_charset(html, charset)
        except (LookupError, ValueError):
            continue
    return html.decode("utf-8", "replace")


def _detected(html: bytes) -> list[str]:
    """The charsets in which the text may be, the likeliest first."""
    if len(html) < _DETECTED_BYTES:
        return [one.encoding for one in _from_bytes(html)]
    half = _DETECTED_BYTES // 2
    return [one.encoding for one in _from_bytes(html[:half] + html[-half:]) or _from_bytes(html)]
