"""What a worker is told: plain values that pickle, so the driver needs no torch."""

from dataclasses import dataclass

from training.config import TrainConfig


@dataclass(frozen=True)
class Job:
    """One training, as every worker of it sees it.

    config: of this phase. root: the run's folder, absolute. packed: URI of the folder that `pack` filled. classes: of
    method probe, in the order of their indices. steps: to take in all. identity: what decides the weights, part by part
    (settings, data, tokenizer, model); a checkpoint carries it and is continued only where it is equal.
    """

    config: TrainConfig
    root: str
    packed: str
    classes: tuple[str, ...]
    steps: int
    identity: dict[str, str]

    @property
    def checkpoints(self) -> str:
        return f"{self.root}/checkpoints"

    @property
    def step_log(self) -> str:
        return f"{self.root}/steps.jsonl"
