"""What the command line prints: control characters in text that others wrote as escapes, and no secrets.

A terminal interprets escape sequences: they rename its window, hide lines, or answer with keystrokes. Texts of
documents, ids, categories, file names and answers of servers are therefore printed and logged through `printable`.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from cluster.secret_values import redacted

# Control characters without tab and line feed, halves of UTF-16 pairs, separators of lines, and characters that reorder
# the text around them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without secrets, with control characters as their escapes in JSON, such as `\\u001b`."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", redacted(text))


class PrintableStream:
    """A text stream that writes what `printable` returns. Everything else is that of the stream `unescaped`."""

    def __init__(self, unescaped: TextIO) -> None:
        self.unescaped = unescaped

    def write(self, text: str) -> int:
        return self.unescaped.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unescaped, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """Inside, standard output and standard error are a `PrintableStream`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (PrintableStream(stream) for stream in before)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
