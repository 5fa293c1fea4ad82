"""A worker's device: parameter counts, memory, MFU, trained parameters with gradients, deterministic algorithms."""

import logging
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

import torch

from training.config import TrainConfig
from training.data.batch import Batch
from training.engines.engine import StateSlice
from training.fit.ranks import Ranks
from training.gpus import peak_flops
from training.models.base import named_config
from training.models.flops import attention_flops, flops_per_token
from training.models.objective import Objective
from training.models.shape import shape_of
from training.plan.choices import USABLE, default_rows, suggested_change
from training.plan.memory import GIB, memory

log = logging.getLogger(__name__)


# The libraries read these variables when they are first used.
# cuBLAS: two workspaces of fixed size per stream; see "Results reproducibility" in its documentation.
# NCCL: NVLS, and between nodes NVLSTree, sum inside the NVLink switch in varying order. A list that begins with ^
# excludes its algorithms (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-algo). torch's
# ProcessGroupNCCL and Megatron-LM's deterministic mode set ^NVLS; NVLSTree sums in the same way.
ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "NCCL_ALGO": "^NVLS,NVLSTree"}


def parameter_counts(objective: Objective) -> tuple[int, int]:
    """(number of trained parameters, of all). Of a 4-bit base the values are counted, not the bytes."""
    if hasattr(objective.model, "get_nb_trainable_parameters"):
        trained, total = objective.model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(one.numel(), one.requires_grad) for one in objective.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def memory_gib(device: torch.device) -> float:
    """Peak memory of this worker in GiB: allocated device memory on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def device_bytes(set_gib: float | None, ranks: Ranks) -> int | None:
    """Bytes of the smallest GPU of all workers, or `set_gib` (the config's) if given; None on CPUs. A collective."""
    if set_gib is not None:
        return int(set_gib * GIB)
    if ranks.device.type != "cuda":
        return None
    own = torch.cuda.get_device_properties(ranks.device).total_memory
    return min(size for (size,) in ranks.exchange([own]))


def with_rows_that_fit(config: TrainConfig, ranks: Ranks, classes: int) -> TrainConfig:
    """The config with `micro_batch`: the one it sets, or the largest that fits the workers' GPUs by the memory model.

    Without GPUs the config is returned as it is. Logs a warning if not even one row fits. A collective.
    """
    if config.micro_batch or (device := device_bytes(config.device_memory_gib, ranks)) is None:
        return config
    shape = shape_of(config, classes)
    rows = default_rows(config, shape, device, ranks.world)
    need = memory(config, shape, rows, ranks.world).total
    if need > USABLE * device and ranks.first:
        log.warning(
            "memory: a worker needs about %.1f GiB with one row at a time; %.1f of its GPU's %.1f GiB can be used. %s",
            need / GIB, USABLE * device / GIB, device / GIB, suggested_change(config, shape, device),
        )  # fmt: skip
    return config.model_copy(update={"micro_batch": rows})


def received_gradients(slices: Iterable[StateSlice], ranks: Ranks) -> dict[str, bool]:
    """Trained parameter -> whether it ever had a gradient that is not zero, on any worker. A collective.

    It is read from AdamW's average of squared gradients, which is zero only if every gradient was zero, in all attempts
    of the training. False means that a parameter, of an adapter for example, takes no part in the computation.
    """
    mine: dict[str, bool] = {}
    for one in slices:
        if one.state == "exp_avg_sq":
            mine[one.name] = mine.get(one.name, False) or bool(one.values.any())
    everywhere: dict[str, bool] = {}
    for worker in ranks.gather(mine):
        for name, received in worker.items():
            everywhere[name] = everywhere.get(name, False) or received
    return everywhere


class Mfu:
    """Model FLOPs utilisation: operations per second of training as a share of the devices' peak; see models/flops.py.

    peak_flops: of all devices together; None if unknown. Attention counts the positions that tokens attend to, which
    are fewer in packed rows than in rows of one document.
    """

    def __init__(self, config: TrainConfig, trained_parameters: int, peak_flops: float | None) -> None:
        self.peak_flops = peak_flops
        if peak_flops:
            self.model = named_config(config.store, config.model)
            self.products = flops_per_token(self.model, trained_parameters, config.method, 0.0)
            with_attention = flops_per_token(self.model, trained_parameters, config.method, 1.0)
            self.passes = (with_attention - self.products) / attention_flops(self.model, 1.0)

    @classmethod
    def of_workers(cls, config: TrainConfig, trained_parameters: int, ranks: Ranks) -> Self:
        """The MFU with the peak of all workers' devices. trained_parameters: see `flops_per_token`."""
        return cls(config, trained_parameters, workers_peak_flops(ranks, config.bf16))

    def of(self, tokens_per_s: float, context: float) -> float | None:
        """MFU in [0, 1]; None if the peak is unknown.

        Args:
            tokens_per_s: over all workers. context: mean number of positions that a token attends to, including its
                own.
        """
        if not self.peak_flops:
            return None
        return tokens_per_s * (self.products + self.passes * attention_flops(self.model, context)) / self.peak_flops


def workers_peak_flops(ranks: Ranks, bf16: bool) -> float | None:
    """Peak operations per second of all workers' devices; None if unknown, as on CPUs and in float32."""
    if ranks.device.type != "cuda" or not bf16:
        return None
    one = peak_flops(torch.cuda.get_device_name(ranks.device))
    return one and one * ranks.world


def attended_positions(batch: Batch) -> int:
    """Sum over a batch's tokens of the number of positions that each attends to, its own included; without padding."""
    return int((batch.position_ids + 1)[batch.real].sum())


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Inside the context, if `wanted`, torch sums in a fixed order. An operator that cannot raises a RuntimeError.

    Enter it before the workers' first collective, when NCCL reads its setting. Variables of ENVIRONMENT are set unless
    the user has set them, and stay set. The backward passes of attention kernels, embeddings and indexing change, which
    otherwise use atomic additions. Allocated memory is not filled, because it is always written before it is read.
    """
    if not wanted:
        yield
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.utils.deterministic.fill_uninitialized_memory = before[2]  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = before[3]
