"""What a worker's device holds and does: parameters, memory, speed; and whether what is trained ever moved."""

import resource
import sys
from collections.abc import Iterable

import torch

from training.config import TrainConfig
from training.engines import Slice
from training.fit.place import Place
from training.models.objective import Objective


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
        return torch.cuda.max_memory_allocated(device) / (1 << 30)
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / (1 << 30)


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


class Speed:
    """Tokens a second as a share of what the devices could do; the formula stands in models/flops.py."""

    def __init__(self, config: TrainConfig, objective: Objective, place: Place) -> None:
        self.per_token = self.peak = 0.0
        if place.device.type == "cuda":
            from training.models.flops import peak_flops

            self.peak = (peak_flops(torch.cuda.get_device_name(place.device)) or 0.0) * place.world
            self.per_token = _flops(config, objective)

    def mfu(self, tokens_per_s: float) -> float | None:
        """Null on a device whose peak is not known."""
        return tokens_per_s * self.per_token / self.peak if self.peak else None


def _flops(config: TrainConfig, objective: Objective) -> float:
    raise NotImplementedError
