"""Greedy generation for many prompts, in batches padded on the left, up to the token that ends an answer."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from cluster.guard import Exceeded, Guard
from training.pack.chat import closing_token
from training.pack.documents import Chat
from training.pack.template import OF_A_CHECK, Unfit, presentations, render

# The most tokens of a batch, prompts and answers together, which limits the key-value cache.
_BATCH_TOKENS = 16384
_BATCH_PROMPTS = 32

_USER, _ANSWER = "question", "answer"
_CALL: dict[str, Any] = {"type": "function", "function": {"name": "a_function", "arguments": {}}}


def stop_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids that end an answer: end of sequence, and those that end an answer or a tool call in the template."""
    stops = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for turn in (
        {"role": "assistant", "content": _ANSWER},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    ):
        chat = Chat([{"role": "user", "content": _USER}, turn])
        try:
            end = Guard(partial(_end_of, tokenizer))(chat, OF_A_CHECK) if tokenizer.chat_template else ""
        except Exceeded:
            end = ""
        # After an answer the first token ends it (Phi 3 writes two); within a call there may be others.
        ids = tokenizer(end, add_special_tokens=False)["input_ids"] if end else []
        stops += [int(token) for token in ids[:1] if token in special and token not in stops]
    return stops


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
                    answers[at] = _before_stop(row, stops)
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


def _before_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    ends = [at for at, token in enumerate(ids) if token in stops]
    return ids[: ends[0]] if ends else ids
