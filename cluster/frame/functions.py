"""The functions of the Python API that are verbs of the command: `raymill.what_if` is `raymill what-if`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from raymill.cluster.cli import verbs
from raymill.cluster.entry import Entry
from raymill.cluster.frame.kind import Kind

_run_of = Entry("raymill.cluster.frame.calls:run_of")


def function_of(name: str) -> Callable[..., Any]:
    """The function of the verb with this name, of any kind of run that is installed.

    Raises:
        AttributeError: there is none.
    """
    declared = next((verb for verb_name, verb in verbs().items() if verb_name.replace("-", "_") == name), None)
    if declared is None:
        raise AttributeError(f"module 'raymill' has no attribute {name!r}")
    if declared.call is not None:
        return declared.call.load()
    if isinstance(declared, Kind):
        return partial(_any_settings, declared.name)
    raise AttributeError(f"raymill.{name}: declares no function; run the command")


def _any_settings(kind: str, config: Any = None, **keywords: Any) -> Any:
    """`run_of` with the settings as keywords, of a kind without a function of its own."""
    options = ("override", "address", "replace", "verify", "progress")
    given = {name: keywords.pop(name) for name in options if name in keywords}
    return _run_of(kind, config, keywords, **given)
