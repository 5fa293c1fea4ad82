"""How far a training has come, apart from weights: what a checkpoint's manifest carries beside them. Pure.

Patience and the choice of the best checkpoint are here, so a resumed run stops where an uninterrupted one would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, and after which step."""

    step: int
    loss: float


@dataclass(frozen=True)
class Course:
    """
    step: steps behind us, taken or passed over. updates: those in which the optimizer moved. evaluated: the step of the
    latest validation, -1 before the first. best: of the validations after step 0. misses: validations since the best.
    skipped: steps passed over after a broken loss, counted from 1. went_back: how often. seconds: spent, without what a
    kill made worthless.
    """

    step: int = 0
    updates: int = 0
    evaluated: int = -1
    best: Best | None = None
    misses: int = 0
    skipped: tuple[int, ...] = ()
    went_back: int = 0
    seconds: float = 0.0

    def stepped(self, *, updated: bool) -> Self:
        return replace(self, step=self.step + 1, updates=self.updates + updated)

    def validated(self, loss: float | None, least_gain: float) -> Self:
        """After a validation at this step. Without a loss (no label in the split) nothing is better than before.

        The model before its first step is measured to compare with, and is never the best of the training.
        """
        if self.step == 0 or loss is None:
            return replace(self, evaluated=self.step)
        if self.best is None or loss < self.best.loss - least_gain:
            return replace(self, evaluated=self.step, best=Best(self.step, loss), misses=0)
        return replace(self, evaluated=self.step, misses=self.misses + 1)

    def back(self, broken: int, times: int) -> Self:
        """Of a restored course: every step up to the broken one is passed over. `times` the run has gone back now."""
        return replace(self, step=broken, skipped=(*self.skipped, *range(self.step + 1, broken + 1)), went_back=times)

    @property
    def improved(self) -> bool:
        """Whether the validation just made is the best."""
        return self.best is not None and self.best.step == self.step

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        best = plain["best"]
        return cls(**plain | {"best": best and Best(**best), "skipped": tuple(plain["skipped"])})


def kept(steps: Sequence[int], keep: int, best: int | None) -> set[int]:
    """Of the steps that have checkpoints, those that stay: the newest `keep`, and the best."""
    return set(sorted(steps)[-keep:]) | ({best} & set(steps) if best is not None else set())
