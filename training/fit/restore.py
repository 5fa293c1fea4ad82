"""Going on from the newest checkpoint that is whole, all workers from the same one.

Damage shows only while the values are read, deep inside an engine, where the other workers may be waiting. So a damaged
value is noted and read as zero; afterwards the workers tell each other, and take the checkpoint before.
"""

import logging

import torch

from cluster.errors import DataError
from training.engines import Engine
from training.fit.checkpoint import Saved, usable
from training.fit.job import Job
from training.fit.place import Place

log = logging.getLogger(__name__)


def restore(job: Job, place: Place, engine: Engine) -> Saved | None:
    """Load the newest checkpoint that is not damaged into the engine; None, and nothing done, if there is none at all.

    Raises:
        DataError: it is of other settings, data or model; or every one is damaged.
    """
    damaged: list[str] = []
    while True:
        uri = _agreed(job, place, damaged)
        if uri is None:
            break
        saved = Saved.load(uri)
        fetch = _Noting(saved)
        engine.load(fetch, saved.manifest.course.updates)
        noted = [told for told in place.gather(fetch.damage) if told]
        if not noted:
            return saved
        log.warning("passing over a checkpoint: %s", noted[0])
        damaged.append(uri)
    if damaged:
        raise DataError(
            f"{job.checkpoints}: every checkpoint is damaged ({len(damaged)} tried, the last: {noted[0]}) "
            "Delete that folder to begin anew."
        )
    return None


def _agreed(job: Job, place: Place, damaged: list[str]) -> str | None:
    """What the first worker finds newest. It tells the others of an error too, or they would wait for ever."""
    told: tuple[str | None, str | None] = (None, None)
    if place.first:
        try:
            told = next((saved.uri for saved in usable(job) if saved.uri not in damaged), None), None
        except DataError as error:
            told = None, str(error)
    uri, refusal = place.from_first(told)
    if refusal is not None:
        raise DataError(refusal)
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
            self.damage = self.damage or str(error)
            return torch.zeros(stop - start)
