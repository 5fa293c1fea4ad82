"""Sends requests in batch files until each has an answer, or was in too many batches."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import httpx2

from raymill.cluster.asking.answers import FINAL, Journal
from raymill.cluster.asking.batch_files import (
    MOST_BYTES,
    MOST_FAILURES,
    MOST_REQUESTS,
    OPEN_STATES,
    BatchEndpoint,
    BatchRefused,
    QueueFull,
)
from raymill.cluster.asking.endpoint import Reply
from raymill.cluster.asking.money import TokenCounts, TokenPrices
from raymill.cluster.asking.pending import Answered, AskingStopped, Pending, ReportTo, as_try
from raymill.cluster.asking.throttle import Grant, Report
from raymill.cluster.failpoints import failpoint

_POLL_S = 60.0
_REPORT_S = 10.0  # the throttle considers a worker lost after 30 s
_NOT_COMPUTED = Reply("again", "the batch ended before the request was computed")


class AskingInBatches:
    """One call of `ask_all` with batch files.

    tag: of the run and the range of keys; the same in a call that continues. prices: of requests in batch files.
    """

    def __init__(
        self,
        files: BatchEndpoint,
        journal: Journal,
        run: str,
        tag: str,
        report_to: ReportTo,
        prices: TokenPrices | None,
        most_tries: int,
        worker: str,
    ) -> None:
        self._files, self._journal, self._run, self._tag = files, journal, run, tag
        self._report_to, self._prices, self._most_tries, self._worker = report_to, prices, most_tries, worker
        self._left: dict[str, Pending] = {}
        self._batches: dict[str, dict[str, str]] = {}  # id of a batch -> key of a request in it -> id of the try
        self._sizes = dict[str, int]()  # id of a batch -> number of all requests in it
        self._failures = Counter[str]()  # id of a batch -> reads of its results in a row that failed
        self._read: list[Mapping[str, Any]] = []  # batches whose answers are in the journal
        self._made = Report()
        self.found: dict[str, Answered] = {}

    async def run(self, pending: Sequence[Pending], in_flight: Mapping[str, str], ended: Set[str]) -> None:
        """Ask until each has an answer, or was tried too often.

        in_flight: id of a try -> key, of the tries of earlier calls without an end. ended: ids of those with an end.

        Raises:
            AskingStopped: nothing more is to be asked, or the provider takes no batch. Batches that were begun are read
                by the next call.
        """
        self._left = {one.request.key: one for one in pending}
        try:
            begun = set[str]()
            for batch in await self._files.of_tag(self._tag):
                named = await self._files.requests_of(batch)
                begun.update(named.values())
                # The provider names them: what was never sent to it would be an answer of another model in the store.
                tries = {key: id for key, id in named.items() if key in self._left or in_flight.get(id) == key}
                if tries:
                    self._batches[batch["id"]], self._sizes[batch["id"]] = tries, len(named)
                elif named and ended >= {*named.values()}:
                    self._read.append(batch)  # by a call that was killed before it deleted the files
            for try_id, key in in_flight.items():
                if try_id not in begun:
                    self._end(key, try_id, replace(_NOT_COMPUTED, reason="the batch was not begun"), TokenCounts())
            not_before = 0.0
            while self._left:
                for id in list(self._batches):
                    try:
                        await self._look(id)
                    except QueueFull:
                        self._drop(id, "the queue of the provider is full")
                        not_before = time.monotonic() + _POLL_S
                if not self._left:
                    break
                grant = await self._report()
                if grant.stop:
                    raise AskingStopped(grant.stop)
                if time.monotonic() >= not_before and (chosen := self._chosen(grant)):
                    await self._submit(chosen)
                    continue
                await self._wait()
        except BatchRefused as error:
            raise AskingStopped(
                f"{error.why}. Batches that were begun, and all answers, are kept: run the same command again"
            ) from error
        self._made.done = True
        await self._report()

    @property
    def _in_batches(self) -> set[str]:
        return {key for tries in self._batches.values() for key in tries}

    def _waiting(self) -> list[Pending]:
        there = self._in_batches
        return [one for key, one in self._left.items() if key not in there]

    async def _report(self) -> Grant:
        made, waiting, there = self._made, self._waiting(), self._in_batches
        made.in_flight, made.waiting = len(there), len(waiting)
        made.next_cost = waiting[0].most.cost(self._prices) if waiting else 0.0
        made.reserved = sum(self._left[key].most.cost(self._prices) for key in there if key in self._left)
        grant = await self._report_to(self._worker, replace(made))
        self._journal.flush_old()
        return grant

    def _chosen(self, grant: Grant) -> list[Pending]:
        """The requests of the next batch: as many as a file and the budget take."""
        chosen, size, cost = list[Pending](), 0, self._made.reserved
        for one in self._waiting():
            size += len(one.request.body.encode("utf-8", "replace")) + 200
            cost += one.most.cost(self._prices)
            over = grant.reserve is not None and cost > grant.reserve + 1e-12
            if over or size > MOST_BYTES or len(chosen) == MOST_REQUESTS:
                break
            chosen.append(one)
        return chosen

    async def _submit(self, chosen: Sequence[Pending]) -> None:
        tries = {one.request.key: uuid.uuid4().hex[:16] for one in chosen}
        for one in chosen:
            key = one.request.key
            self._journal.sending(key, tries[key], one.request.body, one.most)
        failpoint("batch_sent", self._tag)
        lines = [(f"{one.request.key}.{tries[one.request.key]}", one.request.body) for one in chosen]
        id = await self._files.submit(lines, self._tag)
        failpoint("batch_begun", self._tag)
        self._batches[id], self._sizes[id] = tries, len(tries)

    async def _look(self, id: str) -> None:
        """Take the results of a batch, if it has ended."""
        batch = await self._files.look(id)
        if batch.get("status") in OPEN_STATES:
            return
        tries = dict(self._batches[id])
        try:
            async for key, try_id, reply in self._files.results(batch, self._sizes[id]):
                if tries.get(key) == try_id:
                    del tries[key]
                    self._take(key, try_id, reply or _NOT_COMPUTED)
        except httpx2.TransportError as error:
            self._failures[id] += 1
            if self._failures[id] == MOST_FAILURES:
                seen = str(error) or type(error).__name__
                raise BatchRefused(
                    f"the results of batch {id} were not received in {MOST_FAILURES} tries ({seen})"
                ) from error
            return  # read again at the next look; a try that is stored twice counts once
        for key, try_id in tries.items():
            self._take(key, try_id, _NOT_COMPUTED)
        del self._batches[id]
        self._read.append(batch)

    async def delete_files(self) -> None:
        """Delete the files of the batches that were read. Called once their answers are in the store."""
        for batch in self._read:
            await self._files.delete(batch)
        self._read = []

    def _drop(self, id: str, reason: str) -> None:
        """A batch of which nothing was computed."""
        for key, try_id in self._batches.pop(id).items():
            self._end(key, try_id, replace(_NOT_COMPUTED, reason=reason), TokenCounts())

    def _end(self, key: str, try_id: str, reply: Reply, most: TokenCounts) -> None:
        """Store the end of a try. most: the tokens that it can have taken."""
        self._journal.add(as_try(key, try_id, self._run, reply, most, 0.0))

    def _take(self, key: str, try_id: str, reply: Reply) -> None:
        one = self._left.get(key)
        self._end(key, try_id, reply, one.most if one else TokenCounts())
        failpoint("answer_stored", key)
        if one is None:
            return
        one.tries += 1
        self._made.tokens += reply.tokens
        self._made.unknown += one.most.cost(self._prices) if reply.billed else 0.0
        if reply.outcome in FINAL or one.tries >= self._most_tries:
            self._made.answered += reply.outcome in FINAL
            self.found[key] = Answered(replace(reply, body=b""), try_id)
            del self._left[key]

    async def _wait(self) -> None:
        until = time.monotonic() + _POLL_S
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _REPORT_S))
            if until - time.monotonic() > 0:
                await self._report()
