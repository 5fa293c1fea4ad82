"""Markdown cards: README.md of a data set or model in the format of the Hugging Face hub, from a Jinja2 template.

Every value is escaped where it is placed, so that no name can start a tag, a link, a table cell or a code fence; only
what stands in a code block is marked `safe` in the template.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Characters with a meaning inside a line of Markdown, and those by which GitHub recognises addresses to link.
_MARKS = re.compile(r"([\\`*_\[\]#+|~$@]|:(?=//)|(?<=www)\.)")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_BLANK_LINES = re.compile(r"\n{3,}")


def card(package: str, front: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """The text of a card.

    Args:
        package: its file card.md is the template.
        front: the entries of the front matter.
        values: what the template names.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("cluster.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup("" if value is None else escaped(value)),
    )
    body = environment.get_template("card.md").render(values)
    matter = yaml.safe_dump(dict(front), sort_keys=False, allow_unicode=True)
    return f"---\n{matter}---\n\n{_BLANK_LINES.sub(chr(10) * 2, body).strip()}\n"


def escaped(value: object) -> str:
    """A value as text on one line, with everything that has a meaning in Markdown escaped."""
    text = _UNPRINTABLE.sub(" ", str(value)).strip()
    marked = _MARKS.sub(r"\\\1", text)
    return "".join(_ENTITIES.get(sign, sign) for sign in marked)
