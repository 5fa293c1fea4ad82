"""A device's memory: the rows of a micro-batch that fit, and smaller micro-batches after running out of memory.

The number of rows of a micro-batch does not change the results. Where the config leaves it open, it is the largest that
fits the workers' GPUs by the memory model (training/plan/memory.py). After a start that ran out of memory it is
halved, and the workers start again from the newest checkpoint. It is not halved within a start: one worker may run
out of memory while the others wait in a collective of the same layer.

OUTPUT/micro_batch.json holds the number of rows to try next, with the settings that memory depends on.
"""

import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import Field
from typing_extensions import TypedDict

from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.formats import plural
from raymill.cluster.record import json_bytes, read_json
from raymill.training.config import TrainConfig
from raymill.training.fit.ranks import Ranks
from raymill.training.models.cost import shape_of
from raymill.training.plan.memory import GIB, USABLE, default_rows, memory, smaller_change, suggested_change
from raymill.training.records.job import Job

log = logging.getLogger(__name__)

# Settings on which a worker's memory depends, and which may differ between two calls of one run.
_SETTINGS = (
    "engine", "offload", "activation_checkpointing", "compile", "attention", "loss_chunk_tokens",
    "reduce_every_micro_batch", "shard", "device_memory_gib",
)  # fmt: skip


class _MicroBatch(TypedDict):
    rows: Annotated[int, Field(gt=0)]
    settings: dict[str, Any]


def memory_gib(device: torch.device) -> float:
    """Peak memory of this worker in GiB: allocated device memory on a GPU, resident memory of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def device_bytes(set_gib: float | None, ranks: Ranks) -> int | None:
    """Bytes of the smallest GPU of all workers, or `set_gib` (the config's) if given; None on CPUs. A collective."""
    if set_gib is not None:
        return int(set_gib * GIB)
    if ranks.device.type != "cuda":
        return None
    own = torch.cuda.get_device_properties(ranks.device).total_memory
    return min(size for (size,) in ranks.exchange([own]))


def with_rows_that_fit(config: TrainConfig, ranks: Ranks, classes: int) -> TrainConfig:
    """The config with `micro_batch`: the one it sets, or the largest that fits the workers' GPUs by the memory model.

    Without GPUs the config is returned as it is. Logs a warning if not even one row fits. A collective.
    """
    if config.micro_batch or (device := device_bytes(config.device_memory_gib, ranks)) is None:
        return config
    device = int(device * config.gpu_fraction)
    shape = shape_of(config, classes)
    rows = default_rows(config, shape, device, ranks.world)
    need = memory(config, shape, rows, ranks.world).total
    if need > USABLE * device and ranks.first:
        log.warning(
            "memory: a worker needs about %.1f GiB with one row at a time; %.1f of its GPU's %.1f GiB can be used. %s",
            need / GIB, USABLE * device / GIB, device / GIB, suggested_change(config, shape, device),
        )  # fmt: skip
    return config.model_copy(update={"micro_batch": rows})


def with_rows_left_to_try(job: Job, config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """The config, with a smaller `micro_batch` if an earlier start with these settings ran out of memory.

    config: with the default of `micro_batch` applied. A collective.
    """
    if job.config.micro_batch is not None:
        return config
    found = None
    if ranks.first:
        found = read_json(job.folder.store, job.folder.micro_batch, "the rows of a micro-batch", kind=_MicroBatch)
    rows = ranks.from_first(found["rows"] if found and found["settings"] == _key(job, ranks.world) else None)
    if rows is None or rows >= config.micro_rows(ranks.world):
        return config
    return config.model_copy(update={"micro_batch": rows})


@contextmanager
def explained(job: Job, config: TrainConfig, ranks: Ranks, *, of_rows: bool) -> Iterator[None]:
    """Inside this context, running out of memory raises an error that says what is tried next or what to change.

    Args:
        config: the job's, with the `micro_batch` that is computed.
        of_rows: whether the memory depends on the rows of a micro-batch; while the model is built, it does not.

    Raises:
        ClusterError: the next start computes half of the rows at once.
        ConfigError: fewer rows would not help, no smaller micro-batch is left to try, or the config sets it.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows = config.micro_rows(ranks.world)
        what = (
            f"with {plural(rows, 'row')} of {config.sequence_length:,} tokens at once" if of_rows else "before step 1"
        )
        seen = f"memory: worker {ranks.rank} ran out of memory {what}{_use_of_device(ranks.device)}."
        if of_rows and job.config.micro_batch is None and rows > 1:
            record = {"rows": rows // 2, "settings": _key(job, ranks.world)}
            job.folder.store.write_bytes(job.folder.micro_batch, json_bytes(record))
            raise ClusterError(
                f"{seen} The next start computes {rows // 2} at once, with equal results. If `failures.max` allows "
                "no further start, run the same command again."
            ) from error
        # While the model is built, no activations are in memory, so only another engine or method needs less.
        tried = {"micro_batch": rows} if of_rows else {"micro_batch": 1, "activation_checkpointing": True}
        change = smaller_change(config.model_copy(update=tried), shape_of(config, len(job.classes)), ranks.world)
        raise ConfigError(f"{seen} {change}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate memory. On a CPU torch raises a RuntimeError without a class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _use_of_device(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    total = torch.cuda.get_device_properties(device).total_memory
    return f" ({allocated / GIB:.1f} GiB allocated, {reserved / GIB:.1f} reserved, of {total / GIB:.1f})"


def _key(job: Job, world: int) -> dict[str, Any]:
    of_workers = {"workers": world, "context": job.config.workers.context}
    return {name: getattr(job.config, name) for name in _SETTINGS} | of_workers | {"job": job.folder.fingerprint}
