"""Settings that fit a GPU: the default micro-batch, and the smallest change if a training does not fit.

Changes are ordered by their cost: a smaller micro-batch (the rows of a step stay), then activation checkpointing (a
quarter to a third more computation), then another engine (communication in every step).
"""

from dataclasses import asdict

from cluster.entry import Entry
from cluster.errors import ConfigError
from training.config import TrainConfig
from training.plan.memory import GIB, Shape, memory

_shape_of = Entry("training.models.cost:shape_of")

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
        if config.method == "qlora" and engine != "ddp":
            continue
        if config.compile is True and engine == "zero3":
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
    share = -(-config.rows_per_step // world)
    return config.micro_rows(world, max(1, most_rows(config, shape, device_bytes, share, world)))


def fits(config: TrainConfig, shape: Shape, device_bytes: float) -> bool:
    """Whether a worker fits a device of `device_bytes`, with the config's `micro_batch` or the default one."""
    return memory(config, shape, default_rows(config, shape, device_bytes)).total <= USABLE * device_bytes


def simplest_engine(config: TrainConfig, shape: Shape, device_bytes: float) -> TrainConfig | None:
    """The config with the first engine of CHOICES that fits, with a smaller micro-batch if needed; None: none fits."""
    return _first([config], possible_choices(config), shape, device_bytes)


def smallest_change(config: TrainConfig, shape: Shape, device_bytes: float) -> TrainConfig | None:
    """The config itself if it fits, else with the smallest change, in this module's order; None: nothing fits."""
    same = (config.engine, config.offload)
    others = [one for one in possible_choices(config) if (one.engine, one.offload) != same]
    checkpointing = [config]
    if config.method not in ("prefix", "probe") and not config.activation_checkpointing:
        checkpointing.append(config.model_copy(update={"activation_checkpointing": True}))
    return _first(checkpointing, [config], shape, device_bytes) or _first(checkpointing, others, shape, device_bytes)


def _first(
    checkpointing: list[TrainConfig], engines: list[TrainConfig], shape: Shape, device_bytes: float
) -> TrainConfig | None:
    """The first that fits; each of `checkpointing` is tried with all engines before the next."""
    for base in checkpointing:
        for engine in engines:
            one = base.model_copy(update={"engine": engine.engine, "offload": engine.offload})
            own = one.micro_rows(one.workers.range[0])
            limit = own if one.micro_batch else -(-one.rows_per_step // one.workers.range[0])
            rows = most_rows(one, shape, device_bytes, limit)
            if rows:
                return one.model_copy(update={"micro_batch": rows}) if one.micro_batch and rows < own else one
    return None


def changes(before: TrainConfig, after: TrainConfig) -> str:
    """The settings that differ, as in a config: `micro_batch: 2, activation_checkpointing: true`."""
    names = ("micro_batch", "activation_checkpointing", "engine", "offload")
    differ = {name: getattr(after, name) for name in names if getattr(after, name) != getattr(before, name)}
    return ", ".join(f"{name}: {str(value).lower() if value is True else value}" for name, value in differ.items())


def check_memory(config: TrainConfig) -> None:
    """Check that the training fits `device_memory_gib`, if the config has it. Then torch is loaded.

    Raises:
        ConfigError: it does not fit; the message has the bytes by part and the smallest change that fits.
    """
    if config.device_memory_gib is None:
        return
    shape, device = _shape_of(config), config.device_memory_gib * GIB
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
    more = "method lora, " if config.method == "full" else ""
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
