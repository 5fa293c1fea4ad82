"""Held-out prompts with their reference answers, and greedy generation.

The reference of a pair or a chat is the last span of trained tokens, and its prompt is everything before it. The prompt
of a text is its first tokens, and its reference the tokens after them. Pairs and chats that may have been cut, because
they are in several rows or fill a whole row, are left out: their answer may be incomplete.

Answers are generated in batches padded on the left, up to the token that ends an answer.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from raymill.cluster.guard import Exceeded, Guard, WorkBounds, once
from raymill.training.data.packed import PackedRows
from raymill.training.pack.chat import closing_token
from raymill.training.pack.documents import Chat
from raymill.training.pack.template import OF_A_CHECK, Unfit, presentations, render, written

# Rows read for each wanted prompt, because some rows have none.
_ROWS_PER_PROMPT = 4


@dataclass(frozen=True)
class Prompt:
    """A prompt. document: id of its document. ids: its tokens. reference: the answer's tokens, with the end of turn."""

    document: str
    ids: tuple[int, ...]
    reference: tuple[int, ...]


def held_out_prompts(
    rows: PackedRows,
    documents: Iterable[pa.Table],
    form: str,
    count: int,
    prompt_tokens: int,
    reference_tokens: int,
    full: int,
    labelled: bool = False,
) -> list[Prompt]:
    """At most `count` prompts of a packed split, from rows at even distances; every call gives the same ones.

    Args:
        rows: the split's rows. documents: the split's tables, with only the column `documents`.
        form: text, pair or chat. prompt_tokens, reference_tokens: lengths for form text.
        full: tokens of a full row. labelled: whether answers are labelled; the undesirable ones are no references.
    """
    found = []
    for table in rows.read(evenly_spaced(rows.rows, _ROWS_PER_PROMPT * count)):
        for row in range(table.num_rows):
            ids, trained, lengths = (
                table[name][row].values.to_numpy(zero_copy_only=False) for name in ("ids", "labels", "lengths")
            )
            ends = np.cumsum(lengths)
            names = table["documents"][row].as_py()
            good = [True] * len(names)
            if labelled:
                good = [judgement > 0 for judgement in table["judgements"][row].as_py()]
            elif "judgements" in table.column_names:  # of a pair the chosen one, which is the first
                good = [at % 2 == 0 for at in range(len(names))]
            for document, start, end in compress(zip(names, ends - lengths, ends, strict=True), good):
                if form == "text":
                    span: tuple[int, int] | None = (prompt_tokens, prompt_tokens + reference_tokens)
                else:
                    span = last_trained_span(trained[start:end]) if end - start < full else None
                if span is not None:
                    given, wanted = ids[start:end][: span[0]].tolist(), ids[start:end][slice(*span)].tolist()
                    if given and wanted:
                        found.append(Prompt(document, tuple(given), tuple(wanted)))
    if form != "text":
        prompted = {prompt.document for prompt in found}
        seen: Counter[str] = Counter()  # memory grows with `prompted`, not with the rows
        for table in documents:
            for named in table["documents"].to_pylist():
                seen.update(prompted.intersection(named))
        found = [prompt for prompt in found if seen[prompt.document] == 1]
    return [found[at] for at in evenly_spaced(len(found), count)]


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` evenly spaced numbers from 0 to total - 1, both included; all numbers if there are at most `count`."""
    return np.linspace(0, total - 1, min(total, count)).astype(int).tolist()


def last_trained_span(trained: np.ndarray) -> tuple[int, int] | None:
    """(start, stop) of the last contiguous span of true values; None if no value is true."""
    true = np.flatnonzero(trained)
    if not len(true):
        return None
    stop = int(true[-1]) + 1
    before = np.flatnonzero(~trained[:stop].astype(bool))
    return (int(before[-1]) + 1 if len(before) else 0), stop


# The most tokens of a batch, prompts and answers together, which limits the key-value cache.
_BATCH_TOKENS = 16384
_BATCH_PROMPTS = 32

OF_A_PROMPT = WorkBounds(10.0, 1 << 30)
_USER, _ANSWER = "question", "answer"
_CALL: dict[str, Any] = {"type": "function", "function": {"name": "a_function", "arguments": {}}}


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids that end an answer: end of sequence, and those that end an answer or a tool call in the template.

    The template is rendered once per process for the same tokenizer, in a child process.
    """
    stops = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    if tokenizer.chat_template:
        content = [tokenizer.chat_template, tokenizer.special_tokens_map, tokenizer.backend_tokenizer.to_str()]
        digest = hashlib.sha256(json.dumps(content, default=str).encode()).digest()
        ends = once(("ends of turns", digest), partial(_ends_of_turns, tokenizer))
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        stops += [token for token in ends if token in special and token not in stops]
    return stops


def _ends_of_turns(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that end an answer and a tool call in the chat template, special or not, without repetition."""
    found, end_ids = dict[int, None](), Guard(partial(_end_ids, tokenizer))
    for turn in (
        {"role": "assistant", "content": _ANSWER},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    ):
        with suppress(Exceeded):
            # After an answer the first token ends it (Phi 3 writes two); within a call there may be others.
            found |= dict.fromkeys(end_ids(Chat([{"role": "user", "content": _USER}, turn]), OF_A_CHECK)[:1])
    return list(found)


def prompt_ids(tokenizer: PreTrainedTokenizerFast, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
    """The tokens of a text, or of a conversation by the chat template and else of its texts. For a Guard."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    if tokenizer.chat_template:
        return list(tokenizer(written(tokenizer, (prompt, True)), add_special_tokens=False)["input_ids"])
    return list(tokenizer("\n\n".join(one["content"] for one in prompt) + "\n\n")["input_ids"])


def problem_of(model: Any, ids: Sequence[int]) -> str:
    """Why a model cannot complete a prompt; empty if it can."""
    rows = model.get_input_embeddings().weight.shape[0]
    if not ids:
        return "the chat template or tokenizer makes nothing of the prompt"
    return "" if max(ids) < rows else f"the tokenizer has the token {max(ids):,}, and the model has {rows:,} tokens"


def _end_ids(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> list[int]:
    """The tokens of `_end_of`."""
    end = _end_of(tokenizer, chat)
    return list(tokenizer(end, add_special_tokens=False)["input_ids"]) if end else []


def _end_of(tokenizer: PreTrainedTokenizerFast, chat: Chat) -> str:
    """What the chat template writes after the text of the last turn; empty if it does not write the turn."""
    for shown in presentations(str(tokenizer.chat_template), chat):
        try:
            rendered = render(tokenizer, shown, len(shown.messages), prompt=False)
        except Unfit:
            continue
        if closing := closing_token(tokenizer, shown, {}):
            return closing
        if _ANSWER in rendered:
            return rendered.rpartition(_ANSWER)[2].lstrip()
        if _CALL["function"]["name"] in rendered:
            added = sorted((token.content for token in tokenizer.added_tokens_decoder.values()), key=len)
            return next((token for token in reversed(added) if rendered.rstrip().endswith(token)), "")
    return ""


def complete_prompts(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: Sequence[int], pad: int, *, padded: bool
) -> list[list[int]]:
    """Token ids generated after each prompt, in the prompts' order, without the stop token.

    Every token is the most probable one; the model's own sampling settings (temperature, penalties) are not used.

    Args:
        model: a transformers or peft causal language model, on its device.
        prompts: token ids of each prompt. stops: ids that end an answer. pad: id of padding.
        padded: whether prompts of different lengths may be in one batch. False for methods with virtual tokens, which
            would precede the padding.
    """
    greedy = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=list(stops) or None, pad_token_id=pad
    )
    answers: list[list[int]] = [[] for _ in prompts]
    # peft also sets the generation config of the model that it wraps.
    holders = [model, model.get_base_model()] if hasattr(model, "peft_config") else [model]
    configs = [holder.generation_config for holder in holders]
    was_training = model.training
    for holder in holders:
        holder.generation_config = greedy
    model.eval()
    try:
        with torch.inference_mode():
            for batch in _batches(prompts, max_new_tokens, padded):
                width = max(len(prompts[at]) for at in batch)
                ids = torch.full((len(batch), width), pad)
                mask = torch.zeros_like(ids)
                for row, at in enumerate(batch):
                    ids[row, width - len(prompts[at]) :] = torch.tensor(list(prompts[at]))
                    mask[row, width - len(prompts[at]) :] = 1
                device = next(model.parameters()).device
                output = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device))
                for at, row in zip(batch, output[:, width:].tolist(), strict=True):
                    answers[at] = row[: next((end for end, token in enumerate(row) if token in stops), None)]
    finally:
        for holder, config in zip(holders, configs, strict=True):
            holder.generation_config = config
        model.train(was_training)
    return answers


def _batches(prompts: Sequence[Sequence[int]], max_new_tokens: int, padded: bool) -> Iterator[list[int]]:
    """Batches of prompt indices, shortest prompts first, of at most _BATCH_PROMPTS prompts and _BATCH_TOKENS tokens."""
    batch: list[int] = []
    for at in sorted(range(len(prompts)), key=lambda at: len(prompts[at])):
        tokens = (len(batch) + 1) * (len(prompts[at]) + max_new_tokens)
        other = bool(batch) and not padded and len(prompts[batch[0]]) != len(prompts[at])
        if batch and (other or tokens > _BATCH_TOKENS or len(batch) == _BATCH_PROMPTS):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch
