"""What `python -m tests.benchmarks.gpu` trains: Llama models with random weights, on random packed rows.

1b and 8b have the dimensions of Llama-3.2-1B and Llama-3.1-8B in their published config.json; tiny is for CPUs and
tests. A row is filled exactly by documents of random lengths. Their tokens have a Zipf-like distribution, so that the
embedding's gradient has the collisions of real text.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from raymill.cluster.errors import ConfigError
from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch, collate
from raymill.training.data.packed import PACKED

_LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
    },
    "1b": _LLAMA3
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8b": _LLAMA3
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}


def bench_config(
    shape: str, *, world: int, gpus: bool, sequence_length: int, micro_batch: int, accumulation: int, **settings: Any
) -> TrainConfig:
    """A training config for a shape. Its corpus and output are not used.

    Raises:
        ConfigError: there is no such shape, or the settings contradict each other.
    """
    if shape not in SHAPES:
        raise ConfigError(f"--shape {shape}: no such shape. There are {', '.join(SHAPES)}.")
    # A config refuses qlora for random weights, since quantising them is pointless; the speed is the same.
    four_bits = settings.get("method") == "qlora"
    config = TrainConfig.model_validate(
        {
            "kind": "train",
            "name": f"bench-{shape}",
            "corpus": "none",
            "output": "none",
            "model": {"config": SHAPES[shape], "tokenizer": "train"},
            "workers": {"count": world, "gpus_each": int(gpus)},
            "sequence_length": sequence_length,
            "micro_batch": micro_batch,
            "tokens_per_step": world * accumulation * micro_batch * sequence_length,
        }
        | {key: value for key, value in settings.items() if value is not None}
        | ({"method": "lora"} if four_bits else {})
    )
    return config.model_copy(update={"method": "qlora"}) if four_bits else config


def random_batch(seed: tuple[int, ...], rows: int, length: int, documents: int, vocabulary: int) -> Batch:
    """`rows` rows of 1 to 2 x `documents` - 1 documents each, `documents` on average; deterministic.

    Micro-batches differ in their number of documents, as in packed text.
    """
    random = np.random.default_rng(seed)
    counts = random.integers(1, min(2 * documents, length), rows)
    table = pa.Table.from_pylist([_row(random, length, int(count), vocabulary) for count in counts], PACKED)
    return collate([table], rows, length, 0, documents)


def document_lengths(batches: list[Batch]) -> list[int]:
    """Tokens of each document in batches whose rows are full."""
    starts = np.concatenate([(batch.position_ids == 0).ravel() for batch in batches])
    return np.diff(np.append(np.flatnonzero(starts), len(starts))).tolist()


def _row(random: np.random.Generator, length: int, documents: int, vocabulary: int) -> dict[str, object]:
    cuts = np.sort(random.choice(np.arange(1, length), documents - 1, replace=False))
    lengths = np.diff(np.concatenate([[0], cuts, [length]]))
    labels = np.ones(length, bool)
    labels[np.concatenate([[0], cuts])] = False
    return {
        "ids": (vocabulary * random.random(length) ** 3).astype(np.int32),
        "labels": labels,
        "lengths": lengths.astype(np.int32),
        "documents": [f"random-{number}" for number in range(documents)],
        "label": None,
    }


def mean_context(lengths: list[int]) -> float:
    """c (training/models/cost.py) for documents of these lengths: the mean position, from 1, of all their tokens."""
    return sum(n * (n + 1) / 2 for n in lengths) / sum(lengths)
