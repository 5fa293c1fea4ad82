"""Cross entropy of a plain lm_head, with its gradients made on the way forward, only where there is a target.

Letters: N positions that count, D hidden size, V vocabulary, C positions of a chunk.

The gradient of a sum of cross entropies with respect to its logits is known as soon as the logits are: probabilities
less one at the target. So each chunk of C positions gives its loss and its share of both gradients at once, and its
logits are made once, where chunked_loss.py makes them twice; a prompt's positions cost nothing at all. It touches the
weight itself and calls no module, so it is for engines in which the weight is whole while a micro-batch is computed.

In a bf16 run the products are of bf16 matrices, added up and kept in float32 where the operator can (on GPUs): logits
and the weight's gradient are then never rounded to bf16 on the way.

Memory beside C x V logits: the gradient of the weight, float32[V, D], until the backward pass takes it.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# (logits float32[C, V], targets int64[C], type of the gradient or None for no gradient)
# -> (sum of losses, number of right predictions, gradient [C, V] or None)
Elementwise = Callable[[Tensor, Tensor, torch.dtype | None], tuple[Tensor, Tensor, Tensor | None]]


def elementwise(logits: Tensor, targets: Tensor, gradient: torch.dtype | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """What follows the logits, as torch computes it: a pass over them for each operation."""
    loss, correct = _loss(logits, targets)
    if gradient is None:
        return loss, correct, None
    by_logits = torch.softmax(logits, -1)
    by_logits[torch.arange(len(targets), device=targets.device), targets] -= 1
    return loss, correct, by_logits.to(gradient)


def fusable_elementwise(
    logits: Tensor, targets: Tensor, gradient: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same for torch.compile, which makes one pass of it that reads logits and one that writes the gradient."""
    loss, correct = _loss(logits, targets)
    if gradient is None:
        return loss, correct, None
    at_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    return loss, correct, (torch.softmax(logits, -1) - at_target.float()).to(gradient)


def _loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()


def fused_loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_positions: int, after_logits: Elementwise = elementwise
) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and how many targets are the most probable token.

    Args:
        hidden: [N, D], of the positions that have a target. weight: [V, D]; products are in autocast's type where that
            is on.
        targets: int64[N].
        after_logits: `elementwise`, or `fusable_elementwise` compiled.

    Returns:
        float32 scalar with gradients for `hidden` and `weight`, int64 scalar.
    """
    # Inside a Function nobody can tell whether gradients are wanted at all.
    product, learning = _product_type(hidden), torch.is_grad_enabled()
    return _FusedLoss.apply(hidden, weight, targets, chunk_positions, product, learning, after_logits)


def _product_type(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        chunk: int,
        product: torch.dtype,
        learning: bool,
        after_logits: Elementwise,
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight = (learning and wanted for wanted in ctx.needs_input_grad[:2])
        gradient = product if wants_hidden or wants_weight else None
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(product)
            loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
            correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
            by_hidden = torch.empty_like(hidden) if wants_hidden else None
            by_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
            for start in range(0, len(hidden), chunk):
                part = hidden[start : start + chunk].to(product)
                chunk_loss, right, by_logits = after_logits(
                    float32_product(part, matrix.T), targets[start : start + chunk], gradient
                )
                loss += chunk_loss
                correct += right
                if by_logits is None:
                    continue
                if by_hidden is not None:
                    one_type = hidden.dtype == product
                    by_part = by_logits @ matrix if one_type else float32_product(by_logits, matrix)
                    by_hidden[start : start + chunk] = by_part
                if by_weight is not None:
                    add_product(by_weight, by_logits.T, part)
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        by_hidden, by_weight = ctx.saved_tensors
        return (
            by_hidden * by_loss if by_hidden is not None else None,
            (by_weight * by_loss).to(ctx.weight_dtype) if by_weight is not None else None,
            *[None] * 5,
        )


def float32_product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32, of float32 or 16-bit matrices."""
    if a.dtype != torch.float32 and has_float32_output(a.device, a.dtype):
        return torch.mm(a, b, out_dtype=torch.float32)
    return (a @ b).float()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where `total` is float32."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif has_float32_output(a.device, a.dtype):
        torch.ops.aten.addmm.dtype_out(total, a, b, torch.float32, out=total)
    else:
        total += a @ b


@functools.cache
def has_float32_output(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of this 16-bit type can be written, and added, in float32: tried once.

    torch has `out_dtype` since 2.8, on GPUs alone; `addmm` took a float32 summand only later (checks in
    aten/src/ATen/native/cuda/Blas.cpp, _addmm_dtype_out_cuda).
    """
    # 263 needs nine bits, and bf16 has eight.
    a = torch.ones(16, 264, dtype=dtype, device=device)
    a[:, 0] = 0
    b = torch.ones(264, 16, dtype=dtype, device=device)
    total = torch.ones(16, 16, device=device)
    try:
        product = torch.mm(a, b, out_dtype=torch.float32)
        torch.ops.aten.addmm.dtype_out(total, a, b, torch.float32, out=total)
    except (RuntimeError, TypeError, AttributeError):
        return False
    return product.dtype == torch.float32 and bool((product == 263).all() and (total == 264).all())
