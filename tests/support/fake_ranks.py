"""One process as any rank of a large process group: torch's `fake` backend, whose collectives do nothing.

It shows sizes, shards, empty ones among them, and every line of code between collectives. It does not show what
collectives compute: gathered weights are only this rank's, sums are of this rank alone. Values are therefore compared
with those of the same rank, not with another engine's.

Call it in a process of its own: it changes DeepSpeed and DDP for good.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from raymill.training.engines.ddp import Ddp


@contextmanager
def fake_rank(rank: int, world: int) -> Iterator[None]:
    """Inside this context, torch.distributed has this rank of `world`."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK="0", LOCAL_WORLD_SIZE="8", MASTER_ADDR="127.0.0.1"
    )
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        _forget_groups_of_deepspeed()
        dist.destroy_process_group()


def without_answers() -> None:
    """Have DDP and DeepSpeed accept collectives without a result."""
    settle = Ddp._settle_buckets

    def settle_with_own_sums(self: Ddp) -> None:
        self.ddp.register_comm_hook(None, _own_sum)
        settle(self)

    Ddp._settle_buckets = settle_with_own_sums  # type: ignore[method-assign]
    from deepspeed.runtime.zero import utils

    # They compare numbers with those that rank 0 broadcasts.
    utils.assert_lst_len_same_as_other_ranks = lambda numbers: None
    utils.get_lst_from_rank0 = lambda numbers: numbers


def _own_sum(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    future: Any = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def _forget_groups_of_deepspeed() -> None:
    import deepspeed
    from deepspeed.utils import groups

    deepspeed.comm.comm.cdb = None
    for name, value in list(vars(groups).items()):
        if isinstance(value, dist.ProcessGroup):
            setattr(groups, name, None)
        elif isinstance(value, dict) and any(isinstance(one, dist.ProcessGroup) for one in value.values()):
            value.clear()
