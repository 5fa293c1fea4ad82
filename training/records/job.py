"""The job that each worker of a training gets, the run that it continues, and the request to stop. Imports no torch."""

import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Self

from raymill.cluster.answer_rewards import JudgeReward
from raymill.cluster.artifact import canonical_json, fingerprint
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError
from raymill.cluster.record import json_bytes
from raymill.cluster.run import RunFolder, differences
from raymill.cluster.store import paths
from raymill.cluster.store.interface import SECRETS
from raymill.cluster.store.paths import RecordedUri
from raymill.training.config import TrainConfig
from raymill.training.data.order import Position
from raymill.training.data.packed import RowBounds


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

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """From the JSON values of its fields."""
        position = Position(plain["position"]["samples"], tuple(plain["position"]["taken"]))
        uris = {key: RecordedUri(plain[key]) for key in ("run", "checkpoint")}
        return cls(**plain | uris | {"position": position, "words": tuple(plain["words"])})


_run_judge = Entry("raymill.pipelines.rewards:RunJudge")
_SETTING = "settings."  # begins the name of a setting among the fingerprint parts
OUTCOME, CHECKPOINTS, STEP_LOG = "fit.json", "checkpoints", "steps.jsonl"


@dataclass(frozen=True)
class TrainingFolder(RunFolder):
    """The folder of a training: its files, and what decides its weights.

    fingerprint_parts: `model`, `data`, `corpora` and a `settings.KEY` for each setting. A checkpoint stores them, and
    training continues from it only if they are equal.
    """

    fingerprint_parts: dict[str, str]

    @property
    def checkpoints(self) -> str:
        """Folder of all checkpoints."""
        return f"{self.uri}/{CHECKPOINTS}"

    @property
    def step_log(self) -> str:
        """steps.jsonl, see step_log.py."""
        return f"{self.uri}/{STEP_LOG}"

    @property
    def outcome(self) -> str:
        """fit.json, the record of the finished training."""
        return f"{self.uri}/{OUTCOME}"

    @property
    def micro_batch(self) -> str:
        """micro_batch.json, see fit/memory.py."""
        return f"{self.uri}/micro_batch.json"

    @property
    def attempts(self) -> str:
        """Folder with one `records.StartRecord` for each start of the workers."""
        return f"{self.uri}/attempts"

    @property
    def hangs(self) -> str:
        """Folder of records about workers that made no progress, see fit/hangs.py."""
        return f"{self.uri}/hangs"

    @property
    def held_out(self) -> str:
        """Folder of the measurements of held-out rows, see data/held_out.py."""
        return f"{self.uri}/held_out"

    @property
    def exports(self) -> str:
        """The folder of exported checkpoints; the export of the training itself is elsewhere."""
        return f"{self.uri}/exports"

    @property
    def rollouts(self) -> str:
        """Folder with a folder of rollouts for each training, see rollouts/steps.py."""
        return f"{self.uri}/rollouts"

    @property
    def tensorboard(self) -> str:
        """Folder of TensorBoard's event files."""
        return f"{self.uri}/tensorboard"

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of everything that decides the weights."""
        return fingerprint(self.fingerprint_parts)

    def differences(self, parts: dict[str, str]) -> list[str]:
        """The differences between other fingerprint parts and these, such as `seed was 1, now 2`."""

        def parsed(parts: dict[str, str]) -> dict[str, Any]:
            values: dict[str, Any] = dict(parts)
            for name, text in parts.items():
                with suppress(ValueError):  # JSON, so that differences are listed setting by setting
                    values[name] = json.loads(text)
            return values

        return [one.removeprefix(_SETTING) for one in differences(parsed(parts), parsed(self.fingerprint_parts))]


@dataclass(frozen=True)
class Job:
    """One training.

    config: of this phase. folder: of the run. packed: URI of the folder with the packed rows. classes: those that are
    predicted, in the order of their indices. steps: optimizer steps of the whole training. sets: the digest of the rows
    of each of `evaluate.sets`, which do not decide the weights. parent: the run that this one continues, if any. keys:
    name of an environment variable -> the key in it, of endpoints. call: id of the call, which its workers share.
    """

    config: TrainConfig
    folder: TrainingFolder
    packed: str
    classes: tuple[str, ...]
    steps: int
    sets: dict[str, str] = field(default_factory=dict)
    parent: Parent | None = None
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    call: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def judge(self, number: int, how: JudgeReward) -> Any:
        """The `RunJudge` of a reward. number: in `grpo.rewards`."""
        name = how.model.key_env or ""
        setting, key = f"grpo.rewards.{number}.judge", self.keys.get(name) or os.environ.get(name, "")
        store, output = self.config.store, self.folder.uri
        kind: Any = _run_judge.load()
        return kind.of(store, output, self.config.name, how, setting, key=key, throttle=self.call)

    def row_bounds(self, vocabulary: int) -> RowBounds:
        """The bounds of the packed rows. vocabulary: number of tokens that the model has embeddings for."""
        classes = len(self.classes) if self.config.training_method.classifies else None
        return RowBounds(self.config.sequence_length, vocabulary, classes, self.config.training_objective.records)

    def to_json(self) -> bytes:
        """The job without its stores' credentials: workers that torchrun starts use those of their own machine."""
        keys: dict[str, Any] = {"storage": set(SECRETS), "corpus": {"__all__": {"storage": set(SECRETS)}}}
        plain = {
            "root": self.folder.uri,
            "packed": self.packed,
            "classes": self.classes,
            "steps": self.steps,
            "identity": self.folder.fingerprint_parts,  # the key of earlier versions
            "sets": self.sets,
            "config": json.loads(self.config.model_dump_json(exclude=keys, exclude_unset=True)),
            "parent": self.parent and asdict(self.parent),
        }
        return json_bytes(plain)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The job in a file of `raymill pack --job`.

        Raises:
            ConfigError: the data is not a job.
        """
        try:
            plain = json.loads(data)
            config = TrainConfig.model_validate(plain["config"])
            folder = TrainingFolder(config.store, plain["root"], plain["identity"])
            packed, classes = plain["packed"], tuple(plain["classes"])
            sets, parent = plain.get("sets", {}), plain.get("parent") and Parent.from_plain(plain["parent"])
            return cls(config, folder, packed, classes, plain["steps"], sets, parent)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"not a job of this project ({error}). Write one with `raymill pack CONFIG --job FILE`."
            ) from error


class StopRequested(Exception):
    """Raised by every worker after it has written the checkpoint of a requested stop."""


@dataclass(frozen=True)
class StopRequest:
    """The request for the workers of one submission. submission: its id."""

    run: RunFolder
    submission: str

    @property
    def uri(self) -> str:
        """The file that is the request."""
        return paths.join(self.run.uri, "stop", self.submission)

    def make(self) -> None:
        """Make the request."""
        self.run.store.write_bytes(self.uri, b"")

    def made(self) -> bool:
        """Whether the request was made. Costs one request to the store."""
        return self.run.store.exists(self.uri)

    def delete(self) -> None:
        """Delete the request."""
        self.run.store.delete([self.uri])
