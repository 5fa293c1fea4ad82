"""Where this process stands among the workers, and what they tell each other besides gradients.

Small counts go around as whole numbers on the CPU, by gloo even where gradients go by NCCL: a GPU is never waited for.
"""

import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """rank of world workers. `under_ray`: Ray Train started this process and hears of nodes to be taken away."""

    rank: int
    world: int
    device: torch.device
    under_ray: bool = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    def exchange(self, values: Sequence[float], dtype: torch.dtype = torch.int64) -> list[list[Any]]:
        """Every worker's values, by rank; whole numbers must stay below 2**63."""
        mine = torch.tensor(values, dtype=dtype)
        if self.world == 1:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(everyone, mine)
        return [one.tolist() for one in everyone]

    def exchange_floats(self, values: Sequence[float]) -> list[list[float]]:
        return self.exchange(values, torch.float64)

    def from_first(self, value: T) -> T:
        """The first worker's value, on every worker."""
        told = [value]
        if self.world > 1:
            dist.broadcast_object_list(told, src=0, device=torch.device("cpu"))
        return told[0]

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank, on every worker. For rare and larger things."""
        everyone: list[Any] = [value] * self.world
        if self.world > 1:
            data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
            sizes = [size for (size,) in self.exchange([data.numel()])]
            padded = torch.zeros(max(sizes), dtype=torch.uint8)
            padded[: data.numel()] = data
            parts = [torch.empty_like(padded) for _ in range(self.world)]
            dist.all_gather(parts, padded)
            everyone = [pickle.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)]
        return everyone


BACKENDS = {False: "gloo", True: "cpu:gloo,cuda:nccl"}  # by whether workers have GPUs


@contextmanager
def own_group(gpus_each: int) -> Iterator[Place]:
    """A process group for a worker that torchrun started, or that runs alone; gone at the end."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if gpus_each else torch.device("cpu")
    _prepare(device)
    if world > 1:
        dist.init_process_group(BACKENDS[gpus_each > 0])
    else:
        # DeepSpeed looks at these before it looks for a group.
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
        dist.init_process_group(BACKENDS[gpus_each > 0], store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Place(rank, world, device)
    finally:
        dist.destroy_process_group()


def ray_place() -> Place:
    """This worker of Ray Train, whose process group stands already."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    device = get_device()
    _prepare(device)
    return Place(context.get_world_rank(), context.get_world_size(), device, under_ray=True)


def joined_place() -> Place:
    """A worker of whatever process group this process is in, on the CPU."""
    return Place(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))


_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_EXPANDABLE = "expandable_segments:True"


def use_expandable_segments() -> None:
    """Let the GPU's allocator grow its segments, so that blocks of changing sizes leave no unusable gaps.

    A setting of the user's, in the environment, stays as it is. The allocator reads the environment when CUDA is
    initialised; under Ray Train that has happened before this code runs, and the setting is made in the allocator.
    """
    if any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        return
    os.environ["PYTORCH_ALLOC_CONF"] = _EXPANDABLE
    if torch.cuda.is_initialized():
        newer = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        (newer or torch.cuda.memory._set_allocator_settings)(_EXPANDABLE)


def _prepare(device: torch.device) -> None:
    if device.type == "cpu":
        # The workers of a machine share its cores, and equal runs are to give equal bits.
        torch.set_num_threads(1)
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        use_expandable_segments()
        torch.cuda.set_device(device)
