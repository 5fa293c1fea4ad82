"""Floating-point operations of a trained token, as used in MFU (model FLOPs utilisation).

    MFU = tokens per second x flops per token / (devices x peak flops of one device, see training/gpus.py)

Letters: W weights that a token is multiplied with, A weights of an adapter, c mean number of positions that a token
attends to, itself included; L layers, H heads, q and v the sizes of a head's key and value.

    forward     2 W + attention,   attention = 2 L H (q + v) c
    full        3 x forward                        one product more for each gradient, of input and of weight
    lora        4 W + 6 A + 3 x attention          a frozen weight needs no gradient
    prefix, prompt    as lora, with A = 0          positions of virtual tokens are not counted
    probe       2 W without the lm_head + attention

W excludes vectors and embeddings (unless the lm_head shares their weight), and counts only the experts of a mixture
that a token is routed to. Recomputation (activation checkpointing, chunked loss) and overhead of an implementation
(padding, masked scores) are not counted: this is MFU, not hardware utilisation.

Conventions differ in c. Here it is exact: (T + 1) / 2 for a row of one document, for packed rows the mean of
(length + 1) / 2 over tokens. torchtitan, TRL and llm-foundry (6 N + 12 L d T) count attention as if it were not causal:
use c = T to compare with their numbers. Rates of LoRA are often published with 6 W ("6N-equivalent").
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def flops_per_token(config: Any, trainable_parameters: int, method: str, context: float) -> float:
    """Floating-point operations of one trained token: forward and backward.

    Args:
        config: the base model's transformers config.
        trainable_parameters: of the adapter; used by lora and qlora only. Adapters of experts count in full.
        method: the training config's method.
        context: c in the formulas of this file.
    """
    weights = multiplied(config)
    attention = attention_flops(config, context)
    match method:
        case "full":
            return 3 * (2 * weights.all + attention)
        case "lora" | "qlora":
            return 4 * weights.all + 6 * trainable_parameters + 3 * attention
        case "prefix" | "prompt":
            return 4 * weights.all + 3 * attention
        case "probe":
            return 2 * weights.body + attention
    raise AssertionError(f"method {method}")


def mean_context(lengths: list[int]) -> float:
    """c for documents of these lengths: the mean, over all their tokens, of the token's position counted from 1."""
    return sum(n * (n + 1) / 2 for n in lengths) / sum(lengths)


@dataclass(frozen=True)
class Multiplied:
    """The number of weights that a token is multiplied with, in the layers (body) and in the lm_head."""

    body: float
    lm_head: int

    @property
    def all(self) -> float:
        """Weights of the layers and the lm_head."""
        return self.body + self.lm_head


def multiplied(config: Any) -> Multiplied:
    """Count the weights on a meta model, which takes no memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    experts = experts or getattr(text, "n_routed_experts", None) or 1
    share = (getattr(text, "num_experts_per_tok", None) or 1) / experts if experts > 1 else 1
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    lm_head = model.get_output_embeddings().weight
    body = sum(
        parameter.numel() * (share if parameter.dim() == 3 and "expert" in name else 1)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and id(parameter) not in looked_up and parameter is not lm_head
    )
    return Multiplied(body, lm_head.numel())


def attention_flops(config: Any, context: float) -> float:
    """Operations of attention (scores and weighted sums) in one token's forward pass, over all layers.

    Layers with a sliding window attend to at most that many positions.
    """
    text = config.get_text_config()
    heads, layers = text.num_attention_heads, text.num_hidden_layers
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    key = (getattr(text, "qk_nope_head_dim", None) or 0) + (getattr(text, "qk_rope_head_dim", None) or 0) or head
    value = getattr(text, "v_head_dim", None) or head
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * layers
    window = getattr(text, "sliding_window", None) or context
    seen = {"full_attention": context, "sliding_attention": min(context, window)}
    return sum(2 * heads * (key + value) * seen.get(kind, 0.0) for kind in kinds)
