"""The measured training steps on random rows. The clock is read when the device is idle."""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
import torch._dynamo
from peft.tuners import lora
from torch import nn
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from raymill.training.compile_choice import compile_refusal
from raymill.training.config import TrainConfig
from raymill.training.data.batch import Batch
from raymill.training.engines import make_engine
from raymill.training.fit.memory import memory_gib
from raymill.training.fit.ranks import Ranks
from raymill.training.models.attention import choose_attention
from raymill.training.models.base import named_config
from raymill.training.models.build import four_bit_settings, objective_around
from raymill.training.models.compiling import compile_clock
from raymill.training.models.cost import parameter_counts
from tests.benchmarks.gpu import WARM_UP
from tests.benchmarks.gpu.workload import random_batch

# Different steps, with different rows and numbers of documents; the measured steps use them in turn.
STEPS_DRAWN = 8
_PROFILED_STEPS = 2

Step = list[Batch]


@dataclass(frozen=True)
class Kernel:
    """A GPU kernel. ms: of one step, in all its calls. share: of the time of all kernels of a step."""

    name: str
    ms: float
    calls: int
    share: float


@dataclass(frozen=True)
class PutBack:
    """Switches on what training switches off for speed, to measure the difference.

    optimize_ddp: torch splits compiled graphs at the borders of DDP's buckets, see models/compiling.py.
    peft_input_casts: peft casts each LoRA layer's input to float32, see models/build.py.
    """

    optimize_ddp: bool = False
    peft_input_casts: bool = False

    def apply(self, objective: torch.nn.Module) -> None:
        """Call it after the objective is built and before its first call."""
        if self.optimize_ddp:
            torch._dynamo.config.optimize_ddp = True
        if self.peft_input_casts:
            for module in objective.modules():
                if isinstance(module, lora.Linear):
                    module.cast_input_dtype_enabled = True


NOTHING = PutBack()


@dataclass(frozen=True)
class Timing:
    """A measurement.

    seconds: of each step after the warm-up. tokens_per_step: over all workers. first_loss: mean over label tokens.
    peak_memory_gib: of this worker, device memory on GPUs, resident memory of the process on CPUs. attention:
    transformers' name of the implementation. compile_s: time in torch.compile, None if nothing was compiled. kernels:
    by decreasing time, if profiled. put_back: names of the fields of PutBack that were set.
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
        """Tokens per second of the median step, over all workers."""
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


def random_model(config: TrainConfig, device: torch.device, attention: str | None) -> Any:
    """A base model with random weights on the device, deterministic. Frozen weights are in bf16, of QLoRA quantised."""
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
    with_profile: bool = False,
    put_back: PutBack = NOTHING,
) -> Timing:
    """Measure `steps` steps of the config's objective and engine, after WARM_UP steps.

    with_profile: take two further steps under torch's profiler.
    """
    with freed_afterwards(ranks.device):
        return _measure(config, drawn, ranks, steps, with_profile, put_back)


def _measure(
    config: TrainConfig, drawn: Sequence[Step], ranks: Ranks, steps: int, with_profile: bool, put_back: PutBack
) -> Timing:
    device = ranks.device
    model_config = named_config(config.store, config.model)
    attention = choose_attention(config.attention, model_config, device.type, config.bf16, False)
    objective = objective_around(config, random_model(config, device, attention), 0, device)
    put_back.apply(objective)
    trained, every = parameter_counts(objective)
    compiles = compile_refusal(config, model_config.model_type) is None
    before = compile_clock.seconds
    engine = make_engine(config, objective, device)
    labels = [sum_over_workers(ranks, sum(objective.label_count(batch) for batch in step))[0] for step in drawn]

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
        start = synchronized_time(device)
        total = take(number)
        seconds.append(synchronized_time(device) - start)
        first = float(total) if number == 0 else first
    peak = memory_gib(device)
    kernels = profiled(take, _PROFILED_STEPS, device) if with_profile else ()
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
    """The sum of each count over all workers. A collective."""
    return [sum(column) for column in zip(*ranks.exchange(counts), strict=True)]


def synchronized_time(device: torch.device) -> float:
    """Time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def freed_afterwards(device: torch.device) -> Iterator[None]:
    """Free unused memory of the device at the end of the context, also after an error."""
    try:
        yield
    finally:
        free(device)


def reset_peak(device: torch.device) -> None:
    """Start a new measurement of the peak of device memory; on CPUs nothing is done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def free(device: torch.device) -> None:
    """Collect garbage and return the device's cached memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def quantise(model: Any) -> Any:
    """Replace every linear module except the lm_head by bitsandbytes' 4-bit module, on the same device.

    transformers quantises while it loads files, which random weights lack. Matrices are quantised one by one, so that
    the device does not hold the base twice.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit  # an optional package

    settings = four_bit_settings()
    kind = {
        "quant_type": settings.bnb_4bit_quant_type,
        "compress_statistics": settings.bnb_4bit_use_double_quant,
        "quant_storage": settings.bnb_4bit_quant_storage,
    }
    for parent in list(model.modules()):
        for name, linear in list(parent.named_children()):
            if not isinstance(linear, nn.Linear) or linear is model.get_output_embeddings():
                continue
            sizes = (linear.in_features, linear.out_features, linear.bias is not None)
            with torch.device("meta"):
                small = Linear4bit(*sizes, compute_dtype=settings.bnb_4bit_compute_dtype, **kind)
            device = linear.weight.device
            small.weight = Params4bit(linear.weight.data, requires_grad=False, module=small, **kind).to(device)
            small.bias = linear.bias
            setattr(parent, name, small)
    model.is_loaded_in_4bit = True  # peft reads this
    return model


def profiled(step: Callable[[int], Any], steps: int, device: torch.device) -> tuple[Kernel, ...]:
    """The kernels of `steps` calls of `step`, by decreasing time; on a CPU the operators."""
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
