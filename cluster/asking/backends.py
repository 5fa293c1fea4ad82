"""What computes the answers of a run, and what its workers share, set up in each worker."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from raymill.cluster.artifact import Counters
from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.ask import AnsweringBackend, ask_all
from raymill.cluster.asking.batch_files import BatchEndpoint
from raymill.cluster.asking.endpoint import Endpoint, most_bytes
from raymill.cluster.asking.pending import Answered, ReportTo
from raymill.cluster.asking.requests import ModelRequest
from raymill.cluster.asking.settings import ModelSettings, Sampling
from raymill.cluster.asking.throttle import AskingBounds, AskingState, Grant, Report, Throttle
from raymill.cluster.asking.vllm_server import VllmServer
from raymill.cluster.entry import Entry
from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural, share
from raymill.cluster.inspection import is_run, read_run_manifest
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

# Imported in workers alone: Ray, and transformers.
_shared = Entry("raymill.cluster.asking.shared_throttle:report_to")
_state = Entry("raymill.cluster.asking.shared_throttle:state_of")
_located = Entry("raymill.training.model_folder.folder:located_with_fingerprint")
_link_model = Entry("raymill.training.evaluation.answering:link_model")
_model_folder = Entry("raymill.training.evaluation.answering:loaded")

# Approximate number of requests of a range of keys, which is a unit of work: progress is shown by units, and the last
# ones of a stage leave workers without work.
RANGE_REQUESTS = 250
# The same for a folder with transformers: a worker computes one request at a time, for seconds.
FOLDER_RANGE_REQUESTS = 4

# What a training exports, in the order of preference.
_EXPORTED = ("full", "merged", "adapter", "probe")


def exported(store: Store, model: ModelSettings) -> ModelSettings:
    """The model; of the output of `train` what it exported: a whole model, else an adapter or a classification head.

    Raises:
        DataError: the training has several phases, or exported none of these; or its manifest is damaged.
    """
    if model.path is None or not model.is_folder:
        return model
    found = read_run_manifest(store, model.path)
    if not is_run(found) or found.get("kind") != "train":
        return model
    folders = found["export"]["folders"] if "export" in found else {}
    for name in _EXPORTED:
        if name in folders:
            return model.model_copy(update={"path": paths.join(model.path, "export", folders[name])})
    raise DataError(f"{model.path}: no exported model is there. Of several phases, give the folder of the last one.")


def located(store: Store, model: ModelSettings) -> ModelSettings:
    """The model that is asked: of the output of `train` what it exported.

    A folder gets its absolute path, and the fingerprint of its files as its revision.

    Raises:
        StorageError, DataError: there is no model in the folder.
    """
    if model.path is None:
        return model
    model = exported(store, model)
    path, found = _located.load()(store, model.path)
    return model.model_copy(update={"path": path, "revision": found, "name": found[:16]})


@dataclass(frozen=True)
class Connected:
    """The backend of a worker. open: opens it, in an `async with`. report: as `report_to` of `ask_all`."""

    open: Callable[[], Any]
    report: ReportTo


@dataclass(frozen=True)
class Backends:
    """How workers connect to what computes the answers.

    secret: the endpoint's key. budget: of the run. name: of the throttle, the same in all workers of a run.
    """

    model: ModelSettings
    sampling: Sampling
    budget: float | None
    answers: Answers
    name: str
    secret: str = field(default="", repr=False)

    @property
    def bounds(self) -> AskingBounds:
        return self.model.bounds(self.budget, self.model.request_prices)

    @property
    def cpus(self) -> float:
        """That a worker reserves. One with batch files waits most of the time."""
        return 0.05 if self.model.batch else 1

    @property
    def gpus(self) -> float:
        """That a worker reserves."""
        return self.model.worker_gpus

    @property
    def one_at_a_time(self) -> bool:
        """Whether a worker computes one request at a time."""
        return self.model.path is not None and self.model.engine == "transformers"

    def ranges(self, requests: int, most: int) -> int:
        """The number of ranges into which the keys of the requests are divided. most: its maximum."""
        return max(1, min(most, requests // (FOLDER_RANGE_REQUESTS if self.one_at_a_time else RANGE_REQUESTS)))

    def throttle(self) -> Throttle:
        """A new throttle, with what the run has spent so far."""
        spent = 0.0 if self.model.prices is None else self.answers.spending().most(self.model.prices)
        return Throttle(self.bounds, spent)

    def watch(self, total: int) -> Callable[[Counters], str]:
        """The `watch` of a stage that sends requests. total: their number; units count theirs as `asked`."""
        return partial(self._watched, total)

    def _watched(self, total: int, done: Counters) -> str:
        state: AskingState | None = _state.load()(self.name)
        if state is None or not (state.running or state.in_flight):
            return ""  # no unit asks at this moment
        return state.text(int(done.get("asked", 0)), total, self.model.prices, self.budget)

    def setup(self) -> Connected:
        """Connect a worker. Called once in each."""
        report = reporting(self.name, self.throttle)
        if self.model.engine == "vllm":
            link = partial(_link_model.load(), self.answers.store, self.model.path)
            server = VllmServer(link, self.model.name, self.model.worker_gpus)
            most = most_bytes(self.sampling.max_tokens, self.sampling.logprobs)
            return Connected(partial(server.opened, self.model.timeout_s, most), report)
        if self.model.endpoint is None:
            return Connected(_model_folder.load()(self.answers.store, self.model.path), report)
        return Connected(self._endpoint, report)

    def ask(
        self,
        backend: Connected,
        requests: Mapping[str, ModelRequest],
        keys: AnswerRange,
        max_tokens: int,
        most_unanswered: float,
    ) -> dict[str, Answered]:
        """The answer to each request, by its key.

        Args:
            backend: of `setup`. requests: by key, all of them in `keys`. max_tokens: of an answer.
            most_unanswered: fraction of the requests that may have no answer.

        Raises:
            AskingStopped: nothing more is to be asked.
            DataError: the model refuses all, or too many have no answer. Answers are stored.
        """
        model, at = self.model, self.model.endpoint or self.model.path
        found = ask_all(
            requests, backend.open, self.answers, keys, backend.report, model.request_prices, model.tries, max_tokens
        )
        outcomes = Counter(one.reply.outcome for one in found.values())
        first = next(iter(found.values()), None)
        if first and outcomes["refused"] == len(found):
            raise DataError(
                f"{at}: refused all of {plural(len(found), 'request')}: {first.reply.reason}. Correct `model` or the "
                "server, and run the same command again: they are asked again."
            )
        without = [one for one in found.values() if one.reply.outcome == "again"]
        if len(without) > most_unanswered * len(found):
            whether = "Is the server running, and is it the right one?" if len(without) == len(found) else ""
            raise DataError(
                f"{at}: no answer to {len(without):,} of {plural(len(found), 'request')} "
                f"({share(len(without), len(found))}) after {model.tries} tries: {without[0].reply.reason}. {whether} "
                f"`execution.max_unanswered` allows {most_unanswered:.2%}. Answers are stored: run the same command "
                "again to ask the others."
            )
        return found

    @asynccontextmanager
    async def _endpoint(self) -> AsyncIterator[AnsweringBackend | BatchEndpoint]:
        assert self.model.endpoint is not None
        most = most_bytes(self.sampling.max_tokens, self.sampling.logprobs)
        if self.model.batch:
            async with BatchEndpoint(self.model.endpoint, self.secret, self.model.timeout_s, most) as files:
                yield files
            return
        async with Endpoint(self.model.endpoint, self.secret, self.model.timeout_s, most) as endpoint:
            yield endpoint


def reporting(name: str, make: Callable[[], Throttle]) -> ReportTo:
    """The `report(worker, made)` of the throttle with this name, which all workers of a run share.

    make: makes the throttle if there is none with this name.
    """
    # A worker of Ray has imported ray; in another process there is one worker.
    shared = _shared.load()(name, make) if "ray" in sys.modules else None
    return shared or _alone(make())


def _alone(throttle: Throttle) -> ReportTo:
    async def report(worker: str, made: Report) -> Grant:
        await asyncio.sleep(0)
        return throttle.report(worker, made)

    return report
