"""Following a job over connections that break: how long to wait for an answer, and a log that is read in a thread."""

import logging
import queue
import threading
import time
from collections.abc import Iterator

from cluster.errors import ClusterError

log = logging.getLogger(__name__)

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
