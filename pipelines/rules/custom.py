"""Rules of the user: the setting `rules.custom`.

A rule is one of

    a function            keep(text) -> bool
    a class               with a method keep(text) -> bool, where something is prepared once for all documents
    a class on arrays     with measure(analysis), checks(dialect), `signals` and `reasons`, as those in this folder

The first two measure one signal, NAME_score, which is 1 for a document to keep and 0 for another. A class on arrays has
bounds, which `what-if` can change without measuring again. Code of the user is not trusted to return what it should:
results are checked, and a document on which it raises an exception is one that could not be read.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from raymill.cluster.asking.embedding_model import DECISIVE
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.plugins import Plugin, PluginError, PluginKind, PluginUse, call, shown_value
from raymill.pipelines.rules.rule import Analysis, Check, Dialect, Rule
from raymill.pipelines.text.texts import Texts

RULE = PluginKind("rule", "raymill.rules", ("text",), ("keep", "measure"))

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class RuleUse(PluginUse):
    """A rule of the user, as `module:attribute`, or with settings."""

    kind: ClassVar = RULE

    def check(self, plugin: Plugin) -> None:
        """Verify that the class or function is a rule. Raises ConfigError."""
        rule_of(plugin)

    @property
    def rule(self) -> "CustomRule":
        """The rule. In a config of a record its code is not loaded, and measuring with it raises ConfigError."""
        return CustomRule(self.use, (), {}, (), self) if self.plugin is None else rule_of(self.plugin)


@dataclass(frozen=True)
class CustomRule:
    """A rule of the user, in the interface of those in this folder.

    Attributes:
        source: the plug-in; in a config of a record the entry that names it.
    """

    name: str
    reasons: tuple[str, ...]
    signals: dict[str, str]
    measured_by: tuple[str, ...]
    source: Plugin | RuleUse

    @property
    def is_loaded(self) -> bool:
        """Whether the code of the rule is there."""
        return isinstance(self.source, Plugin)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the rule and the fingerprint of its code, as JSON values."""
        if isinstance(self.source, Plugin):
            return {"code": self.source.code, **self.source.settings}
        return self.source.model_dump(mode="json", exclude={"use"})

    @property
    def _plugin(self) -> Plugin:
        return self.source if isinstance(self.source, Plugin) else self.source.loaded()

    def fingerprint_files(self) -> tuple[str, ...]:
        """The files that the rule reads."""
        return tuple(getattr(self._plugin.make(), "fingerprint_files", tuple)()) if self.is_loaded else ()

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """The signals, float64[D]; NaN for documents on which the rule raises an exception: `analysis.failures`.

        Raises:
            DataError: the rule returns something else than its interface says.
        """
        plugin, documents = self._plugin, len(analysis.texts)
        made = plugin.make()
        if not documents:
            return {name: np.empty(0) for name in self.signals}
        if not hasattr(made, "measure"):
            return {self._score: self._kept(getattr(made, "keep", made), analysis)}
        try:
            return self._signals(call(made.measure, analysis), documents)
        except PluginError:
            return self._one_by_one(made.measure, analysis)

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        """The checks of the rule, in order."""
        made = self._plugin.make()
        if not hasattr(made, "checks"):
            return (Check(self.name, self._score, minimum=1),)
        return tuple(call(made.checks, dialect))

    @property
    def _score(self) -> str:
        return f"{self.name}_score"

    def _kept(self, keep: Callable[[str], Any], analysis: Analysis) -> np.ndarray:
        found = np.full(len(analysis.texts), np.nan)
        for row, text in enumerate(analysis.texts.to_arrow()):
            try:
                kept = call(keep, text.as_py())
            except PluginError as error:
                analysis.failures[row] = f"{self.source.use}: {error}"
                continue
            if not isinstance(kept, bool | np.bool_):
                raise DataError(
                    f"{self.source.use}: returned {shown_value(kept)} for the text that begins {text.as_py()[:60]!r}; "
                    "wanted True, which keeps the document, or False. Correct the rule."
                )
            found[row] = kept
        return found

    def _signals(self, measured: Any, documents: int) -> dict[str, np.ndarray]:
        if not isinstance(measured, Mapping) or set(measured) != set(self.signals):
            seen = f"signals {sorted(measured)}" if isinstance(measured, Mapping) else type(measured).__name__
            raise self._wrong(f"measure returned {seen}; wanted a dictionary of {sorted(self.signals)}")
        found = {}
        for name in self.signals:
            values = np.asarray(measured[name])
            if values.shape != (documents,) or values.dtype.kind not in "biuf":
                raise self._wrong(
                    f"measure returned {values.dtype}{list(values.shape)} for {name}; wanted one number for each of "
                    f"{documents} documents"
                )
            found[name] = values.astype(np.float64)
            if np.isinf(found[name]).any():
                raise self._wrong(f"an infinite {name} was measured; wanted numbers, or NaN where it does not apply")
        return found

    def _wrong(self, message: str) -> DataError:
        return DataError(f"{self.source.use}: {message}. Correct the rule.")

    def _one_by_one(self, measure: Callable[[Analysis], Any], analysis: Analysis) -> dict[str, np.ndarray]:
        found = {name: np.full(len(analysis.texts), np.nan) for name in self.signals}
        for row in range(len(analysis.texts)):
            one = replace(
                analysis, texts=Texts.from_strings([analysis.texts[row]]), columns=analysis.columns.slice(row, 1)
            )
            try:
                measured = self._signals(call(measure, one), 1)
            except PluginError as error:
                analysis.failures[row] = f"{self.source.use}: {error}"
                continue
            for name, values in measured.items():
                found[name][row] = values[0]
        return found


def rule_of(plugin: Plugin) -> CustomRule:
    """The rule of a plug-in.

    Raises:
        ConfigError: its class lacks a part of the interface of a rule, or a part of it is wrong.
    """
    made, use, name = plugin.make(), plugin.use, plugin.name
    settings = tuple(plugin.settings)
    if not hasattr(made, "measure"):
        _one_text(use, made)
        signals = {f"{name}_score": f"1 for a document that {use} keeps, 0 for another"}
        return CustomRule(name, (name,), signals, ("code", *settings), plugin)
    given, reasons = getattr(made, "signals", None), getattr(made, "reasons", None)
    if not (isinstance(given, Mapping) and given and all(_is_name(one) for one in given)):
        raise ConfigError(
            f"{use}: signals is {given!r:.80}; wanted a dictionary: name of each signal in lower case -> definition"
        )
    if not (isinstance(reasons, tuple | list) and reasons and all(_is_name(one) for one in reasons)):
        raise ConfigError(f"{use}: reasons is {reasons!r:.80}; wanted all reasons of removal, in lower case")
    if not callable(getattr(made, "checks", None)):
        raise ConfigError(f"{use}: is a class with measure and without checks(dialect), which returns the bounds")
    measured_by = getattr(made, "measured_by", settings)
    if unknown := [one for one in measured_by if one not in settings]:
        raise ConfigError(f"{use}: measured_by names {', '.join(unknown)}, which is no setting of the rule")
    try:
        checks = call(made.checks, "paper")
    except PluginError as error:
        raise ConfigError(f"{use}: checks('paper') raised {error}") from error
    if not (isinstance(checks, tuple | list) and checks and all(isinstance(one, Check) for one in checks)):
        raise ConfigError(
            f"{use}: checks returned {shown_value(checks)}; wanted a tuple of raymill.pipelines.rules.Check"
        )
    for check in checks:
        if check.signal not in given or check.reason not in reasons or not math.isfinite(check.threshold):
            raise ConfigError(
                f"{use}: the check {check} names a signal, reason or bound that the rule does not have; it has "
                f"{', '.join(given)} and {', '.join(reasons)}"
            )
    return CustomRule(
        name, tuple(reasons), {one: str(text) for one, text in given.items()}, ("code", *measured_by), plugin
    )


def _one_text(use: str, made: Any) -> None:
    keep = getattr(made, "keep", made)
    try:
        inspect.signature(keep).bind("text")
    except TypeError as error:
        raise ConfigError(f"{use}: cannot be called with one text ({error}); wanted {RULE.wanted}") from error


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def plain_settings(rule: Rule) -> dict[str, Any]:
    """The settings of a rule as JSON values; of a rule of the user also the fingerprint of its code."""
    if isinstance(rule, CustomRule):
        return rule.settings
    plain: dict[str, Any] = asdict(rule)  # type: ignore[call-overload]
    return {
        name: one.model_dump(mode="json", context=DECISIVE) if isinstance(one, BaseModel) else one
        for name, one in plain.items()
    }


def refuse_taken_names(rules: tuple[Rule, ...], taken: frozenset[str]) -> None:
    """Verify that no two rules have one name, and no two signals, nor one of the columns `taken`.

    Raises:
        ValueError: some have.
    """
    names: set[str] = set()
    columns = set(taken)
    for rule in rules:
        use = rule.source.use if isinstance(rule, CustomRule) else rule.name
        if rule.name in names:
            raise ValueError(f"custom: {use}: two rules have the name {rule.name}; give the class another `name`")
        names.add(rule.name)
        for signal in rule.signals:
            if signal in columns:
                raise ValueError(f"custom: {use}: {signal} is measured already; give the signal another name")
            columns.add(signal)
