"""PDF: a file is one document. Lines are joined to paragraphs; page numbers and running heads are removed.

A file that opens without a password is read, also if it is encrypted to restrict printing or copying. Pictures have no
text here: a scan without a text layer is unreadable. pypdf bounds what a stream may expand to.

Speed: 80 to 90 pages of prose a second on one core.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from types import ModuleType

from raymill.cluster.guard import Guard
from raymill.cluster.readers.formats.text_files import OneDocument
from raymill.cluster.readers.reader import Rows, count_characters
from raymill.cluster.readers.streams import UnreadableRest

_END_LOOKED_AT = 2048  # the specification requires the mark of the end in the last 1,024 bytes

_LEFT_OUT = "characters of PDF pages are not in the texts: running heads, page numbers and hyphens at line ends"
_EDGE_LINES = 2  # looked at for running heads, at either end of a page
_MIN_REPEATS = 3
_NUMBER = re.compile(r"[0-9]+")
# A line that begins a paragraph of its own: a bullet, a number or letter with a point or bracket, or an option.
_ITEM = re.compile(r"(?:[•◦▪‣·*–—-]|\(?(?:[0-9]{1,3}|[a-zA-Z])[.)])\s|--?[a-zA-Z]")
_HYPHENS = ("-", "\u00ad", "\u2010")
_FULL_LINE = 0.75  # share of the usual width; a shorter line ends its paragraph
_LEAST_WIDTH = 40  # characters; narrower lines are those of tables


class Pdf(OneDocument):
    """The text layer of PDF files."""

    endings = (".pdf",)
    extracts = True
    bytes_per_text = 4

    def add(self, rows: Rows, content: bytes, uri: str, id: str | None, carried: list[str | None]) -> None:
        """Add the text of all pages."""
        _pypdf()  # loaded before the child process begins, which then has it
        text, left_out = _texts((content, rows.limits.max_document_bytes), rows.limits.of_parser(uri, len(content)))
        rows.notes[_LEFT_OUT] += left_out
        rows.add(text, uri, id, carried)


def _text(file: tuple[bytes, int]) -> tuple[str, int]:
    """(the text of a file, the characters that are left out). file: its content, and the most bytes of text.

    Raises:
        UnreadableRest: as `_pages`, or there is no text.
    """
    pages = _pages(*file)
    text = as_paragraphs(pages)
    if not text:
        raise UnreadableRest("no_text")
    return text, sum(map(count_characters, pages)) - count_characters(text)


_texts = Guard(_text)


def _pages(content: bytes, max_bytes: int) -> list[str]:
    """The text of each page, in lines.

    Raises:
        UnreadableRest: the file is damaged, needs a password or exceeds a bound.
    """
    pypdf = _pypdf()
    if b"%%EOF" not in content[-_END_LOOKED_AT:]:
        raise UnreadableRest("truncated" if b"%PDF-" in content[:1024] else "damaged_file")
    pages, size = [], 0
    try:
        reader = pypdf.PdfReader(BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableRest("encrypted")
        for page in reader.pages:
            pages.append(page.extract_text())
            size += len(pages[-1])
            if size > max_bytes:
                raise UnreadableRest("too_large")
    except (UnreadableRest, MemoryError):
        raise
    except pypdf.errors.FileNotDecryptedError as error:
        raise UnreadableRest("encrypted") from error
    except pypdf.errors.LimitReachedError as error:
        raise UnreadableRest("expansion_bomb") from error
    except Exception as error:
        # pypdf raises many kinds of exceptions on damaged files, and one file must not stop the run.
        raise UnreadableRest("damaged_file") from error
    return pages


@cache
def _pypdf() -> ModuleType:
    import pypdf  # imported here: it takes 0.5 s, and most runs read no PDF

    # It logs a warning for every defect that it fixes.
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    return pypdf


def as_paragraphs(pages: Sequence[str]) -> str:
    """The lines of all pages joined to paragraphs, one a line.

    A line that reaches 75% of the usual width and does not end in a colon goes on in the next one, unless that begins
    an item of a list; on the next page only if it begins with a small letter. Words are joined at a hyphen that a small
    letter follows.
    """
    page_lines = _without_running_heads([[line.strip() for line in page.split("\n")] for page in pages])
    widths = sorted(len(line) for lines in page_lines for line in lines if line)
    least = _FULL_LINE * max(widths[len(widths) * 4 // 5], _LEAST_WIDTH) if widths else 0.0
    paragraphs: list[list[str]] = []
    goes_on = False  # whether the last line reaches the width
    for lines in page_lines:
        for position, line in enumerate(lines):
            if not line:
                goes_on = False
                continue
            if not goes_on or _ITEM.match(line) or (position == 0 and not line[0].islower()):
                paragraphs.append([line])
            elif (last := paragraphs[-1][-1]).endswith(_HYPHENS) and last[-2:-1].isalpha() and line[0].islower():
                paragraphs[-1][-1] = last[:-1]
                paragraphs[-1].append(line)
            else:
                paragraphs[-1].extend((" ", line))
            goes_on = len(line) >= least and not line.endswith(":")
    return "\n".join("".join(pieces) for pieces in paragraphs)


def _without_running_heads(pages: list[list[str]]) -> list[list[str]]:
    """The pages without the lines at their ends that, but for numbers, stand there on three or more pages.

    If nothing else stands on any page, the lines that all pages have are the text, once.
    """
    pages = given = [_trimmed(lines) for lines in pages]
    for _ in range(_EDGE_LINES):
        for end in (0, -1):
            keys = [_NUMBER.sub("#", lines[end]) if lines else "" for lines in pages]
            counts = Counter(keys)
            pages = [
                _trimmed(lines[1:] if end == 0 else lines[:-1]) if lines and counts[key] >= _MIN_REPEATS else lines
                for lines, key in zip(pages, keys, strict=True)
            ]
    if not any(pages) and (filled := [lines for lines in given if lines]):
        return [[line for line in filled[0] if all(line in lines for lines in filled)]]
    return pages


def _trimmed(lines: list[str]) -> list[str]:
    """The lines without empty ones at both ends."""
    filled = [at for at, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1] if filled else []
