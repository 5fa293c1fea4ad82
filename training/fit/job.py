"""What a worker is told: plain values that pickle or travel as JSON, so the driver needs no torch."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

from cluster.artifact import fingerprint
from cluster.errors import ConfigError
from cluster.run import differences
from cluster.store.interface import SECRETS
from cluster.store.store import Store
from training.config import TrainConfig

OUTCOME = "fit.json"


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
    def store(self) -> Store:
        """The store of the run's folder."""
        return self.config.store

    @property
    def checkpoints(self) -> str:
        return f"{self.root}/checkpoints"

    @property
    def step_log(self) -> str:
        return f"{self.root}/steps.jsonl"

    @property
    def outcome(self) -> str:
        return f"{self.root}/{OUTCOME}"

    @property
    def attempts(self) -> str:
        """One small file for each time workers began, see `records.Attempt`."""
        return f"{self.root}/attempts"

    @property
    def tensorboard(self) -> str:
        return f"{self.root}/tensorboard"

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    def differing(self, identity: dict[str, str]) -> list[str]:
        """Where another identity is not this one's: `settings.seed was 1, now 2`, a line each."""
        return differences(_opened(identity), _opened(self.identity))

    def to_json(self) -> bytes:
        """Without the keys of a store: a file with secrets would outlive its use. torchrun's workers find their own."""
        keys: dict[str, Any] = {"storage": set(SECRETS), "corpus": {"__all__": {"storage": set(SECRETS)}}}
        config = json.loads(self.config.model_dump_json(exclude=keys, exclude_unset=True))
        plain = {name: value for name, value in asdict(self).items() if name not in ("config", "fingerprint")}
        return json.dumps(plain | {"config": config}, indent=1, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """
        Raises:
            ConfigError: this is no job.
        """
        try:
            plain = json.loads(data)
            config = TrainConfig.model_validate(plain.pop("config"))
            return cls(**plain | {"config": config, "classes": tuple(plain["classes"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"not a job of this project ({error}). Write one with `raymill pack CONFIG --job FILE`."
            ) from error


def _opened(identity: dict[str, str]) -> dict[str, Any]:
    """Parts that are JSON are compared setting by setting, so that a message can name the one that differs."""
    return {name: _value(text) for name, text in identity.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
