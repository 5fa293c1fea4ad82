"""Training progress that is saved with each checkpoint besides the weights: step, best validation, skipped steps.

Early stopping and the choice of the best checkpoint are functions of it, so a resumed run stops at the same step as an
uninterrupted one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self


@dataclass(frozen=True)
class Best:
    """The lowest validation loss so far, and the step after which it was measured."""

    step: int
    loss: float


@dataclass(frozen=True)
class TrainingProgress:
    """
    step: steps done, taken or skipped. updates: steps in which the optimizer updated the weights.
    evaluated: step of the last validation, -1 before the first. best: of the validations after step 0.
    misses: validations since the best. skipped: steps skipped because of a bad loss, counted from 1.
    went_back: returns to a checkpoint because of one. seconds: of training, without lost work.
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
        """After one more step. updated: whether it had a label, so that the optimizer updated the weights."""
        return replace(self, step=self.step + 1, updates=self.updates + updated)

    def validated(self, loss: float | None, least_gain: float) -> Self:
        """After a validation at this step. loss: None if the split has no label, which counts as no improvement.

        The validation of the untrained model, at step 0, is for comparison and never the best.
        """
        if self.step == 0 or loss is None:
            return replace(self, evaluated=self.step)
        if self.best is None or loss < self.best.loss - least_gain:
            return replace(self, evaluated=self.step, best=Best(self.step, loss), misses=0)
        return replace(self, evaluated=self.step, misses=self.misses + 1)

    def skipping_to(self, step: int, times: int) -> Self:
        """A checkpoint's progress with every step up to the bad one skipped. times: returns to a checkpoint so far."""
        return replace(self, step=step, skipped=(*self.skipped, *range(self.step + 1, step + 1)), went_back=times)

    @property
    def improved(self) -> bool:
        """Whether the validation at this step is the best."""
        return self.best is not None and self.best.step == self.step

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        best = plain["best"]
        return cls(**plain | {"best": best and Best(**best), "skipped": tuple(plain["skipped"])})


def kept(steps: Sequence[int], keep: int, best: int | None) -> set[int]:
    """The steps whose checkpoints are kept: the newest `keep`, and the best."""
    return set(sorted(steps)[-keep:]) | ({best} & set(steps) if best is not None else set())
