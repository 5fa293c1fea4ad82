"""`prompt` in this process, without Ray."""

from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.job import PromptJob, PromptRun
from tests.support import inline

TOPICS = {
    "billing": "Why is the invoice of month {} higher than the amount of my contract?",
    "delivery": "When does the parcel with number {} arrive at my house by courier?",
    "login": "How do I reset password {} so that the account opens again?",
}


def questions(count: int) -> tuple[list[str], list[str]]:
    """(questions, the topic of each)."""
    texts, names = [*TOPICS.values()], [*TOPICS]
    return [texts[n % 3].format(n) for n in range(count)], [names[n % 3] for n in range(count)]


def prompt_inline(config: dict, monkeypatch, *, engine=None, **how) -> PromptRun:
    """A run of a config given as plain settings."""
    job = PromptJob(PromptConfig.model_validate(config))
    with monkeypatch.context() as patch:
        inline.without_ray(patch, engine)
        patch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
        return job.run(Session(), Progress(), **how)
