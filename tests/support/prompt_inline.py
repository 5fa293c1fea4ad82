"""`prompt` in this process, without Ray."""

from raymill.cluster.progress import Progress
from raymill.cluster.session import Session
from raymill.pipelines.prompting.config import PromptConfig
from raymill.pipelines.prompting.job import PromptJob, PromptRun
from tests.support import inline


def prompt_inline(config: dict, monkeypatch, **how) -> PromptRun:
    """A run of a config given as plain settings."""
    job = PromptJob(PromptConfig.model_validate(config))
    with monkeypatch.context() as patch:
        inline.without_ray(patch, None)
        patch.setattr("raymill.cluster.asking.ask.REPORT_S", 0.03)
        return job.run(Session(), Progress(), **how)
