"""Context parallelism by Ulysses (Jacobs et al. 2023, arXiv 2309.14509): W workers share each row.

Each worker computes T / W neighbouring positions of a row in all layers. Before attention, an all-to-all gives it all T
positions of H / W of the heads; after it, another gives back its positions of all heads. So attention is computed
as by one worker, by the same kernel, and everything else is of single positions. Each worker sends (W - 1) / W of
its queries, keys, values and results, in every layer.

Letters: B rows, T positions of a row, t = T / W, H heads, K key-value heads, D head size, W workers.

Fewer key-value heads than workers are repeated before they are sent: each worker gets those of its own queries.
"""

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor
from torch.distributed import _functional_collectives as collectives

from raymill.cluster.errors import ConfigError


@dataclass(frozen=True)
class ContextParallel:
    """The workers that share this worker's rows. workers: W. group: name of their process group."""

    workers: int
    group: str


def join_context(workers: int) -> ContextParallel | None:
    """The group of this worker: `workers` consecutive ranks; None for one worker a row. A collective of all workers.

    Raises:
        ConfigError: the number of all workers is no multiple of `workers`.
    """
    if workers == 1:
        return None
    world = dist.get_world_size()
    if world % workers:
        raise ConfigError(
            f"workers.context: {workers} workers share a row, and {world} were started; start a multiple of {workers}, "
            "or set workers.context: 1."
        )
    own, _ = dist.new_subgroups(workers)
    return ContextParallel(workers, own.group_name)


def all_positions(states: Tensor, context: ContextParallel | None) -> Tensor:
    """This worker's heads at all positions of the rows: [B, H, t, D] to [B, H / W, T, D]."""
    if context is None:
        return states
    of_workers = states.unflatten(1, (context.workers, -1))  # [B, W, H / W, t, D]
    received = _exchanged(of_workers.permute(1, 0, 3, 2, 4), context)  # [W, B, t, H / W, D], W by position
    return received.transpose(0, 1).flatten(1, 2).transpose(1, 2)


def all_heads(states: Tensor, context: ContextParallel | None) -> Tensor:
    """All heads at this worker's positions: [B, T, H / W, D] to [B, t, H, D]."""
    if context is None:
        return states
    of_workers = states.unflatten(1, (context.workers, -1))  # [B, W, t, H / W, D]
    received = _exchanged(of_workers.transpose(0, 1), context)  # [W, B, t, H / W, D], W by head
    return received.permute(1, 2, 0, 3, 4).flatten(2, 3)


def _exchanged(states: Tensor, context: ContextParallel) -> Tensor:
    """An all-to-all of the first dimension, which has a part for each worker. Its gradient is one too."""
    return collectives.all_to_all_single_autograd(states.contiguous(), None, None, context.group)  # type: ignore[arg-type]
