"""A chat model that answers with some words in a random order, and ends: readable answers from a tiny folder."""

import math
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raymill.training.pack.template import CHATML
from tests.support.tiny_tokenizers import saved, tiny

WORDS = ("quick", "brown", "fox", "jumps", "lazy", "dog", "hello", "world", "tool", "system", "assistant")
_NEVER = -30.0


def word_model(folder: Path) -> str:
    """Write the model's folder. Greedy decoding gives `WORDS` in their order.

    The embedding of a token is its own dimension, so the output layer is a table of a token and the next one. The layer
    between them is of small random weights, which an adapter can train.
    """
    tokenizer = tiny(CHATML)
    saved(folder, tokenizer)
    ids = [tokenizer.get_vocab()[f"Ġ{word}"] for word in WORDS]  # with the space before it
    end, size = tokenizer.convert_tokens_to_ids("<|im_end|>"), len(tokenizer) + len(tokenizer) % 2
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=size, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        head_dim=16, max_position_embeddings=2048, tie_word_embeddings=False, initializer_range=0.002,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    table = torch.full((len(tokenizer), size), _NEVER)  # (next token, token)
    table[ids] = 0.0
    table[end, ids] = 0.0
    for token, following in zip(ids, [*ids[1:], end], strict=True):
        table[following, token] = math.log(2)
    others = [token for token in range(len(tokenizer)) if token not in ids]
    table[ids[0], others] = math.log(2)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        model.lm_head.weight.copy_(table / math.sqrt(size))  # the norm before it multiplies by this
    model.save_pretrained(folder)
    return str(folder)
