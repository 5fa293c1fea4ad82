"""Scores of answers by a reward model, a sequence classifier with one label."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.models.base import load_base
from raymill.training.rollouts.rewards import SampledAnswer
from raymill.training.tokenizer.load_tokenizer import load_tokenizer

_BATCH_TOKENS = 32_768


class RewardModelScores:
    """The scores of answers by the model of a folder. Its weights stay on the device, in bf16 in a bf16 run.

    tokenizer: of the trained model, whose tokens the reward model gets as they are.

    Raises:
        ConfigError: it is no reward model, or its tokenizer is another one.
    """

    def __init__(
        self, store: Store, folder: str, tokenizer: PreTrainedTokenizerFast, device: torch.device, bf16: bool
    ) -> None:
        setting = self._name = f"grpo.rewards: model {folder}"
        if load_tokenizer(store, folder).get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"{setting}: has another tokenizer than the trained model, so it cannot score its tokens. Train the "
                "reward model from the same base model."
            )
        kind = AutoModelForSequenceClassification
        dtype = torch.bfloat16 if bf16 else torch.float32
        model: Any = load_base(store, Model(name=folder), 0, dtype, "sdpa", kind=kind)
        if model.config.num_labels != 1:
            raise ConfigError(f"{setting}: has {model.config.num_labels} labels, and a reward model has one score")
        if (rows := len(model.get_input_embeddings().weight)) < len(tokenizer):
            raise ConfigError(f"{setting}: has {rows:,} embeddings, and its tokenizer {len(tokenizer):,} tokens")
        self._model = model.eval().requires_grad_(False)
        self._model.to(device)

    @torch.no_grad()
    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float]:
        """The score of each answer, of the hidden state of its last token.

        Raises:
            DataError: a score is not finite.
        """
        ids = [[*answer.prompt_ids, *answer.ids] for answer in answers]
        scores: list[float] = []
        together = max(1, _BATCH_TOKENS // max(map(len, ids), default=1))
        for start in range(0, len(ids), together):
            scores += self._scores(ids[start : start + together]).tolist()
        if not all(map(math.isfinite, scores)):
            raise DataError(f"{self._name}: gives scores that are not finite. Its training diverged: use another one.")
        return scores

    def _scores(self, ids: Sequence[Sequence[int]]) -> Tensor:
        width, device = max(map(len, ids)), self._model.device
        # Padding on the right is not attended to, because the model is causal.
        padded = torch.tensor([[*one, *[0] * (width - len(one))] for one in ids], device=device)
        ends = torch.tensor([len(one) - 1 for one in ids], device=device)
        body = getattr(self._model, self._model.base_model_prefix)
        hidden = body(input_ids=padded, use_cache=False).last_hidden_state[torch.arange(len(ids), device=device), ends]
        return torch.nn.functional.linear(hidden.float(), self._model.score.weight.float()).squeeze(-1)
