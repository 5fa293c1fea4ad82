"""What a rule is: numbers measured on a document, and bounds on them, each with the reason it gives.

`measure` looks at text once and returns signals; `checks` are comparisons of signals with bounds and never see text.
So a run can be decided again with other bounds in seconds, and every removal has a value and a threshold to show.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from pipelines.rules.analysis import Analysis

Dialect = Literal["paper", "datatrove"]


@dataclass(frozen=True, slots=True)
class Check:
    """Remove a document, for `reason`, when `signal` is under `minimum` or over `maximum`: the bounds themselves stay.

    Exactly one bound is set. A document whose signal is null or NaN passes.
    """

    reason: str
    signal: str
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        assert (self.minimum is None) != (self.maximum is None), f"{self.reason}: a check has one bound"

    @property
    def threshold(self) -> float:
        return self.minimum if self.minimum is not None else self.maximum  # type: ignore[return-value]

    def fails(self, values: np.ndarray) -> np.ndarray:
        """bool[D]: which of the values lie outside. NaN compares false, so it stays."""
        return values < self.minimum if self.minimum is not None else values > self.maximum


class Rule(Protocol):
    """A frozen dataclass whose fields are its settings; the field names are the config's keys.

    name: its key under `rules` in the config, and the `stage` of its rows in the ledger.
    reasons: every reason its checks can give, in the order they are tried.
    signals: the attribute columns `measure` adds, each with what it is (and its unit) for people.
    measured_by: the settings that change what `measure` returns. All others only move bounds, so changing
        them does not make a finished measurement stale.
    """

    name: ClassVar[str]
    reasons: ClassVar[tuple[str, ...]]
    signals: ClassVar[dict[str, str]]
    measured_by: ClassVar[tuple[str, ...]]

    def measure(self, analysis: Analysis) -> dict[str, np.ndarray]:
        """One array per signal, each of length D; float32, float64 or an integer type."""
        ...

    def checks(self, dialect: Dialect) -> tuple[Check, ...]:
        """In the order they are tried; the first that fails is the document's reason."""
        ...
