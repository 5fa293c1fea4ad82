"""Restoring training from the newest undamaged checkpoint, the same one on all workers.

Damage is found while an engine reads values, when other workers may already wait in a collective. Therefore no error is
raised: the damage is recorded, and the values are read as zeros. Afterwards the workers exchange their records. If one
has a record, all of them load the checkpoint before this one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cluster.errors import DataError
from training.engines.engine import TrainingEngine
from training.fit.ranks import Ranks
from training.records.checkpoint import Checkpoint, newest, problem, step_of
from training.records.job import Job
from training.records.schema import DamagedCheckpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """The result of `restore`. checkpoint: the one that was loaded, if any. damaged: newer ones that were skipped."""

    checkpoint: Checkpoint | None
    damaged: list[DamagedCheckpoint]


def restore(job: Job, ranks: Ranks, engine: TrainingEngine) -> Restored:
    """Load the newest undamaged checkpoint into the engine, or if there is none that of the run that it continues.

    Without both, the engine is not changed. All workers call it together. Each reads its own part of the state.

    Raises:
        DataError: the checkpoint has other settings, data or model; or all checkpoints are damaged; or that of the run
            to continue is damaged or gone.
    """
    damaged: dict[str, str] = {}
    while True:
        uri = _choose(job, ranks, damaged)
        if uri is None:
            break
        checkpoint = Checkpoint.load(job.store, uri)
        fetch = _DamageRecorder(checkpoint)
        engine.load(fetch, checkpoint.manifest.progress.updates)
        found = [damage for damage in ranks.gather(fetch.damage) if damage]
        if not found:
            return Restored(checkpoint, _report(damaged, checkpoint, ranks))
        damaged[uri] = found[0]
    if damaged:
        raise DataError(
            f"{job.checkpoints}: every checkpoint is damaged ({len(damaged)} tried, the last: "
            f"{list(damaged.values())[-1]}). Delete that folder to start again."
        )
    if job.parent is not None:
        fetch = _DamageRecorder(Checkpoint.load(job.store, job.parent.checkpoint))
        engine.load(fetch, job.parent.updates)
        if found := [damage for damage in ranks.gather(fetch.damage) if damage]:
            raise DataError(f"continue_from: {found[0]} Continue another run, or set continue_from.checkpoint.")
    return Restored(None, [])


def fill(objective: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the checkpoint's weights into the trained parameters of a whole, unsharded module.

    Raises:
        DataError: names or shapes of the trained parameters differ from the checkpoint's, or a value is damaged.
    """
    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    _require_same_parameters(checkpoint, {name: tuple(parameter.shape) for name, parameter in trained.items()})
    with torch.no_grad():
        for name, parameter in trained.items():
            values = checkpoint.fetch(name, "param", 0, parameter.numel())
            parameter.copy_(torch.from_numpy(values).view(parameter.shape))


def _require_same_parameters(checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]]) -> None:
    saved = checkpoint.shapes
    differing: Sequence[str] = sorted(
        name for name in shapes.keys() | saved.keys() if shapes.get(name) != saved.get(name)
    )
    if differing:
        name = differing[0]
        raise DataError(
            f"{checkpoint.uri}: {len(differing)} parameters differ from this model's, the first is {name}: shape "
            f"{saved.get(name, 'none')} in the checkpoint, {shapes.get(name, 'none')} in the model. "
            "It is another model's checkpoint."
        )


def _report(damaged: dict[str, str], used: Checkpoint, ranks: Ranks) -> list[DamagedCheckpoint]:
    """The records of the skipped checkpoints, which are also logged."""
    if ranks.first:
        for seen in damaged.values():
            log.warning("skipping a damaged checkpoint: %s", seen)
    return [DamagedCheckpoint(step=step_of(uri), resumed=used.step, problem=seen) for uri, seen in damaged.items()]


def _choose(job: Job, ranks: Ranks, damaged: dict[str, str]) -> str | None:
    """URI of the checkpoint to load, which the first worker chooses. If that fails, all workers raise the error."""
    choice: tuple[str | None, dict[str, str], str | None] = (None, {}, None)
    if ranks.first:
        try:
            checkpoint = newest(job, damaged)
            choice = checkpoint.uri if checkpoint else None, damaged, None
        except DataError as error:
            choice = None, damaged, str(error)
    uri, found, refusal = ranks.from_first(choice)
    if refusal is not None:
        raise DataError(refusal)
    damaged |= found
    return uri


class _DamageRecorder:
    """The `fetch` of an engine, from a checkpoint. Damaged values are read as zeros; `damage` is the first problem."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.damage: str | None = None

    def __call__(self, name: str, state: str, start: int, stop: int) -> torch.Tensor:
        try:
            return torch.from_numpy(self.checkpoint.fetch(name, state, start, stop))
        except DataError as error:
            self.damage = self.damage or problem(error)
            return torch.zeros(stop - start)
