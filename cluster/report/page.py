"""A report as an HTML page in one file, without requests to any network.

The page's content policy forbids loading anything and every script but ours, which it names by hash. The script opens
folds for links and printing; the page is complete without it. Characters that HTML cannot hold become U+FFFD, so a page
is valid UTF-8 whatever the documents contain.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from importlib import resources

from markupsafe import Markup

from raymill.cluster.report.sections import HTML, Content, Section, outside

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_STYLE = resources.files(__package__).joinpath("page.css").read_text("utf-8")
_SCRIPT = resources.files(__package__).joinpath("page.js").read_text("utf-8")


def page(
    kind: str,
    name: str,
    finished: str,
    version: str,
    output: str,
    sections: Sequence[Section | None],
    more: Sequence[Content] = (),
) -> str:
    """The page as text that is valid UTF-8.

    Args:
        kind: what the page is, such as `Curation report`.
        finished: time in ISO 8601.
        output: URI of the run.
        more: further paragraphs of the header.
    """
    moment = datetime.fromisoformat(finished)
    made = HTML.get_template("page.html").render(
        kind=kind,
        name=name,
        heading=outside(name),
        finished=finished,
        moment=f"{moment:%Y-%m-%d %H:%M %Z}".strip(),
        version=version,
        output=output,
        more=more,
        sections=[section for section in sections if section],
        style=Markup(_STYLE),
        script=Markup(_SCRIPT),
        style_hash=_hash(_STYLE),
        script_hash=_hash(_SCRIPT),
    )
    return valid_text(made)


def valid_text(text: str) -> str:
    """The text with one kind of line end, and U+FFFD in place of characters that HTML cannot hold."""
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
