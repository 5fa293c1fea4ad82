"""Whether a training compiles the decoder layers. Imports no torch, so that a plan can ask."""

from raymill.cluster.errors import ConfigError
from raymill.training.config import TrainConfig

# Model types of transformers whose decoder layer compiles to one graph, forward and backward, as
# tests/training/models/test_compiling.py checks. Mixtures of experts do not: their routing depends on the data.
KNOWN_TO_COMPILE = frozenset({
    "cohere", "gemma", "gemma2", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3",
    "smollm3", "stablelm", "starcoder2",
})  # fmt: skip

# Of what a compiled layer would keep for the backward pass, with selective recomputing. The compiler finds what is
# cheapest to compute again. Below about a half that includes products and, where its cost is not known, attention.
KEPT_SHARE = 0.7


def compile_refusal(config: TrainConfig, model_type: str) -> str | None:
    """Why the layers of this model are not compiled; None if they are. `compile: true` and `false` override the
    reasons.
    """
    if config.compile != "auto":
        return None if config.compile else "compile: false"
    found = {
        "workers have no GPU": config.workers.gpus_each == 0,
        "answers are sampled with a cache of keys and values": config.objective == "grpo",
        "zero3's gathering hooks break the graphs": config.engine == "zero3",
        "peft's DoRA breaks the graph of each layer": config.training_method.merges and config.lora.dora,
        config.training_method.not_compiled: config.training_method.not_compiled is not None,
        f"compilation of model type {model_type} is not tested": model_type not in KNOWN_TO_COMPILE,
    }
    return next((reason for reason, holds in found.items() if holds), None)


def refuse_selective(config: TrainConfig, model_type: str) -> None:
    """Refuse `activation_checkpointing: selective` for layers that are not compiled: the compiler chooses.

    Raises:
        ConfigError: they are not; the message has the reason.
    """
    if config.activation_checkpointing == "selective" and (refusal := compile_refusal(config, model_type)):
        raise ConfigError(
            f"activation_checkpointing: selective is for compiled layers, and these are not compiled: {refusal}. Set "
            "activation_checkpointing: true, or compile: true."
        )
