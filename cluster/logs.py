"""What is logged and printed: one line per record, control characters as escapes, and no secrets.

Log lines on standard error have the run, stage and unit that the record is about.

    2026-11-21T10:18:01Z warning run=peps stage=measure raymill.cluster.engine: round 2 for 3 units

Log lines have names, numbers and classes of errors. They never have a document's text, and therefore no message of an
exception, which may quote a document. Messages are printed with the error that ends the command.

A terminal interprets escape sequences: they rename its window, hide lines, or answer with keystrokes. Texts of
documents, ids, categories, file names and answers of servers are therefore printed through `printable`.
"""

import logging
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from raymill.cluster.secret_values import redacted

TREE = "raymill"

_about: ContextVar[dict[str, object]] = ContextVar("about", default={})  # noqa: B039 - never changed, only replaced

# Control characters without tab and line feed, halves of UTF-16 pairs, separators of lines, and characters that reorder
# the text around them.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@contextmanager
def about(**ids: object) -> Iterator[None]:
    """Add `ids` to every line that is logged inside, together with those of an outer `about`."""
    token = _about.set(_about.get() | ids)
    try:
        yield
    finally:
        _about.reset(token)


def setup(verbose: bool = False) -> None:
    """Log to standard error: warnings, and with `verbose` each unit. Calling it again changes the level."""
    logger = logging.getLogger(TREE)
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    if not any(isinstance(handler.formatter, OneLine) for handler in logger.handlers):
        handler = _StandardError()
        handler.setFormatter(OneLine())
        logger.addHandler(handler)


def is_verbose() -> bool:
    """Whether `--verbose` was given to this process."""
    return logging.getLogger(TREE).isEnabledFor(logging.INFO)


class _StandardError(logging.Handler):
    """Writes to the current `sys.stderr`, which a test or a notebook may have replaced since the handler was made."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


class OneLine(logging.Formatter):
    """The format of a log line; see the top of this file."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        ids = "".join(f" {name}={value}" for name, value in _about.get().items())
        kind = f" ({record.exc_info[0].__name__})" if record.exc_info and record.exc_info[0] else ""
        message = redacted(" ".join(record.getMessage().splitlines()))
        return f"{when} {record.levelname.lower()}{ids} {record.name}: {message}{kind}"


def printable(text: str) -> str:
    """The text without secrets, with control characters as their escapes in JSON, such as `\\u001b`."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", redacted(text))


class PrintableStream:
    """A text stream that writes what `printable` returns. Everything else is delegated to the stream `unescaped`."""

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
