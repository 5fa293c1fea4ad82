"""Tables of GPUs: memory by the names that `raymill plan --gpu` takes, and peak operations per second."""

import difflib
import re
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


# Peak of dense bf16 products with float32 accumulation, in floating-point operations per second: half of the data
# sheet's value "with sparsity". H100, H200 and H200 NVL are as in TRL; compare the others with the data sheet before
# publishing an MFU. The first key that occurs as words in the device's name counts.
PEAK_FLOPS: dict[str, float] = {
    "GB300": 2500e12,
    "GB200": 2500e12,
    "B300": 2250e12,
    "B200": 2250e12,
    "H200 NVL": 835.5e12,
    "H200": 989.4e12,
    "GH200": 989.4e12,
    "H100 NVL": 835.5e12,
    "H100 PCIe": 756.5e12,
    "H100": 989.4e12,
    "H800": 989.4e12,
    "H20": 148e12,
    "A100": 312e12,
    "A800": 312e12,
    "A40": 149.7e12,
    "A30": 165e12,
    "A10": 125e12,
    "L40S": 362.05e12,
    "L40": 181.05e12,
    "L4": 121e12,
    "RTX 6000 Ada": 364.25e12,
    "RTX A6000": 154.8e12,
    "RTX 4090": 165.2e12,
    "RTX 3090": 71.2e12,
    "MI325X": 1307.4e12,
    "MI300X": 1307.4e12,
    "MI250X": 383e12,
}


def peak_flops(device_name: str) -> float | None:
    """Peak bf16 operations per second of one device, by the name that its driver reports; None if it is not in the
    table.
    """
    return next((peak for known, peak in PEAK_FLOPS.items() if re.search(rf"\b{known}\b", device_name)), None)
