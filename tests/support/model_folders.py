"""Folders of models as hubs have them: config.json, a tokenizer, and weights that are zeros or random."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from raymill.training.model_folder.folder import SINGLE
from raymill.training.pack.template import CHATML
from tests.support.tiny_tokenizers import saved, tiny
from tests.support.train_inline import MODEL


@cache
def shapes_of(settings: str) -> dict[str, tuple[int, ...]]:
    """Of the weights of a model, by name; without those that are tied to others."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**json.loads(settings)))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = getattr(model, "_tied_weights_keys", None) if model.config.tie_word_embeddings else None
    return {name: shape for name, shape in shapes.items() if name not in (tied or {})}


def folder(path: Path, *names: str, tokens: int = 280, **settings) -> str:
    """A model's folder with weights of zeros. names: empty files instead of the weights. tokens: of its tokenizer."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(MODEL | settings))
    for name in names:
        (path / name).write_bytes(b"")
    if not names:
        write_weights(path)
    vocabulary = {f"t{number}": number for number in range(tokens - 1)}
    added = [{"id": tokens - 1, "content": "<end>"}]
    plain = {"model": {"type": "BPE", "vocab": vocabulary}, "added_tokens": added}
    (path / "tokenizer.json").write_text(json.dumps(plain))
    return str(path)


def write_weights(path: Path, **changed: tuple[int, ...] | None) -> None:
    """As config.json describes them, but for the shapes `changed` by names with __ for dots; None: left out."""
    shapes = dict(shapes_of((path / "config.json").read_text()))
    shapes |= {name.replace("__", "."): shape for name, shape in changed.items()}
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items() if shape}, path / SINGLE)


def chat_model(path: Path, seed: int) -> str:
    """A model of some thousand random weights, with a tokenizer and a chat template."""
    tokenizer = tiny(CHATML)
    saved(path, tokenizer)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return str(path)
