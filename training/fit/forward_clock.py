"""The time that a worker's forward passes take, to find a slow worker.

All workers of a step end it together, since they exchange gradients. In the forward pass engines ddp, zero1 and zero2
do not communicate, so its time depends on the worker alone; zero3 and fsdp2 gather weights in it, so there a slow
worker slows the others, too.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class ForwardClock:
    """Adds up the time of the forward passes of one step: of the GPU if there is one, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Inside this context the time is counted."""
        if self.on_gpu:
            started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            started.record()
            yield
            ended.record()
            self._events.append((started, ended))
            return
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began

    def take(self) -> float:
        """Seconds since the last call. Call it after the step's work on the GPU has been waited for."""
        seconds = self._seconds + sum(started.elapsed_time(ended) for started, ended in self._events) / 1000
        self._seconds, self._events = 0.0, []
        return seconds
