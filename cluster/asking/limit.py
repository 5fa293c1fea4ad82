"""The number of requests in flight, found from what the server does with them.

A limit that only obeys refusals is no limit for a server without any: vLLM queues whatever it is sent. So throughput
decides. Requests in flight are raised, and a higher number is kept if it brings more: f times the requests must bring
at least f^(1/3) times the throughput, else the server is full and they only wait. That is where throughput squared by
latency is largest. The number is lowered by the same rule, when the server became slower. A refused rate or an
overloaded server lowers it to three quarters at once.
"""

from dataclasses import dataclass

_FIRST = 8
_DOUBLE, _STEP = 2.0, 1.25
_EXPONENT = 1 / 3
_LEAST_S, _LEAST_REQUESTS = 1.0, 8
_WINDOWS_HELD = 8
_LOWERED = 0.75


@dataclass
class _Window:
    """Requests that ended since `begun`. saturated: whether the limit was reached all the time."""

    begun: float
    count: int = 0
    weight: float = 0.0
    saturated: bool = True


class Limit:
    """A limit that adapts. most: its largest value. value: the number of requests that may be in flight now."""

    def __init__(self, most: int, now: float) -> None:
        self.most = most
        self.value = min(_FIRST, most)
        self._lowered_at = now
        self._window = _Window(now)
        self._before: tuple[int, float] | None = None  # the value that is compared with, and its throughput
        self._factor = _DOUBLE
        self._held = 0
        self._up = True

    def ended(self, now: float, count: int, weight: float, saturated: bool) -> None:
        """Requests have ended.

        count: their number. weight: what they brought, such as tokens. saturated: whether more would have been sent but
        for the limit.
        """
        window = self._window
        window.count += count
        window.weight += weight
        window.saturated &= saturated
        passed = now - window.begun
        if passed < _LEAST_S or window.count < max(_LEAST_REQUESTS, 2 * self.value):
            return
        self._window = _Window(now)
        if window.saturated:
            self._judge(now, window.weight / passed)

    def overloaded(self, now: float) -> None:
        """The server refused the rate, or is overloaded."""
        if now - self._lowered_at >= _LEAST_S:  # once for all refusals of a moment
            self._lowered_at = now
            self._change(max(1, int(self.value * _LOWERED)), now)
            self._before, self._factor, self._held = None, _STEP, _WINDOWS_HELD

    def _judge(self, now: float, rate: float) -> None:
        if self._before is None:
            if self._held:
                self._held -= 1
                return
            self._before = self.value, rate
            self._try_next(now)
            return
        other = self._before[0]
        high, low = ((self.value, rate), self._before) if self.value > other else (self._before, (self.value, rate))
        better = high if high[1] >= low[1] * (high[0] / low[0]) ** _EXPONENT else low
        if better[0] == self.value:  # the new value stays: go on in this direction
            self._before = better
            self._try_next(now)
            return
        self._change(other, now)
        self._before, self._factor, self._held, self._up = None, _STEP, _WINDOWS_HELD, not self._up

    def _try_next(self, now: float) -> None:
        wanted = self.value * self._factor if self._up else self.value / self._factor
        wanted = min(self.most, max(1, int(wanted + 0.5) + (wanted > self.value and int(wanted + 0.5) == self.value)))
        if wanted == self.value:
            self._before, self._held, self._up = None, _WINDOWS_HELD, not self._up
        else:
            self._change(int(wanted), now)

    def _change(self, value: int, now: float) -> None:
        self.value = value
        self._window = _Window(now)
