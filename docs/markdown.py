"""Plain text as Markdown."""

import re


def cell(text: str) -> str:
    """A text as a cell of a table. Its `code` stays code; outside of it nothing is markup."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    plain = [part if part.startswith("`") else re.sub(r"([\\\[\]<>*_])", r"\\\1", part) for part in parts]
    return "".join(plain).replace("|", "\\|")
