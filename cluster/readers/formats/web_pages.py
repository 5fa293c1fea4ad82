"""HTML pages of files and web archives: their bounds, charset, metadata and main content."""

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from raymill.cluster.entry import Entry
from raymill.cluster.guard import Exceeded, Guard
from raymill.cluster.readers.formats.extractors import extract, load
from raymill.cluster.readers.formats.html_bounds import exceeded_bound
from raymill.cluster.readers.formats.page_columns import PAGE_COLUMNS, USED_HEADERS, page_columns
from raymill.cluster.readers.inputs import Extractor
from raymill.cluster.readers.reader import Rows, count_characters, refused
from raymill.cluster.readers.streams import in_charset

_from_bytes = Entry("charset_normalizer:from_bytes")  # few pages need it

_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
_LEFT_OUT = (
    "characters of HTML pages are not in the texts: outside the main content, or repeated (estimated for files with "
    "many pages)"
)
# Pages of a file whose left-out characters are counted; of those after them one in _COUNTED_STEP, which stands for all.
_ALL_COUNTED, _COUNTED_STEP = 20, 16
# Browsers decode these as Windows-1252.
_BROWSER_CHARSETS = dict.fromkeys(("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"), "cp1252")
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_JAPANESE = b"\x1b$"  # escape sequence before characters of ISO-2022-JP
_DETECTED_BYTES = 10_000


class BoundExceeded(Exception):
    """A page exceeds a bound of html_bounds.py; the message is the bound."""


class HtmlPage(NamedTuple):
    """A page to parse.

    Attributes:
        content_type: Content-Type of the response, whose charset is tried; empty if there is none.
        columns: names of the wanted PAGE_COLUMNS.
        headers: those of USED_HEADERS that the response has, names in lower case.
        count_shown: whether to count the shown characters.
    """

    html: bytes
    content_type: str
    extractor: Extractor
    columns: Sequence[str] = ()
    headers: Mapping[str, str] = {}
    count_shown: bool = True


class Parsed(NamedTuple):
    """A page after extraction: main content, number of shown characters besides white space or None, PAGE_COLUMNS."""

    text: str
    shown: int | None
    columns: Mapping[str, str | None]


def add_page(
    rows: Rows,
    html: bytes,
    where: str,
    id: str | None,
    carried: Sequence[str | None],
    content_type: str = "",
    headers: Mapping[str, str] = {},
) -> None:
    """Add the page's main content as a document, or its problem.

    carried: values of the input's `columns`; those of PAGE_COLUMNS are None, and are read from the page here.
    content_type, headers: of the HTTP response, as in HtmlPage.
    """
    extractor = rows.input.html_extractor
    load(extractor)
    columns = [name for name in rows.input.columns if name in PAGE_COLUMNS]
    used = {name: headers[name] for name in USED_HEADERS if name in headers}
    rows.pages += 1
    weight = 1 if rows.pages <= _ALL_COUNTED else _COUNTED_STEP
    counted = rows.pages % weight == 0
    try:
        task = HtmlPage(html, content_type, extractor, columns, used, counted)
        page = _pages(task, rows.limits.of_parser(where, len(html)))
    except Exceeded as exceeded:
        rows.refuse(refused(exceeded, "failed_extraction"), f"{where} ({exceeded.seen})", id, carried)
        return
    except BoundExceeded as bound:
        rows.refuse("bounded_extraction", f"{where} ({bound})", id, carried)
        return
    except Exception as error:
        # Parsers raise many kinds of exceptions on damaged pages, and one page must not stop the run.
        rows.refuse("failed_extraction", f"{where} ({type(error).__name__})", id, carried)
        return
    if page.columns:
        pairs = zip(rows.input.columns, carried, strict=True)
        carried = [page.columns.get(name) if value is None else value for name, value in pairs]
    if page.text:
        if page.shown is not None:
            rows.notes[_LEFT_OUT] += weight * max(page.shown - count_characters(page.text), 0)
        rows.add(page.text, where, id, carried)
    else:
        rows.refuse("empty_extraction", where, id, carried)


def _main_content(page: HtmlPage) -> Parsed:
    """The main content and the columns of a page.

    Raises:
        BoundExceeded: the page exceeds a bound, and is not parsed.
    """
    if bound := exceeded_bound(page.html):
        raise BoundExceeded(bound)
    text = decoded(page.html, page.content_type)
    columns = page_columns(text, page.headers, page.columns) if page.columns else {}
    return Parsed(*extract(text, page.extractor, page.count_shown), columns)


_pages = Guard(_main_content)


def decoded(html: bytes, content_type: str) -> str:
    """The page, decoded by the first charset of `_charsets` that fits; as UTF-8 with replaced characters if none does.

    content_type: Content-Type of the HTTP response.
    """
    for charset in _charsets(html, content_type):
        try:
            return in_charset(html, charset)
        except (LookupError, ValueError):
            continue
    return html.decode("utf-8", "replace")


def _charsets(html: bytes, content_type: str) -> Iterator[str]:
    """The charsets to try, the most reliable first.

    In order: the charset of a byte order mark, ISO-2022-JP if the page has its escape sequences, UTF-8, the charset of
    the HTTP header, the one that the page's first 1,024 bytes name, those that are detected. UTF-8 comes before the
    declarations because many servers declare ISO-8859-1 by default, and text in another charset is rarely valid UTF-8.
    Source: https://html.spec.whatwg.org/#determining-the-character-encoding
    """
    yield from (charset for mark, charset in _BOMS if html.startswith(mark))
    if has_japanese_escapes(html):  # such text is ASCII, and so valid UTF-8
        yield "iso2022_jp"
    yield "utf-8"
    for declaration in (content_type, html[:1024].decode("latin-1")):
        if match := _CHARSET.search(declaration):
            yield _BROWSER_CHARSETS.get(match[1].lower(), match[1].lower())
    yield from _detected(html)


def has_japanese_escapes(html: bytes) -> bool:
    """Whether a page has the escape sequence before characters of ISO-2022-JP, whose bytes are all ASCII.

    The search for one byte takes 5 us for 100 kB, for two 150.
    """
    return _JAPANESE[:1] in html and _JAPANESE in html


def _detected(html: bytes) -> list[str]:
    """The charsets that fit the beginning and the end of a page by statistics, the likeliest first."""
    if len(html) < _DETECTED_BYTES:
        return [one.encoding for one in _from_bytes(html)]
    half = _DETECTED_BYTES // 2
    return [one.encoding for one in _from_bytes(html[:half] + html[-half:]) or _from_bytes(html)]
