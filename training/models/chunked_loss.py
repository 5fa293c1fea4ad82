"""Cross entropy of a large vocabulary without its logits in memory: a chunk of positions at a time, in float32.

Letters: N positions, D hidden size, V vocabulary, C positions of a chunk.

Whole logits of one row of 8,192 positions over 128k tokens are 4.2 GB in float32, and their gradient as much again.
Here N/C chunks are computed one after the other, and each again when its gradient is wanted, so C x V is all there
ever is. The price is one more product of the lm_head. The number of chunks depends on N and C alone, and never on which
positions count: sharded weights are gathered by calls of modules, so all workers must call them equally often.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.data.schema import NO_TARGET


def chunked_loss(
    logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk_positions: int
) -> tuple[Tensor, Tensor]:
    """Sum of the losses, and how many targets are the most probable token.

    Args:
        logits_of: [C, D] to [C, V].
        hidden: [N, D].
        targets: int64[N], NO_TARGET where the loss passes over.

    Returns:
        float32 scalar with a gradient, int64 scalar.
    """
    losses, corrects = [], []
    for positions, wanted in zip(hidden.split(chunk_positions), targets.split(chunk_positions), strict=True):
        if torch.is_grad_enabled():
            loss, correct = checkpoint(_loss, logits_of, positions, wanted, use_reentrant=False)
        else:
            loss, correct = _loss(logits_of, positions, wanted)
        losses.append(loss)
        corrects.append(correct)
    return torch.stack(losses).sum(), torch.stack(corrects).sum()


def _loss(logits_of: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits_of(hidden).float()
    loss = F.cross_entropy(logits, targets, ignore_index=NO_TARGET, reduction="sum")
    return loss, (logits.detach().argmax(-1) == targets).sum()
