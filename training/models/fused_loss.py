"""Cross entropy of a plain lm_head, with its gradients made on the way forward, only where there is a target.

Letters: N positions that count, D hidden size, V vocabulary, C positions of a chunk.

The gradient of a sum of cross entropies with respect to its logits is known as soon as the logits are: probabilities
less one at the target. So each chunk of C positions gives its loss and its share of both gradients at once, and its
logits are made once, where chunked_loss.py makes them twice; a prompt's positions cost nothing at all. It touches the
weight itself and calls no module, so it is for engines that keep weights whole during a micro-batch.

Memory beside C x V logits: the gradient of the weight, float32[V, D], until the backward pass takes it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_loss(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_positions: int) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and how many targets are the most probable token.

    Args:
        hidden: [N, D], of the positions that have a target. weight: [V, D]; products are in autocast's type where that
            is on.
        targets: int64[N].

    Returns:
        float32 scalar with gradients for `hidden` and `weight`, int64 scalar.
    """
    # Inside a Function nobody can tell whether gradients are wanted at all.
    product, learning = _product_type(hidden), torch.is_grad_enabled()
    return _FusedLoss.apply(hidden, weight, targets, chunk_positions, product, learning)


def _product_type(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int, product: torch.dtype, learning: bool
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight = (learning and wanted for wanted in ctx.needs_input_grad[:2])
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(product)
            loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
            correct = torch.zeros((), dtype=torch.int64, device=hidden.device)
            by_hidden = torch.empty_like(hidden) if wants_hidden else None
            by_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
            for start in range(0, len(hidden), chunk):
                part = hidden[start : start + chunk].to(product)
                wanted = targets[start : start + chunk]
                logits = (part @ matrix.T).float()
                loss += F.cross_entropy(logits, wanted, reduction="sum")
                correct += (logits.argmax(-1) == wanted).sum()
                if not (wants_hidden or wants_weight):
                    continue
                by_logits = torch.softmax(logits, -1)
                by_logits[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
                by_logits = by_logits.to(product)
                if by_hidden is not None:
                    by_hidden[start : start + chunk] = by_logits @ matrix
                if by_weight is not None:
                    by_weight += by_logits.T @ part
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.weight_dtype = weight.dtype
        ctx.mark_non_differentiable(correct)
        return loss, correct

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        by_hidden, by_weight = ctx.saved_tensors
        return (
            by_hidden * by_loss if by_hidden is not None else None,
            (by_weight * by_loss).to(ctx.weight_dtype) if by_weight is not None else None,
            None,
            None,
            None,
            None,
        )
