"""Following the log of a job over connections that break: waiting for answers, and lines that come once."""

import logging
import queue
import threading
import time
from collections.abc import Iterator

from cluster.errors import ClusterError

log = logging.getLogger(__name__)

LONGEST_LINE = 1 << 20  # bytes; a longer line, such as one without an end, is given in pieces of this size
_POLL_S = 1.0


class Retries:
    """Waits between requests to a backend that does not answer, and gives up after a limit.

    Args:
        address: address of the backend, for messages.
        seconds: `failed` raises when there was no answer for this long.
    """

    def __init__(self, address: str, seconds: float) -> None:
        self._address, self._seconds = address, seconds
        self.succeeded()

    def succeeded(self) -> None:
        self._answered, self._reported = time.monotonic(), False

    def failed(self, error: ClusterError) -> None:
        """Wait before the next try.

        Raises:
            ClusterError: the backend has not answered for too long.
        """
        silent = time.monotonic() - self._answered
        if silent > self._seconds:
            raise ClusterError(
                f"{error} It has not answered for {silent:.0f} s. The job may still run: look with `raymill status`."
            ) from None
        if not self._reported:
            log.warning("no answer from %s; trying again for up to %.0f s", self._address, self._seconds)
            self._reported = True
        time.sleep(min(_POLL_S, self._seconds / 10))


class LogReader:
    """Reads chunks in a thread of its own, so that waiting for the next one can end."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._queue: queue.Queue[bytes | Exception | None] = queue.Queue(maxsize=64)
        threading.Thread(target=self._run, args=(chunks,), daemon=True).start()

    def read(self, seconds: float) -> bytes | None:
        """The next chunk, b"" if there is none within `seconds`, None at the end. Raises the log's error."""
        try:
            found = self._queue.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return b""
        if isinstance(found, Exception):
            raise found
        return found

    def _run(self, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                self._queue.put(chunk)
            self._queue.put(None)
        except Exception as error:
            self._queue.put(error)


def split_lines(text: bytes) -> tuple[list[bytes], bytes]:
    """The complete lines of a text, and the beginning of the one that is not complete."""
    *lines, rest = text.split(b"\n")
    if max(map(len, (*lines, rest))) <= LONGEST_LINE:
        return lines, rest
    lines = [line[at : at + LONGEST_LINE] for line in lines for at in range(0, len(line) or 1, LONGEST_LINE)]
    whole = len(rest) - len(rest) % LONGEST_LINE
    return lines + [rest[at : at + LONGEST_LINE] for at in range(0, whole, LONGEST_LINE)], rest[whole:]


class LogLines:
    """Splits a log into lines, each yielded once, whatever the number of connections that its bytes arrive over.

    A log is only ever appended to, so the number of bytes seen is the place to continue at.
    """

    def __init__(self) -> None:
        self._seen = 0  # bytes of the log
        self._skip = 0  # bytes that this connection repeats from here on
        self._rest = b""  # the beginning of a line that is not complete

    def connected(self) -> None:
        """A new connection begins, at the first byte of the log."""
        self._skip = self._seen

    def add(self, chunk: bytes) -> list[str]:
        """The lines that these bytes complete."""
        skipped = min(self._skip, len(chunk))
        self._skip -= skipped
        chunk = chunk[skipped:]
        self._seen += len(chunk)
        lines, self._rest = split_lines(self._rest + chunk)
        return [as_text(line) for line in lines]

    def end(self) -> list[str]:
        """The last line, if the log does not end with a line feed."""
        rest, self._rest = self._rest, b""
        return [as_text(rest)] if rest else []


def as_text(line: bytes) -> str:
    """A line as UTF-8 without its line end."""
    return line.decode("utf-8", errors="replace").rstrip("\r")
