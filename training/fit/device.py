"""What a worker's device holds and does: parameters, memory, speed; and whether what is trained ever moved."""

import logging
import resource
import sys
from collections.abc import Iterable

import numpy as np
import torch

from training.config import TrainConfig
from training.data.batch import Batch
from training.engines.engine import Slice
from training.fit.ranks import Place
from training.models.base import named_config
from training.models.flops import attention_flops, flops_per_token
from training.models.objective import Objective
from training.plan.choices import USABLE, default_rows, mend
from training.plan.gpus import peak_flops
from training.plan.memory import GIB, memory
from training.plan.shape import shape_of

log = logging.getLogger(__name__)


def parameters(objective: Objective) -> tuple[int, int]:
    """(trained, all) values. Of a 4-bit base, values and not bytes."""
    if hasattr(objective.model, "get_nb_trainable_parameters"):
        trained, total = objective.model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(one.numel(), one.requires_grad) for one in objective.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)


def memory_gib(device: torch.device) -> float:
    """The most that this worker held so far: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def device_bytes(config: TrainConfig, place: Place) -> int | None:
    """Memory of the smallest GPU of all workers, or what the config says of one; None on CPUs. All workers call it."""
    if config.device_memory_gib is not None:
        return int(config.device_memory_gib * GIB)
    if place.device.type != "cuda":
        return None
    own = torch.cuda.get_device_properties(place.device).total_memory
    return min(size for (size,) in place.exchange([own]))


def with_rows_that_fit(config: TrainConfig, place: Place, classes: int) -> TrainConfig:
    """The config with the largest `micro_batch` that the memory model fits into the workers' GPUs, if it has none.

    Unchanged where the size of a GPU is not known. A warning where not even one row fits. All workers call it.
    """
    if config.micro_batch or (device := device_bytes(config, place)) is None:
        return config
    shape = shape_of(config, classes)
    rows = default_rows(config, shape, device, place.world)
    need = memory(config, shape, rows, place.world).total
    if need > USABLE * device and place.first:
        log.warning(
            "memory: a worker needs about %.1f GiB with one row at once; of its GPU's %.1f GiB, %.1f can be used. %s",
            need / GIB, device / GIB, USABLE * device / GIB, mend(config, shape, device),
        )  # fmt: skip
    return config.model_copy(update={"micro_batch": rows})


def moved(slices: Iterable[Slice], place: Place) -> dict[str, bool]:
    """For each trained parameter, whether it ever had a gradient, on whichever worker.

    Read from AdamW's average of squared gradients, which is zero only where every gradient was: so it holds for the
    whole training, however often it was resumed. A LoRA matrix that stays out of the computation shows here.
    """
    mine: dict[str, bool] = {}
    for one in slices:
        if one.state == "exp_avg_sq":
            mine[one.name] = mine.get(one.name, False) or bool(one.values.any())
    everywhere: dict[str, bool] = {}
    for worker in place.gather(mine):
        for name, has in worker.items():
            everywhere[name] = everywhere.get(name, False) or has
    return everywhere


def peak(place: Place, bf16: bool) -> float | None:
    """Flops a second that all devices together could do; None where that is not known, as on CPUs and in float32."""
    if place.device.type != "cuda" or not bf16:
        return None
    one = peak_flops(torch.cuda.get_device_name(place.device))
    return one and one * place.world


class Speed:
    """Tokens a second as a share of what the devices could do; the formula stands in models/flops.py.

    Attention counts with the positions that a step's tokens really attend to, which packing makes fewer than a row's.
    """

    def __init__(self, config: TrainConfig, trained_parameters: int, peak: float | None) -> None:
        self.peak = peak
        if peak:
            self.model = named_config(config.store, config.model)
            self.products = flops_per_token(self.model, trained_parameters, config.method, 0.0)
            with_attention = flops_per_token(self.model, trained_parameters, config.method, 1.0)
            self.passes = (with_attention - self.products) / attention_flops(self.model, 1.0)

    def mfu(self, tokens_per_s: float, context: float) -> float | None:
        """
        Args:
            context: positions that a token attends to, itself included, on average.

        Returns:
            None on a device whose peak is not known, at the precision of this training.
        """
        if not self.peak:
            return None
        return tokens_per_s * (self.products + self.passes * attention_flops(self.model, context)) / self.peak


def attended(batch: Batch) -> int:
    """Over the real tokens of a batch, the sum of the positions that each attends to, itself included."""
    real = np.arange(batch.position_ids.shape[1]) <= batch.ends[:, None]
    real[len(batch.documents) :] = False  # rows of nothing but padding
    return int((batch.position_ids + 1)[real].sum())
