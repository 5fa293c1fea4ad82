"""The memory that a worker needs for a training, by part and engine: arithmetic on the shape of a model.

No memory is allocated and no GPU is asked. Letters: N trained values, M frozen ones, W workers.

Weights, gradients and AdamW's state, in bytes of one worker, as the engines of this project keep them (float32 masters
everywhere, see training/engines):

                    weights                gradients        AdamW (masters and averages)
    ddp             4 N + m M              4 N              8 N            the weights are the masters
    fsdp2           (4 N + m M) / W        4 N / W          8 N / W        the same, sharded; `shard: machine`: W of one
    zero1, bf16     2 (N + M)              4 N + 2 N        12 N / W       gradients as computed and summed in float32
    zero2, bf16     2 (N + M)              4 N / W          12 N / W
    zero3, bf16     2 (N + M) / W          4 N / W          12 N / W       parameters below 100,000 values are not
    sharded zero*, float32  4 instead of 2                          12 N / W       masters are kept beside the weights

`optimizer.ema_decay` adds 4 bytes to the masters, sharded or offloaded as they are.

m is 2 in a bf16 run (frozen weights are stored in bf16) and 4 in float32; 4-bit weights take 0.516 bytes (NF4 with
scales quantised twice, Dettmers et al. 2023). Rajbhandari et al. 2020 (arXiv 1910.02054) count 2 + 2 + 12 bytes per
value for mixed-precision Adam; here gradients are summed in float32, so it is 2 + 4 + 12. Offload moves AdamW's part,
and with it the sum of gradients, to CPU memory; `parameters` moves the weights too.

Activations that the backward pass needs, for a decoder of the Llama kind. H hidden size, F feed-forward size, Q = heads
x head size, K = key-value heads x head size, T positions of a row, R an adapter's rank, c bytes of a value in products
(2 or 4), r bytes of a value in the residual stream. The method follows Korthikanti et al. 2022 (arXiv 2205.05198),
section 4: count what each operation of a layer keeps. They count GPT with LayerNorm, GELU and dropout:
s b h (34 + 5 a s / h) bytes. Here, per token and layer, as transformers computes Llama (RMSNorm in float32, SwiGLU,
grouped queries, no dropout):

    norms        2 (4 H + r H)    the input in float32, and the normalised values if the norm's weight is trained
    inputs       2 c H            of q, k, v together and of gate, up together, if those weights are trained;
                 5 c H            if r > c, since autocast casts for each product
    adapters     2 c H            as those inputs, for LoRA's A matrices
                 c (5 H + Q + F)  instead, in bf16 with dropout or DoRA: peft casts the input of each of the seven
                 7 c R            and their results, R values each
    attention    c (2 Q + 2 K)    q, k, v and the result; K counts as Q if a mask makes transformers repeat heads
                 c T              the mask, if there is one (sdpa); eager keeps all probabilities: heads T 4,
                                  and in bf16 a copy of them
    SwiGLU       4 c F            gate, its activation, up, their product (the last only if `down` or an adapter of it
                                  is trained, and not cast)

The `varlen` and flash kernels keep neither mask nor scores. Workers that share rows (`workers.context`) have
T / context positions each, repeat key-value heads if they are fewer, and keep the result of attention twice, before and
after it is exchanged (c Q more).

A compiled layer recomputes what is cheap in the backward pass. Torch's partitioner saves for norms, inputs and SwiGLU
only:

    norms        r H + 8          the layer's input
    inputs       3 c H            of q, k, v together, of gate, up together, and the stream between the two
    SwiGLU       3 c F            gate, up, their product

With `activation_checkpointing: selective` it saves at most 70% of that.

Objectives of answers compute the logits once more, without gradients and a chunk at a time, so this adds nothing.
Reward models compute none.

The loss's compiled part keeps no float32 copy of the logits. An H100 with torch 2.11 allocated 47.4 GiB for 1B in full
with 2 rows of 8,192 tokens and 57.0 for 8B by LoRA with one (2026-11-27, tests/benchmarks/README.md).

The second half finds settings that fit a GPU: the default micro-batch, and the smallest change if a training does not
fit. Changes are ordered by their cost: a smaller micro-batch (the rows of a step stay), then activation checkpointing
(selective, where layers are compiled; then of whole layers, a quarter to a third more computation), then another engine
(communication in every step), then workers that share rows (`workers.context`), then offload.
"""

import functools
import math
import os
from collections import defaultdict
from dataclasses import asdict, dataclass

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError
from raymill.training.compile_choice import KEPT_SHARE, compile_refusal
from raymill.training.config import TrainConfig
from raymill.training.config_parts import Workers
from raymill.training.context_heads import refuse_heads, repeats_of

GIB = 1 << 30
# CUDA's context and the workspaces of cuBLAS and NCCL.
CONTEXT_BYTES = GIB


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model. layer: number of its decoder layer; None for embedding, last norm and lm_head."""

    name: str
    shape: tuple[int, ...]
    trained: bool
    layer: int | None

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Shape:
    """The shape of a model with its adapter.

    hidden: H. feed_forward: F. query: Q = heads x head size. key: K = key-value heads x head size. exact: a decoder of
    the Llama kind, for which the formulas of activations hold; for others they are an estimate. varlen: the attention
    kernel without a mask can compute it, on a GPU in bf16.
    """

    model_type: str
    parameters: tuple[Parameter, ...]
    layers: int
    hidden: int
    feed_forward: int
    query: int
    key: int
    heads: int
    vocabulary: int
    exact: bool
    varlen: bool

    @functools.cached_property
    def total(self) -> int:
        """Number of all parameters."""
        return sum(parameter.size for parameter in self.parameters)

    @functools.cached_property
    def trained(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.size for parameter in self.parameters if parameter.trained)

    @property
    def frozen(self) -> int:
        """Number of frozen parameters."""
        return self.total - self.trained


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker. All but `host` are device memory; host: CPU memory that offload uses.

    logits: of one chunk of positions, with the gradient of the lm_head, beyond the work of the last layer, which comes
    later. buffers: the most that an engine gathers, casts
    or sends at a time. step: what the optimizer's step needs beyond the peak of the backward pass; mostly 0.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    step: int
    context: int
    host: int

    @property
    def total(self) -> int:
        """Bytes of device memory."""
        return sum(asdict(self).values()) - self.host

    @property
    def states(self) -> int:
        """Bytes that stay allocated between steps."""
        return self.weights + self.gradients + self.optimizer


def memory(config: TrainConfig, shape: Shape, micro_batch: int | None = None, workers: int | None = None) -> Memory:
    """The memory of one worker.

    Args:
        micro_batch: rows computed at a time; default: the config's, or about 8,192 positions. choices.py finds the
            largest that fits a GPU.
        workers: default: the minimum of the config.
    """
    world = workers or config.workers.range[0]
    how = forward_pass(config, shape, micro_batch or config.micro_rows(world))
    engine = states(config, shape, world)
    activations = kept_bytes(shape, how) + work_bytes(shape, how)
    logits = max(0, loss_bytes(config, shape, how) - work_bytes(shape, how))
    return Memory(
        **engine,
        activations=activations,
        logits=logits,
        step=max(0, step_bytes(config, shape, world) - activations - logits - engine["buffers"]),
        context=CONTEXT_BYTES if config.workers.gpus_each else 0,
    )


def loss_bytes(config: TrainConfig, shape: Shape, how: "Pass") -> int:
    """Peak bytes of the loss of one chunk of positions, with the gradient of the lm_head."""
    if config.training_method.classifies or config.objective == "reward":
        return 0
    positions = min(config.loss_chunk, how.tokens)
    full, head = config.training_method.trains_base, shape.vocabulary * shape.hidden
    if config.engine == "zero3":  # loss.py, chunked: the lm_head's gradient of a chunk as computed, and its sum
        chunk = logit_bytes(shape, positions, how.compute_bytes)
        return chunk + head * (6 if config.bf16 else 4) if full else chunk
    # Logits, probabilities and what cross entropy keeps of them, in float32; in bf16 also the gradient. Compiled, the
    # logits and their gradient.
    chunk = positions * shape.vocabulary * (2 * how.compute_bytes if how.compiles_loss else 14 if config.bf16 else 12)
    if not full:
        return chunk
    # loss.py, fused: the maximum of its three peaks. When a chunk's gradient is computed, beside the lm_head's in
    # float32; when it is added to that, by a product in bf16 (which CPUs cast besides); at the start of the backward.
    added = 0 if not config.bf16 else 2 if config.workers.gpus_each else 6
    gradient = how.compute_bytes * positions * shape.vocabulary
    return max(chunk + 4 * head, gradient + (4 + added) * head, 8 * head)


def forward_pass(config: TrainConfig, shape: Shape, micro_batch: int) -> "Pass":
    """The forward pass of a config. Attention `auto` is the kernel without a mask if models/attention.py chooses it."""
    kernel = config.attention in ("varlen", "flash_attention_2") or (
        config.attention == "auto"
        and config.workers.gpus_each > 0
        and config.bf16
        and shape.varlen
        and not config.training_method.virtual
    )
    sharing = config.workers.context
    adapts = config.training_method.merges
    masters_compute = config.engine == "ddp" and config.training_method.trains_base
    return Pass(
        tokens=micro_batch * config.sequence_length // sharing,
        length=config.sequence_length,
        sharing=sharing,
        compute_bytes=2 if config.bf16 else 4,
        residual_bytes=2 if config.bf16 and not masters_compute else 4,
        whole=config.training_method.trains_base,
        adapter_rank=config.lora.rank if adapts else 0,
        adapter_casts=adapts and config.bf16 and (config.lora.dora or config.lora.dropout > 0),
        attention="kernel" if kernel or sharing > 1 else "scores" if config.attention == "eager" else "mask",
        checkpointing=config.activation_checkpointing is True,
        kept_share=KEPT_SHARE if config.activation_checkpointing == "selective" else 1.0,
        compiled=compile_refusal(config, shape.model_type) is None,
        compiles_loss=config.workers.gpus_each > 0 and config.compile is not False,
        backward=not config.training_method.classifies,
    )


# Weights, gradients and optimizer state

# Of DeepSpeed, as engines/zero.py sets it up.
# Values of one communication, and of the buffer that it needs.
BUCKET_VALUES = 1 << 26
# ZeRO-3 keeps tensors of fewer values whole on every worker: norms, and the matrices of most adapters.
WHOLE_BELOW_VALUES = 100_000
# 4 bits, and 0.127 bits for the scales: Dettmers et al. 2023, section 3.
_NF4_BYTES = 4.127 / 8
# DeepSpeed's own default.
_MOST_GATHERED_VALUES = 1_000_000_000


def states(config: TrainConfig, shape: Shape, world: int) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer, buffers and host, with the config's engine on `world` workers."""
    match config.engine:
        case "ddp":
            return _ddp(config, shape)
        case "fsdp2":
            return _fsdp2(config, shape, world)
        case _:
            return _zero(config, shape, world)


def step_bytes(config: TrainConfig, shape: Shape, world: int) -> int:
    """Bytes that the optimizer's step allocates. The fused AdamW and clipping work in place: 0. Muon needs copies of
    the largest matrix.

    DeepSpeed's stages 1 and 2 copy the summed gradients of a float32 run to a flat buffer; those of a bf16 run are
    summed in a flat buffer.
    """
    if config.optimizer.algorithm == "muon":
        # Of the largest matrix: its direction and update in float32, and the iterations' matrices in bf16.
        return 16 * max((p.size for p in shape.parameters if p.layer is not None and len(p.shape) == 2), default=0)
    if config.engine in ("zero1", "zero2") and not config.bf16 and config.offload == "none":
        return 4 * math.ceil(shape.trained / world)
    return 0


def optimizer_bytes(config: TrainConfig, parameter: Parameter) -> int:
    """Bytes that the optimizer keeps of a value of a trained parameter, besides the master weight."""
    muon = config.optimizer.algorithm == "muon" and parameter.layer is not None and len(parameter.shape) == 2
    return (4 if muon else 8) + (0 if config.optimizer.ema_decay is None else 4)


def frozen_bytes(config: TrainConfig, shape: Shape) -> int:
    """Bytes of the frozen weights, unsharded."""
    if config.training_method.four_bit:
        packed = sum(p.size for p in shape.parameters if not p.trained and p.layer is not None and len(p.shape) > 1)
        return int(packed * _NF4_BYTES) + 2 * (shape.frozen - packed)
    # The frozen lm_head of a reward model that is trained in full is stored as its other weights.
    in_full = config.objective == "reward" and config.training_method.trains_base
    return (2 if config.bf16 and not in_full else 4) * shape.frozen


def _ddp(config: TrainConfig, shape: Shape) -> dict[str, int]:
    """Autocast keeps a bf16 copy of every trained matrix during a forward and backward pass."""
    trained = shape.trained
    matrices = sum(p.size for p in shape.parameters if p.trained and len(p.shape) > 1)
    return {
        "weights": 4 * trained + frozen_bytes(config, shape),
        "gradients": 4 * trained,
        "optimizer": sum(optimizer_bytes(config, p) * p.size for p in shape.parameters if p.trained),
        "buffers": 2 * matrices if config.bf16 else 0,
        "host": 0,
    }


def _fsdp2(config: TrainConfig, shape: Shape, world: int) -> dict[str, int]:
    """The first worker's shards, which are the largest: rows are split evenly, rounded up.

    Unsharded at a time: two layers (the one computed and the next) and the parameters outside of layers; their
    gradients as computed, and a layer's in float32 while they are reduced.
    """
    world = shard_workers(config, world)
    wide = 2 if config.bf16 else 4
    trained = frozen = kept = 0
    for p in shape.parameters:
        rows, *rest = p.shape or (1,)
        part = math.ceil(rows / world) * math.prod(rest)
        kept += part * optimizer_bytes(config, p) if p.trained else 0
        trained, frozen = (trained + part, frozen) if p.trained else (trained, frozen + part)
    layers: dict[int | None, list[Parameter]] = defaultdict(list)
    for p in shape.parameters:
        layers[p.layer].append(p)
    outside = layers.pop(None, [])
    layer = max(layers.values(), key=_size, default=[])
    gathered = wide * (2 * _size(layer) + _size(outside))
    sent = (wide + 4) * (_size(layer, trained=True) + _size(outside, trained=True))
    return {
        "weights": 4 * trained + wide * frozen,
        "gradients": 4 * trained + (0 if config.reduce_every_micro_batch else 4 * shape.trained),
        "optimizer": kept,
        "buffers": gathered + sent if world > 1 else gathered if config.bf16 else 0,
        "host": 0,
    }


# Workers of a machine, where none is asked: GPUs of an HGX or DGX.
_MACHINE_WORKERS = 8


def shard_workers(config: TrainConfig, world: int) -> int:
    """The workers among which fsdp2 divides the model. In a worker, a machine has as many as its own; else 8."""
    if config.shard == "all":
        return world
    return min(world, int(os.environ.get("LOCAL_WORLD_SIZE", _MACHINE_WORKERS)))


def bytes_between_machines(config: TrainConfig, shape: Shape, world: int) -> float:
    """Bytes that engine fsdp2 sends out of each machine in a step: weights and gradients in rings, which cross the
    border of a machine once.

    With `shard: all`, each micro-batch gathers the weights twice and reduces float32 gradients once. With `machine`,
    a step sums the float32 gradients, which takes two rounds.
    """
    machines = world / min(world, shard_workers(config.model_copy(update={"shard": "machine"}), world))
    share = 1 - 1 / machines
    if config.shard == "machine":
        return 2 * 4 * shape.trained * share
    micro_batches = math.ceil(config.rows_of_worker(world) / config.micro_rows(world))
    reductions = micro_batches if config.reduce_every_micro_batch else 1
    wide = 2 if config.bf16 else 4
    return share * (2 * wide * shape.total * micro_batches + 4 * shape.trained * reductions)


def exchanged_bytes(config: TrainConfig, shape: Shape, world: int) -> int:
    """Bytes that each worker sends in a step to the others that share its rows: queries, keys, values and results of
    attention in the forward pass, again if layers are recomputed, and their gradients; 0 without `workers.context`.
    """
    sharing = config.workers.context
    passes = 3 if config.activation_checkpointing is True else 2
    position = (2 if config.bf16 else 4) * (2 * shape.query + 2 * exchanged_keys(shape, sharing))
    positions = config.rows_of_worker(world) * config.sequence_length // sharing
    return passes * shape.layers * positions * position * (sharing - 1) // sharing


def _zero(config: TrainConfig, shape: Shape, world: int) -> dict[str, int]:
    """ZeRO stage 1 accumulates unsharded gradients, in bf16 runs also as they were computed."""
    stage = int(config.engine.removeprefix("zero"))
    wide = 2 if config.bf16 else 4
    trained = shape.trained
    part = math.ceil(trained / world)
    bucket = min(BUCKET_VALUES, trained)
    # A bucket being filled, one being sent, and one cast to float32 for the reduction.
    buffers = bucket * (2 * wide + 4)
    gradients = ((wide if config.bf16 else 0) + 4) * trained if stage == 1 else 4 * part
    if stage < 3:
        weights = wide * shape.total
    else:
        whole = sum(p.size for p in shape.parameters if p.size < WHOLE_BELOW_VALUES)
        weights = wide * (sum(math.ceil(p.size / world) for p in shape.parameters) + whole)
        # Its bucket is allocated once at full size, in float32.
        buffers = 4 * BUCKET_VALUES + bucket * 2 * wide
        buffers += wide * min(shape.total - whole, _MOST_GATHERED_VALUES)
    each = 8 if config.optimizer.ema_decay is None else 12
    optimizer, host = (4 + each) * part, 0
    if config.offload != "none":
        # Masters and averages, the sum of gradients and a pinned copy of it, and the shard of the weights as computed.
        optimizer, host = 0, (12 + each + wide) * part
        gradients = wide * part
        if config.offload == "parameters":
            host += weights
            weights = 0
    return {"weights": weights, "gradients": gradients, "optimizer": optimizer, "buffers": buffers, "host": host}


def _size(parameters: list[Parameter], trained: bool = False) -> int:
    return sum(p.size for p in parameters if p.trained or not trained)


# Activations


@dataclass(frozen=True)
class Pass:
    """A forward pass.

    tokens: of a micro-batch on one worker. length: of a row. sharing: workers that share a row. compute_bytes,
    residual_bytes: c and r. whole: all weights train, not an adapter. adapter_rank: of lora and qlora, else 0.
    adapter_casts: peft casts the inputs of its matrices. attention: `kernel` (varlen, flash), `mask` (sdpa) or `scores`
    (eager). kept_share: of what compiled layers would keep, with selective recomputing. compiled: the layers are;
    compiles_loss: a part of the loss is. backward: False for a classifier, which keeps nothing.
    """

    tokens: int
    length: int
    sharing: int
    compute_bytes: int
    residual_bytes: int
    whole: bool
    adapter_rank: int
    adapter_casts: bool
    attention: str
    checkpointing: bool
    kept_share: float
    compiled: bool
    compiles_loss: bool
    backward: bool


def saved_by_layer(shape: Shape, how: Pass) -> int:
    """Bytes that one layer keeps for the backward pass."""
    c, r, h, f = how.compute_bytes, how.residual_bytes, shape.hidden, shape.feed_forward
    keys = exchanged_keys(shape, how.sharing) if how.attention == "kernel" else shape.query
    attention = c * ((2 if how.sharing == 1 else 3) * shape.query + 2 * keys) + 4 * shape.heads
    if how.attention == "mask":
        attention += c * how.length
    elif how.attention == "scores":
        attention += shape.heads * how.length * (4 if c == 4 else 4 + c)
    # Inputs that peft casts, for dropout and DoRA, are counted as without compiling.
    if how.compiled and not how.adapter_casts:
        kept = r * h + 8 + 3 * c * h + 7 * c * how.adapter_rank + attention + 3 * c * f
        return int(how.tokens * how.kept_share * kept)
    norms = 2 * (4 * h + (r * h if how.whole else 0) + 4)
    if how.whole:
        inputs = c * h * (5 if r > c else 2)
    else:
        inputs = c * (5 * h + shape.query + f) if how.adapter_casts else c * 2 * h
        inputs += 7 * c * how.adapter_rank
    swiglu = c * f * (4 if how.whole or (how.adapter_rank and not how.adapter_casts) else 3)
    return how.tokens * (norms + inputs + attention + swiglu)


def exchanged_keys(shape: Shape, sharing: int) -> int:
    """Values of a position's keys, with the key-value heads repeated so that `sharing` workers get equally many."""
    return shape.key * repeats_of(shape.key * shape.heads // shape.query, sharing)


def kept_bytes(shape: Shape, how: Pass) -> int:
    """Bytes that the forward pass keeps for the backward pass. With checkpointing, only each layer's input.

    Without a backward pass, the input of one layer.
    """
    c, r, h = how.compute_bytes, how.residual_bytes, shape.hidden
    if not how.backward:
        return how.tokens * r * h
    # The last norm and its result, the rotary table, token numbers.
    ends = how.tokens * (4 * h + r * h + max(r, c) * h + 8 * shape.query // shape.heads + 32)
    layer = how.tokens * r * h if how.checkpointing else saved_by_layer(shape, how)
    return shape.layers * layer + ends


def work_bytes(shape: Shape, how: Pass) -> int:
    """Peak bytes beside what is kept: of the last layer's backward pass, which is the first.

    The gradients of the SwiGLU's three values and, in float32, of the norm; with checkpointing also all that the layer
    keeps when it is recomputed, and with selective checkpointing a share of it. Without a backward pass, of a layer's
    forward pass.
    """
    c, r, h = how.compute_bytes, how.residual_bytes, shape.hidden
    if not how.backward:
        return saved_by_layer(shape, how)
    work = how.tokens * (3 * c * shape.feed_forward + (2 * r + 8) * h)
    again = 1.0 if how.checkpointing else 1 / how.kept_share - 1
    return work + int(again * saved_by_layer(shape, how))


def logit_bytes(shape: Shape, chunk_tokens: int, compute_bytes: int) -> int:
    """Bytes of one chunk of positions: float32 log-probabilities, two gradients of them, and one as computed."""
    return chunk_tokens * shape.vocabulary * (12 + compute_bytes)


_shape_of = Entry("raymill.training.models.cost:shape_of")

# Share of a GPU's memory. The rest is for fragmentation and for the error of the memory model, whose
# activations are within a tenth of what autograd keeps (tests/training/plan/test_memory_model.py).
USABLE = 0.9
_CLEARLY_LESS = 0.85
MARGIN = f"{1 - USABLE:.0%} is left for fragmentation and the error of the estimate"

# From the least communication to the most. Offload is last, because it is slowest.
CHOICES = (
    ("ddp", "none"),
    ("zero1", "none"),
    ("zero2", "none"),
    ("fsdp2", "none"),
    ("zero3", "none"),
    ("zero2", "optimizer"),
    ("zero3", "optimizer"),
    ("zero3", "parameters"),
)


def possible_choices(config: TrainConfig) -> list[TrainConfig]:
    """The config with each engine and offload that are possible, in the order of CHOICES, and with its own."""
    found = []
    own = (config.engine, config.offload)
    for engine, offload in (*CHOICES, own) if own not in CHOICES else CHOICES:
        if config.training_method.four_bit and engine != "ddp":
            continue
        if engine == "zero3" and (config.compile is True or config.activation_checkpointing == "selective"):
            continue
        if not config.workers.gpus_each and offload != "none":
            continue
        found.append(config.model_copy(update={"engine": engine, "offload": offload}))
    return found


def most_rows(config: TrainConfig, shape: Shape, device_bytes: float, limit: int, workers: int | None = None) -> int:
    """The largest micro-batch, up to `limit` rows, that fits a device of `device_bytes`; 0 if one row does not fit."""
    fewest, most = 0, limit
    while fewest < most:
        rows = (fewest + most + 1) // 2
        if memory(config, shape, rows, workers).total <= USABLE * device_bytes:
            fewest = rows
        else:
            most = rows - 1
    return fewest


def default_rows(config: TrainConfig, shape: Shape, device_bytes: float | None, workers: int | None = None) -> int:
    """Rows that a worker computes at a time: `micro_batch` of the config, else the most that fit the device.

    Args:
        device_bytes: None if unknown; the default is then about 8,192 positions.
        workers: default: the minimum of the config.

    Returns:
        At least 1, even if one row does not fit.
    """
    world = workers or config.workers.range[0]
    if config.micro_batch or device_bytes is None:
        return config.micro_rows(world)
    share = config.rows_of_worker(world)
    return config.micro_rows(world, max(1, most_rows(config, shape, device_bytes, share, world)))


def fits(config: TrainConfig, shape: Shape, device_bytes: float) -> bool:
    """Whether a worker fits a device of `device_bytes`, with the config's `micro_batch` or the default one."""
    return memory(config, shape, default_rows(config, shape, device_bytes)).total <= USABLE * device_bytes


def smallest_change(config: TrainConfig, shape: Shape, device_bytes: float) -> TrainConfig | None:
    """The config itself if it fits, else with the smallest change, in this module's order; None: nothing fits."""
    checkpointing = [config]
    if config.training_method.recomputes and config.activation_checkpointing is not True:
        stronger = ["selective"] if not config.activation_checkpointing else []
        checkpointing += [config.model_copy(update={"activation_checkpointing": one}) for one in (*stronger, True)]
    same = (config.engine, config.offload)
    others = [one for one in possible_choices(config) if (one.engine, one.offload) != same]
    kept, offloaded = ([one for one in others if (one.offload == "none") == on_device] for on_device in (True, False))
    shared = [
        one.model_copy(update={"workers": more}) for more in _with_shared_rows(config, shape) for one in checkpointing
    ]
    return (
        first_that_fits(checkpointing, [config], shape, device_bytes)
        or first_that_fits(checkpointing, kept, shape, device_bytes)
        or first_that_fits(shared, [config, *kept], shape, device_bytes)
        or first_that_fits(checkpointing + shared, offloaded, shape, device_bytes)
    )


def _with_shared_rows(config: TrainConfig, shape: Shape) -> list[Workers]:
    """The settings `workers` with each larger number that can share a row, the smallest first."""
    found = []
    for sharing in range(config.workers.context + 1, config.workers.range[0] + 1 if shape.varlen else 0):
        workers = config.workers.model_copy(update={"context": sharing})
        try:
            config.model_copy(update={"workers": workers}).check_context()
            refuse_heads(shape.heads, shape.key * shape.heads // shape.query, sharing)
        except (ValueError, ConfigError):
            continue
        found.append(workers)
    return found


def first_that_fits(
    checkpointing: list[TrainConfig], engines: list[TrainConfig], shape: Shape, device_bytes: float
) -> TrainConfig | None:
    """The first that fits; each of `checkpointing` is tried with all engines before the next. None: nothing fits."""
    for base in checkpointing:
        for engine in engines:
            one = base.model_copy(update={"engine": engine.engine, "offload": engine.offload})
            if one.activation_checkpointing == "selective" and compile_refusal(one, shape.model_type):
                continue
            own = one.micro_rows(one.workers.range[0])
            limit = own if one.micro_batch else one.rows_of_worker(one.workers.range[0])
            rows = most_rows(one, shape, device_bytes, limit)
            if rows:
                return one.model_copy(update={"micro_batch": rows}) if one.micro_batch and rows < own else one
    return None


def changes(before: TrainConfig, after: TrainConfig) -> str:
    """The settings that differ, as in a config: `micro_batch: 2, activation_checkpointing: true`."""
    names = ("micro_batch", "activation_checkpointing", "engine", "offload")
    differ = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
    if after.workers.context != before.workers.context:
        differ["workers.context"] = after.workers.context
    return ", ".join(f"{name}: {str(value).lower() if value is True else value}" for name, value in differ.items())


def check_memory(config: TrainConfig) -> None:
    """Check that the training fits `device_memory_gib`, if the config has it. Then torch is loaded.

    Raises:
        ConfigError: it does not fit; the message has the bytes by part and the smallest change that fits.
    """
    if config.device_memory_gib is None:
        return
    shape, device = _shape_of(config), config.device_memory_gib * GIB * config.gpu_fraction
    if fits(config, shape, device):
        return
    rows = default_rows(config, shape, device)
    need = memory(config, shape, rows)
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in asdict(need).items() if size and name != "host")
    raise ConfigError(
        f"device_memory_gib: a worker needs about {need.total / GIB:.1f} GiB ({parts}) with engine {config.engine} and "
        f"micro_batch {rows}; the GPU has {config.device_memory_gib:g}, of which {USABLE * device / GIB:.1f} can be "
        f"used ({MARGIN}). {suggested_change(config, shape, device)}"
    )


def suggested_change(config: TrainConfig, shape: Shape, device_bytes: float) -> str:
    """A sentence with the smallest change of settings that fits."""
    if (found := smallest_change(config, shape, device_bytes)) is not None:
        return f"The smallest change that fits: {changes(config, found)}."
    more = "method lora, " if config.training_method.trains_base else ""
    least = config.workers.range[0]
    workers = "1 worker" if least == 1 else f"{least} workers"
    return f"No engine fits on {workers}: use {more}more workers, or a shorter sequence_length."


def smaller_change(config: TrainConfig, shape: Shape, workers: int) -> str:
    """A sentence with the smallest change for a training that ran out of memory, although it may fit by the estimate.

    config: with its `micro_batch`. workers: number of those that ran.
    """
    own = config.workers.model_copy(update={"count": workers})
    need = memory(config, shape, config.micro_rows(workers), workers).total
    # The estimate of a change must be lower by more than the estimate's own error.
    return suggested_change(config.model_copy(update={"workers": own}), shape, _CLEARLY_LESS * need / USABLE)
