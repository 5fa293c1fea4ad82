"""Character references of HTML: `&eacute;`, `&#233;`."""

import html
import re

_ZEROS = re.compile(r"&#0++(?=[0-9])")
_BEYOND_UNICODE = re.compile(r"&#[0-9]{8,}+;?")


def unescaped(text: str) -> str:
    """The text with characters for their references, as browsers read them.

    `html.unescape` raises an error at a number of more digits than Python converts.
    """
    if "&#" in text:
        text = _BEYOND_UNICODE.sub("\ufffd", _ZEROS.sub("&#", text))
    return html.unescape(text)
