"""Completions of requests that arrive at any time, those that wait together, token by token."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList, StoppingCriteriaList
from transformers.generation.logits_process import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.generation.stopping_criteria import StoppingCriteria

from raymill.cluster.errors import ConfigError
from raymill.cluster.store.store import Store
from raymill.training.evaluation.answering import ProbeFolder, folder_model
from raymill.training.evaluation.generate import OF_A_PROMPT, problem_of
from raymill.training.serving.completion import Completion, GrowingText

log = logging.getLogger(__name__)

# The most tokens of a batch, prompts and completions together, which limits the key-value cache.
_BATCH_TOKENS = 16384


class Completer:
    """A model folder that completes prompts in a thread of its own.

    Up to `batch` completions that wait at the same time are computed together, as rows of one batch padded on the left;
    those that arrive meanwhile are in the next batch. A row has its own sampling and seed. In a batch of another size
    sums are rounded otherwise, which can decide between two almost equally probable tokens.

    Attributes:
        longest: tokens of a prompt with its completion, at most. stops: ids that end one. tokenizer: of the folder.

    Raises:
        ConfigError: the folder has a classification head.
        UserError: it has no model that can be loaded.
    """

    def __init__(self, store: Store, folder: str, batch: int) -> None:
        model = folder_model(store, folder)
        if isinstance(model, ProbeFolder):
            raise ConfigError(
                f"{folder}: is a classification head, which answers with a label and no text. Use it as its card says, "
                "or `raymill compare`."
            )
        self._of, self._batch = model, batch
        with suppress(Exception):  # the child begins before there are sockets of clients, which it would keep open
            model.prompt("a", OF_A_PROMPT)
        if isinstance(model.model, PeftModel) and getattr(model.model.active_peft_config, "num_virtual_tokens", None):
            self._batch = 1  # virtual tokens would precede the padding
        self.longest, self.stops, self.tokenizer = model.longest, frozenset(model.stops), model.tokenizer
        self._waiting: deque[Completion] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="completions", daemon=True)
        self._thread.start()

    def prompt(self, given: str | Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a text, or of a conversation by the chat template.

        Raises:
            ValueError: the template or the tokenizer fails on it, or the model cannot take it.
        """
        try:  # the template and the tokenizer are programs of whoever made the folder
            ids = self._of.prompt(given, OF_A_PROMPT)
        except Exception as error:
            raise ValueError(f"the chat template or tokenizer fails ({type(error).__name__}: {error})") from error
        if problem := problem_of(self._of.model, ids):
            raise ValueError(problem)
        return ids

    def add(self, completion: Completion) -> None:
        """Have it computed; its `on_text` is called from the thread."""
        with self._changed:
            if not self._ended:
                self._waiting.append(completion)
                self._changed.notify()
                return
        _cancel(completion)

    def cancel(self, completion: Completion) -> None:
        """End it before its next token, or now if it waits. No effect on one that is finished."""
        completion.cancelled = True
        with self._changed:
            if completion not in self._waiting:
                return
            self._waiting.remove(completion)
        _cancel(completion)

    def close(self) -> None:
        """End the thread, with the completions that it computes."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while rows := self._next():
            try:
                self._complete(rows)
            except Exception as error:  # out of memory, or a model that fails on this prompt
                log.warning("a batch of %d failed: %s", len(rows), type(error).__name__)
                for row in rows:
                    row.error = row.error or error
            for row in rows:
                row.on_text(None)
        with self._changed:
            waiting = [*self._waiting]
            self._waiting.clear()
        for row in waiting:
            _cancel(row)

    def _next(self) -> list[Completion]:
        """The next batch, which is waited for; empty at the end."""
        rows: list[Completion] = []
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._waiting)
            while self._waiting and not self._ended:
                sizes = [len(one.ids) + one.most for one in (*rows, self._waiting[0])]
                if rows and (len(sizes) > self._batch or len(sizes) * max(sizes) > _BATCH_TOKENS):
                    break
                rows.append(self._waiting.popleft())
        return rows

    def _complete(self, rows: Sequence[Completion]) -> None:
        of = self._of
        width = max(len(one.ids) for one in rows)
        ids = torch.full((len(rows), width), of.pad)
        mask = torch.zeros_like(ids)
        for at, one in enumerate(rows):
            ids[at, width - len(one.ids) :] = torch.tensor(list(one.ids))
            mask[at, width - len(one.ids) :] = 1
        device = of.model.device
        how = GenerationConfig(
            do_sample=False, max_new_tokens=max(one.most for one in rows), pad_token_id=of.pad,
        )  # fmt: skip
        with torch.inference_mode():
            of.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=how,
                logits_processor=LogitsProcessorList([_Draw(rows, device)]),
                stopping_criteria=StoppingCriteriaList([_Ends(rows, self)]),
            )

    def text_of(self, tokens: list[int]) -> str:
        """The text of tokens, without special ones."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._ended


def _cancel(completion: Completion) -> None:
    """End a completion that was not begun."""
    completion.error = InterruptedError("cancelled")
    completion.on_text(None)


class _Draw(LogitsProcessor):
    """Draws the next token of each row with a temperature, and leaves it as the only possible one."""

    def __init__(self, rows: Sequence[Completion], device: torch.device) -> None:
        self._rows = rows
        self._generators = [torch.Generator(device).manual_seed(one.seed) for one in rows]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores of tokens, float [rows, vocabulary], before and after."""
        for at, (row, generator) in enumerate(zip(self._rows, self._generators, strict=True)):
            if row.temperature == 0 or row.finish or row.error:
                continue
            one: Any = TemperatureLogitsWarper(row.temperature)(input_ids[at : at + 1], scores[at : at + 1])
            if row.top_p < 1:
                one = TopPLogitsWarper(row.top_p)(input_ids[at : at + 1], one)
            probabilities = one[0].softmax(-1)
            if not probabilities.isfinite().all():
                row.error = ArithmeticError("the model has values that are no numbers")
                continue
            drawn = torch.multinomial(probabilities, 1, generator=generator)
            scores[at] = float("-inf")
            scores[at, drawn] = 0
        return scores


class _Ends(StoppingCriteria):
    """Takes each row's new token, sends its text, and says which rows have ended."""

    def __init__(self, rows: Sequence[Completion], of: Completer) -> None:
        self._rows, self._of = rows, of
        cleaned = bool(getattr(of.tokenizer, "clean_up_tokenization_spaces", False))
        self._texts = [GrowingText(row, of.text_of, cleaned) for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **others: Any) -> torch.Tensor:
        """Whether each row has ended, bool [rows]."""
        for row, text, token in zip(self._rows, self._texts, input_ids[:, -1].tolist(), strict=True):
            if row.finish or row.error:
                continue
            if row.cancelled or self._of.is_closing:
                row.error = InterruptedError("cancelled")
                continue
            row.output.append(token)
            ends, full = token in self._of.stops and not row.ignore_eos, len(row.output) >= row.most
            try:  # the tokenizer is of whoever made the folder
                stopped = text.grow(row.output[:-1] if ends else row.output, ends or full)
            except Exception as error:
                row.error = error
            else:
                row.finish = "stop" if ends or stopped else "length" if full else ""
        return torch.tensor([bool(row.finish or row.error) for row in self._rows], device=input_ids.device)
