"""The kernels of training steps by the time that they took: torch's profiler, grouped by the kernel's name."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Kernel:
    """ms: of one step, in all its calls. share: of the time of all kernels of a step."""

    name: str
    ms: float
    calls: int
    share: float


def profiled(step: Callable[[int], Any], steps: int, device: torch.device) -> tuple[Kernel, ...]:
    """All kernels of `steps` calls of `step`, the costliest first. On a CPU operators stand for kernels."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        for number in range(steps):
            step(number)
        if on_gpu:
            torch.cuda.synchronize(device)
    times: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in seen.key_averages():
        if on_gpu:
            kernel = event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
            microseconds = event.self_device_time_total if kernel else 0.0
        else:
            microseconds = event.self_cpu_time_total
        if microseconds > 0:
            times[event.key][0] += microseconds
            times[event.key][1] += event.count
    total = sum(microseconds for microseconds, _ in times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1][0])
    return tuple(
        Kernel(name, microseconds / steps / 1e3, round(calls / steps), microseconds / total)
        for name, (microseconds, calls) in ordered
    )
