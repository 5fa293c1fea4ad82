"""Which worker is missing when the others wait in vain.

Collectives fail by a timeout or a closed connection, and their errors do not name the worker at fault. So each worker
writes to the process group's store, every few seconds from a thread, that its process lives and which point of the
training its main thread has reached. A worker whose collective fails reads what the others wrote: one whose record no
longer changes has stopped; one that lives at an earlier point is the one that the others wait for.

NCCL ends a process whose collective timed out without raising an error. Shortly before that, the thread writes the same
report as an error line of the log.
"""

import contextlib
import json
import logging
import math
import socket
import threading
import time
from typing import Any, TypedDict

import torch.distributed as dist

from cluster.errors import ClusterError

log = logging.getLogger(__name__)

EVERY_S = 5.0
# Records that have not changed for so many intervals are of stopped processes.
_STOPPED_AFTER = 2.5
# Of the timeout: when a main thread that reached no new point is reported.
_REPORT_AT = 0.9


class MissingWorker(ClusterError):
    """Communication failed because of another worker, which most often has an error of its own to tell."""


class Beat(TypedDict):
    """One worker's record. number: grows while its process lives. count: of the points reached; `point` names it."""

    number: int
    count: int
    point: str
    host: str


class Heartbeat:
    """Of one worker. `store`: of the process group; it is used by a connection of its own, since a wait blocks one."""

    def __init__(self, store: Any, rank: int, world: int, timeout_s: float) -> None:
        self.rank, self.world, self.timeout_s = rank, world, timeout_s
        self._store = dist.PrefixStore("heartbeat", store.clone())
        self._count, self._point, self._since = 0, "start", time.monotonic()
        self._number = 0
        self._closing = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def at(self, point: str) -> None:
        """The main thread has reached a point that all workers reach in the same order."""
        self._count, self._point, self._since = self._count + 1, point, time.monotonic()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def missing(self, error: BaseException) -> MissingWorker:
        """The error that names the workers at fault when a collective raised `error`.

        Takes 2.5 intervals, because a stopped process is recognised by a record that does not change.
        """
        before = self._read()
        time.sleep(_STOPPED_AFTER * EVERY_S)
        reason = " ".join(str(error).split())[:200]
        return MissingWorker(
            f"worker {self.rank} of {self.world}: communication failed at {self._point!r} "
            f"({type(error).__name__}: {reason}). {self._report(before)} Look at that worker's log. Checkpoints are "
            "kept: run the same command again and it continues."
        )

    def _run(self) -> None:
        reported = -1
        while not self._closing.wait(EVERY_S):
            self._write()
            if self._late() and reported != self._count:
                reported = self._count
                before = self._read()
                for _ in range(math.ceil(_STOPPED_AFTER)):
                    self._closing.wait(EVERY_S)
                    self._write()
                if reported == self._count and not self._closing.is_set():
                    seconds = time.monotonic() - self._since
                    log.error("no progress for %.0f s at %r. %s", seconds, self._point, self._report(before))

    def _late(self) -> bool:
        return time.monotonic() - self._since > _REPORT_AT * self.timeout_s

    def _write(self) -> None:
        self._number += 1
        beat = Beat(number=self._number, count=self._count, point=self._point, host=socket.gethostname())
        # A store that cannot be reached is found by `_read`, by whoever asks.
        with contextlib.suppress(RuntimeError):
            self._store.set(str(self.rank), json.dumps(beat))

    def _read(self) -> dict[int, Beat] | None:
        """What each worker last wrote; None where the store is gone, and with it the process that holds it."""
        try:
            ranks = [rank for rank in range(self.world) if self._store.check([str(rank)])]
            return {rank: json.loads(self._store.get(str(rank))) for rank in ranks}
        except RuntimeError:
            return None

    def _report(self, before: dict[int, Beat] | None) -> str:
        now = self._read()
        if before is None or now is None:
            return "Missing: rank 0, or whichever process holds the group's store; it cannot be reached."
        return report(before, now, self.rank, self.world, self._count)


def report(before: dict[int, Beat], now: dict[int, Beat], own: int, world: int, count: int) -> str:
    """Names the workers that stopped between two readings, or else those that are at an earlier point than `count`."""
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
        "No worker is missing: all have reached the same point, so the fault is in the communication between devices. "
        "NCCL_DEBUG=INFO prints which network it uses."
    )


def is_communication_error(error: BaseException) -> bool:
    """Whether a collective failed, rather than the computation: gloo raises plain RuntimeErrors."""
    words = ("gloo", "nccl", "connection closed by peer", "connection reset", "broken pipe", "timed out waiting")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
