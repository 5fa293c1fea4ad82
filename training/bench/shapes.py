"""The models that `python -m training.bench --shape` knows: Llama's architecture, random weights.

1b and 8b have the dimensions of Llama-3.2-1B and Llama-3.1-8B as their published config.json give them. tiny is for
CPUs and tests.
"""

from typing import Any

from cluster.errors import ConfigError
from training.config import TrainConfig

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
    """A training config around a shape. Its corpus and output are never touched.

    Raises:
        ConfigError: there is no such shape, or the settings do not go together.
    """
    if shape not in SHAPES:
        raise ConfigError(f"--shape {shape}: no such shape. There are {', '.join(SHAPES)}.")
    # A config refuses to quantise random weights, for there is nothing in them to keep; their speed is that of others.
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
