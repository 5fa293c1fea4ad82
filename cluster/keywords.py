"""Keywords of functions that are settings of a config: those that are left out are the config's, or its defaults."""

from collections.abc import Mapping
from typing import Any


class _NotGiven:
    def __repr__(self) -> str:
        return "..."


NOT_GIVEN: Any = _NotGiven()


def given(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that were given."""
    return {name: value for name, value in keywords.items() if value is not NOT_GIVEN}
