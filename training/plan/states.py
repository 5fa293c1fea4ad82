"""Bytes of weights, gradients, optimizer and engine buffers of one worker: the table of memory.py, computed."""

import math
from typing import TYPE_CHECKING, TypedDict

from training.engines.zero_settings import BUCKET_VALUES, WHOLE_BELOW_VALUES

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.plan.shape import Parameter, Shape

# 4 bits, and 0.127 bits for the scales: Dettmers et al. 2023, section 3.
_NF4_BYTES = 4.127 / 8
# DeepSpeed's own default.
_MOST_GATHERED_VALUES = 1_000_000_000


class States(TypedDict):
    """As in memory.Memory."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    host: int


def states(config: "TrainConfig", shape: "Shape", world: int) -> States:
    match config.engine:
        case "ddp":
            return _ddp(config, shape)
        case "fsdp2":
            return _fsdp2(config, shape, world)
        case _:
            return _zero(config, shape, world)


def step_bytes(config: "TrainConfig", shape: "Shape", world: int) -> int:
    """What the optimizer's step makes beside the state. The fused AdamW works in place, and so does clipping.

    DeepSpeed's stages 1 and 2 join the summed gradients of a float32 run to a flat copy, from the first step on; those
    of a bf16 run are summed in one flat buffer from the start.
    """
    if config.engine in ("zero1", "zero2") and not config.bf16 and config.offload == "none":
        return 4 * math.ceil(shape.trained / world)
    return 0


def frozen_bytes(config: "TrainConfig", shape: "Shape") -> int:
    """Whole, on one device."""
    if config.method == "qlora":
        packed = sum(p.size for p in shape.parameters if not p.trained and p.layer is not None and len(p.shape) > 1)
        return int(packed * _NF4_BYTES) + 2 * (shape.frozen - packed)
    return (2 if config.bf16 else 4) * shape.frozen


def _ddp(config: "TrainConfig", shape: "Shape") -> States:
    """Autocast keeps a bf16 copy of every trained matrix from its first use in the forward pass."""
    trained = shape.trained
    matrices = sum(p.size for p in shape.parameters if p.trained and len(p.shape) > 1)
    return States(
        weights=4 * trained + frozen_bytes(config, shape),
        gradients=4 * trained,
        optimizer=8 * trained,
        buffers=2 * matrices if config.bf16 else 0,
        host=0,
    )


def _fsdp2(config: "TrainConfig", shape: "Shape", world: int) -> States:
    """The first worker's parts: rows are dealt in equal runs, rounded up.

    Whole at once: two layers (the one at work and the next), and what stands outside of layers; their gradients as
    computed, and a layer's in float32 on their way to the workers that keep them.
    """
    wide = 2 if config.bf16 else 4
    trained = sum(_rows_part(p, world) for p in shape.parameters if p.trained)
    frozen = sum(_rows_part(p, world) for p in shape.parameters if not p.trained)
    layer, outside = _largest_layer(shape), [p for p in shape.parameters if p.layer is None]
    gathered = wide * (2 * _size(layer) + _size(outside))
    sent = (wide + 4) * (_size(layer, trained=True) + _size(outside, trained=True))
    return States(
        weights=4 * trained + wide * frozen,
        gradients=4 * trained + (0 if config.reduce_every_micro_batch else 4 * shape.trained),
        optimizer=8 * trained,
        buffers=gathered + sent if world > 1 else gathered if config.bf16 else 0,
        host=0,
    )


def _zero(config: "TrainConfig", shape: "Shape", world: int) -> States:
    """Stage 1 has all gradients whole while they add up, in bf16 runs also as they were computed."""
    stage = int(config.engine.removeprefix("zero"))
    wide = 2 if config.bf16 else 4
    trained = shape.trained
    part = math.ceil(trained / world)
    bucket = min(BUCKET_VALUES, trained)
    # A bucket being filled, one being sent, and one cast to float32 for the sum over workers.
    buffers = bucket * (2 * wide + 4)
    gradients = ((wide if config.bf16 else 0) + 4) * trained if stage == 1 else 4 * part
    if stage < 3:
        weights = wide * shape.total
    else:
        whole = sum(p.size for p in shape.parameters if p.size < WHOLE_BELOW_VALUES)
        weights = wide * (sum(math.ceil(p.size / world) for p in shape.parameters) + whole)
        # Its bucket is made once, whole, in float32.
        buffers = 4 * BUCKET_VALUES + bucket * 2 * wide
        buffers += wide * min(shape.total - whole, _MOST_GATHERED_VALUES)
    optimizer, host = 12 * part, 0
    if config.offload != "none":
        # Masters and averages, the gradients' sum and a pinned copy of it, and the weights' part as computed with.
        optimizer, host = 0, (20 + wide) * part
        gradients = wide * part
        if config.offload == "parameters":
            host += weights
            weights = 0
    return States(weights=weights, gradients=gradients, optimizer=optimizer, buffers=buffers, host=host)


def _rows_part(parameter: "Parameter", world: int) -> int:
    rows, *rest = parameter.shape or (1,)
    return math.ceil(rows / world) * math.prod(rest)


def _largest_layer(shape: "Shape") -> "list[Parameter]":
    layers: dict[int, list[Parameter]] = {}
    for parameter in shape.parameters:
        if parameter.layer is not None:
            layers.setdefault(parameter.layer, []).append(parameter)
    return max(layers.values(), key=_size, default=[])


def _size(parameters: "list[Parameter]", trained: bool = False) -> int:
    return sum(p.size for p in parameters if p.trained or not trained)
