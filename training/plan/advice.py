"""Warnings about settings that are valid and probably not intended: sentences with a number and what to change."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raymill.training.config import TrainConfig
from raymill.training.methods import METHODS, MethodName
from raymill.training.plan.data import Data
from raymill.training.plan.memory import (
    GIB,
    Shape,
    bytes_between_machines,
    fits,
    forward_pass,
    loss_bytes,
    shard_workers,
)


@dataclass(frozen=True)
class PlannedTraining:
    """A training as far as it is known before it runs.

    device_gib: memory of a GPU, None if unknown. planned_on_gpu: the plan is for a GPU.
    """

    config: TrainConfig
    shape: Shape
    data: Data
    steps: int
    device_gib: float | None
    planned_on_gpu: bool = False

    def would_fit(self, engine: str, offload: str = "none") -> bool | None:
        """Whether the config fits the GPU with another engine; None if the GPU is unknown."""
        if self.device_gib is None:
            return None
        other = self.config.model_copy(update={"engine": engine, "offload": offload})
        return fits(other, self.shape, self.device_gib * GIB)


Advice = Callable[[PlannedTraining], Iterator[str]]


def advise(facts: PlannedTraining) -> list[str]:
    """All warnings about a training, a sentence each."""
    return [sentence for advice in ADVICE for sentence in advice(facts)]


def no_gpus(facts: PlannedTraining) -> Iterator[str]:
    """A plan for GPUs, and the config uses none."""
    if facts.planned_on_gpu and not facts.config.workers.gpus_each:
        yield (
            "workers.gpus_each: 0, so this trains on CPUs (in float32 unless precision says otherwise); "
            "the plan counts one such GPU a worker. Set workers.gpus_each: 1."
        )


def sharded_adapter(facts: PlannedTraining) -> Iterator[str]:
    """Sharding saves memory of trained parameters: little for an adapter, and the base is gathered in every pass."""
    config = facts.config
    if config.training_method.trains_base or config.engine not in ("zero3", "fsdp2") or facts.would_fit("ddp") is False:
        return
    if config.engine == "fsdp2" and config.workers.range[0] != config.workers.range[1]:
        return
    known = " and fits" if facts.would_fit("ddp") else ", unless the base does not fit a GPU (set --gpu)"
    yield (
        f"engine: {config.engine} with method {config.method} gathers all {facts.shape.total:,} weights in every "
        f"pass to save the optimizer state of {facts.shape.trained:,}; ddp sends those alone{known}."
    )


def usual_rates(method: MethodName, parameters: int, from_scratch: bool) -> tuple[float, float]:
    """Lowest and highest usual learning rate for the method, the model's size and its start (trained or random).

    Full: 2e-5 for 7B (Llama 2, section 3.1), small models more. From scratch: Brown et al. 2020, table 2.1 (6e-4 for
    125M to 6e-5 for 175B), and tiny models up to ten times the highest.
    """
    if METHODS[method].trains_base:
        if from_scratch:
            return (6e-5, 6e-3) if parameters < 1e9 else (2e-5, 1e-3)
        return (2e-6, 2e-4) if parameters < 1e9 else (1e-6, 5e-5)
    lowest, highest = METHODS[method].usual_rates
    return (lowest, 10 * highest) if from_scratch else (lowest, highest)


def learning_rate(facts: PlannedTraining) -> Iterator[str]:
    """A rate outside the usual range of the method."""
    config = facts.config
    lowest, highest = usual_rates(config.method, facts.shape.total, config.model.config is not None)
    if config.training_objective.records != "text":  # Meng et al. 2024, table 7: 3e-7 to 1e-6 for 7B in full
        lowest /= 10
    rate = config.optimizer.learning_rate
    if not lowest <= rate <= highest:
        start = "random weights" if config.model.config else "a trained model"
        side = "below" if rate < lowest else "above"
        yield (
            f"optimizer.learning_rate: {rate:g} is {side} what is usual for method {config.method} on {start} of "
            f"{facts.shape.total / 1e9:.2g}B parameters, {lowest:g} to {highest:g}."
        )


# Bits that a trained parameter stores, and bits of information of a token of text, as Schulman et al. 2025 ("LoRA
# without regret") take them from Allen-Zhu and Li 2024 and from losses of language models. The second is an upper
# bound: memorising every token would need it.
BITS_PER_PARAMETER = 2
BITS_PER_TOKEN = 1


def small_adapter(facts: PlannedTraining) -> Iterator[str]:
    """An adapter with less capacity than the information in the data learns less than full fine-tuning."""
    config, trained = facts.config, facts.shape.trained
    if not config.training_method.merges:
        return
    tokens = min(sum(facts.data.tokens.values()), facts.steps * config.rows_per_step * facts.data.tokens_per_row)
    seen = round(tokens * facts.data.label_share)
    room, wanted = trained * BITS_PER_PARAMETER, seen * BITS_PER_TOKEN
    if wanted <= room:
        return
    rank = math.ceil(config.lora.rank * wanted / room)
    use = f"use lora.rank: {rank:,} or more" if rank <= facts.shape.hidden else "use method: full"
    yield (
        f"lora.rank: {config.lora.rank} is small for these data. {trained:,} parameters x {BITS_PER_PARAMETER} bits = "
        f"{room:,} bits; {seen:,} label tokens x {BITS_PER_TOKEN} bit = {wanted:,} bits. If held-out loss stays "
        f"above what full fine-tuning reaches, {use}."
    )


def large_rank(facts: PlannedTraining) -> Iterator[str]:
    """The product of an adapter's matrices has at most the rank of the matrix that it is added to."""
    config, hidden = facts.config, facts.shape.hidden
    if config.training_method.merges and config.lora.rank > hidden:
        yield (
            f"lora.rank: {config.lora.rank:,} is above the model's hidden size, {hidden:,}, so most of the adapter's "
            f"{facts.shape.trained:,} parameters add nothing. Use {hidden:,} or less, or method: full."
        )


def idle_workers(facts: PlannedTraining) -> Iterator[str]:
    """A step takes as long as the worker with the most rows."""
    config, rows = facts.config, facts.config.rows_per_step
    least, most = config.workers.range
    sharing = config.workers.context
    uneven = [world for world in range(least, most + 1) if rows * sharing % world]
    if not uneven:
        return
    idle = {world: 1 - rows * sharing / (world * config.rows_of_worker(world)) for world in uneven}
    worst = max(idle, key=lambda world: idle[world])
    even = [world for world in range(sharing, max(most, 2) * 2, sharing) if rows * sharing % world == 0]
    shown = f"{worst} workers" if least == most else f"of {least} to {most} workers, {worst}"
    many = f"{', '.join(map(str, even))} workers" if even[-1] > 1 else "1 worker alone"
    yield (
        f"tokens_per_step: a step has {rows} rows, which {shown} cannot share evenly: {idle[worst]:.0%} of their time "
        f"is spent waiting. The rows divide evenly among {many}."
    )


def short_documents(facts: PlannedTraining) -> Iterator[str]:
    """Unpacked rows of short documents are mostly padding; packed rows of many documents could be shorter."""
    per_row, length = facts.data.documents_per_row, facts.config.sequence_length
    if per_row is None or facts.config.objective == "grpo":  # its rows are prompts, and answers are packed
        return
    filled = facts.data.tokens_per_row / length
    if facts.config.packing.mode == "none" and filled < 0.5:
        yield (
            f"sequence_length: rows of {length:,} are {1 - filled:.0%} padding, since a row is one document of "
            f"{facts.data.tokens_per_row:,.0f} tokens on average. Use a shorter sequence_length"
            + ("." if facts.config.training_method.one_document else ", or packing.mode: best_fit.")
        )
    elif per_row > 16:
        yield (
            f"sequence_length: a row of {length:,} holds {per_row:.0f} documents on average. Attention stays inside "
            "each, so shorter rows would train on the same tokens with less memory."
        )


def many_epochs(facts: PlannedTraining) -> Iterator[str]:
    """Up to 4 epochs are worth almost as much as new data: Muennighoff et al. 2023, arXiv 2305.16264."""
    epochs = facts.data.epochs(facts.steps // facts.config.steps_per_row)
    if epochs > 4:
        yield f"epochs: {epochs:.1f} passes over the data; after about 4 each further one improves the model less."


def long_warm_up(facts: PlannedTraining) -> Iterator[str]:
    """A warm-up of more than a fifth of the steps."""
    optimizer = facts.config.optimizer
    share = optimizer.warmup(facts.steps) / facts.steps
    if share > 0.2:
        name = "warmup_steps" if optimizer.warmup_fraction is None else "warmup_fraction"
        yield f"optimizer.{name}: {share:.0%} of the {facts.steps:,} steps; 1% to 10% is usual."


def large_chunks(facts: PlannedTraining) -> Iterator[str]:
    """Logits that take more than a tenth of a GPU's memory."""
    config = facts.config
    how = forward_pass(config, facts.shape, config.micro_rows(config.workers.range[0]))
    logits = loss_bytes(config, facts.shape, how)
    limit = (facts.device_gib or 80) * GIB / 10
    if logits > limit and (facts.config.loss_chunk_tokens or 0) > 256:  # the default is not worth a warning
        yield (
            f"loss_chunk_tokens: {facts.config.loss_chunk:,} positions of {facts.shape.vocabulary:,} logits "
            f"take {logits / GIB:.1f} GiB; a quarter of them takes less and is hardly slower."
        )


def needless_offload(facts: PlannedTraining) -> Iterator[str]:
    """Offload where the engine fits the GPU without it."""
    config = facts.config
    if config.offload != "none" and facts.would_fit(config.engine):
        yield f"offload: {config.engine} fits the GPU without it, and every step would wait for CPU memory."


def small_on_many(facts: PlannedTraining) -> Iterator[str]:
    """A small model on many GPUs, or a sharding engine where ddp fits: communication takes most of the time."""
    config = facts.config
    most = config.workers.range[1]
    if not config.workers.gpus_each or most < 8:
        return
    tokens = config.tokens_per_step / most
    if facts.shape.total < 1e9 and tokens < 8192:
        yield (
            f"workers.count: {most} GPUs compute {tokens:,.0f} tokens each in a step of a model of "
            f"{facts.shape.total / 1e9:.2g}B parameters and spend the rest of it communicating. Use fewer "
            "GPUs, or more tokens_per_step."
        )
    if config.engine in ("zero3", "fsdp2") and config.training_method.trains_base and facts.would_fit("ddp"):
        yield f"engine: {config.engine} gathers weights in every pass, and ddp fits the GPU."


def sharded_over_machines(facts: PlannedTraining) -> Iterator[str]:
    """fsdp2 over several machines, whose model fits the GPUs of one: weights need not cross the network."""
    config, shape = facts.config, facts.shape
    most = config.workers.range[1]
    one = config.model_copy(update={"shard": "machine"})
    if config.engine != "fsdp2" or config.shard == "machine" or shard_workers(one, most) == most:
        return
    if facts.device_gib is None or not fits(one, shape, facts.device_gib * GIB):
        return
    now, then = (bytes_between_machines(each, shape, most) / 1e9 for each in (config, one))
    if then < now / 2:
        yield (
            f"shard: {most} workers send {now:,.3g} GB out of each machine of 8 in a step. The model fits the GPUs of "
            f"one machine: with shard: machine it is {then:,.3g} GB."
        )


ADVICE: tuple[Advice, ...] = (
    sharded_over_machines,
    no_gpus,
    sharded_adapter,
    learning_rate,
    small_adapter,
    large_rank,
    idle_workers,
    short_documents,
    many_epochs,
    long_warm_up,
    large_chunks,
    needless_offload,
    small_on_many,
)
