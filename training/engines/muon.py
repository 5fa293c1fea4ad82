"""Muon for the matrices of the decoder layers, AdamW for all other parameters (Jordan et al. 2024).

Muon makes the average of a matrix' gradients orthogonal, by five Newton-Schulz iterations in bf16, which are torch's
(torch.optim.Muon). The update is scaled by 0.2 sqrt(max(rows, columns)), so it is as large as AdamW's, and learning
rate and weight decay mean the same (Liu et al. 2025, arXiv 2502.16982). Of each value it keeps one more, AdamW two.

The iterations need the whole matrix. With sharded parameters (FSDP2), the workers take turns: of each W matrices every
worker receives one whole, in bf16, computes its update, and sends the others their rows of it. Without sharding every
worker computes all.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from raymill.training.engines.engine import local_values

MOMENTUM = 0.95
# Key of a parameter group whose matrices Muon updates, and name of what it keeps of each.
USES_MUON = "muon"
MOMENTUM_STATE = "momentum"


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups with a true `muon` are updated by Muon."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None
        every = self.param_groups
        self.param_groups = [group for group in every if not group[USES_MUON]]
        try:
            super().step()
        finally:
            self.param_groups = every
        for group in every:
            if group[USES_MUON]:
                self._update([one for one in group["params"] if one.grad is not None], group)

    def _update(self, matrices: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Update matrices of one group. All workers call it with the same ones."""
        rate, decay = group["lr"], group["weight_decay"]
        world = _workers_of_a_matrix(matrices[0]) if matrices else 1
        for start in range(0, len(matrices), world):
            together = matrices[start : start + world]
            directions = [self._direction(one) for one in together]
            sharded = world > 1 and isinstance(together[0], DTensor)
            parts = _whole_by_turns(together, directions) if sharded else [orthogonal(one) for one in directions]
            for matrix, part in zip(together, parts, strict=True):
                values = local_values(matrix.detach())
                values.mul_(1 - rate * decay)
                values.add_(part, alpha=-rate * 0.2 * math.sqrt(max(matrix.shape)))

    def _direction(self, matrix: Tensor) -> Tensor:
        """Update the average of a matrix' gradients, and return Nesterov's direction; of its own rows."""
        assert matrix.grad is not None
        gradient, average = local_values(matrix.grad), local_values(self.state[matrix][MOMENTUM_STATE])
        average.lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(average, MOMENTUM)


def orthogonal(direction: Tensor) -> Tensor:
    """The matrix with its singular values near 1, float32, by torch.optim.Muon: its step from zero at a rate of 1."""
    tall = direction.shape[0] > direction.shape[1]
    # Of a wide matrix torch scales the update by 1.
    found = torch.nn.Parameter(torch.zeros_like(direction.T if tall else direction))
    found.grad = direction.T if tall else direction
    torch.optim.Muon([found], lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False).step()
    result = found.detach().neg_()
    return result.T if tall else result


def _workers_of_a_matrix(matrix: Tensor) -> int:
    return matrix.device_mesh.size(matrix.device_mesh.ndim - 1) if isinstance(matrix, DTensor) else 1


def _whole_by_turns(matrices: Sequence[Any], directions: Sequence[Tensor]) -> list[Tensor]:
    """This worker's rows of each orthogonal matrix. matrices: at most as many as workers. directions: its own rows."""
    mesh = matrices[0].device_mesh
    group, rank, workers = mesh.get_group(mesh.ndim - 1), mesh.get_local_rank(mesh.ndim - 1), mesh.size(mesh.ndim - 1)
    mine = matrices[rank] if rank < len(matrices) else None
    own_sizes = [one.numel() for one in directions] + [0] * (workers - len(directions))
    row_sizes = [rows * mine.shape[1] for rows in _rows(mine.shape[0], workers)] if mine is not None else [0] * workers
    sent = torch.cat([one.reshape(-1) for one in directions]).bfloat16()
    whole = torch.empty(sum(row_sizes), dtype=torch.bfloat16, device=sent.device)
    # As whole numbers, which every backend can send.
    dist.all_to_all_single(whole.view(torch.uint8), sent.view(torch.uint8), _bytes(row_sizes), _bytes(own_sizes), group)
    if mine is not None:
        whole = orthogonal(whole.float().view(mine.shape)).bfloat16().reshape(-1).contiguous()
    dist.all_to_all_single(sent.view(torch.uint8), whole.view(torch.uint8), _bytes(own_sizes), _bytes(row_sizes), group)
    parts = sent.float().split(own_sizes[: len(directions)])
    return [part.view_as(one) for part, one in zip(parts, directions, strict=True)]


def _rows(rows: int, workers: int) -> list[int]:
    """The rows of each worker's shard, as `fully_shard` divides them."""
    each = -(-rows // workers)
    return [max(0, min(each, rows - each * worker)) for worker in range(workers)]


def _bytes(values: Sequence[int]) -> list[int]:
    return [2 * one for one in values]
