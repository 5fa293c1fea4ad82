"""Running out of a device's memory: smaller micro-batches for the next attempt, or an error with the change to make.

The number of rows of a micro-batch does not change the results, so where the config leaves it open, it is halved after
an attempt that ran out of memory, and the workers start again from the newest checkpoint. It is not halved within an
attempt: one worker may run out of memory while the others wait in a collective of the same layer.

OUTPUT/micro_batch.json holds the number of rows to try next, with the settings that memory depends on.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cluster.errors import ClusterError, ConfigError, RaymillError
from cluster.formats import plural
from cluster.record import json_bytes, read_json
from training.config import TrainConfig
from training.fit.ranks import Ranks
from training.models.shape import shape_of
from training.plan.choices import smaller_change
from training.plan.memory import GIB
from training.records.job import Job

# Settings on which a worker's memory depends, and which may differ between two calls of one run.
_SETTINGS = (
    "engine", "offload", "activation_checkpointing", "compile", "attention", "loss_chunk_tokens",
    "reduce_every_micro_batch", "device_memory_gib",
)  # fmt: skip


def with_rows_left_to_try(job: Job, config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """The config, with a smaller `micro_batch` if an earlier attempt with these settings ran out of memory.

    config: with the default of `micro_batch` applied. A collective.
    """
    if job.config.micro_batch is not None:
        return config
    rows = ranks.from_first(_read(job, ranks.world) if ranks.first else None)
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
        ClusterError: the next attempt computes half of the rows at once.
        ConfigError: fewer rows would not help, no smaller micro-batch is left to try, or the config sets it.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise _explained(job, config, ranks, of_rows) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch could not allocate memory. On a CPU torch raises a RuntimeError without a class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _explained(job: Job, config: TrainConfig, ranks: Ranks, of_rows: bool) -> RaymillError:
    rows = config.micro_rows(ranks.world)
    what = f"with {plural(rows, 'row')} of {config.sequence_length:,} tokens at once" if of_rows else "before step 1"
    seen = f"memory: worker {ranks.rank} ran out of memory {what}{_use_of_device(ranks.device)}."
    if of_rows and job.config.micro_batch is None and rows > 1:
        job.store.write_bytes(job.micro_batch, json_bytes({"rows": rows // 2, "settings": _key(job, ranks.world)}))
        return ClusterError(
            f"{seen} The next attempt computes {rows // 2} at once, with equal results. If `failures.max` allows no "
            "further attempt, run the same command again."
        )
    # While the model is built, no activations are in memory, so only another engine or method needs less.
    tried = {"micro_batch": rows} if of_rows else {"micro_batch": 1, "activation_checkpointing": True}
    shape = shape_of(config, len(job.classes))
    return ConfigError(f"{seen} {smaller_change(config.model_copy(update=tried), shape, ranks.world)}")


def _use_of_device(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    total = torch.cuda.get_device_properties(device).total_memory
    return f" ({allocated / GIB:.1f} GiB allocated, {reserved / GIB:.1f} reserved, of {total / GIB:.1f})"


def _key(job: Job, world: int) -> dict[str, Any]:
    return {name: getattr(job.config, name) for name in _SETTINGS} | {"workers": world, "job": job.fingerprint}


def _read(job: Job, world: int) -> int | None:
    """The rows that are left to try with these settings; None if no attempt ran out of memory."""
    found = read_json(job.store, job.micro_batch, "the rows of a micro-batch", "rows", "settings")
    return found["rows"] if found and found["settings"] == _key(job, world) else None
