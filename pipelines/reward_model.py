"""Scores by a reward model in `generate` and `compare`: its settings, and the scores of conversations."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from raymill.cluster.asking.backends import exported, located
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.entry import Entry
from raymill.cluster.readers.inputs import WithShortForm
from raymill.cluster.store.store import Store

_DIGITS = 6  # of scores, whose last bits depend on the number of threads
load_reward_model = Entry("raymill.training.rollouts.reward_model:RewardFolder")  # it loads transformers


class ScoringModel(WithShortForm, extra="forbid", frozen=True):
    """A reward model: a sequence classifier with one label and a chat template."""

    short_form: ClassVar[str] = "path"

    path: str = Field(
        min_length=1,
        description="Reward model: output of `train` with objective reward, or folder, URI or hub name of a sequence "
        "classifier with one label and a chat template",
    )
    gpus: int = Field(0, ge=0, le=1, description="Number of GPUs that each worker with the reward model reserves")

    def located(self, store: Store) -> ModelSettings:
        """Its place, and the fingerprint of its files as revision.

        Raises:
            StorageError, DataError: there is no model.
        """
        return located(store, exported(store, ModelSettings(path=self.path, gpus=self.gpus)))


def scored(model: Any, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
    """The score of the last message of each conversation; NaN: none. model: of `load_reward_model`."""
    return [round(one, _DIGITS) for one in model.scores(conversations)]
