"""The Jinja2 environment of reports. Every value that is no markup is escaped; None is shown as nothing."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def svg_number(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


HTML = Environment(
    loader=PackageLoader("cluster.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    finalize=lambda value: "" if value is None else value,
)
HTML.filters["n"] = svg_number


def macro(template: str, name: str, *values: Any) -> Markup:
    """What a macro of a template makes of these values."""
    return getattr(HTML.get_template(template).module, name)(*values)
