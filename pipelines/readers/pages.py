"""HTML files: the main content of each, without navigation, comments and advertisements."""

from pipelines.readers.plain import OneDocument
from pipelines.readers.reader import Rows


class Html(OneDocument):
    endings = (".html", ".htm", ".xhtml")

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str]) -> None:
        add_page(rows, content, uri, id, carried)


def add_page(rows: Rows, html: bytes, where: str, id: str | None, carried: list[str | None] | list[str]) -> None:
    """Add the page's main content as a document. Bytes of any charset: the page's own mark or its statistics tell."""
    from trafilatura import extract  # 0.4 s to import

    try:
        text = extract(html, fast=True, include_comments=False)
    except Exception:
        # Parsing what strangers wrote fails in ways that no list of exceptions covers; one page must not stop the run.
        rows.refuse("failed_extraction", where, id, carried)
        return
    if text:
        rows.add(text, where, id, carried)
    else:
        rows.refuse("empty_extraction", where, id, carried)
