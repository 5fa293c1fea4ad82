"""Walks over the settings of a config, given as JSON values."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any


def leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of every setting that is no group and no list of groups: `inputs.0.path` is in the first group."""
    groups = (
        list(enumerate(value)) if isinstance(value, list) else list(value.items()) if isinstance(value, dict) else []
    )
    if groups and (isinstance(value, dict) or isinstance(value[0], dict)):
        for name, one in groups:
            yield from leaves(one, f"{at}.{name}".lstrip("."))
    else:
        yield at, value


def untold(settings: Any, told: set[str]) -> set[str]:
    """The settings that are not in `told`, by themselves or by a group."""
    names = {name for name, _ in leaves(settings)} - told
    return {name for name in names if not name.startswith(tuple(f"{one}." for one in told))}


def changed(settings: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The settings with another value of one. A dict that has its name changes it and its neighbours."""
    settings = deepcopy(settings)
    *groups, last = [int(part) if part.isdigit() else part for part in name.split(".")]
    group = settings
    for part in groups:
        group = group[part]
    group.update(value if isinstance(value, dict) and last in value else {last: value})
    return settings
