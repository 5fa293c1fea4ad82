"""Asks all requests of a range of keys: those with a stored answer are not sent, each other one until it has one."""

import asyncio
import heapq
import itertools
import re
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from raymill.cluster.asking.answers import FINAL, IN_BATCHES, AnswerRange, Answers, Journal
from raymill.cluster.asking.ask_in_batches import AskingInBatches
from raymill.cluster.asking.batch_files import BatchEndpoint
from raymill.cluster.asking.endpoint import Judge, Reply, judged_chat, most_bytes, pause_before
from raymill.cluster.asking.money import TokenPrices, most_tokens
from raymill.cluster.asking.pending import Answered, AskingStopped, Pending, ReportTo, as_try
from raymill.cluster.asking.requests import ModelRequest
from raymill.cluster.asking.throttle import REPORT_S, Grant, Report
from raymill.cluster.failpoints import failpoint

_MOST_LOGPROBS = 20  # the largest `sampling.logprobs`
_LAST_WAIT_S = 60.0  # for requests in flight, when no more are sent


class AnsweringBackend(Protocol):
    """Computes answers."""

    async def send(self, body: str) -> Reply:
        """The outcome of one try."""
        ...


class Asking:
    """One call of `ask_all`. found: number of requests of the call whose answer was stored."""

    def __init__(
        self,
        backend: AnsweringBackend,
        journal: Journal,
        run: str,
        report_to: ReportTo,
        prices: TokenPrices | None,
        most_tries: int,
        worker: str,
        found: int = 0,
    ) -> None:
        self._backend, self._journal, self._run, self._report_to = backend, journal, run, report_to
        self._prices, self._most_tries, self._worker = prices, most_tries, worker
        self._ready: deque[Pending] = deque()
        self._later: list[tuple[float, int, Pending]] = []  # by the time when it may be sent
        self._numbers = itertools.count()
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._made = Report(found=found)
        self._grant = Grant(0)
        self._since_grant = 0.0  # cost of what ended since
        self._starts = 0
        self._error: BaseException | None = None
        self.found: dict[str, Answered] = {}

    async def run(self, pending: Iterable[Pending]) -> None:
        """Ask until each has an answer, or was tried too often.

        Raises:
            AskingStopped: nothing more is to be asked.
        """
        self._ready.extend(pending)
        reported = 0.0
        while self._ready or self._later or self._running:
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                self._ready.append(heapq.heappop(self._later)[2])
            if now - reported >= REPORT_S:
                reported = now
                await self._report()
                self._journal.flush_old()
            if self._grant.stop:
                await self._end()
            self._send()
            self._wake.clear()
            wait = REPORT_S - (time.monotonic() - reported)
            if wait > 0 and not (self._ready and self._may_send(self._ready[0])):
                try:
                    async with asyncio.timeout(wait):
                        await self._wake.wait()
                except TimeoutError:
                    pass
            else:
                await asyncio.sleep(0)
            if self._error:
                raise self._error
        self._made.done = True
        await self._report()

    async def _report(self) -> None:
        made = self._made
        made.in_flight = len(self._running)
        made.waiting = len(self._ready) + sum(at <= time.monotonic() + REPORT_S for at, _, _ in self._later)
        made.next_cost = self._ready[0].most.cost(self._prices) if self._ready else 0.0
        self._since_grant = 0.0
        self._grant = await self._report_to(self._worker, replace(made, failed=Counter(made.failed)))
        made.held_back = False
        self._starts = 0

    async def _end(self) -> None:
        """Wait for what is in flight, here and in the other workers, whose answers are paid for."""
        until = time.monotonic() + _LAST_WAIT_S
        while (self._running or not self._grant.quiet) and time.monotonic() < until:
            await asyncio.sleep(min(REPORT_S, 0.05))
            await self._report()
        raise AskingStopped(self._grant.stop)

    def _may_send(self, one: Pending) -> bool:
        grant = self._grant
        if self._made.stop:
            return False
        if len(self._running) >= grant.in_flight:
            self._made.held_back = True
            return False
        if time.time() < grant.paused_until:
            return False
        if grant.starts is not None and self._starts >= grant.starts:
            return False
        cost = one.most.cost(self._prices)
        return grant.reserve is None or self._made.reserved + self._since_grant + cost <= grant.reserve + 1e-12

    def _send(self) -> None:
        while self._ready and self._may_send(self._ready[0]):
            one = self._ready.popleft()
            self._starts += 1
            self._made.reserved += one.most.cost(self._prices)
            task = asyncio.create_task(self._try(one))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception():
            self._error = task.exception()
        self._wake.set()

    async def _try(self, one: Pending) -> None:
        key, id = one.request.key, uuid.uuid4().hex[:16]
        waited, cost = time.monotonic() - one.since, one.most.cost(self._prices)
        failpoint("request_sent", key)
        self._journal.sending(key, id, one.request.body, one.most)
        reply = await self._backend.send(one.request.body)
        failpoint("answer_received", key)
        one.tries += 1
        one.connected += not reply.unreachable
        self._journal.add(as_try(key, id, self._run, reply, one.most, waited))
        failpoint("answer_stored", key)
        made = self._made
        made.reserved -= cost
        counted = reply.tokens.cost(self._prices)
        self._since_grant += cost if reply.billed else counted
        made.tokens += reply.tokens
        made.unknown += cost if reply.billed else 0.0
        if reply.outcome in FINAL:
            made.answered += 1
        else:
            made.failed[_kind(reply.reason)] += 1
        if reply.outcome == "stopped":
            made.stop = made.stop or reply.reason
            self._ready.appendleft(one)
        elif reply.unreachable and one.tries >= self._most_tries and not (made.answered or self._grant.established):
            made.stop = made.stop or (
                f"{reply.reason}; {one.tries:,} tries, and no request of this call has an answer. Start the "
                "server, or correct the model's `endpoint`, and run the same command again"
            )
            self._ready.appendleft(one)
        elif reply.outcome == "again" and one.connected < self._most_tries:
            made.overloads += reply.overloaded
            wait = pause_before(one.tries, reply.wait)
            if reply.overloaded and reply.wait:
                made.paused_until = max(made.paused_until, time.time() + reply.wait)
            one.since = time.monotonic()
            heapq.heappush(self._later, (one.since + wait, next(self._numbers), one))
        else:
            self.found[key] = Answered(replace(reply, body=b""), id)


def _kind(reason: str) -> str:
    return re.split(r" \(|: ", reason)[0]


def ask_all(
    requests: Mapping[str, ModelRequest],
    open_backend: Callable[[], AbstractAsyncContextManager[AnsweringBackend | BatchEndpoint]],
    answers: Answers,
    keys: AnswerRange,
    report_to: ReportTo,
    prices: TokenPrices | None,
    most_tries: int,
    max_tokens: int,
    judge: Judge = judged_chat,
    most_answer: int | None = None,
    has_answered: bool = False,
) -> dict[str, Answered]:
    """The answer to each request, by its key. Stored ones are not asked again.

    Stored refusals of single requests count as answers only if the server has answered another request of the range:
    otherwise it may have been set up wrongly.

    Args:
        requests: by key, all of them in `keys`. open_backend: what computes the answers, in an `async with`.
        max_tokens: largest number of tokens of an answer.
        report_to: `report_to(worker, report)` is the grant of the run's throttle.
        most_tries: number of times that a request is sent.
        judge: function from a stored answer to its outcome, the same as the backend's.
        most_answer: maximum size of an answer in bytes; None: the one that follows from `max_tokens`.
        has_answered: whether the server has answered requests that are not among these.

    Raises:
        AskingStopped: nothing more is to be asked. Answers are stored, and a later call goes on.
    """
    found: dict[str, Answered] = {}
    missing: list[Pending] = []
    answered, refused = answers.finals(keys, requests, most_answer or most_bytes(max_tokens, _MOST_LOGPROBS))
    finals = refused | answered if answered or has_answered else {}
    for key in sorted(requests):
        final = finals.get(key)
        reply = judge(requests[key].body, final.status, {}, final.body, final.seconds) if final else None
        if final and reply and reply.outcome in FINAL:  # not, as in a changed file, a body that is no answer
            found[key] = Answered(replace(reply, body=b""), final.id)
        else:
            missing.append(Pending(requests[key], most_tokens(requests[key].body, max_tokens)))
    if missing:
        worker = uuid.uuid4().hex[:12]

        async def ask() -> dict[str, Answered]:
            async with open_backend() as backend:
                if isinstance(backend, BatchEndpoint):
                    run, tag = answers.run + IN_BATCHES, f"{answers.mark}/{keys.name}"
                    with answers.journal(keys, in_batches=True) as journal:
                        batches = AskingInBatches(backend, journal, run, tag, report_to, prices, most_tries, worker)
                        await batches.run(missing, *answers.in_flight(keys, run))
                    failpoint("batches_read", keys.name)
                    await batches.delete_files()  # the journal is in the store
                    return batches.found
                with answers.journal(keys) as journal:
                    asking = Asking(backend, journal, answers.run, report_to, prices, most_tries, worker, len(found))
                    await asking.run(missing)
                    return asking.found

        found |= asyncio.run(ask())
    answers.settle(keys)
    failpoint("answers_settled", keys.name)
    return found
