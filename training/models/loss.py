"""The arithmetic of losses: cross entropy over a large vocabulary without holding all logits, and load balancing.

Positions are computed in chunks, in float32. objective.py is the module that runs the model and calls these functions.

Letters: N positions, D hidden size, V vocabulary, C positions of a chunk.

The logits of one row of 8,192 positions over 128k tokens are 4.2 GB in float32, and their gradient as much again. Two
functions compute the same sum of losses with C x V logits at a time:

    chunked_loss   for any model: each chunk's logits are computed in the forward pass and again in the backward pass,
                   one more product of the lm_head. It calls the model's modules, so sharded weights are gathered; the
                   number of chunks depends on N and C alone, because all workers must call modules equally often.
    fused_loss     for a plain lm_head whose weight is whole on the worker: each chunk gives its loss and its share of
                   both gradients in the forward pass (the gradient by the logits is the probabilities less one at the
                   target), so logits are computed once. Only positions with a target are passed in.
                   Memory besides C x V logits: the weight's gradient, float32[V, D], until the backward pass.

In a bf16 run the products are of bf16 matrices; where the device supports it (GPUs), fused_loss accumulates and keeps
them in float32, so neither logits nor the weight's gradient are rounded to bf16.

The load-balancing loss of a mixture of experts (Fedus et al. 2021, Switch Transformers) is one over a whole step. A
config of transformers asks for it by `output_router_logits: true` with `router_aux_loss_coef`. Over N positions (a
position counts once for each layer of experts) and E experts it is

    E * sum over experts of (positions routed to the expert / N) * (sum of the router's probabilities of it / N)

It is a product of two means, so means over micro-batches would differ from the mean over the step. So the counts of the
first factor, which have no gradient, are summed over all workers and micro-batches before the first backward pass. Then
each micro-batch adds its part of the second factor, and the result equals the one of one worker with one micro-batch.
With several micro-batches a step this takes one more forward pass, without gradients. transformers has the same
function in each of its models, `load_balancing_loss_func`, for a single batch.
"""

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from raymill.training.data.packed import NO_TARGET

log = logging.getLogger(__name__)


def chunked_loss(
    logits_of: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    chunk_positions: int,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses, and the number of targets that are the most probable token.

    Args:
        logits_of: the model's logits of hidden states, [C, D] to [C, V].
        hidden: [N, D].
        targets: int64[N], NO_TARGET at positions that the loss leaves out.
        weights: float32[N], of each position's loss; None: all are 1.

    Returns:
        float32 scalar with a gradient, int64 scalar.
    """
    losses, corrects = [], []
    for start in range(0, len(hidden), chunk_positions):
        part = slice(start, start + chunk_positions)
        chunk = (logits_of, hidden[part], targets[part], None if weights is None else weights[part])
        if torch.is_grad_enabled():
            loss, correct = checkpoint(_chunk_loss, *chunk, use_reentrant=False)
        else:
            loss, correct = _chunk_loss(*chunk)
        losses.append(loss)
        corrects.append(correct)
    return torch.stack(losses).sum(), torch.stack(corrects).sum()


def _chunk_loss(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    logits = logits_of(hidden).float()
    return _loss(logits, targets, weights)


@torch.no_grad()
def token_losses(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk_positions: int
) -> Tensor:
    """The loss of each target, float32[N], 0 for NO_TARGET. Arguments as of `chunked_loss`."""
    losses = [hidden.new_zeros(0, dtype=torch.float32)]
    for start in range(0, len(hidden), chunk_positions):
        part = slice(start, start + chunk_positions)
        logits = logits_of(hidden[part]).float()
        losses.append(F.cross_entropy(logits, targets[part], ignore_index=NO_TARGET, reduction="none"))
    return torch.cat(losses)


# (logits float32[C, V], targets int64[C], dtype of the gradient or None for none, weights float32[C] or None for 1)
# -> (weighted sum of losses, number of correct predictions, gradient [C, V] or None)
Elementwise = Callable[[Tensor, Tensor, torch.dtype | None, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]


def elementwise(
    logits: Tensor, targets: Tensor, gradient: torch.dtype | None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss, correct predictions and gradient of one chunk's logits, as separate torch operations."""
    loss, correct = _loss(logits, targets, weights)
    if gradient is None:
        return loss, correct, None
    by_logits = torch.softmax(logits, -1)
    by_logits[torch.arange(len(targets), device=targets.device), targets] -= 1
    if weights is not None:
        by_logits *= weights[:, None]
    return loss, correct, by_logits.to(gradient)


def fusable_elementwise(
    logits: Tensor, targets: Tensor, gradient: torch.dtype | None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `elementwise`, in a form that torch.compile fuses into one pass that reads logits and one that writes."""
    loss, correct = _loss(logits, targets, weights)
    if gradient is None:
        return loss, correct, None
    at_target = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    by_logits = torch.softmax(logits, -1) - at_target.float()
    if weights is not None:
        by_logits = by_logits * weights[:, None]
    return loss, correct, by_logits.to(gradient)


def _loss(logits: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    correct = (logits.detach().argmax(-1) == targets).sum()
    if weights is None:
        return F.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="sum"), correct
    return (F.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="none") * weights).sum(), correct


def fused_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_positions: int,
    after_logits: Elementwise = elementwise,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the losses, and the number of targets that are the most probable token.

    Args:
        hidden: [N, D], only positions that have a target. weight: [V, D]. Products are in autocast's type where
            autocast is on.
        targets: int64[N].
        after_logits: `elementwise`, or `fusable_elementwise` compiled.
        weights: float32[N], of each position's loss; None: all are 1.

    Returns:
        float32 scalar with gradients for `hidden` and `weight`, int64 scalar.
    """
    # Inside a Function, gradients look enabled even under no_grad.
    product, training = _product_type(hidden), torch.is_grad_enabled()
    return _FusedLoss.apply(hidden, weight, targets, chunk_positions, product, training, after_logits, weights)


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
        training: bool,
        after_logits: Elementwise,
        weights: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        wants_hidden, wants_weight = (training and wanted for wanted in ctx.needs_input_grad[:2])
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
                    float32_product(part, matrix.T),
                    targets[start : start + chunk],
                    gradient,
                    None if weights is None else weights[start : start + chunk],
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
            *[None] * 6,
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
    """Whether products of this 16-bit type can be written and accumulated in float32. Tried once for each device.

    torch has `out_dtype` since 2.8, on GPUs only; `addmm` accepted a float32 summand later (checks in
    aten/src/ATen/native/cuda/Blas.cpp, _addmm_dtype_out_cuda).
    """
    # 263 needs nine significant bits; bf16 has eight.
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


# The only causal language model of transformers whose function of this name is another one.
_ANOTHER_FUNCTION = "doge"


class RouterBalance:
    """The load-balancing loss of one worker's model.

    Between `begin_step` and `end_step` the objective passes the routers' logits of each micro-batch. In a forward pass
    without gradients they are counted only.

    Attributes:
        coefficient: factor of the loss.
        experts: number of experts of a layer.
        chosen: number of experts that a position is routed to.
        active: whether the objective passes logits.
    """

    def __init__(self, coefficient: float, experts: int, chosen: int) -> None:
        self.coefficient, self.experts, self.chosen = coefficient, experts, chosen
        self.active = False
        self._factor = 0.0
        self._counts: Tensor | None = None  # float32[E + 1]: positions of each expert, and N
        self._summed = False
        self._loss: Tensor | float = 0.0

    def begin_step(self, denominator: float) -> None:
        """Start a step. denominator: number by which the loss of each micro-batch is divided."""
        self.active = True
        self._factor = self.coefficient * denominator
        self._counts, self._summed, self._loss = None, False, 0.0

    def end_step(self) -> float:
        """This worker's part of the step's loss, without the coefficient. The parts of all workers are summed."""
        self.active = False
        return float(self._loss)

    def sum_counts(self) -> None:
        """Sum the counts of all micro-batches over the workers. A collective."""
        assert self._counts is not None
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._counts)
        self._summed = True

    def loss(self, router_logits: tuple[Tensor, ...], real: Tensor) -> Tensor:
        """The part of one micro-batch times coefficient and denominator, to add to its sum of losses.

        In a step of one micro-batch, whose counts are not summed yet, a collective.

        Args:
            router_logits: of each layer of experts, [B T, E]. real: bool[B, T], False at padding.
        """
        weight = real.flatten().float()
        counts = torch.zeros(self.experts + 1, device=weight.device)
        probabilities = torch.zeros(self.experts, device=weight.device)
        for logits in router_logits:
            routed = torch.softmax(logits.float(), -1)
            best = routed.detach().topk(self.chosen, -1).indices.flatten()
            counts[:-1].scatter_add_(0, best, weight.repeat_interleave(self.chosen))
            counts[-1] += weight.sum()
            probabilities = probabilities + (routed * weight[:, None]).sum(0)
        if not torch.is_grad_enabled():
            self._counts = counts if self._counts is None else self._counts + counts
            return counts.new_zeros(())
        if not self._summed:
            self._counts = counts
            self.sum_counts()
        assert self._counts is not None
        positions = self._counts[-1].clamp(min=1)
        part = self.experts * (self._counts[:-1] / positions * (probabilities / positions)).sum()
        self._loss = self._loss + part.detach()
        return self._factor * part


def router_balance(causal: Any) -> RouterBalance | None:
    """The load-balancing loss that the config of a causal language model asks for; None if it asks for none."""
    config = causal.config.get_text_config()
    coefficient = getattr(config, "router_aux_loss_coef", None) or 0.0
    if not coefficient:
        return None
    if not getattr(config, "output_router_logits", False):
        log.info("router_aux_loss_coef %g is not used: the model's config has output_router_logits: false", coefficient)
        return None
    experts, chosen = getattr(causal, "num_experts", None), getattr(causal, "num_experts_per_tok", None)
    of_the_usual_kind = hasattr(sys.modules[type(causal).__module__], "load_balancing_loss_func")
    if not (of_the_usual_kind and experts and chosen) or config.model_type == _ANOTHER_FUNCTION:
        log.warning(
            "model: its config asks for the load-balancing loss (output_router_logits: true), which is not supported "
            "for model type %s, so it is left out", config.model_type,
        )  # fmt: skip
        return None
    return RouterBalance(coefficient, experts, chosen)
