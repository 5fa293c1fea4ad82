"""Lines of a container's log, each yielded once over several connections.

Kubernetes keeps only the newest part of a log (10 MiB by default), so that a connection does not begin at the log's
first byte. Each line begins with its time. A connection begins some minutes before the last line that was yielded, and
the lines up to that one are left out.
"""

import datetime
import time
from collections import Counter

from cluster.submit.job_log import split_lines

# Seconds before the last line at which a connection begins, so that clocks may differ by as much.
_OVERLAP_S = 600


class PodLog:
    """Splits the log of one container, as `KubernetesApi.log` gives it, into lines without their times."""

    def __init__(self) -> None:
        self._last: bytes | None = None  # the last line that was yielded, with its time
        self._counts: Counter[bytes] = Counter()  # yielded lines that have the last one's time -> how often
        self._to_come = 0  # how many of `_counts` this connection still repeats; 0: all further lines are new
        self._rest = b""  # the beginning of a line that is not complete

    def since_s(self) -> int | None:
        """From how many seconds ago the next connection needs the log; None: from its beginning."""
        if self._last is None:
            return None
        seconds, _ = _time(self._last) or (0, 0)
        return max(1, int(time.time() - seconds) + _OVERLAP_S)

    def connected(self) -> None:
        """A new connection begins."""
        self._to_come, self._rest = self._counts[self._last or b""], b""

    def add(self, chunk: bytes) -> list[str]:
        """The lines that these bytes complete and that were not yielded before."""
        lines, self._rest = split_lines(self._rest + chunk)
        return [_text(line) for line in lines if self._is_new(line)]

    def end(self) -> list[str]:
        """The last line, if the log has ended without a line feed."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest and self._is_new(rest) else []

    def _is_new(self, line: bytes) -> bool:
        when = _time(line)
        if when is None:  # a message of Kubernetes in place of the log
            return False
        if self._to_come and self._last is not None:
            if line == self._last:
                self._to_come -= 1
                return False
            if when <= (_time(self._last) or when):
                return False
            self._to_come = 0  # the lines before are no longer kept
        if self._last is None or when != _time(self._last):
            self._counts.clear()
        self._counts[line] += 1
        self._last = line
        return True


def _time(line: bytes) -> tuple[int, int] | None:
    """Seconds and nanoseconds of the time that a line begins with."""
    stamp = line.partition(b" ")[0].decode(errors="replace")
    whole, _, rest = stamp.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        moment = datetime.datetime.fromisoformat(whole + rest[len(digits) :] if rest else whole)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return int(moment.timestamp()), int(digits.ljust(9, "0") or 0)


def _text(line: bytes) -> str:
    return line.partition(b" ")[2].decode("utf-8", errors="replace").rstrip("\r")
