"""The shown text near the beginning of an HTML page, without parsing it: for decisions before the text is extracted."""

import re

from raymill.cluster.character_references import unescaped
from raymill.cluster.readers.formats.web_pages import has_japanese_escapes

_BYTES = 1 << 15
_LEAST_CHARACTERS = 200
# A comment; an element whose content is not shown, or is no prose; a tag. Each is matched up to the end if it has none.
_MARKUP = re.compile(
    rb"(?is)<!--.*?(?:-->|\Z)|<(script|style|noscript|template|svg|select)\b.*?(?:</\1[^>]*+>?|\Z)|<[^>]*+(?:>|\Z)"
)


def page_start(html: bytes) -> str | None:
    """The text in the first 32 KiB of the body; None if it has under 200 characters, or the page is not UTF-8.

    Takes 0.15 ms, in linear time for any bytes.
    """
    at = max(html.find(b"<body"), 0)
    text = b" ".join(_MARKUP.sub(b" ", html[at : at + _BYTES]).split())
    try:
        found = text.decode()
    except UnicodeDecodeError as error:
        if error.start < len(text) - 3:  # else the last character is cut
            return None
        found = text[: error.start].decode()
    found = unescaped(found)
    return found if len(found) >= _LEAST_CHARACTERS and not has_japanese_escapes(html) else None
