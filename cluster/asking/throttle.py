"""What all workers of a run share: the number of requests in flight, their rate, the money, and when to stop.

Four times a second each worker reports what it has done, and receives a grant: how many requests it may have in flight,
how many it may send, and how much they may cost until its next report. A grant counts as used until its worker reports
again, so the sum over all workers never exceeds a bound. On Ray the throttle is an actor (shared_throttle.py).
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from raymill.cluster.asking.limit import Limit
from raymill.cluster.asking.money import TokenCounts, TokenPrices
from raymill.cluster.formats import money

REPORT_S = 0.25
_LONGEST_WAIT_S = 3600.0  # that a server may ask for, as in endpoint.py
_LOST_S = 30.0  # without a report; then a worker's requests are no longer counted as in flight


@dataclass(frozen=True)
class AskingBounds:
    """Bounds on all requests of a run.

    concurrency: largest number in flight. requests_per_minute, tokens_per_minute: None: as the server allows. budget:
    money; None: any. give_up_s: seconds without any answer after which the run is stopped.
    """

    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    budget: float | None
    prices: TokenPrices | None
    give_up_s: float


@dataclass
class Report:
    """What a worker has done since it began, and what it does now.

    Attributes:
        in_flight: requests that were sent and have no answer yet. waiting: requests that could be sent.
        answered: requests with an answer. found: requests of the same unit whose answer was stored before.
        failed: tries without an answer, by their reason.
        tokens: as counted by the server.
        unknown: largest cost of the tries that may have been billed without a count.
        reserved: largest cost of the requests in flight. next_cost: largest cost of the next request that waits.
        held_back: whether more would have been sent since the last report, but for `Grant.in_flight`.
        overloads: refused rates, and overloaded servers.
        paused_until: by the clock of `time.time`, as the server asked.
        stop: why no further request should be sent. done: the worker has no more requests.
    """

    in_flight: int = 0
    waiting: int = 0
    answered: int = 0
    found: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    tokens: TokenCounts = field(default_factory=TokenCounts)
    unknown: float = 0.0
    reserved: float = 0.0
    next_cost: float = 0.0
    held_back: bool = False
    overloads: int = 0
    paused_until: float = 0.0
    stop: str = ""
    done: bool = False


@dataclass(frozen=True)
class Grant:
    """What a worker may do until its next report.

    in_flight: largest number of requests. starts: how many may be sent; None: any number. reserve: largest cost of the
    requests in flight, and of those that end until the next report; None: any. paused_until: nothing is sent before.
    stop: nothing more is to be asked, and why. quiet: no worker has requests in flight. established: the run has had an
    answer, so a server that takes no connection is waited for.
    """

    in_flight: int
    starts: int | None = None
    reserve: float | None = None
    paused_until: float = 0.0
    stop: str = ""
    quiet: bool = False
    established: bool = False


@dataclass(frozen=True)
class AskingState:
    """What a run has asked so far.

    Attributes:
        running: requests of the running units that have an answer, also a stored one.
        in_flight: requests that were sent and have no answer yet.
        answered: answers since the throttle was made.
        spent: cost of the run, with the most that tries without a token count can have cost.
        of_answered: the part of `spent` since the throttle was made.
    """

    running: int
    in_flight: int
    answered: int
    spent: float
    of_answered: float

    def text(self, done: int, total: int, prices: TokenPrices | None, budget: float | None) -> str:
        """A line for people. done: requests of the units that are done. total: of all units."""
        answered = min(done + self.running, total)
        parts = [f"{answered:,}/{total:,} requests", f"{self.in_flight:,} in flight"]
        if prices is not None:
            parts.append(f"spent {money(self.spent)}" + (f" of {money(budget)}" if budget is not None else ""))
            if self.answered and total > answered:
                parts.append(f"about {self.of_answered / self.answered * (total - answered):.2g} to go")
        return ", ".join(parts)


class Throttle:
    """Receives reports and answers with grants. spent: money of earlier calls of the run. clock: as `time.time`."""

    def __init__(self, bounds: AskingBounds, spent: float, clock: Callable[[], float] = time.time) -> None:
        self._bounds, self._spent_before, self._clock = bounds, spent, clock
        now = clock()
        self._limit = Limit(bounds.concurrency, now)
        self._reports: dict[str, tuple[float, Report]] = {}
        self._granted: dict[str, Grant] = {}
        self._gone = Report()  # the sums of workers that are done or lost
        self._request_tokens = bounds.requests_per_minute and _Bucket(bounds.requests_per_minute / 60, now)
        self._model_tokens = bounds.tokens_per_minute and _Bucket(bounds.tokens_per_minute / 60, now)
        self._answered_at, self._established = now, False
        self._paused_until = 0.0
        self._stop = ""

    def report(self, worker: str, made: Report) -> Grant:
        """Take a worker's report. Returns what it may do."""
        now = self._clock()
        _, before = self._reports.get(worker, (now, Report()))
        self._reports[worker] = now, made
        for name, (at, one) in list(self._reports.items()):
            if now - at > _LOST_S:
                self._forget(name, one)
        self._notice(now, before, made)
        self._stop = self._stop or made.stop or self._reason_to_stop(now, made)
        if made.done:
            self._forget(worker, made)
            return Grant(0, stop=self._stop)
        granted = self._grant(worker, made, now)
        self._granted[worker] = granted
        return granted

    def state(self) -> AskingState:
        """What all workers have done so far."""
        reports = [one for _, one in self._reports.values()]
        running = sum(one.answered + one.found for one in reports)
        answered = self._gone.answered + sum(one.answered for one in reports)
        spent = self._spent()
        in_flight = sum(one.in_flight for one in reports)
        return AskingState(running, in_flight, answered, spent, spent - self._spent_before)

    def _forget(self, worker: str, last: Report) -> None:
        del self._reports[worker]
        self._granted.pop(worker, None)
        self._gone.answered += last.answered
        self._gone.tokens += last.tokens
        self._gone.unknown += last.unknown + last.reserved
        self._gone.failed += last.failed

    def _notice(self, now: float, before: Report, made: Report) -> None:
        count = made.answered - before.answered
        tokens = made.tokens.input + made.tokens.output - before.tokens.input - before.tokens.output
        if count:
            self._answered_at, self._established = now, True
        self._paused_until = max(self._paused_until, made.paused_until)
        if made.overloads > before.overloads:
            self._limit.overloaded(now)
        self._limit.ended(now, count, tokens or count, made.held_back)
        if self._model_tokens:
            self._model_tokens.take(tokens)

    def _spent(self) -> float:
        tokens, unknown = self._gone.tokens, self._gone.unknown
        for _, one in self._reports.values():
            tokens, unknown = tokens + one.tokens, unknown + one.unknown
        return self._spent_before + tokens.cost(self._bounds.prices) + unknown

    def _reserve(self, worker: str, made: Report) -> float | None:
        """Money that a worker may have in flight. It is divided evenly; who cannot send a request with its part gets
        what the others have left, or holds nothing.
        """
        if self._bounds.budget is None:
            return None
        if not made.waiting:
            return made.reserved
        free = self._bounds.budget - self._spent()
        for name, (_, one) in self._reports.items():
            if name != worker:
                granted = self._granted.get(name)
                free -= max(one.reserved, granted.reserve or 0.0 if granted else 0.0)
        part = max(made.reserved, free / len(self._reports), min(free, made.reserved + made.next_cost))
        return part if part >= made.reserved + made.next_cost else made.reserved

    def _reason_to_stop(self, now: float, made: Report) -> str:
        budget, reports = self._bounds.budget, [one for _, one in self._reports.values()]
        if not any(one.in_flight for one in reports):
            if budget is not None and made.waiting and budget - self._spent() < made.next_cost:
                return (
                    f"the budget of {money(budget)} has no room for another request: {money(self._spent())} is spent, "
                    f"and the next one may cost {money(made.next_cost)}. Continue with a larger budget; all answers "
                    "are kept"
                )
            if not any(one.waiting for one in reports):
                self._answered_at = now
        failed = sum((one.failed for one in reports), self._gone.failed)
        # A server that asks to wait again and again gets one wait.
        waited = min(self._paused_until, self._answered_at + _LONGEST_WAIT_S)
        if failed and now - max(self._answered_at, waited) > self._bounds.give_up_s:
            seen = ", ".join(f"{reason} ({count} times)" for reason, count in failed.most_common(3))
            return (
                f"no answer for {now - self._answered_at:,.0f} s (model.give_up_s: {self._bounds.give_up_s:g}): {seen}"
                ". All answers are stored: run the same command again once the server answers"
            )
        return ""

    def _grant(self, worker: str, made: Report, now: float) -> Grant:
        if self._stop:
            quiet = not any(one.in_flight for _, one in self._reports.values())
            return Grant(0, 0, 0.0, 0.0, self._stop, quiet)
        others = 0
        for name, (_, one) in self._reports.items():
            if name != worker:
                granted = self._granted.get(name)
                others += max(one.in_flight, granted.in_flight if granted else 0)
        in_flight = min(self._share(worker), max(0, self._limit.value - others))
        starts = None
        wanted = min(made.waiting, max(0, in_flight - made.in_flight))
        if self._request_tokens:
            starts = self._request_tokens.take_part(wanted, len(self._reports), now)
        if self._model_tokens and self._model_tokens.is_empty(now):
            starts = 0
        reserve = self._reserve(worker, made)
        return Grant(in_flight, starts, reserve, self._paused_until, established=self._established)

    def _share(self, worker: str) -> int:
        """The fair share of the limit: nobody gets more than it can use, and what is left is divided evenly."""
        wants = {name: one.in_flight + one.waiting for name, (_, one) in self._reports.items()}
        left, share = self._limit.value, 0
        for position, (name, want) in enumerate(sorted(wants.items(), key=lambda item: (item[1], item[0]))):
            share = min(want, -(-left // (len(wants) - position)))
            left -= share
            if name == worker:
                return share
        return share


class _Bucket:
    """A rate: up to two reports' worth of it may be saved."""

    def __init__(self, per_second: float, now: float) -> None:
        self._rate, self._at = per_second, now
        self._most = max(1.0, per_second * 2 * REPORT_S)
        self._level = min(1.0, self._most)

    def _fill(self, now: float) -> None:
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now

    def take_part(self, wanted: int, parts: int, now: float) -> int:
        """Take as many as wanted, up to one of equal parts of what is there, rounded up."""
        self._fill(now)
        taken = min(wanted, max(0, int(self._level)), max(0, -(-int(self._level) // parts)))
        self._level -= taken
        return taken

    def take(self, amount: float) -> None:
        self._level -= amount

    def is_empty(self, now: float) -> bool:
        self._fill(now)
        return self._level <= 0
