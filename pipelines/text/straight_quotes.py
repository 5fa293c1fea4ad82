"""Typographic quotation marks as the two of ASCII, outside of code.

    \u2018 \u2019 \u201a \u201b    become '
    \u201c \u201d \u201e \u201f    become "

Guillemets stay, because in French a space belongs to them, and so do primes and the letters U+02BB and U+02BC. Code is
what Markdown takes for it: fenced blocks, and one to three backticks within a line. The time is linear in the length of
the text.
"""

import re

_STRAIGHT = str.maketrans(
    {**dict.fromkeys("\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
)
# What is possessive (`+` after a quantifier) is not tried again with less, which would take quadratic time.
_FENCED = r"^[ \t]*+(?P<fence>`{3,}+|~{3,}+)[^`\n]*+$(?s:.*?)(?:^[ \t]*+(?P=fence)[`~]*+[ \t]*+$|\Z)"
_INLINE = r"(?<!`)(?P<ticks>`{1,3})(?!`)[^\n]*?[^`\n](?P=ticks)(?!`)"
_CODE = re.compile(f"{_FENCED}|{_INLINE}", re.MULTILINE)


def straight_quotes(text: str) -> str:
    """The text with straight quotation marks; that of code unchanged."""
    straight = text.translate(_STRAIGHT)
    if straight == text or ("`" not in text and "~~~" not in text):
        return straight
    # A mark is replaced by one character, so that code is at the same place in both texts.
    pieces, at = [], 0
    for code in _CODE.finditer(text):
        pieces += [straight[at : code.start()], code.group()]
        at = code.end()
    return "".join([*pieces, straight[at:]])
