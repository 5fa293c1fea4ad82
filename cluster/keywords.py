"""Keywords of functions that are settings of a config: those that are left out are the config's, or its defaults."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from raymill.cluster.errors import ConfigError, Problem

Function = TypeVar("Function", bound=Callable[..., Any])


class _NotGiven:
    def __repr__(self) -> str:
        return "..."


NOT_GIVEN: Any = _NotGiven()


def given(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that were given."""
    return {name: value for name, value in keywords.items() if value is not NOT_GIVEN}


def with_known_keywords(function: Function) -> Function:
    """The function, which raises ConfigError for keywords that it does not have, all of them, each with the nearest."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        problems = []
        for name in keywords:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                fix = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
                problems.append(Problem.of(f"{function.__name__}, {name}", "no such setting", fix=fix))
        if problems:
            raise ConfigError.about(*problems)
        return function(*arguments, **keywords)

    return cast(Function, call)
