"""The name of a run: given in its config, else made of its output."""

import re
from typing import Annotated, Any

from pydantic import Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

RunName = Annotated[
    str,
    Field(
        max_length=100,
        pattern=NAME,
        description="Name of the run in logs and reports; empty: the last part of `output`",
    ),
]


def run_name(uri: str, default: str) -> str:
    """The last part of a path or URI, as the name of a run. default: the name if that has no letter and no digit."""
    last = uri.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-._")[:100] or default


def named_after_output(settings: Any, default: str) -> Any:
    """The settings of a config, with the last part of `output` as `name` where they have none. default: as above."""
    if isinstance(settings, dict) and settings.get("name") is None and isinstance(settings.get("output"), str):
        return settings | {"name": run_name(settings["output"], default)}
    return settings
