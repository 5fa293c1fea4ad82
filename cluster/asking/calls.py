"""Calls whose requests have keys in no order: stored answers are found by an index, the others are asked together."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property

from raymill.cluster.asking.answer_index import AnswerIndex
from raymill.cluster.asking.answers import AnswerRange, Answers
from raymill.cluster.asking.ask import AnsweringBackend, ask_all
from raymill.cluster.asking.backends import reporting
from raymill.cluster.asking.batch_files import BatchEndpoint
from raymill.cluster.asking.endpoint import Judge, Reply
from raymill.cluster.asking.money import TokenPrices
from raymill.cluster.asking.pending import ReportTo
from raymill.cluster.asking.requests import ModelRequest
from raymill.cluster.asking.settings import AskedModel
from raymill.cluster.asking.throttle import Throttle


@dataclass
class Calls:
    """The calls of one worker.

    Attributes:
        answers: the answer store.
        model, prices, budget: bounds on the requests of all workers together.
        open: opens what computes the answers, in an `async with`.
        throttle: name of the throttle, the same in all workers of a run.
        judge: function from an answer of HTTP to its outcome.
        max_tokens: maximum number of tokens of an answer. most_bytes: maximum size of an answer.
    """

    answers: Answers
    model: AskedModel
    prices: TokenPrices | None
    budget: float | None
    open: Callable[[], AbstractAsyncContextManager[AnsweringBackend | BatchEndpoint]]
    throttle: str
    judge: Judge
    max_tokens: int
    most_bytes: int
    _answered: bool = field(default=False, init=False)  # whether a request of an earlier call has an answer

    def replies(self, requests: Mapping[str, ModelRequest]) -> dict[str, Reply]:
        """The outcome of each request, by its key. Those with a stored answer are not sent.

        Raises:
            AskingStopped: the run sends no further request. Answers are stored.
        """
        keys = AnswerRange("", "", hashlib.blake2b("".join(sorted(requests)).encode(), digest_size=8).hexdigest())
        found = dict[str, Reply]()
        for key, one in self._index.answered(requests, self.most_bytes).items():
            reply = self.judge(requests[key].body, one.status, {}, one.body, one.seconds)
            if reply.outcome == "answered":
                found[key] = reply
        if missing := {key: one for key, one in requests.items() if key not in found}:
            asked = ask_all(
                missing, self.open, self.answers, keys, self._report_to, self.prices, self.model.tries,
                self.max_tokens, self.judge, self.most_bytes, bool(found) or self._answered,
            )  # fmt: skip
            self.answers.settle_call(keys)
            found |= {key: one.reply for key, one in asked.items()}
        self._answered |= any(reply.outcome == "answered" for reply in found.values())
        return found

    @cached_property
    def _index(self) -> AnswerIndex:
        return AnswerIndex(self.answers)

    @cached_property
    def _report_to(self) -> ReportTo:
        return reporting(self.throttle, self._new_throttle)

    def _new_throttle(self) -> Throttle:
        spent = 0.0 if self.prices is None else self.answers.spending().most(self.prices)
        return Throttle(self.model.bounds(self.budget, self.prices), spent)
