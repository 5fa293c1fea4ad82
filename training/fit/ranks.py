"""Rank, number of workers and device of this worker, small collectives on the CPU, heartbeats and preemption notices.

The collectives use gloo, also if gradients use NCCL, so that they do not wait for a GPU.

A collective fails with a timeout or a closed connection, and its error does not name the worker at fault. Therefore a
thread of each worker writes a heartbeat to the process group's store every 5 s: a record with a counter and the point
of the training that the main thread has reached. A worker whose collective fails reads the records of the others. If a
record does not change, its process has stopped. If a record has an earlier point, the others wait for its worker.

NCCL ends a process whose collective timed out, without an exception. At 85% of the timeout another thread logs the
same report as an error, and calls the functions in `on_overdue`.

The store is a server in the process of rank 0, or in torchrun's. If that process has stopped, requests to it take
forever, so each is made in a thread of its own that is waited for.
"""

import contextlib
import json
import logging
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict, TypeVar

import torch
import torch.distributed as dist

from raymill.cluster.errors import ClusterError
from raymill.cluster.metrics import NOT_EXPORTED, Metrics
from raymill.cluster.store import paths

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_S = 5.0
# A process has stopped if its record has not changed for this many intervals.
_STOPPED_AFTER = 2.5
# Share of the timeout after which a main thread without progress is reported.
_REPORT_AT = 0.85


class MissingWorker(ClusterError):
    """Communication failed because of another worker, which has usually written its own error."""


class Beat(TypedDict):
    """One worker's record. number: of the record. count: points reached so far. point: name of the last one."""

    number: int
    count: int
    point: str
    host: str


class Heartbeat:
    """Writes and reads heartbeats for one worker.

    store: of the process group; its connection is cloned, because a call that waits blocks a connection.
    timeout_s: of the group's collectives.
    on_overdue: functions that are called with the report when the main thread makes no progress.
    """

    def __init__(self, store: Any, rank: int, world: int, timeout_s: float) -> None:
        self.rank, self.world, self.timeout_s = rank, world, timeout_s
        self.on_overdue: list[Callable[[str], None]] = []
        self._writing, self._reading = (dist.PrefixStore("heartbeat", store.clone()) for _ in range(2))
        self._count, self._point, self._since = 0, "start", time.monotonic()
        self._number = 0
        self._closing = threading.Event()
        self._write()
        loops = {"heartbeat": self._write_often, "watch": self._watch}
        self._threads = [threading.Thread(target=loop, name=name, daemon=True) for name, loop in loops.items()]
        for thread in self._threads:
            thread.start()

    def reached(self, point: str) -> None:
        """Record that the main thread has reached a point. All workers reach the same points in the same order."""
        self._count, self._point, self._since = self._count + 1, point, time.monotonic()

    def close(self) -> None:
        """Stop writing and wait for the threads to end."""
        self._closing.set()
        for thread in self._threads:
            thread.join(2 * EVERY_S)

    def missing(self, error: BaseException) -> MissingWorker:
        """The error to raise when a collective raised `error`; its message names the workers at fault.

        Takes 12.5 s (2.5 intervals), to find the records that do not change.
        """
        before = self._read()
        time.sleep(_STOPPED_AFTER * EVERY_S)
        reason = " ".join(str(error).split())[:200]
        return MissingWorker(
            f"worker {self.rank} of {self.world}: communication failed at {self._point!r} "
            f"({type(error).__name__}: {reason}). {self._report(before)} Look at that worker's log. Checkpoints are "
            "kept: run the same command again and it continues."
        )

    def _write_often(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._write()

    def _watch(self) -> None:
        reported = -1
        while not self._closing.wait(EVERY_S):
            if self._is_overdue() and reported != self._count:
                reported = self._count
                before = self._read()
                self._closing.wait(_STOPPED_AFTER * EVERY_S)
                if reported == self._count and not self._closing.is_set():
                    seconds = time.monotonic() - self._since
                    found = f"no progress for {seconds:.0f} s at {self._point!r}. {self._report(before)}"
                    log.error("%s", found)
                    for call in self.on_overdue:
                        call(f"worker {self.rank} of {self.world}: {found}")

    def _is_overdue(self) -> bool:
        """Whether the main thread has reached no point for 85% of the timeout."""
        return time.monotonic() - self._since > _REPORT_AT * self.timeout_s

    def _write(self) -> None:
        self._number += 1
        beat = Beat(number=self._number, count=self._count, point=self._point, host=socket.gethostname())
        # If the store cannot be reached, `_read` returns None, which is reported.
        _within(EVERY_S, lambda: self._writing.set(str(self.rank), json.dumps(beat)))

    def _read(self) -> dict[int, Beat] | None:
        """The last record of each worker; None if the store cannot be reached: its process has ended or stopped."""

        def read() -> dict[int, Beat]:
            there = [rank for rank in range(self.world) if self._reading.check([str(rank)])]
            return {rank: json.loads(self._reading.get(str(rank))) for rank in there}

        return _within(EVERY_S, read)

    def _report(self, before: dict[int, Beat] | None) -> str:
        now = self._read()
        if before is None or now is None:
            return "Missing: the process that holds the group's store, mostly rank 0; it cannot be reached."
        return report(before, now, self.rank, self.world, self._count)


def _within(seconds: float, call: Callable[[], T]) -> T | None:
    """The result of a call of the store; None if it fails or takes longer."""
    results: list[T] = []

    def run() -> None:
        with contextlib.suppress(RuntimeError):
            results.append(call())

    thread = threading.Thread(target=run, name="heartbeat-request", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


def report(before: dict[int, Beat], now: dict[int, Beat], own: int, world: int, count: int) -> str:
    """A sentence with the workers that stopped between two readings, or else those at an earlier point than `count`."""
    others = [rank for rank in range(world) if rank != own]
    never = [f"rank {rank} (never started)" for rank in others if rank not in now]
    stopped = [
        f"rank {rank} on {now[rank]['host']} (stopped; last seen at {now[rank]['point']!r})"
        for rank in others
        if rank in now and rank in before and before[rank]["number"] == now[rank]["number"]
    ]
    behind = [
        f"rank {rank} on {now[rank]['host']} (alive, still at {now[rank]['point']!r})"
        for rank in others
        if rank in now and now[rank]["count"] < count
    ]
    if found := never + stopped or behind:
        return f"Missing: {', '.join(found)}."
    return (
        "No worker is missing: all have reached the same point, so the communication between devices failed. "
        "NCCL_DEBUG=INFO prints which network it uses."
    )


def is_communication_error(error: BaseException) -> bool:
    """Whether a collective, and not the computation, raised an exception: by its type, or for gloo by its message."""
    words = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "timed out waiting")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


# A query takes a round trip to Ray's control process; notices are given tens of seconds before the preemption.
_EVERY_STEPS = 5


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
        """Record that this worker has reached a point, which all workers reach in the same order."""
        if self.heartbeat:
            self.heartbeat.reached(point)

    def wait_at_most(self, seconds: float) -> None:
        """Set the timeout of all collectives from now on, of all process groups. All workers call it together."""
        if self.heartbeat:
            for group in list(dist.distributed_c10d._world.pg_map):
                dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)
            self.heartbeat.timeout_s = seconds

    @contextmanager
    def waiting_at_most(self, seconds: float) -> Iterator[None]:
        """Inside this context, collectives have a timeout of at least this. All workers enter it together."""
        before = self.heartbeat.timeout_s if self.heartbeat else seconds
        if before >= seconds:
            yield
            return
        self.wait_at_most(seconds)
        try:
            yield
        finally:
            self.wait_at_most(before)

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
