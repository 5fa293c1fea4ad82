"""The measured loop: steps on random rows, the clock read when the device is idle."""

import gc
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from training.bench import WARM_UP
from training.bench.rows import random_batch
from training.config import TrainConfig
from training.data.batch import Batch
from training.fit.device import memory_gib
from training.fit.place import Place


@dataclass(frozen=True)
class Timing:
    """seconds: of each step after the warm-up. tokens_per_step: over all workers. first_loss: mean over label tokens.

    peak_memory_gib: device memory on GPUs, of this worker; resident memory of the process so far on CPUs. attention:
    transformers' name of the one that was used.
    """

    seconds: tuple[float, ...]
    tokens_per_step: int
    first_loss: float
    peak_memory_gib: float
    all_parameters: int
    trainable_parameters: int
    attention: str

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / median(self.seconds)


def worker_batches(config: TrainConfig, place: Place, documents: int) -> list[Batch]:
    """The micro-batches of one step of one worker. Every step takes the same ones: speed does not depend on them."""
    assert config.micro_batch and config.model.config
    rows, length, vocabulary = config.micro_batch, config.sequence_length, config.model.config["vocab_size"]
    accumulation = config.rows_per_step // (place.world * rows)
    return [
        random_batch((config.seed, place.rank, micro), rows, length, documents, vocabulary)
        for micro in range(accumulation)
    ]


def draw(config: TrainConfig, device: torch.device, attention: str | None) -> Any:
    """A base model with random weights, drawn on the device; the same for the same config. Frozen ones in bf16."""
    from transformers import AutoModelForCausalLM

    from training.models.base import named_config

    dtype = torch.bfloat16 if config.method != "full" and config.bf16 else torch.float32
    torch.manual_seed(config.seed)
    with device:
        return AutoModelForCausalLM.from_config(named_config(config.model), dtype=dtype, attn_implementation=attention)


def measure_ours(config: TrainConfig, batches: list[Batch], place: Place, steps: int) -> Timing:
    """`WARM_UP` steps and then `steps` measured ones through the objective and the engine that `config` names."""
    from training.engines import make_engine
    from training.models.attention import choose_attention
    from training.models.base import named_config
    from training.models.build import objective_around

    device = place.device
    attention = choose_attention(config.attention, named_config(config.model), device.type, config.bf16, False)
    model = draw(config, device, attention)
    attention = model.config._attn_implementation
    objective = objective_around(config, model, 0, device)
    sizes = [(one.numel(), one.requires_grad) for one in objective.parameters()]
    units, tokens = sum_over_workers(
        place, sum(objective.units(batch) for batch in batches), sum(batch.tokens for batch in batches)
    )
    engine = make_engine(config, objective, device)
    seconds, losses = [], []
    reset_peak(device)
    for _ in range(WARM_UP + steps):
        start = clock(device)
        total = torch.zeros((), device=device)
        for number, batch in enumerate(batches):
            loss, _ = engine.module(**objective.tensors(batch, device))
            total += loss.detach()
            engine.backward(loss / units, last=number == len(batches) - 1)
        engine.step(config.optimizer.learning_rate, config.optimizer.clip)
        seconds.append(clock(device) - start)
        losses.append(total)
    first_loss = sum(sum(told) for told in place.exchange_floats([float(losses[0])])) / units
    timing = Timing(
        seconds=tuple(seconds[WARM_UP:]),
        tokens_per_step=tokens,
        first_loss=first_loss,
        peak_memory_gib=memory_gib(device),
        all_parameters=sum(size for size, _ in sizes),
        trainable_parameters=sum(size for size, trains in sizes if trains),
        attention=attention,
    )
    engine.close()
    del engine, objective, model, loss, total, losses
    free(device)
    return timing


def sum_over_workers(place: Place, *counts: int) -> list[int]:
    return [sum(told) for told in zip(*place.exchange(counts), strict=True)]


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
