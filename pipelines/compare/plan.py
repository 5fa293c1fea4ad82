"""The plan of a comparison: requests, tokens and money of each model. Sends no request."""

from collections.abc import Iterator

from raymill.cluster.answer import Answer
from raymill.cluster.formats import plural
from raymill.pipelines.compare.config import CompareConfig
from raymill.pipelines.compare.job import CompareJob
from raymill.pipelines.prompting.plan import asked_lines, asked_of


def plan_comparison(settings: CompareConfig) -> Answer:
    """The plan of a comparison, from the prompts of some items. Sends no request.

    Raises:
        UserError: as the first checks of a run.
    """
    job = CompareJob(settings)
    job.check_config()
    items, models = asked_of(settings.prompting, job.variants, job.embedding_run, job.swap)
    lines = [f"plan of {settings.name}: {plural(len(models), 'model')} on {plural(items, 'item')}"]
    lines += [f"{letter}: {one.title}" for letter, one in settings.letters.items()]
    lines += asked_lines(models)
    if settings.judge:
        lines.append(f"judge: at most {plural(2 * items * (len(models) - 1), 'request')}, two for each pair of answers")
    for name, reward in settings.rewards.items():
        if reward.judge:
            lines.append(f"rewards.{name}: at most {plural(items * len(models), 'request')}, one for each answer")
    return Answer({"items": items, "models": models}, "\n".join(lines))


def dry_run(settings: CompareConfig, address: str | None = None) -> Iterator[str]:
    """The plan, and whether the run is finished. address: not used, since nothing is started."""
    yield str(plan_comparison(settings))
    found = CompareJob(settings).find()
    yield f"output: {settings.output}: {'finished, nothing to do' if found.run else 'to be made'}"
