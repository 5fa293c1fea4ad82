"""A model folder as what answers requests, like an endpoint: on a GPU if this process sees one, else on the CPU."""

import asyncio
import json
import math
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import GenerationConfig

from raymill.cluster.asking.endpoint import Reply, judged
from raymill.cluster.errors import DataError
from raymill.cluster.guard import Guard
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.evaluation.generate import OF_A_PROMPT, problem_of, prompt_ids, stop_ids
from raymill.training.evaluation.label_model import LabelModel
from raymill.training.model_folder.folder import (
    addition_in,
    link_data,
    model_folder,
    weight_files,
)
from raymill.training.models.adapters import load_adapted
from raymill.training.models.base import load_base, named_config
from raymill.training.tokenizer.load_tokenizer import load_tokenizer, pad_id
from raymill.training.tokenizer.text_bounds import TextBounds

_COMPARED = 16  # texts of which one prediction is compared with the prediction without the tokens after it
# Largest mean distance of these predictions (half the sum of absolute differences of probabilities), by rounding.
_MOST_MOVED = {torch.float32: 0.01, torch.bfloat16: 0.1}
_WINDOW = 2048  # tokens of a text that are computed at once
LEAST_LOG = math.log(2.0**-149)  # of the smallest float32: log-probabilities below it, as of 0, count as this


class _Failed(Exception):
    """The chat template or tokenizer of a folder fails on a text."""


class ModelFolder:
    """The model in a folder, whole or an adapter on its base.

    Its answers are those of OpenAI's interface: content, end and counts of tokens.

    One request is computed at a time, with the seed that it states, so that its answer does not depend on others.

    Attributes:
        model: on its device. tokenizer: of the folder.
        stops: ids of tokens that end an answer. pad: id of padding.
        longest: tokens of a prompt with its answer, at most.
        prompt: the Guard that makes tokens of a text or a conversation (`prompt_ids`).

    Raises:
        ConfigError: its attention includes later tokens.
        DataError: the chat template goes beyond its bounds on a few words; later: it or the tokenizer takes too long
            for all texts so far, or predictions depend on later tokens.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._folder = folder
        self._to_compare, self._moved = _COMPARED, 0.0
        self.tokenizer: Any = load_tokenizer(store, folder)
        self._bounds = TextBounds(self.tokenizer, folder)
        on_gpu = torch.cuda.is_available()
        model = _whole_or_adapted(store, folder, torch.bfloat16 if on_gpu else torch.float32)
        self.model: Any = model.to("cuda" if on_gpu else "cpu").eval()
        # peft also uses the generation config of the model that it wraps.
        for holder in (self.model, *([model.get_base_model()] if isinstance(model, PeftModel) else [])):
            holder.generation_config = GenerationConfig()
        self.stops, self.pad = stop_ids(self.tokenizer), pad_id(self.tokenizer)
        self.longest = int(getattr(self.model.config, "max_position_embeddings", 0) or 1 << 30)
        if isinstance(model, PeftModel):
            self.longest -= int(getattr(model.active_peft_config, "num_virtual_tokens", None) or 0)
        self.prompt = Guard(partial(prompt_ids, self.tokenizer))
        self._both = Guard(partial(_prompt_and_answer, self.tokenizer))
        self._text = Guard(partial(_text_ids, self.tokenizer))
        self._thread = ThreadPoolExecutor(1)

    async def send(self, body: str) -> Reply:
        """The answer to a request. Its seconds are those of the computation, without the wait for earlier requests."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._timed, json.loads(body))

    def log_likelihood(self, messages: Sequence[Mapping[str, Any]], answer: str) -> tuple[float, int]:
        """(sum of the log-probabilities of an answer's tokens after a prompt, their number), without an end of turn.

        If prompt and answer are longer than the model takes, the prompt loses its beginning. NaN for an answer without
        tokens, or that is longer by itself, and where the chat template or tokenizer fails or loses a part of it.
        """
        try:
            prompt, wanted = self._made(self._both, (messages, answer))
        except _Failed:
            return float("nan"), 0
        if not wanted or len(wanted) >= self.longest or problem_of(self.model, [*prompt, *wanted]):
            return float("nan"), 0
        return self._log_of([*prompt[-(self.longest - len(wanted)) :], *wanted], len(wanted)), len(wanted)

    def text_log_likelihood(self, text: str) -> tuple[float, int]:
        """(sum of the log-probabilities of the tokens of a plain text, their number), without the chat template.

        The first token comes after the token that begins texts, else the one that ends them, else token 0: no tokenizer
        has it for nothing. A long text is computed in windows, of which the first token has the one before it alone as
        context. NaN for a text without tokens, and where the tokenizer fails or loses a part of it. As
        `loglikelihood_rolling` of lm-evaluation-harness with a context of one token.
        """
        try:
            ids = self._made(self._text, text)
        except _Failed:
            return float("nan"), 0
        starts = [one for one in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0) if one is not None]
        ids = [starts[0], *ids]
        if len(ids) < 2 or problem_of(self.model, ids):
            return float("nan"), 0
        window = min(self.longest, _WINDOW) - 1
        windows = [ids[at : at + window + 1] for at in range(0, len(ids) - 1, window)]
        return sum(self._log_of(one, len(one) - 1) for one in windows), len(ids) - 1

    def _made(self, child: Guard[Any, Any], item: Any) -> Any:
        """What the chat template and tokenizer, which are programs of whoever made the folder, make of an item.

        Raises:
            _Failed: they fail.
            DataError: they take too long for all items together.
        """
        before = child.seconds
        try:
            return child(item, OF_A_PROMPT)
        except Exception as error:
            raise _Failed(f"the chat template or tokenizer fails ({type(error).__name__}: {error})") from error
        finally:
            self._bounds.count(1, len(repr(item)), child.seconds - before)

    def _log_of(self, ids: Sequence[int], count: int) -> float:
        """Sum of the log-probabilities of the last `count` tokens, each after those before it."""
        # From the end: virtual tokens of an adapter stand before the prompt.
        found = self._logits(ids)[-count - 1 : -1].log_softmax(-1)
        if self._to_compare:
            self._to_compare -= 1
            self._compare(ids, found)
        at = torch.tensor(ids[-count:], device=found.device)
        return float(found.gather(1, at[:, None]).clamp(min=LEAST_LOG).sum())

    def _logits(self, ids: Sequence[int]) -> torch.Tensor:
        """float32[tokens, vocabulary], with virtual tokens before the others."""
        with torch.inference_mode():
            logits: torch.Tensor = self.model(input_ids=torch.tensor([ids], device=self.model.device)).logits[0].float()
        return logits

    def _compare(self, ids: Sequence[int], found: torch.Tensor) -> None:
        """Compare one prediction with the one without the tokens after it.

        Args:
            found: log-probabilities of the predictions of the last tokens, float32[count, vocabulary].

        Raises:
            DataError: predictions depend on later tokens, so the model may copy the token that it predicts.
        """
        at = len(found) - 1 - sum(ids) % len(found)
        alone = self._logits(ids[: len(ids) - len(found) + at])[-1].softmax(-1)
        self._moved += float((alone - found[at].exp()).abs().sum()) / 2
        if self._moved > _MOST_MOVED.get(self.model.dtype, 0.01) * _COMPARED:
            raise DataError(
                f"{self._folder}: the predictions of this {self.model.config.model_type} depend on later tokens, so it "
                "has no log-probabilities of texts. Give a causal language model."
            )

    def _timed(self, request: Mapping[str, Any]) -> Reply:
        started = time.monotonic()
        return replace(self._answer(request), seconds=time.monotonic() - started)

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        try:
            ids = self._made(self.prompt, request["messages"])
        except _Failed as error:
            return _refused(str(error))
        if problem := problem_of(self.model, ids):
            return _refused(problem)
        most = min(request["max_tokens"], self.longest - len(ids))
        if most < 1:
            return _refused(f"the prompt has {len(ids):,} tokens; the model takes {self.longest:,} with the answer")
        torch.manual_seed(request["seed"])
        drawn = request["temperature"] > 0
        how = GenerationConfig(
            do_sample=drawn,
            temperature=request["temperature"] if drawn else None,
            top_p=request["top_p"] if drawn else None,
            max_new_tokens=most,
            eos_token_id=self.stops or None,
            pad_token_id=self.pad,
        )
        given = torch.tensor([ids], device=self.model.device)
        with torch.inference_mode():
            output = self.model.generate(input_ids=given, attention_mask=torch.ones_like(given), generation_config=how)[
                0, len(ids) :
            ].tolist()
        end = next((at for at, token in enumerate(output) if token in self.stops), None)
        message = {"role": "assistant", "content": self.tokenizer.decode(output[:end], skip_special_tokens=True)}
        choice = {"index": 0, "message": message, "finish_reason": "length" if end is None else "stop"}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(output)}
        plain = {"model": request["model"], "choices": [choice], "usage": usage}
        return judged(200, {}, json.dumps(plain).encode(), 0.0)


class ProbeFolder:
    """The classification head in a folder, on its base. An answer is the likeliest label of the user's last message."""

    def __init__(self, store: Store, folder: str) -> None:
        found = addition_in(store, folder)
        assert found is not None
        self._labels = [str(one) for one in found.settings.get("labels", ())]
        config = named_config(store, found.base).get_text_config()
        longest = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
        self._model = LabelModel(store, folder, self._labels, longest)
        self._thread = ThreadPoolExecutor(1)

    async def send(self, body: str) -> Reply:
        """The answer to a request."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, json.loads(body))

    def _answer(self, request: Mapping[str, Any]) -> Reply:
        started = time.monotonic()
        found = self._probabilities(request["messages"])
        if not np.isfinite(found).all():
            return _refused("the tokenizer makes nothing of the prompt")
        message = {"role": "assistant", "content": self._labels[int(found.argmax())]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": self._model.tokens(request["messages"][-1]["content"]), "completion_tokens": 1}
        plain = {"model": request["model"], "choices": [choice], "usage": usage}
        return replace(judged(200, {}, json.dumps(plain).encode(), 0.0), seconds=time.monotonic() - started)

    def log_likelihood(self, messages: Sequence[Mapping[str, Any]], answer: str) -> tuple[float, int]:
        """(log-probability of the label, 1). What is no label has the probability 0."""
        found = self._probabilities(messages)[self._labels.index(answer)] if answer in self._labels else 0.0
        return float(np.log(np.maximum(found, np.exp(LEAST_LOG)))), 1

    def text_log_likelihood(self, text: str) -> tuple[float, int]:
        """(NaN, 0): a classification head has no probabilities of tokens."""
        return float("nan"), 0

    def _probabilities(self, messages: Sequence[Mapping[str, Any]]) -> np.ndarray:
        return self._model.probabilities([messages[-1]["content"]])[0]


def folder_model(store: Store, folder: str) -> ModelFolder | ProbeFolder:
    """The model in a folder: whole, an adapter on its base, or a classification head."""
    found = addition_in(store, folder)
    return ProbeFolder(store, folder) if found and "labels" in found.settings else ModelFolder(store, folder)


def _whole_or_adapted(store: Store, folder: str, dtype: torch.dtype) -> Any:
    """The causal language model of a folder, or of its adapter on the base.

    Raises:
        DataError: the adapter is none of a causal language model, or as of `load_adapted`.
    """
    if (found := addition_in(store, folder)) is None:
        return load_base(store, Model(name=folder), 0, dtype, None)
    return load_adapted(store, folder, found, ("LORA", "PREFIX_TUNING", "PROMPT_TUNING"), "CAUSAL_LM", dtype)


def _prompt_and_answer(tokenizer: Any, both: tuple[Sequence[Mapping[str, Any]], str]) -> tuple[list[int], list[int]]:
    """(the tokens of a conversation, those of the answer after it). For a Guard."""
    messages, answer = both
    return prompt_ids(tokenizer, messages), _text_ids(tokenizer, answer)


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text; none if they lose a part of it, since their probability is the one of another text.

    Numbers of spaces and compatibility characters (NFKC) may differ. For a Guard.
    """
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    read = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return ids if _plain(read) == _plain(text) else []


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).split())


def link_model(store: Store, name: str, into: Path, revision: str | None = None) -> None:
    """Link the data of a model folder into an empty folder, for another program that loads the model from there.

    What Raymill itself would not read is left out: pickled weights, code, and names of files in the settings of the
    tokenizer.

    Args:
        name: of a folder, its URI, or on the hub. revision: on the hub; None: the newest.

    Raises:
        ConfigError: config.json names code or has sizes beyond all models, or the tokenizer exceeds its bounds.
        StorageError, DataError: there is no model, or its files are damaged.
    """
    folder = model_folder(store, Model(name=name, revision=revision))
    weight_files(folder)
    if (folder / "tokenizer.json").is_file():  # the one that others load too
        load_tokenizer(Store(), str(folder))
    link_data(folder, into, f"model {name}")


def _refused(reason: str) -> Reply:
    return Reply("refused", reason, 400, json.dumps({"error": {"message": reason}}).encode())


def loaded(store: Store, folder: str) -> Callable[[], AbstractAsyncContextManager[ModelFolder | ProbeFolder]]:
    """What opens the model in a folder, which is loaded once."""
    model = folder_model(store, folder)

    @asynccontextmanager
    async def opened() -> AsyncIterator[ModelFolder | ProbeFolder]:
        yield model

    return opened
