"""HTML files: the main content of each, without navigation, comments and advertisements."""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache

from pipelines.readers.plain import OneDocument
from pipelines.readers.reader import Rows

_CHARSET = re.compile(r"""charset\s*=\s*["']?([\w-]+)""", re.IGNORECASE)
_AS_BROWSERS_DO = dict.fromkeys(("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii"), "cp1252")


class Html(OneDocument):
    endings = (".html", ".htm", ".xhtml")

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        add_page(rows, content, uri, id, carried)


def add_page(
    rows: Rows, html: bytes, where: str, id: str | None, carried: Sequence[str | None], content_type: str = ""
) -> None:
    """Add the page's main content as a document. `content_type`: what the server said of it, if it is known."""
    extract, page = _extract(), _characters(html, content_type)
    try:
        text = extract(page, fast=True, include_comments=False)
    except Exception as error:
        # Parsing what strangers wrote fails in ways that no list of exceptions covers; one page must not stop the run.
        rows.refuse("failed_extraction", f"{where} ({type(error).__name__})", id, carried)
        return
    if text:
        rows.add(text, where, id, carried)
    else:
        rows.refuse("empty_extraction", where, id, carried)


@cache
def _extract() -> Callable[..., str | None]:
    from trafilatura import extract  # takes 0.4 s, and most runs read no HTML

    # It reports every page without content as an error; here that is a row of its own.
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    return extract


def _characters(html: bytes, content_type: str) -> bytes | str:
    """The page as text by the first charset that fits; as it is where none does: trafilatura then guesses.

    UTF-8 comes before what server and page say, because many say ISO-8859-1 by default and text in other charsets is
    hardly ever valid UTF-8. Where to look in the page: https://html.spec.whatwg.org/#prescan-a-byte-stream-to-determine-its-encoding
    """
    said = [content_type, html[:1024].decode("latin-1")]
    for charset in ["utf-8", *(match[1].lower() for match in map(_CHARSET.search, said) if match)]:
        try:
            return html.decode(_AS_BROWSERS_DO.get(charset, charset))
        except (LookupError, UnicodeError):
            continue
    return html
