"""Tiny models of random weights, one for each way a real one makes its logits, and batches for them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch, boundary_capacity, collate, document_starts, target_positions
from raymill.training.data.packed import JUDGED_PACKED, NO_TARGET

VOCABULARY = 300

_SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": VOCABULARY,
}  # fmt: skip

# What is special: gpt2 ties and has learned positions; qwen3 and gemma have a head size of their own; gemma2 caps its
# scores and logits and has a window; cohere scales its logits, granite divides them; qwen3_moe has experts.
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **_SIZES},
    "gpt2": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "qwen2": {"model_type": "qwen2", **_SIZES, "tie_word_embeddings": True},
    "qwen3": {"model_type": "qwen3", **_SIZES, "head_dim": 16},
    "gemma2": {"model_type": "gemma2", **_SIZES, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16,
               "final_logit_softcapping": 0.5},
    "cohere": {"model_type": "cohere", **_SIZES, "logit_scale": 0.0625},
    "granite": {"model_type": "granite", **_SIZES, "logits_scaling": 4.0},
    "qwen3_moe": {"model_type": "qwen3_moe", **_SIZES, "head_dim": 16, "moe_intermediate_size": 16, "num_experts": 4,
                  "num_experts_per_tok": 2},
}  # fmt: skip


def tiny_config(model: str | dict[str, Any] = "llama", **settings: Any) -> TrainConfig:
    """A training of a tiny model; `settings` over what is usual, `model` by name or by its settings."""
    own = MODELS[model] if isinstance(model, str) else model
    if settings.get("method") in ("prefix", "prompt"):
        settings.setdefault("packing", {"mode": "none"})
    if settings.get("method") == "probe":
        settings.setdefault("packing", {"mode": "none", "overflow": "truncate"})
        settings.setdefault("columns", {"text": "text", "label": "label"})
    usual = {
        "kind": "train", "name": "tiny", "corpus": "corpus", "output": "runs/tiny", "steps": 2, "sequence_length": 16,
        "tokens_per_step": 64, "loss_chunk_tokens": 7,
    }  # fmt: skip
    plain = {"model": {"config": own, "tokenizer": "train"}} if "model_type" in own else {"model": own}
    return TrainConfig.model_validate(usual | plain | settings)


def batch_of(documents: list[list[list[int]]], length: int = 16) -> Batch:
    """Rows of documents of token ids, packed by `raymill.training.data.batch.collate`; every next token is a target."""
    rows = len(documents)
    ids = np.zeros((rows, length), np.int64)
    positions = np.tile(np.arange(length), (rows, 1))
    targets = np.full((rows, length), NO_TARGET, np.int64)
    ends = np.zeros(rows, np.int64)
    for row, packed in enumerate(documents):
        at = 0
        for document in packed:
            size = len(document)
            ids[row, at : at + size] = document
            positions[row, at : at + size] = np.arange(size)
            targets[row, at : at + size - 1] = document[1:]
            at += size
        positions[row, at:] = np.arange(length - at)
        ends[row] = at - 1
    classes = np.arange(rows, dtype=np.int64) % 2
    return Batch(
        input_ids=ids,
        position_ids=positions,
        targets=targets,
        classes=classes,
        ends=ends,
        starts=document_starts(positions, boundary_capacity(rows, 3)),
        target_positions=target_positions(targets),
        tokens=int(ends.sum()) + rows,
        label_tokens=int((targets != NO_TARGET).sum()),
        documents=(),
        row_digests=np.zeros(0, np.uint64),
    )


def with_targets(batch: Batch, targets: np.ndarray) -> Batch:
    """The batch with other targets."""
    count = int((targets != NO_TARGET).sum())
    return replace(batch, targets=targets, target_positions=target_positions(targets), label_tokens=count)


def random_documents(lengths: list[list[int]], seed: int = 0) -> list[list[list[int]]]:
    """One list of lengths a row."""
    generator = np.random.default_rng(seed)
    return [[generator.integers(1, VOCABULARY, n).tolist() for n in row] for row in lengths]


def loss_of(objective: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return objective(**objective.tensors(batch, "cpu"))


def answers_batch(rows: int, length: int, objective: str) -> Batch:
    """Rows of one pair each, of which all tokens but the first of each answer are trained on."""
    half = length // 2
    packed = [
        {
            "ids": np.random.default_rng(3).integers(VOCABULARY, size=length).tolist(),
            "labels": ([False] + [True] * (half - 1)) * 2,
            "lengths": [half, half],
            "documents": ["a", "a"],
            "label": None,
            "weights": None,
            "judgements": [1.0, 0.0],
        }
        for _ in range(rows)
    ]
    batch = collate([pa.Table.from_pylist(packed, JUDGED_PACKED)], rows, length, 0)
    return replace(batch, mismatched=batch) if objective == "kto" else batch
