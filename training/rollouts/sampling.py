"""Answers that a model samples at temperature 1, each by random numbers of its own."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from raymill.training.models.objective import Objective


def answer_key(seed: int, step: int, document: str, sample: int) -> bytes:
    """The seed of one answer, 32 bytes."""
    return hashlib.sha256(f"rollout,{seed},{step},{sample},{document}".encode()).digest()


def uniforms(key: bytes, count: int) -> np.ndarray:
    """The random numbers of one answer, float64[count] in [0, 1)."""
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key[:16], np.uint64))).random(count)


@torch.no_grad()
def sample_answers(
    model: Any, prompts: Sequence[Sequence[int]], randoms: Sequence[np.ndarray], stops: Sequence[int], pad: int
) -> list[list[int]]:
    """Tokens sampled from the model's distribution after each prompt, up to a stop token, which is the last one.

    Args:
        model: a causal language model in eval mode, on its device.
        randoms: of each answer, one for each token; their number is the maximum length of the answer.
    """
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=device)
    drawn = torch.from_numpy(np.stack(randoms)).to(device)
    stop = torch.tensor(list(stops), device=device)
    answers: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(len(prompts), dtype=torch.bool, device=device)
    cache: Any = None
    for at in range(drawn.shape[1]):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = output.past_key_values
        cumulated = output.logits[:, -1].double().softmax(-1).cumsum(-1)
        # The first token whose cumulated probability is above the random number.
        tokens = torch.searchsorted(cumulated, drawn[:, at, None] * cumulated[:, -1:], right=True).squeeze(-1)
        tokens = tokens.clamp(max=cumulated.shape[1] - 1)
        for row in running.nonzero().flatten().tolist():
            answers[row].append(int(tokens[row]))
        running &= ~torch.isin(tokens, stop)
        if not running.any():
            break
        ids = tokens[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return answers


@contextmanager
def sampling_mode(objective: Objective) -> Iterator[None]:
    """Inside this context, the model is in eval mode, with an attention that supports a cache and padding."""
    model, trained = objective.model, objective.training
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    attention = inner.config._attn_implementation
    changed = attention not in ("eager", "sdpa")
    if changed:
        inner.set_attn_implementation("sdpa")
    objective.eval()
    try:
        yield
    finally:
        objective.train(trained)
        if changed:
            inner.set_attn_implementation(attention)
