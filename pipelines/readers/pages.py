"""HTML files: the main content of each, without navigation, comments and advertisements."""

import logging
from collections.abc import Callable, Sequence
from functools import cache

from pipelines.readers.plain import OneDocument
from pipelines.readers.reader import Rows


class Html(OneDocument):
    endings = (".html", ".htm", ".xhtml")

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str]) -> None:
        add_page(rows, content, uri, id, carried)


def add_page(rows: Rows, html: bytes | str, where: str, id: str | None, carried: Sequence[str | None]) -> None:
    """Add the page's main content as a document. Bytes may be of any charset: their statistics tell which."""
    try:
        text = _extract()(html, fast=True, include_comments=False)
    except Exception:
        # Parsing what strangers wrote fails in ways that no list of exceptions covers; one page must not stop the run.
        rows.refuse("failed_extraction", where, id, carried)
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
