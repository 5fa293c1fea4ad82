"""Scores of answers by a reward model, a sequence classifier with one label, or an adapter of one on its base.

Training scores the last token of a conversation, as the chat template writes it. Many templates write a line feed after
the token that ends an answer, which no model generates: it is added to answers that end with this token, so that an
answer has the same score wherever it is from.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.model_folder.checks import refuse_other_adapter
from raymill.training.model_folder.folder import addition_in
from raymill.training.models.adapters import load_adapted
from raymill.training.models.base import load_base
from raymill.training.pack.documents import Chat, Document
from raymill.training.pack.encode import Encoded, Encoder, Example
from raymill.training.rollouts.rewards import SampledAnswer
from raymill.training.tokenizer.load_tokenizer import load_tokenizer
from raymill.training.tokenizer.text_bounds import TextBounds

_BATCH_TOKENS = 32_768
_CHECKED = 16  # tokens of the rows of which hidden states are compared
_ROUNDING = 2e-2  # of the largest hidden state; bf16 rounds less
_SHORT = Chat([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


class RewardModelScores:
    """The scores of answers by the model of a folder. Its weights stay on the device, in bf16 in a bf16 run.

    Args:
        tokenizer: of the trained model, whose tokens the reward model gets as they are.
        length: tokens of a row that it has to take; 0: rows that are too long are left out by the caller.
        setting: that names the folder.

    longest: tokens that it takes. bounds: of its chat template and tokenizer.

    Raises:
        ConfigError: it is no causal model with one score, takes fewer tokens, or has another tokenizer.
        DataError: its chat template goes beyond its bounds on a few words.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        tokenizer: PreTrainedTokenizerFast,
        device: torch.device,
        bf16: bool,
        length: int = 0,
        setting: str = "grpo.rewards: model",
    ) -> None:
        self._name = f"{setting} {folder}"
        own = load_tokenizer(store, folder)
        self.bounds = TextBounds(own, self._name)
        if own.get_vocab() != tokenizer.get_vocab():
            raise ConfigError(
                f"{self._name}: has another tokenizer than the trained model, so it cannot score its tokens. Train the "
                "reward model from the same base model."
            )
        model = _classifier(store, folder, torch.bfloat16 if bf16 else torch.float32)
        if model.config.num_labels != 1:
            raise ConfigError(f"{self._name}: has {model.config.num_labels} labels, and a reward model has one score")
        if not isinstance(getattr(model, "score", None), torch.nn.Linear):
            raise ConfigError(
                f"{self._name}: its {model.config.model_type} has no linear `score` of the last token. Give a causal "
                "model with one, such as the export of objective reward."
            )
        positions = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
        if positions < length and not _is_extended(model):
            raise ConfigError(
                f"{self._name}: has {positions:,} positions, and sequence_length is {length:,}. Set sequence_length to "
                f"{positions:,} or less, or use another reward model."
            )
        self.longest = max(positions, length)
        if (rows := len(model.get_input_embeddings().weight)) < len(tokenizer):
            raise ConfigError(f"{self._name}: has {rows:,} embeddings, and its tokenizer {len(tokenizer):,} tokens")
        self._model = model.eval().requires_grad_(False)
        self._model.to(device)
        self._check(len(tokenizer))
        self.encoder = Encoder(tokenizer)
        self._end, self._after = _end_of_turn(self.encoder)

    @torch.no_grad()
    def __call__(self, answers: Sequence[SampledAnswer]) -> list[float]:
        """The score of each answer.

        Raises:
            DataError: as by `of_ids`.
        """
        return self.of_ids([self._whole(answer) for answer in answers])

    @torch.no_grad()
    def of_ids(self, ids: Sequence[Sequence[int]]) -> list[float]:
        """The score of the hidden state of the last of each row's tokens.

        Raises:
            DataError: a score is not finite, or the model fails on the tokens.
        """
        scores: list[float] = []
        together = max(1, _BATCH_TOKENS // max(map(len, ids), default=1))
        for start in range(0, len(ids), together):
            try:
                scores += self._scores(ids[start : start + together]).tolist()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the settings of a folder of others decide what its layers compute
                raise DataError(
                    f"{self._name}: fails on an answer ({type(error).__name__}: {error!s:.300}). Use another one."
                ) from error
        if not all(map(math.isfinite, scores)):
            raise DataError(f"{self._name}: gives scores that are not finite. Its training diverged: use another one.")
        return scores

    def _whole(self, answer: SampledAnswer) -> list[int]:
        after = self._after if answer.ids and answer.ids[-1] == self._end else ()
        return [*answer.prompt_ids, *answer.ids, *after][: self.longest]

    def _scores(self, ids: Sequence[Sequence[int]]) -> Tensor:
        width, device = max(map(len, ids)), self._model.device
        # Padding on the right is not attended to, because the model is causal.
        padded = torch.tensor([[*one, *[0] * (width - len(one))] for one in ids], device=device)
        ends = torch.tensor([len(one) - 1 for one in ids], device=device)
        hidden = self._hidden(padded)[torch.arange(len(ids), device=device), ends]
        return torch.nn.functional.linear(hidden.float(), self._model.score.weight.float()).squeeze(-1)

    def _hidden(self, ids: Tensor) -> Tensor:
        """The hidden states of the last layer, [rows, tokens, size]. ids: int64[rows, tokens]."""
        body = getattr(self._model, self._model.base_model_prefix)
        hidden: Tensor = body(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    @torch.no_grad()
    def _check(self, tokens: int) -> None:
        """Compute two rows that differ in their second halves.

        Raises:
            ConfigError: the model fails, or the hidden states of the first halves differ.
        """
        first = torch.arange(min(_CHECKED, self.longest), device=self._model.device) % tokens
        half = (len(first) + 1) // 2
        second = torch.cat([first[:half], (first[half:] + 7) % tokens])
        try:
            self._scores([first.tolist()])
            one, other = self._hidden(torch.stack([first, second]))[:, :half].float()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{self._name}: fails on a row of tokens ({type(error).__name__}: {error!s:.300}). Use another one."
            ) from error
        if (one - other).abs().max() > _ROUNDING * one.abs().max():
            raise ConfigError(
                f"{self._name}: the hidden states of its {self._model.config.model_type} depend on later tokens, so "
                "its scores depend on padding. Give a causal model."
            )


def _classifier(store: Store, folder: str, dtype: torch.dtype) -> Any:
    """The sequence classifier of a folder, or of its adapter with a score, which is merged with the base in float32.

    Raises:
        DataError: the adapter is none of a reward model, or its settings are of other sizes than its tensors.
    """
    kind = AutoModelForSequenceClassification
    if (found := addition_in(store, folder)) is None:
        return load_base(store, Model(name=folder), 0, dtype, "sdpa", kind=kind)
    refuse_other_adapter(store, folder, found)
    model: Any = load_adapted(
        store, folder, found, ("LORA",), "SEQ_CLS", torch.float32, attention="sdpa", kind=kind,
        may_lack={"score.weight"}, num_labels=1,
    )  # fmt: skip
    return model.merge_and_unload().to(dtype)


def _is_extended(model: Any) -> bool:
    """Whether the model scales its rotary positions, so that it runs on more than its config states."""
    kinds = getattr(getattr(getattr(model, model.base_model_prefix), "rotary_emb", None), "rope_type", "default")
    return any(one != "default" for one in (kinds.values() if isinstance(kinds, dict) else [kinds]))


def _end_of_turn(encoder: Encoder) -> tuple[int | None, list[int]]:
    """(the token that ends an answer, those that the chat template writes after it); (None, []) without a template."""
    found = _last(_encoded(encoder, _SHORT)) if encoder.tokenizer.chat_template else None
    if found is None:
        return None, []
    last = int(np.flatnonzero(found.trained)[-1])
    return int(found.ids[last]), found.ids[last + 1 :].tolist()


def _encoded(encoder: Encoder, chat: Chat) -> Encoded:
    """The conversation as `train` reads it."""
    size = len("".join(str(message["content"]) for message in chat.messages).encode(errors="replace"))
    return encoder.encode([Document("", chat, size, 0, "", None)])


def _last(encoded: Encoded) -> Example | None:
    """The rendering of a conversation with its last answer; None if there is none."""
    return max(encoded.examples, key=lambda one: one.piece, default=None)


class RewardFolder:
    """The reward model in a folder, for conversations as texts. On a GPU if this process sees one.

    Raises:
        ConfigError: it is no reward model, or has no chat template.
        DataError: its files are damaged.
    """

    def __init__(self, store: Store, folder: str) -> None:
        tokenizer = load_tokenizer(store, folder)
        if not tokenizer.chat_template:
            raise ConfigError(f"reward model {folder}: has no chat template, so a conversation has no tokens.")
        on_gpu = torch.cuda.is_available()
        device = torch.device("cuda" if on_gpu else "cpu")
        self._scores = RewardModelScores(store, folder, tokenizer, device, on_gpu, setting="reward model")

    def scores(self, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[float]:
        """The score of the last message of each conversation; NaN if it is longer than the model takes, or the chat
        template or tokenizer fails.

        conversations: messages {role, content}, of which the last is of the assistant.

        Raises:
            DataError: a score is not finite, or the chat template or tokenizer takes too long for all conversations so
                far.
        """
        made = []
        for messages in conversations:
            encoder, before = self._scores.encoder, self._scores.encoder.seconds
            made.append(_last(_encoded(encoder, Chat([dict(one) for one in messages]))))
            self._scores.bounds.count(1, len(repr(messages)), encoder.seconds - before)
        fit = [at for at, one in enumerate(made) if one is not None and len(one.ids) <= self._scores.longest]
        found = dict(zip(fit, self._scores.of_ids([made[at].ids.tolist() for at in fit]), strict=True))  # type: ignore[union-attr]
        return [found.get(at, math.nan) for at in range(len(made))]
