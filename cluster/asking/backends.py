"""What computes the answers of a run, and what its workers share, set up in each worker."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from raymill.cluster.asking.answers import Answers
from raymill.cluster.asking.ask import AnsweringBackend
from raymill.cluster.asking.endpoint import Endpoint
from raymill.cluster.asking.settings import ModelSettings
from raymill.cluster.asking.throttle import AskingBounds, Grant, Report, Throttle
from raymill.cluster.entry import Entry

# Imported in workers alone: Ray, and transformers.
_shared = Entry("raymill.cluster.asking.shared_throttle:report_to")
_model_folder = Entry("raymill.training.evaluation.answering:loaded")


@dataclass(frozen=True)
class Connected:
    """What a worker asks with. open: the backend, in an `async with`. report: as of `ask_all`."""

    open: Callable[[], Any]
    report: Callable[[str, Report], Awaitable[Grant]]


@dataclass(frozen=True)
class Backends:
    """How workers connect to what computes the answers.

    secret: the endpoint's key. budget: of the run. name: of the throttle, the same in all workers of a run.
    """

    model: ModelSettings
    budget: float | None
    answers: Answers
    name: str
    secret: str = field(default="", repr=False)

    @property
    def bounds(self) -> AskingBounds:
        model = self.model
        return AskingBounds(
            model.concurrency,
            model.requests_per_minute,
            model.tokens_per_minute,
            self.budget,
            model.prices,
            model.give_up_s,
        )

    @property
    def gpus(self) -> float:
        """That a worker reserves."""
        return 0

    @property
    def workers(self) -> int | None:
        """Largest number of workers; None: any."""
        return None

    def throttle(self) -> Throttle:
        """A new throttle, with what the run has spent so far."""
        spent = 0.0 if self.budget is None else self.answers.spending().most(self.model.prices)
        return Throttle(self.bounds, spent)

    def setup(self) -> Connected:
        """Connect a worker. Called once in each."""
        # A worker of Ray has imported it.
        shared = _shared.load()(self.name, self.throttle) if "ray" in sys.modules else None
        report = shared or _alone(self.throttle())
        if self.model.endpoint is None:
            return Connected(_model_folder.load()(self.answers.store, self.model.path), report)
        return Connected(self._endpoint, report)

    @asynccontextmanager
    async def _endpoint(self) -> AsyncIterator[AnsweringBackend]:
        assert self.model.endpoint is not None
        async with Endpoint(self.model.endpoint, self.secret, self.model.timeout_s) as endpoint:
            yield endpoint


def _alone(throttle: Throttle) -> Callable[[str, Report], Awaitable[Grant]]:
    async def report(worker: str, made: Report) -> Grant:
        await asyncio.sleep(0)
        return throttle.report(worker, made)

    return report
