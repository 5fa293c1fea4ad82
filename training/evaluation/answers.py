"""Answers of an exported model to any prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.evaluation.generate import complete_prompts, stop_ids
from raymill.training.models.base import load_base
from raymill.training.tokenizer.load_tokenizer import load_tokenizer, pad_id


def answer_prompts(
    store: Store,
    folder: str,
    prompts: Sequence[str | Sequence[Mapping[str, Any]]],
    max_new_tokens: int,
    chat: bool,
) -> list[str]:
    """The answer to each prompt, by greedy decoding, on a GPU if this process sees one.

    Args:
        folder: of a whole model, with its tokenizer. prompts: texts, or conversations of {role, content}.
        chat: whether a text is put into the chat template as the user's message.
    """
    tokenizer: Any = load_tokenizer(store, folder)
    on_gpu = torch.cuda.is_available()
    model: Any = load_base(store, Model(name=folder), 0, torch.bfloat16 if on_gpu else torch.float32, None)
    model = model.to("cuda" if on_gpu else "cpu")
    ids = []
    for prompt in prompts:
        if isinstance(prompt, str) and not chat:
            ids.append(tokenizer(prompt)["input_ids"])
            continue
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    found = complete_prompts(model, ids, max_new_tokens, stop_ids(tokenizer), pad_id(tokenizer), padded=True)
    return [tokenizer.decode(one, skip_special_tokens=True).strip() for one in found]
