"""The measured loop: steps on random rows, the clock read when the device is idle."""

import gc
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from training.bench import WARM_UP
from training.bench.rows import random_batch
from training.config import TrainConfig
from training.data.batch import Batch


@dataclass(frozen=True)
class Timing:
    """seconds: of each step after the warm-up. tokens_per_step: over all workers. first_loss: mean over label tokens.

    peak_memory_gib: device memory on GPUs, of this worker; resident memory of the process so far on CPUs.
    """

    seconds: tuple[float, ...]
    tokens_per_step: int
    first_loss: float
    peak_memory_gib: float
    all_parameters: int
    trainable_parameters: int

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / median(self.seconds)


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, world) of torchrun's group, or of a group of this process alone."""
    alone = "RANK" not in os.environ
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if alone:
            # DeepSpeed looks for these even when the group is there.
            os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1")
            store = f"file://{Path(folder, 'store')}"
            torch.distributed.init_process_group(backend, init_method=store, rank=0, world_size=1)
        else:
            torch.distributed.init_process_group(backend)
        try:
            yield torch.distributed.get_rank(), torch.distributed.get_world_size()
        finally:
            torch.distributed.destroy_process_group()
            if alone:
                for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
                    del os.environ[name]


def own_device() -> torch.device:
    """The GPU of this local rank, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def worker_batches(config: TrainConfig, rank: int, world: int, documents: int) -> list[Batch]:
    """The micro-batches of one step of one worker. Every step computes on the same ones: speed does not depend on them."""
    assert config.micro_batch and config.model.config
    accumulation = config.rows_per_step // (world * config.micro_batch)
    vocabulary = config.model.config["vocab_size"]
    return [
        random_batch(
            config.seed * 1_000_003 + rank * 1009 + micro, config.micro_batch, config.sequence_length, documents, vocabulary
        )
        for micro in range(accumulation)
    ]


def measure_ours(config: TrainConfig, batches: list[Batch], device: torch.device, steps: int) -> Timing:
    """`WARM_UP` steps and then `steps` measured ones through the objective and the engine that `config` names."""
    from training.engines import make_engine
    from training.models.build import build_objective

    torch.manual_seed(config.seed)
    objective = build_objective(config, 0, device=device)
    parameters = list(objective.parameters())
    counts = sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    engine = make_engine(config, objective, device)
    tensors = [objective.tensors(batch, device) for batch in batches]
    denominator = _over_workers(sum(objective.units(batch) for batch in batches), device)
    tokens = _over_workers(sum(batch.tokens for batch in batches), device)
    reset_peak(device)
    seconds, losses = [], []
    for _ in range(WARM_UP + steps):
        start = clock(device)
        total = torch.zeros((), device=device)
        for number, inputs in enumerate(tensors):
            loss, _ = engine.module(**inputs)
            engine.backward(loss / denominator, last=number == len(tensors) - 1)
            total += loss.detach()
        engine.step(config.optimizer.learning_rate, config.optimizer.clip)
        seconds.append(clock(device) - start)
        losses.append(total)
    first = losses[0].float()
    torch.distributed.all_reduce(first)
    timing = Timing(tuple(seconds[WARM_UP:]), tokens, float(first) / denominator, peak_gib(device), *counts)
    engine.close()
    del engine, objective, parameters, tensors
    free(device)
    return timing


def _over_workers(count: int, device: torch.device) -> int:
    total = torch.tensor(count, device=device)
    torch.distributed.all_reduce(total)
    return int(total)


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
