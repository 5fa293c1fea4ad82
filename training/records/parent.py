"""The run that another one continues: what the new run's workers need, and what its checkpoints record of it."""

from dataclasses import asdict, dataclass
from typing import Any, Self

from cluster.artifact import canonical_json
from cluster.store.paths import RecordedUri
from training.data.order import Position


@dataclass(frozen=True)
class Parent:
    """A checkpoint of a finished run, and the position in the data after it.

    Attributes:
        run: URI of the run's folder.
        digest: of the run.
        fit: fingerprint of its training.
        checkpoint: URI of the checkpoint.
        step: of the checkpoint, in that run.
        updates: updates of the optimizer up to the checkpoint, in that run and those before it.
        steps_before: steps up to the checkpoint, in that run and those before it.
        position: where the data continues; the start if the data is other data.
        words: lines for people about what is kept and what is new.
    """

    run: RecordedUri
    digest: str
    fit: str
    checkpoint: RecordedUri
    step: int
    updates: int
    steps_before: int
    position: Position
    words: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """The part of the new run's fingerprint: all that decides its weights, without paths."""
        return canonical_json(
            {
                "digest": self.digest,
                "fit": self.fit,
                "step": self.step,
                "steps_before": self.steps_before,
                "samples": self.position.samples,
                "taken": self.position.taken,
            }
        ).decode()

    def to_plain(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The record that `to_plain` made."""
        position = Position(plain["position"]["samples"], tuple(plain["position"]["taken"]))
        uris = {key: RecordedUri(plain[key]) for key in ("run", "checkpoint")}
        return cls(**plain | uris | {"position": position, "words": tuple(plain["words"])})
