"""Going on from the newest checkpoint that is whole, all workers from the same one.

Damage shows only while the values are read, deep inside an engine, where the other workers may be waiting. So a damaged
value is noted and read as zero; afterwards the workers exchange what they noted, and take the checkpoint before.
"""

import logging
from dataclasses import dataclass

import torch

from cluster.errors import DataError
from training.engines.engine import Engine
from training.fit.checkpoint.format import Saved, newest, problem, step_of
from training.fit.job import Job
from training.fit.ranks import Place
from training.fit.records import DamagedCheckpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """saved: what was loaded, None if there is no checkpoint. damaged: newer ones that were passed over."""

    saved: Saved | None
    damaged: list[DamagedCheckpoint]


def restore(job: Job, place: Place, engine: Engine) -> Restored:
    """Load the newest checkpoint that is not damaged into the engine; nothing is done if there is none at all.

    Raises:
        DataError: it is of other settings, data or model; or every one is damaged.
    """
    damaged: dict[str, str] = {}
    while True:
        uri = _agreed(job, place, damaged)
        if uri is None:
            break
        saved = Saved.load(job.store, uri)
        fetch = _Noting(saved)
        engine.load(fetch, saved.manifest.course.updates)
        noted = [damage for damage in place.gather(fetch.damage) if damage]
        if not noted:
            return Restored(saved, _reported(damaged, saved, place))
        damaged[uri] = noted[0]
    if damaged:
        raise DataError(
            f"{job.checkpoints}: every checkpoint is damaged ({len(damaged)} tried, the last: "
            f"{list(damaged.values())[-1]}). Delete that folder to begin anew."
        )
    return Restored(None, [])


def _reported(damaged: dict[str, str], used: Saved, place: Place) -> list[DamagedCheckpoint]:
    if place.first:
        for seen in damaged.values():
            log.warning("passing over a checkpoint: %s", seen)
    return [DamagedCheckpoint(step=step_of(uri), resumed=used.step, problem=seen) for uri, seen in damaged.items()]


def _agreed(job: Job, place: Place, damaged: dict[str, str]) -> str | None:
    """The first worker's choice. It sends an error to the others too, which would otherwise wait for ever."""
    choice: tuple[str | None, dict[str, str], str | None] = (None, {}, None)
    if place.first:
        try:
            saved = newest(job, damaged)
            choice = saved.uri if saved else None, damaged, None
        except DataError as error:
            choice = None, damaged, str(error)
    uri, found, refusal = place.from_first(choice)
    if refusal is not None:
        raise DataError(refusal)
    damaged |= found
    return uri


class _Noting:
    """A checkpoint's `fetch` that keeps the first damage it meets instead of raising it."""

    def __init__(self, saved: Saved) -> None:
        self.saved = saved
        self.damage: str | None = None

    def __call__(self, name: str, state: str, start: int, stop: int) -> torch.Tensor:
        try:
            return self.saved.fetch(name, state, start, stop)
        except DataError as error:
            self.damage = self.damage or problem(error)
            return torch.zeros(stop - start)
