"""A reward model of random weights, and its scores by transformers alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from raymill.training.pack.template import CHATML
from tests.support.tiny_tokenizers import saved, tiny


def reward_folder(folder: Path, seed: int = 3, template: str | None = CHATML) -> str:
    """The folder of a model with a score."""
    tokenizer = tiny(template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return saved(folder, tokenizer)


def scores_by_transformers(folder: str, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[float]:
    """The logit of each conversation, as its chat template writes it."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for messages in conversations:
        ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            found.append(model(input_ids=torch.tensor([ids])).logits.item())
    return found
