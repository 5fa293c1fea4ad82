"""Floating-point operations of a trained token, and what devices can do: the two numbers of MFU.

    MFU = tokens per second x flops per token / (devices x peak flops of one)

Letters: W weights that a token is multiplied with, A those of an adapter, c the mean number of positions that a token
attends to, itself included; L layers, H heads, q and v the sizes of a head's key and value.

    forward     2 W + attention,   attention = 2 L H (q + v) c
    full        3 x forward                        each product again for the gradient of its input and of its weight
    lora        4 W + 6 A + 3 x attention          a frozen weight has no gradient of its own
    prefix, prompt    as lora, with A = 0          the virtual tokens' own positions are not counted
    probe       2 W without the lm_head + attention

W leaves out what is looked up and not multiplied (embeddings, unless the lm_head is one) and vectors, and counts of a
mixture's experts those that a token is sent to. What is computed again (activation checkpointing, chunked loss) or only
because of an implementation (padding, masked-out scores) is not counted: this is MFU, not hardware utilisation.

c is where conventions differ. Ours is exact: (T + 1) / 2 for a row that is one document, for packed rows the mean of
(length + 1) / 2 over tokens. torchtitan and TRL count attention as if it were not causal: give c = T to compare with
theirs; llm-foundry's 6 N + 12 L d T is that, too. Rates of LoRA are often published with 6 W ("6N-equivalent").
"""

import re
from dataclasses import dataclass
from typing import Any


def flops_per_token(config: Any, trainable_parameters: int, method: str, context: float) -> float:
    """
    Args:
        config: the base model's transformers config.
        trainable_parameters: of the adapter (lora, qlora); other methods do not use it. Experts' share is not reduced.
        method: of the training config.
        context: c of this file's formulas.
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
    """c for documents of these lengths: over all their tokens, the mean number of positions up to and with its own."""
    return sum(n * (n + 1) / 2 for n in lengths) / sum(lengths)


@dataclass(frozen=True)
class Multiplied:
    """How many weights a token is multiplied with: in the layers, and in the lm_head."""

    body: float
    lm_head: int

    @property
    def all(self) -> float:
        return self.body + self.lm_head


def multiplied(config: Any) -> Multiplied:
    """Counted on the model itself, made without memory."""
    import torch
    from transformers import AutoModelForCausalLM

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
    """Of one token's forward pass, over all layers: scores and weighted sums. A window bounds what its layers see."""
    text = config.get_text_config()
    heads, layers = text.num_attention_heads, text.num_hidden_layers
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    key = (getattr(text, "qk_nope_head_dim", None) or 0) + (getattr(text, "qk_rope_head_dim", None) or 0) or head
    value = getattr(text, "v_head_dim", None) or head
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * layers
    window = getattr(text, "sliding_window", None) or context
    seen = {"full_attention": context, "sliding_attention": min(context, window)}
    return sum(2 * heads * (key + value) * seen.get(kind, 0.0) for kind in kinds)


# Dense bf16 with float32 accumulation: half of what a data sheet says "with sparsity". H100, H200 and H200 NVL as TRL
# has them; compare the others with the sheet before you publish an MFU. The first that stands, as words, in a device's
# name counts.
PEAK_FLOPS: dict[str, float] = {
    "GB300": 2500e12,
    "GB200": 2500e12,
    "B300": 2250e12,
    "B200": 2250e12,
    "H200 NVL": 835.5e12,
    "H200": 989.4e12,
    "GH200": 989.4e12,
    "H100 NVL": 835.5e12,
    "H100 PCIe": 756.5e12,
    "H100": 989.4e12,
    "H800": 989.4e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362.05e12,
    "L40": 181.05e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364.25e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71.2e12,
    "MI325X": 1307.4e12,
    "MI300X": 1307.4e12,
    "MI250X": 383e12,
}


def peak_flops(device_name: str) -> float | None:
    """Of one device by the name its driver gives, in bf16 and in nothing else; None of a device not in this table."""
    return next((peak for known, peak in PEAK_FLOPS.items() if re.search(rf"\b{known}\b", device_name)), None)
