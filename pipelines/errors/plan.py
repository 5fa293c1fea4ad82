"""What an analysis of errors takes, before it runs. Asks nothing."""

from collections.abc import Iterator

from raymill.cluster.answer import Answer
from raymill.cluster.artifact import Artifact
from raymill.cluster.formats import count, plural
from raymill.cluster.plan.sample import document_count
from raymill.cluster.store import paths
from raymill.pipelines.errors.config import ErrorsConfig
from raymill.pipelines.errors.job import ErrorsJob
from raymill.pipelines.errors.runs import item_count
from raymill.pipelines.errors.sample import MOST

_SECONDS = 10.0  # libraries, and what does not grow
_ITEMS_PER_S, _PAIRS_PER_S = 400.0, 2e7  # items, and pairs of an item and a training record, on one core, about


def plan_errors(settings: ErrorsConfig) -> Answer:
    """The plan of an analysis: items, training records and seconds.

    Raises:
        UserError: as the first checks of a run.
    """
    job = ErrorsJob(settings)
    job.check_config()
    there = document_count(job.frozen) if job.evaluated is None else item_count(job.store, job.evaluated)
    items = min(there, MOST)
    records = 0
    if job.data is not None:
        records = min(MOST, Artifact.load(job.store, paths.join(job.data, "train")).rows)
    seconds = _SECONDS + (there + records) / _ITEMS_PER_S + items * records / _PAIRS_PER_S
    text = (
        f"plan of {settings.name}: about {count(items)} items beside {plural(records, 'training record')}, at most "
        f"about {count(round(seconds))} s on one core"
    )
    return Answer({"name": settings.name, "items": items, "records": records, "seconds": seconds}, text)


def dry_run(settings: ErrorsConfig, address: str | None = None) -> Iterator[str]:
    """Lines about what would be analysed. address: not used, since nothing is started."""
    job = ErrorsJob(settings)
    job.require_extras()
    yield str(plan_errors(settings))
    yield f"data:   {job.data or 'not known, so no causes are given'}"
    yield f"output: {job.root}: {'finished, nothing to do' if job.find().run else 'to be made'}"
