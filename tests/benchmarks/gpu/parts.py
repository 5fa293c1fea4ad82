"""The parts of a micro-batch timed separately: matrix products, attention, the loss. Their sum is a bound of a step.

Each is computed forward and backward with the shapes of the config's model and rows, in the config's type. Norms,
rotary embedding, SwiGLU, casts and the optimizer are not included, since a better implementation could hide them.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch
from raymill.training.models.attention import VARLEN, boundaries, choose_attention, varlen_attention
from raymill.training.models.base import decoder_layers, named_config
from raymill.training.models.compiling import elementwise_part
from raymill.training.models.cost import attention_flops
from raymill.training.models.loss import fused_loss
from tests.benchmarks.gpu.measure import freed_afterwards, synchronized_time

_REPEATS = 5
_CHUNKS = (1024, 4096, 8192)


@dataclass(frozen=True)
class MeasuredPart:
    """One part of a micro-batch, over all layers. flops: 0 if not counted. ceiling: training with this config computes
    it, so it is part of the sum.
    """

    name: str
    ms: float
    flops: float
    ceiling: bool

    @property
    def tflops_per_s(self) -> float:
        """Tera floating-point operations per second; 0 if the time is 0."""
        return self.flops / (self.ms * 1e9) if self.ms else 0.0


def measure_parts(config: TrainConfig, batch: Batch, context: float, device: torch.device) -> list[MeasuredPart]:
    """Time the parts.

    Args:
        batch: a micro-batch with the rows and documents. context: mean number of positions that a token attends to.
    """
    with freed_afterwards(device):
        parts = [_products(config, batch, device)]
    with freed_afterwards(device):
        parts += _attentions(config, batch, context, device)
    for chunk in sorted({*_CHUNKS, config.loss_chunk}):
        with freed_afterwards(device):
            parts.append(_loss(config, batch, chunk, device))
    return parts


def milliseconds(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of a call: the median of five, after one that is not counted."""
    call()
    times = []
    for _ in range(_REPEATS):
        start = synchronized_time(device)
        call()
        times.append(synchronized_time(device) - start)
    return 1e3 * median(times)


def _type(config: TrainConfig) -> torch.dtype:
    return torch.bfloat16 if config.bf16 else torch.float32


def _products(config: TrainConfig, batch: Batch, device: torch.device) -> MeasuredPart:
    """The products of all linear modules: output, gradient of the input and, if it trains, of the weight."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(named_config(config.store, config.model))
    shapes = Counter(
        (module.out_features, module.in_features)
        for layer in decoder_layers(model)
        for module in layer.modules()
        if isinstance(module, nn.Linear)
    )
    tokens, ms, flops = batch.input_ids.size, 0.0, 0.0
    trains = config.method == "full"
    for (out, into), count in shapes.items():
        weight = torch.randn(out, into, dtype=_type(config), device=device)
        inputs = torch.randn(tokens, into, dtype=_type(config), device=device)
        gradient = torch.randn(tokens, out, dtype=_type(config), device=device)

        def product(weight: Tensor = weight, inputs: Tensor = inputs, gradient: Tensor = gradient) -> None:
            inputs @ weight.T
            gradient @ weight
            if trains:
                gradient.T @ inputs

        ms += count * milliseconds(product, device)
        flops += count * (6 if trains else 4) * out * into * tokens
    return MeasuredPart("products of the layers", ms, flops, True)


class _Causal(nn.Module):
    is_causal = True


def _attentions(config: TrainConfig, batch: Batch, context: float, device: torch.device) -> list[MeasuredPart]:
    """Attention by the kernel inside documents, if it can run here; by sdpa with a mask; by sdpa over whole rows."""
    model = named_config(config.store, config.model)
    text = model.get_text_config()
    rows, length = batch.input_ids.shape
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    chosen = choose_attention(config.attention, model, device.type, config.bf16, False)
    starts = torch.from_numpy(batch.starts).to(device)
    found = []

    def part(name: str, key_heads: int, computed: bool, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        states = [
            torch.randn(rows, number, length, size, dtype=_type(config), device=device, requires_grad=True)
            for number in (heads, key_heads, key_heads)
        ]
        gradients: dict[torch.Size, Tensor] = {}

        def both() -> None:
            out = attend(*states)
            torch.autograd.grad(out, states, gradients.setdefault(out.shape, torch.randn_like(out)))

        seen = context if name != "attention, sdpa over whole rows" else (length + 1) / 2
        flops = 3 * attention_flops(model, seen) * rows * length
        found.append(MeasuredPart(name, text.num_hidden_layers * milliseconds(both, device), flops, computed))

    grouped = getattr(text, "num_key_value_heads", None) or heads
    if chosen == VARLEN:
        limits = boundaries(VARLEN, starts, length)
        part(
            "attention, varlen inside documents", grouped, True,
            lambda query, key, value: varlen_attention(_Causal(), query, key, value, None, **limits)[0],
        )  # fmt: skip
    mask = _documents_mask(batch, device)
    part(
        "attention, sdpa with a mask", heads, chosen != VARLEN,
        lambda query, key, value: F.scaled_dot_product_attention(query, key, value, attn_mask=mask),
    )  # fmt: skip
    part(
        "attention, sdpa over whole rows", heads, False,
        lambda query, key, value: F.scaled_dot_product_attention(query, key, value, is_causal=True),
    )  # fmt: skip
    return found


def _documents_mask(batch: Batch, device: torch.device) -> Tensor:
    """Whether a position attends to another (an earlier one of its document, or itself): bool[B, 1, T, T]."""
    positions = torch.from_numpy(batch.position_ids).to(device)
    document = (positions == 0).cumsum(-1)
    same = document[:, :, None] == document[:, None, :]
    return same.tril()[:, None]


def _loss(config: TrainConfig, batch: Batch, chunk: int, device: torch.device) -> MeasuredPart:
    """The fused loss of the positions with a target, with the lm_head's products."""
    text = named_config(config.store, config.model).get_text_config()
    trains = config.method == "full"
    weight = torch.randn(text.vocab_size, text.hidden_size, device=device, requires_grad=trains)
    hidden = torch.randn(len(batch.target_positions), text.hidden_size, dtype=_type(config), device=device)
    if not trains:
        weight = weight.to(_type(config))
    hidden.requires_grad_()
    after_logits = elementwise_part(config.compile, config.workers.gpus_each > 0)
    targets = torch.from_numpy(batch.targets.ravel()[batch.target_positions]).to(device)

    def both() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss, _ = fused_loss(hidden, weight, targets, chunk, after_logits)
        loss.backward()

    ms = milliseconds(both, device)
    flops = (6 if trains else 4) * weight.numel() * len(batch.target_positions)
    return MeasuredPart(f"loss, chunks of {chunk:,}", ms, flops, chunk == config.loss_chunk)
