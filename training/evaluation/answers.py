"""Answers of an exported model to any prompts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from raymill.cluster.errors import DataError
from raymill.cluster.guard import Guard
from raymill.cluster.store.store import Store
from raymill.training.config_parts import Model
from raymill.training.evaluation.generate import OF_A_PROMPT, complete_prompts, problem_of, prompt_ids, stop_ids
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

    Raises:
        DataError: the template or tokenizer fails, or goes beyond its bounds.
    """
    tokenizer: Any = load_tokenizer(store, folder)
    given = [[{"role": "user", "content": one}] if chat and isinstance(one, str) else one for one in prompts]
    guard = Guard(partial(prompt_ids, tokenizer))
    try:  # the template and the tokenizer are programs of whoever made the folder
        ids = [guard(one, OF_A_PROMPT) for one in given]
    except Exception as error:
        raise DataError(
            f"{folder}: its chat template or tokenizer fails on a prompt ({type(error).__name__}: {error}). Look at "
            "the files of the folder, or give `chat` as False."
        ) from error
    stops, on_gpu = stop_ids(tokenizer), torch.cuda.is_available()
    model: Any = load_base(store, Model(name=folder), 0, torch.bfloat16 if on_gpu else torch.float32, None)
    if problem := next(filter(None, (problem_of(model, one) for one in ids)), None):
        raise DataError(f"{folder}: {problem}. Look at the files of the folder, or give other prompts.")
    model = model.to("cuda" if on_gpu else "cpu")
    found = complete_prompts(model, ids, max_new_tokens, stops, pad_id(tokenizer), padded=True)
    return [tokenizer.decode(one, skip_special_tokens=True).strip() for one in found]
