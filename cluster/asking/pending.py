"""Requests that wait for their answers, and what a call of `ask_all` ends with."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from raymill.cluster.asking.answers import Try
from raymill.cluster.asking.endpoint import Reply
from raymill.cluster.asking.money import TokenCounts
from raymill.cluster.asking.requests import ModelRequest
from raymill.cluster.asking.throttle import Grant, Report
from raymill.cluster.errors import UserError

ReportTo = Callable[[str, Report], Awaitable[Grant]]


class AskingStopped(UserError):
    """No more requests are sent: the money is spent, or the server refuses all of them. All answers are stored."""


@dataclass(frozen=True)
class Answered:
    """The answer to a request. reply: the last try's, without its body. try_id: its id in the store."""

    reply: Reply
    try_id: str


@dataclass
class Pending:
    """A request without an answer. most: the tokens that a try can take. since: when it could be sent."""

    request: ModelRequest
    most: TokenCounts
    tries: int = 0
    connected: int = 0  # tries with a connection
    since: float = field(default_factory=time.monotonic)


def as_try(key: str, id: str, run: str, reply: Reply, most: TokenCounts, waited: float) -> Try:
    """A try for the store. most: the tokens that it can have taken. waited: seconds before it."""
    unknown = most if reply.billed else TokenCounts()
    return Try(
        key=key,
        id=id,
        run=run,
        at=datetime.now(UTC).isoformat(timespec="microseconds"),
        outcome=reply.outcome,
        reason=reply.reason,
        status=reply.status,
        finish_reason=reply.finish,
        input_tokens=reply.tokens.input,
        cached_tokens=reply.tokens.cached,
        output_tokens=reply.tokens.output,
        reasoning_tokens=reply.tokens.reasoning,
        most_input=unknown.input,
        most_output=unknown.output,
        seconds=round(reply.seconds, 6),
        waited=round(waited, 6),
        body=reply.body,
    )
