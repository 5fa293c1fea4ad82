"""The predicted time of a training step on a GPU, part by part: arithmetic on shapes, without a measurement.

    python -m tests.benchmarks.gpu.predict > tests/benchmarks/gpu/PREDICTIONS.md

Letters: H hidden size, F feed-forward size, Q = heads x head size, K = key-value heads x head size, V vocabulary, R an
adapter's rank, N positions of a micro-batch, W weights that a token is multiplied with in the layers.

A product or kernel takes flops / (efficiency x peak), everything else bytes / (efficiency x bandwidth). Efficiencies
are assumptions: the usual range on this kind of GPU, `slow` and `fast`. A measurement outside of these two shows where
this model of a step is wrong.
"""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from raymill.training.config import TrainConfig
from raymill.training.gpus import peak_flops
from raymill.training.models.base import named_config
from raymill.training.models.cost import Multiplied, attention_flops, multiplied, shape_of
from raymill.training.plan.memory import GIB, Shape, memory
from tests.benchmarks.gpu.workload import bench_config

# Bytes per second of device memory by NVIDIA's data sheets (SXM); peaks of products stand in training/gpus.py.
BANDWIDTH = {"NVIDIA H200": 4.8e12, "NVIDIA H100 80GB HBM3": 3.35e12}
# The card of PREDICTIONS.md.
GPU = "NVIDIA H200"


@dataclass(frozen=True)
class Efficiency:
    """Share of the peak (flops) or of the bandwidth (bytes) that is reached: (slow, fast)."""

    products: tuple[float, float] = (0.63, 0.72)
    flash_64: tuple[float, float] = (0.35, 0.50)
    flash_128: tuple[float, float] = (0.45, 0.62)
    fused: tuple[float, float] = (0.45, 0.75)
    streamed: tuple[float, float] = (0.75, 0.90)


EFFICIENCY = Efficiency()


@dataclass(frozen=True)
class PartCost:
    """One part of a step. amount: operations (unit FLOP) or bytes (unit B). how: the formula."""

    part: str
    amount: float
    unit: str
    efficiency: tuple[float, float]
    how: str

    def ms(self, which: int, gpu: str = GPU) -> float:
        """Milliseconds on a card of BANDWIDTH. which: 0 slow, 1 fast."""
        rate = peak(gpu) if self.unit == "FLOP" else BANDWIDTH[gpu]
        return 1e3 * self.amount / (self.efficiency[which] * rate)


def peak(gpu: str = GPU) -> float:
    """Peak bf16 operations per second of a card."""
    found = peak_flops(gpu)
    assert found
    return found


def setting(shape: str, method: str, rows: int, length: int) -> TrainConfig:
    """The config of `python -m tests.benchmarks.gpu` on one GPU: ddp, bf16, compiled, the varlen kernel."""
    return bench_config(
        shape, world=1, gpus=True, sequence_length=length, micro_batch=rows, accumulation=1, method=method, steps=9,
        loss_chunk_tokens=CHUNK,
    )  # fmt: skip


CHUNK = 4096


def context_of(length: int, documents: int) -> float:
    """Mean number of positions that a token attends to, in rows of 1 to 2 x `documents` - 1 documents of random
    lengths.

    A document of n positions has n (n + 1) / 2 pairs; the squares of k random parts of a row of T positions sum to
    2 T^2 / (k + 1) on average.
    """
    return length * mean(1 / (count + 1) for count in range(1, 2 * documents)) + 0.5


@functools.cache
def _counted(shape: str, method: str) -> tuple[Shape, Multiplied]:
    config = setting(shape, method, 1, 64)
    return shape_of(config), multiplied(named_config(config.store, config.model))


def predict(config: TrainConfig, documents: int) -> list[PartCost]:
    """The parts of one step of one micro-batch, compiled, in bf16."""
    assert config.micro_batch
    model = named_config(config.store, config.model)
    shape, weights = _counted(config.name.removeprefix("bench-"), config.method)
    positions = config.micro_batch * config.sequence_length
    full = config.method == "full"
    head = (getattr(model, "head_dim", None) or shape.query // shape.heads) <= 64
    passes = 6 if full else 4
    values = positions * shape.vocabulary
    chunks = -(-positions // CHUNK)
    r = 4 if full else 2
    h, f, q, k = shape.hidden, shape.feed_forward, shape.query, shape.key
    layer = (12 * r + 10) * h + 16 * f + 8 * (q + k)
    e = EFFICIENCY
    lines = [
        PartCost("products of the layers", passes * weights.body * positions, "FLOP", e.products, f"{passes} W N"),
        PartCost(
            "products of the lm_head", passes * weights.lm_head * positions, "FLOP", e.products, f"{passes} V H N"
        ),
        PartCost(
            "flash attention", 3.5 * attention_flops(model, context_of(config.sequence_length, documents)) * positions,
            "FLOP", e.flash_64 if head else e.flash_128, "3.5 x forward (its backward computes the scores again)",
        ),
        PartCost(
            "norms, rotary, SwiGLU, residual", shape.layers * positions * layer, "B", e.fused,
            f"layers x N x ({12 * r + 10} H + 16 F + 8 (Q + K))",
        ),
        PartCost("cross-entropy", 10 * values, "B", e.fused, "10 V N: bf16 logits read twice, gradients written, read"),
    ]  # fmt: skip
    if full:
        trained = shape.trained
        lines += [
            PartCost("lm_head's gradient", 8 * chunks * shape.vocabulary * h, "B", e.streamed, "8 V H for each chunk"),
            PartCost("casts of weights, sums of gradients", 16 * trained, "B", e.streamed, "(6 + 10) x trained values"),
            PartCost("norm, clip, AdamW, zero", 44 * trained, "B", e.streamed, "(4 + 8 + 28 + 4) x trained values"),
        ]
    else:
        both = _adapted(shape)
        adapter = 6 * shape.trained * positions
        lines += [
            PartCost("products of the adapter", adapter, "FLOP", (0.05, 0.15), "6 N x trained values, R wide"),
            PartCost(
                "adapter's passes over activations", 8 * both * positions, "B", e.fused, "8 N x (inputs + outputs)"
            ),
            PartCost("norm, clip, AdamW, zero", 44 * shape.trained, "B", e.streamed, "44 x trained values"),
        ]
    return lines


def _adapted(shape: Shape) -> int:
    """Inputs and outputs of all linear modules with an adapter, in values per position."""
    sizes = [parameter.shape for parameter in shape.parameters if parameter.trained and len(parameter.shape) == 2]
    # lora_A is R x inputs, lora_B outputs x R.
    return sum(max(rows, columns) for rows, columns in sizes)


@dataclass(frozen=True)
class Prediction:
    """slow, fast: milliseconds of a step. tokens: of a step. flops: operations per token."""

    slow: float
    fast: float
    tokens: int
    flops: float

    def rate(self, ms: float) -> float:
        """Tokens per second of a step of `ms` milliseconds."""
        return self.tokens / ms * 1e3

    def mfu(self, ms: float) -> float:
        """MFU in [0, 1] of a step of `ms` milliseconds."""
        return self.rate(ms) * self.flops / peak()


def summed(config: TrainConfig, documents: int, gpu: str = GPU) -> Prediction:
    """The prediction of one step: the sum of its parts and 2% for launches and waits of the host."""
    lines = predict(config, documents)
    model, context = named_config(config.store, config.model), context_of(config.sequence_length, documents)
    shape, weights = _counted(config.name.removeprefix("bench-"), config.method)
    products = 6 * weights.all if config.method == "full" else 4 * weights.all + 6 * shape.trained
    flops = products + 3 * attention_flops(model, context)
    slow, fast = (1.02 * sum(line.ms(which, gpu) for line in lines) for which in (0, 1))
    return Prediction(slow, fast, config.tokens_per_step, flops)


CASES = (("1b", "full", 1), ("1b", "full", 4), ("8b", "lora", 1), ("8b", "lora", 2))
LENGTH, DOCUMENTS = 8192, 4


def document() -> str:
    """The content of PREDICTIONS.md."""
    lines = [
        "# Predicted steps on an H200",
        "",
        "Written before anything ran on a GPU, so that the first run tests this model of a step. Made by",
        "`python -m tests.benchmarks.gpu.predict`; `make gpu` prints the measured step beside it. One GPU, bf16, ddp, "
        "layers",
        f"compiled, varlen attention, fused loss in chunks of {CHUNK:,}, rows of {LENGTH:,} positions with "
        f"{DOCUMENTS} documents on average,",
        "one micro-batch a step. `slow` and `fast` are the two ends of the efficiencies assumed (share of "
        f"{peak() / 1e12:.1f} TFLOP/s or of",
        f"{BANDWIDTH[GPU] / 1e12:.1f} TB/s). The sum has 2% for launches and waits of the host.",
        "",
        "Letters: N positions of a micro-batch, W weights of the layers' products, H hidden size, F feed-forward size,",
        "Q and K the sizes of a layer's queries and keys, V vocabulary, R the adapter's rank.",
    ]
    for shape, method, rows in CASES:
        config = setting(shape, method, rows, LENGTH)
        parts, whole = predict(config, DOCUMENTS), summed(config, DOCUMENTS)
        lines += [
            "",
            f"## {shape}, {method}, micro-batch {rows}",
            "",
            "| part | amount | efficiency | ms, slow | ms, fast | arithmetic |",
            "|---|---|---|---|---|---|",
        ]
        for part in parts:
            amount = f"{part.amount / 1e12:,.2f} TFLOP" if part.unit == "FLOP" else f"{part.amount / 1e9:,.2f} GB"
            low, high = part.efficiency
            times = f"{part.ms(0):,.1f} | {part.ms(1):,.1f}"
            lines.append(f"| {part.part} | {amount} | {low:.0%} to {high:.0%} | {times} | {part.how} |")
        lines += [
            f"| **a step** | | | **{whole.slow:,.0f}** | **{whole.fast:,.0f}** | {whole.tokens:,} tokens |",
            "",
            f"So {whole.rate(whole.slow):,.0f} to {whole.rate(whole.fast):,.0f} tokens/s, MFU "
            f"{whole.mfu(whole.slow):.1%} to {whole.mfu(whole.fast):.1%} at {whole.flops / 1e9:,.2f} GFLOP a token "
            "(positions really attended to).",
        ]
    return "\n".join(lines) + "\n"


def predicted_ms(setting_: dict[str, Any], device: str, rehearsed: bool) -> str:
    """The predicted time for a benchmark's setting, for the table of gpu.py.

    device: name of the card; of one that is not in BANDWIDTH, GPU is predicted. rehearsed: with rows of its own length.
    """
    gpu = device if device in BANDWIDTH else GPU
    length = setting_["sequence_length"] if rehearsed else LENGTH
    whole = summed(setting(setting_["shape"], setting_["method"], setting_["micro_batch"], length), DOCUMENTS, gpu)
    return f"predicted on an {gpu.split()[1]}: {whole.slow:,.0f} to {whole.fast:,.0f} ms"


def planned_gib(setting_: dict[str, Any]) -> float:
    """The memory that `raymill plan` computes for a benchmark's setting, in GiB, without CUDA's context.

    Torch does not count the context either.
    """
    names = ("method", "engine", "precision", "activation_checkpointing", "loss_chunk_tokens")
    config = bench_config(
        setting_["shape"], world=1, gpus=setting_["precision"] == "bf16", sequence_length=setting_["sequence_length"],
        micro_batch=setting_["micro_batch"], accumulation=setting_["accumulation"], steps=9,
        attention="sdpa" if setting_["attention"] == "sdpa" else "auto", compile=setting_["compile"],
        **{name: setting_[name] for name in names},
    )  # fmt: skip
    need = memory(config, shape_of(config), setting_["micro_batch"], 1)
    return (need.total - need.context) / GIB


def main(_: Sequence[str] | None = None) -> int:
    """Print the text of PREDICTIONS.md. Returns the exit status."""
    print(document(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
