"""The GPUs that `raymill plan --gpu` knows by name: their memory, and the name their driver gives them."""

import difflib
from dataclasses import dataclass

from cluster.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """memory_gib: what the driver reports as total, which is a little less than what the box says."""

    name: str
    device_name: str
    memory_gib: float


# Vendors' data sheets; memory as the driver reports it on a card without MIG, rounded down.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A10", "NVIDIA A10", 22.0),
        Gpu("A100-40", "NVIDIA A100-SXM4-40GB", 39.4),
        Gpu("A100", "NVIDIA A100-SXM4-80GB", 79.1),
        Gpu("L4", "NVIDIA L4", 22.0),
        Gpu("L40S", "NVIDIA L40S", 44.4),
        Gpu("H100", "NVIDIA H100 80GB HBM3", 79.1),
        Gpu("H200", "NVIDIA H200", 139.8),
        Gpu("B200", "NVIDIA B200", 178.3),
        Gpu("RTX4090", "NVIDIA GeForce RTX 4090", 23.5),
    )
}


def gpu_named(name: str) -> Gpu:
    """
    Raises:
        ConfigError: no such name, with those there are.
    """
    wanted = name.upper().removeprefix("NVIDIA").strip().replace(" ", "")
    if found := GPUS.get(wanted):
        return found
    near = difflib.get_close_matches(wanted, GPUS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"--gpu {name}: not one this table knows.{hint} It has {', '.join(GPUS)}; for any other give "
        "--gpu-memory-gib and --peak-tflops."
    )
