"""Callbacks: classes and functions of the user that the first worker calls in a training.

    on_step(record)            after a step, with its line of steps.jsonl
    on_checkpoint(checkpoint)  after a checkpoint is committed, with its `step` and `uri`
    on_end(outcome)            after the last step, with what fit.json has

A function is called as on_step. Training waits for a call. After a restart, steps since the checkpoint come again. An
exception ends the training on all workers, and it is not started again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from raymill.cluster.errors import DataError
from raymill.cluster.plugins import Plugin, PluginError, call


class Callbacks:
    """The callbacks of a training, of the first worker."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        self.plugins = plugins

    def on_step(self, record: Mapping[str, Any]) -> None:
        """Call each after a step. Raises DataError, as do the other two."""
        self._call("on_step", record)

    def on_checkpoint(self, uri: str, step: int) -> None:
        """Call each after a checkpoint."""
        self._call("on_checkpoint", {"uri": uri, "step": step})

    def on_end(self, outcome: Mapping[str, Any]) -> None:
        """Call each at the end."""
        self._call("on_end", outcome)

    def _call(self, event: str, value: Mapping[str, Any]) -> None:
        for plugin in self.plugins:
            made = plugin.make()
            is_function = not isinstance(plugin.target, type)
            function = made if is_function and event == "on_step" else getattr(made, event, None)
            if function is None:
                continue
            try:
                call(function, dict(value))
            except PluginError as error:
                raise DataError(
                    f"callbacks: {plugin.use} raised {error} in {event}. Correct it, or remove it from `callbacks`; "
                    "the same command continues from the last checkpoint."
                ) from error
