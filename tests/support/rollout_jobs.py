"""Tiny trainings by rewards: a model that has seen nothing is to answer with the first digit of its prompt."""

import json
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raymill.cluster.examples.splits import SPLITS
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.pack.packed_run import PackedRun
from raymill.training.records.job import Job, TrainingFolder
from tests.support.packed_examples import pack_examples, write_examples

WORDS = [*"0123456789", "=", "</s>"]
LENGTH = 8
MODEL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": len(WORDS),
    "max_position_embeddings": LENGTH,
}


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="="))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>")


def settings(root: str, context: Any = None, **more: Any) -> TrainConfig:
    plain: dict[str, Any] = {
        "kind": "train",
        "name": "rewards",
        "corpus": [{"path": "nowhere", "name": "test"}],
        "columns": {"prompt": "prompt", "completion": "completion"},
        "model": {"config": MODEL, "tokenizer": "train"},
        "objective": "grpo",
        "grpo": {"samples": 8, "max_new_tokens": 1, "rewards": [{"score": "exact_match"}]},
        "packing": {"mode": "none"},
        "sequence_length": LENGTH,
        "tokens_per_step": 16 * LENGTH,
        "micro_batch": 32,
        "steps": 6,
        "optimizer": {"learning_rate": 3e-3, "schedule": "constant"},
        "evaluate": {"every_steps": 3, "rows": 64},
        "checkpoint": {"every_steps": 2},
        "track": {"tensorboard": False},
        "output": f"{root}/run",
        "packed": f"{root}/packed",
    }
    return TrainConfig.model_validate(plain | more, context=context)


def pack_prompts(root: str, count: int = 400, validation: int = 64) -> None:
    generator = np.random.default_rng(3)
    rows = []
    for number in range(count):
        digits = generator.integers(10, size=3).tolist()
        prompt, answer = [*digits, WORDS.index("=")], [digits[0], WORDS.index("</s>")]
        rows.append(
            {
                "split": int(number < validation),
                "place": int(generator.integers(1 << 62)),
                "document": f"doc-{number}",
                "ids": prompt + answer,
                "labels": [False] * len(prompt) + [True] * len(answer),
                "label": None,
            }
        )
    packed = f"{root}/packed"
    artifacts = pack_examples(packed, write_examples(packed, rows), settings(root))
    told = {
        "settings": {"corpora": {"test": {"files": "made here"}}, "tokenizer": {}},
        "tokenizer": "tiny",
        "classes": [],
        "artifacts": {"test": {split: artifacts[split].manifest.digest for split in SPLITS}},
    }
    Store().write_bytes(f"{packed}/pack.json", json.dumps(told).encode())
    tokenizer().save_pretrained(f"{packed}/tokenizer")


def rollout_job(root: str, **more: Any) -> Job:
    config = settings(root, **more)
    packed = PackedRun.load(Store(), f"{root}/packed")
    parts = {f"settings.{name}": json.dumps(value) for name, value in config.fit_settings().items()}
    parts |= {"data": packed.fingerprint, "model": json.dumps(MODEL)}
    return Job(config, TrainingFolder(config.store, config.output, parts), packed.uri, (), config.steps or 0)
