"""The load-balancing loss of a mixture of experts (Fedus et al. 2021, Switch Transformers), over a whole step.

A config of transformers asks for it by `output_router_logits: true` with `router_aux_loss_coef`. Over N positions (a
position counts once for each layer of experts) and E experts it is

    E * sum over experts of (positions routed to the expert / N) * (sum of the router's probabilities of it / N)

It is a product of two means, so means over micro-batches would differ from that of the step. So the counts of the first
factor, which have no gradient, are summed over all workers and micro-batches before the first backward pass. Then each
micro-batch adds its part of the second factor, and the result is that of one worker with one micro-batch. With several
micro-batches a step this takes one more forward pass, without gradients.

transformers has the same function in each of its models, `load_balancing_loss_func`, for a single batch.
"""

import logging
import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

log = logging.getLogger(__name__)

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
