"""The measured loop: steps on random rows, the clock read when the device is idle."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from training.bench import WARM_UP
from training.bench.four_bits import quantise
from training.bench.kernels import Kernel, profiled
from training.bench.rows import random_batch
from training.config import TrainConfig
from training.data.batch import Batch
from training.engines.make import make_engine
from training.fit.device import memory_gib, parameter_counts
from training.fit.ranks import Ranks
from training.models.attention import choose_attention
from training.models.base import named_config
from training.models.build import objective_around
from training.models.compiling import compile_clock, compile_refusal

# Steps drawn, each of other rows with other numbers of documents; the measured steps take them in turn.
STEPS_DRAWN = 8
_PROFILED_STEPS = 2

Step = list[Batch]


@dataclass(frozen=True)
class PutBack:
    """What training leaves out for speed, put back so that a measurement shows what leaving it out brings.

    optimize_ddp: torch's splitting of compiled graphs at the borders of DDP's buckets, see models/compiling.py.
    peft_input_casts: peft's casts of each LoRA layer's input to float32, see models/adapters.py.
    """

    optimize_ddp: bool = False
    peft_input_casts: bool = False

    def apply(self, objective: torch.nn.Module) -> None:
        """After the objective is built, before its first call."""
        import torch._dynamo
        from peft.tuners import lora

        if self.optimize_ddp:
            torch._dynamo.config.optimize_ddp = True
        if self.peft_input_casts:
            for module in objective.modules():
                if isinstance(module, lora.Linear):
                    module.cast_input_dtype_enabled = True


NOTHING = PutBack()


@dataclass(frozen=True)
class Timing:
    """seconds: of each step after the warm-up. tokens_per_step: over all workers. first_loss: mean over label tokens.

    peak_memory_gib: device memory on GPUs, of this worker; resident memory of the process so far on CPUs. attention:
    transformers' name of the one that was used. compile_s: what torch.compile took, None where nothing was compiled.
    kernels: where they were asked for, the costliest first. put_back: names of what PutBack put back.
    """

    seconds: tuple[float, ...]
    tokens_per_step: int
    first_loss: float
    peak_memory_gib: float
    all_parameters: int
    trainable_parameters: int
    attention: str
    compile_s: float | None = None
    kernels: tuple[Kernel, ...] = ()
    put_back: tuple[str, ...] = ()

    @property
    def tokens_per_s(self) -> float:
        return self.tokens_per_step / median(self.seconds)


def worker_steps(config: TrainConfig, ranks: Ranks, documents: int) -> list[Step]:
    """The micro-batches of STEPS_DRAWN steps of one worker. documents: of a row, on average."""
    assert config.micro_batch and config.model.config
    rows, length, vocabulary = config.micro_batch, config.sequence_length, config.model.config["vocab_size"]
    accumulation = config.rows_per_step // (ranks.world * rows)
    return [
        [
            random_batch((config.seed, ranks.rank, step, micro), rows, length, documents, vocabulary)
            for micro in range(accumulation)
        ]
        for step in range(STEPS_DRAWN)
    ]


def draw(config: TrainConfig, device: torch.device, attention: str | None) -> Any:
    """A base model with random weights, drawn on the device; the same for the same config. Frozen ones in bf16, and of
    QLoRA quantised from that.
    """
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if config.method != "full" and config.bf16 else torch.float32
    torch.manual_seed(config.seed)
    with device:
        model = AutoModelForCausalLM.from_config(
            named_config(config.store, config.model), dtype=dtype, attn_implementation=attention
        )
    return quantise(model) if config.method == "qlora" else model


def measure_ours(
    config: TrainConfig,
    drawn: Sequence[Step],
    ranks: Ranks,
    steps: int,
    profile: bool = False,
    put_back: PutBack = NOTHING,
) -> Timing:
    """`WARM_UP` steps and then `steps` measured ones through the objective and the engine that `config` names.

    profile: two steps more, after the measured ones, under torch's profiler.
    """
    with freed_afterwards(ranks.device):
        return _measured(config, drawn, ranks, steps, profile, put_back)


def _measured(
    config: TrainConfig, drawn: Sequence[Step], ranks: Ranks, steps: int, profile: bool, put_back: PutBack
) -> Timing:
    device = ranks.device
    model_config = named_config(config.store, config.model)
    attention = choose_attention(config.attention, model_config, device.type, config.bf16, False)
    objective = objective_around(config, draw(config, device, attention), 0, device)
    put_back.apply(objective)
    trained, every = parameter_counts(objective)
    compiles = compile_refusal(config, model_config.model_type) is None
    before = compile_clock.seconds
    engine = make_engine(config, objective, device)
    labels = [sum_over_workers(ranks, sum(objective.loss_denominator(batch) for batch in step))[0] for step in drawn]

    def take(number: int) -> torch.Tensor:
        which = number % len(drawn)
        total = torch.zeros((), device=device)
        for micro, batch in enumerate(drawn[which]):
            loss, _ = engine.module(**objective.tensors(batch, device))
            total += loss.detach()
            engine.backward(loss / labels[which], last=micro == len(drawn[which]) - 1)
        engine.step(config.optimizer.learning_rate, config.optimizer.clip)
        return total

    seconds, first = [], 0.0
    reset_peak(device)
    for number in range(WARM_UP + steps):
        start = clock(device)
        total = take(number)
        seconds.append(clock(device) - start)
        first = float(total) if number == 0 else first
    peak = memory_gib(device)
    kernels = profiled(take, _PROFILED_STEPS, device) if profile else ()
    timing = Timing(
        seconds=tuple(seconds[WARM_UP:]),
        tokens_per_step=sum_over_workers(ranks, sum(batch.tokens for batch in drawn[0]))[0],
        first_loss=sum(sum(one) for one in ranks.exchange_floats([first])) / labels[0],
        peak_memory_gib=peak,
        all_parameters=every,
        trainable_parameters=trained,
        attention=objective.attention,
        compile_s=compile_clock.seconds - before if compiles else None,
        kernels=kernels,
        put_back=tuple(name for name, wanted in asdict(put_back).items() if wanted),
    )
    engine.close()
    return timing


def sum_over_workers(ranks: Ranks, *counts: int) -> list[int]:
    return [sum(column) for column in zip(*ranks.exchange(counts), strict=True)]


def clock(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def freed_afterwards(device: torch.device) -> Iterator[None]:
    try:
        yield
    finally:
        free(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
