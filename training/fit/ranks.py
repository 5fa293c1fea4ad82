"""Rank, number of workers and device of this worker, small collectives on the CPU, and preemption notices.

The collectives use gloo, also if gradients use NCCL, so that they do not wait for a GPU.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cluster.metrics import NOT_EXPORTED, Metrics
from cluster.store import paths
from training.fit.heartbeat import Heartbeat, is_communication_error

# A query takes a round trip to Ray's control process; notices are given tens of seconds before the preemption.
_EVERY_STEPS = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This worker among all workers.

    rank: from 0. world: number of workers. device: the one it computes on. under_ray: whether Ray Train started this
    process, so that there are preemption notices. heartbeat: with several workers; it finds the workers at fault when a
    collective fails.
    """

    rank: int
    world: int
    device: torch.device
    under_ray: bool = False
    heartbeat: Heartbeat | None = None

    @property
    def first(self) -> bool:
        """Whether this is the worker of rank 0, which writes the records of the run."""
        return self.rank == 0

    def report(self, metrics: Mapping[str, Any], checkpoint: str) -> None:
        """Report a committed checkpoint with its metrics to Ray Train, for `Result` and callbacks. A collective.

        Nothing is copied: the `Checkpoint` that Ray gets is a name below the temporary folder that Ray wants, without
        files; the metric `checkpoint` is the URI. Under torchrun nothing is reported.
        """
        if not self.under_ray:
            return
        import ray.train  # under torchrun Ray need not be installed

        if not self.first:
            ray.train.report({})
            return
        storage = ray.train.get_context().get_storage()
        name = paths.join(storage.experiment_fs_path, checkpoint.rpartition("/")[2])
        ray.train.report(
            {**metrics, "checkpoint": checkpoint},
            ray.train.Checkpoint(name, storage.storage_filesystem),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def reached(self, point: str) -> None:
        """Record that this worker has reached a point, which all workers reach in the same order; see heartbeat.py."""
        if self.heartbeat:
            self.heartbeat.reached(point)

    @contextmanager
    def naming_failed_workers(self) -> Iterator[None]:
        """Inside this context, a failed collective raises an error that names the workers at fault.

        Raises:
            ClusterError: communication failed; the message names the workers at fault.
        """
        try:
            yield
        except RuntimeError as error:
            if self.heartbeat is None or not is_communication_error(error):
                raise
            raise self.heartbeat.missing(error) from error

    def exchange(self, values: Sequence[float], dtype: torch.dtype = torch.int64) -> list[list[Any]]:
        """Every worker's values, by rank. Integers must be below 2**63. All workers pass equally many values."""
        mine = torch.tensor(values, dtype=dtype)
        if self.world == 1:
            return [mine.tolist()]
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(everyone, mine)
        return [one.tolist() for one in everyone]

    def exchange_floats(self, values: Sequence[float]) -> list[list[float]]:
        """Every worker's float64 values, by rank. A collective."""
        return self.exchange(values, torch.float64)

    def from_first(self, value: T) -> T:
        """The first worker's value, on every worker."""
        values = [value]
        if self.world > 1:
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: T) -> list[T]:
        """Every worker's value, by rank, on every worker. Any object that pickles; takes two collectives."""
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


def joined_ranks() -> Ranks:
    """The ranks of the process group that this process is in, on the CPU."""
    return Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))


class Preemption:
    """Queries Ray Train for preemption notices. Under torchrun there are none."""

    def __init__(self, ranks: Ranks, metrics: Metrics = NOT_EXPORTED) -> None:
        self._ask = None
        self._metrics = metrics
        if ranks.under_ray:
            import ray.train  # under torchrun Ray need not be installed

            self._ask = getattr(ray.train, "get_preemption_info", None)
        self._handled: set[int | None] = set()  # deadlines of the notices that were reported

    def announced(self, step: int) -> bool:
        """Whether there is a new notice; False at steps without a query. All workers call it at the same steps."""
        if self._ask is None or step % _EVERY_STEPS:
            return False
        notice = self._ask()
        if notice is None or notice.deadline_ms in self._handled:
            return False
        self._handled.add(notice.deadline_ms)
        self._metrics.add("raymill_preemptions", 1)
        return True
