"""Scores of answers: the names of Raymill's, and scores of the user, of `train` and `prompt`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.plugins import Plugin, PluginError, PluginKind, PluginUse, call, shown_value

SCORES = (
    *("loss", "exact_match", "f1", "bleu", "rouge1", "rouge2", "rougeL", "number_match", "number_match_flexible"),
    *("answered", "answered_flexible", "accuracy", "macro_precision", "macro_recall", "macro_f1", "micro_precision"),
    *("micro_recall", "micro_f1"),
)


class ScoreUse(PluginUse):
    """A score of the user, as `module:attribute`, or with settings."""

    kind: ClassVar = PluginKind("score", "raymill.scores", ("answer",), ("score",))

    def check(self, plugin: Plugin) -> None:
        """Verify that its name is no score of Raymill. Raises ConfigError."""
        if plugin.name in SCORES:
            raise ConfigError(
                f"{plugin.use}: the score's name, {plugin.name}, is a score of Raymill; give it another `name`"
            )


def names_once(uses: Sequence[ScoreUse]) -> None:
    """Verify that no two scores have one name.

    Raises:
        ValueError: some have.
    """
    names = [one.plugin.name for one in uses if one.plugin]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"custom: two scores have the name {twice[0]}; give one another `name`")


def custom_score(plugin: Plugin, answer: Mapping[str, Any], setting: str, fix: str) -> float:
    """The user's score of an answer.

    Args:
        answer: with `document`, `prompt`, `reference` and `generated`.
        setting: that names the score. fix: a sentence of what to do, both for errors.

    Raises:
        DataError: the score raised an exception, or returned something else than a finite number.
    """
    made, raised = plugin.make(), None
    try:
        found = call(getattr(made, "score", made), dict(answer))
        with suppress(OverflowError):  # as an int of the digits of an answer
            if isinstance(found, int | float | np.integer | np.floating | np.bool_) and np.isfinite(
                value := float(found)
            ):
                return value
        seen = f"returned {shown_value(found)}"
    except PluginError as error:
        seen, raised = str(error), error.__cause__
    raise DataError(
        f"{setting}: {plugin.use}: {seen}, for the answer {answer['generated'][:60]!r} to document "
        f"{answer['document']}; wanted a finite number. {fix}"
    ) from raised
