"""The table of GPUs: name, memory and peak bf16 operations per second; and the GPU that a plan assumes."""

import difflib
import re
from dataclasses import dataclass

from raymill.cluster.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU.

    pattern: regular expression of the name that its driver reports. bf16_peak_flops: operations per second of dense
    bf16 products with float32 accumulation. memory_gib: that the driver reports on a card without MIG, rounded down;
    None if unknown.
    """

    name: str
    pattern: str
    bf16_peak_flops: float
    memory_gib: float | None = None


# The first row whose pattern occurs in a device's name holds. Sources: vendors' data sheets; their values "with
# sparsity" are halved. H100, H200 and H200 NVL are as in TRL. Compare the others with the data sheet before publishing
# an MFU.
GPUS = (
    Gpu("GB300", r"\bGB300\b", 2500e12),
    Gpu("GB200", r"\bGB200\b", 2500e12),
    Gpu("B300", r"\bB300\b", 2250e12),
    Gpu("B200", r"\bB200\b", 2250e12, 178.3),
    Gpu("H200NVL", r"\bH200 NVL\b", 835.5e12),
    Gpu("H200", r"\bH200\b", 989.4e12, 139.8),
    Gpu("GH200", r"\bGH200\b", 989.4e12),
    Gpu("H100NVL", r"\bH100 NVL\b", 835.5e12),
    Gpu("H100PCIE", r"\bH100 PCIe\b", 756.5e12),
    Gpu("H100", r"\bH100\b", 989.4e12, 79.1),
    Gpu("H800", r"\bH800\b", 989.4e12),
    Gpu("H20", r"\bH20\b", 148e12),
    Gpu("A100-40", r"\bA100\b.*\b40GB\b", 312e12, 39.4),
    Gpu("A100", r"\bA100\b", 312e12, 79.1),
    Gpu("A800", r"\bA800\b", 312e12),
    Gpu("A40", r"\bA40\b", 149.7e12),
    Gpu("A30", r"\bA30\b", 165e12),
    Gpu("A10", r"\bA10\b", 125e12, 22.0),
    Gpu("L40S", r"\bL40S\b", 362.05e12, 44.4),
    Gpu("L40", r"\bL40\b", 181.05e12),
    Gpu("L4", r"\bL4\b", 121e12, 22.0),
    Gpu("RTX6000ADA", r"\bRTX 6000 Ada\b", 364.25e12),
    Gpu("RTXA6000", r"\bRTX A6000\b", 154.8e12),
    Gpu("RTX4090", r"\bRTX 4090\b", 165.2e12, 23.5),
    Gpu("RTX3090", r"\bRTX 3090\b", 71.2e12),
    Gpu("MI325X", r"\bMI325X\b", 1307.4e12),
    Gpu("MI300X", r"\bMI300X\b", 1307.4e12),
    Gpu("MI250X", r"\bMI250X\b", 383e12),
)


@dataclass(frozen=True)
class AssumedGpu:
    """The GPU that a plan assumes. What depends on a None is left out of the plan.

    peak_flops: given by the user, for the precision of the training. bf16_peak_flops: of the table, for bf16 only.
    mfu: share of the peak that training reaches. price: of one GPU for an hour, in any currency.
    """

    name: str | None = None
    memory_gib: float | None = None
    peak_flops: float | None = None
    bf16_peak_flops: float | None = None
    mfu: float = 0.4
    price: float | None = None

    def peak(self, bf16: bool) -> float | None:
        """Peak operations per second of one GPU in bf16 or float32."""
        return self.peak_flops or (self.bf16_peak_flops if bf16 else None)

    @property
    def is_gpu(self) -> bool:
        """Whether a GPU was described at all."""
        return any((self.name, self.memory_gib, self.peak_flops))


def gpu_named(name: str) -> Gpu:
    """The GPU of a `--gpu` name; case, spaces and a leading NVIDIA do not matter.

    Raises:
        ConfigError: the table has no GPU of this name with its memory; the message lists those it has.
    """
    known = {gpu.name: gpu for gpu in GPUS if gpu.memory_gib is not None}
    wanted = name.upper().removeprefix("NVIDIA").strip().replace(" ", "")
    if found := known.get(wanted):
        return found
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ConfigError(
        f"--gpu {name}: not in the table of GPUs.{hint} It has {', '.join(sorted(known))}; for any other give "
        "--gpu-memory-gib and --peak-tflops."
    )


def peak_flops(device_name: str) -> float | None:
    """Peak bf16 operations per second of one device, by the name that its driver reports; None if not in the table."""
    return next((gpu.bf16_peak_flops for gpu in GPUS if re.search(gpu.pattern, device_name)), None)
