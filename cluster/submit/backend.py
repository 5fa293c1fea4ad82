"""The contract of the places that jobs are submitted to: this machine, a Ray cluster, Kubernetes.

A run has one id (work.py) and one or more attempts, named RUN_ID, RUN_ID-a2, RUN_ID-a3, ...; a new attempt continues
the run, because its finished units are at its output. `submit.py` decides between attaching, continuing and refusing;
a backend carries the decision out.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from raymill import cluster
from raymill.cluster.errors import ClusterError, UserError
from raymill.cluster.submit.work import Work

# The configuration of a job is in this environment variable, as JSON.
CONFIG_VARIABLE = "RAYMILL_CONFIG"

# Seconds that a cancelled job has to commit what is done. A training waits up to 60 s for its last checkpoint
# (training/driver/launch.py), and then ends its workers and releases its output.
GRACE_S = 90

# Seconds for which a request is repeated while a backend does not answer.
RETRY_S = 180

log = logging.getLogger(__name__)

LONGEST_LINE = 1 << 20  # bytes; a longer line, such as one without an end, is given in pieces of this size
_POLL_S = 1.0
_WARNED = 10  # of the damaged jobs of a listing


class State(StrEnum):
    """The state of an attempt. FAILED, SUCCEEDED and CANCELLED are final."""

    WAITING = "waiting"  # for admission, machines or a free place
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (State.SUCCEEDED, State.FAILED, State.CANCELLED)


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run, as its backend reports it.

    Attributes:
        name: RUN_ID or RUN_ID-aN.
        message: why it waits or failed, in one line for a person.
        exit_code: exit code of the job's process; None until it ended, or if the backend has lost it.
        started, ended: Unix time in seconds.
        config_fingerprint: fingerprint of the config that it was submitted with.
        lingers: whether its state is final although its machines are still there, so that its driver may still write.
    """

    name: str
    run_id: str
    kind: str
    state: State
    message: str = ""
    exit_code: int | None = None
    started: float | None = None
    ended: float | None = None
    config_fingerprint: str = ""
    output: str = ""
    lingers: bool = False


@dataclass(frozen=True)
class Request:
    """What a backend starts: an attempt of this name, which runs `raymill VERB` with the config of `work`."""

    work: Work
    name: str

    @property
    def metadata(self) -> dict[str, str]:
        """What a backend stores of the work for `Attempt`, and the version of Raymill."""
        work = self.work
        return {
            "run_id": work.run_id,
            "kind": work.kind,
            "config_fingerprint": work.config_fingerprint,
            "output": work.output,
            "version": cluster.__version__,
        }

    def command(self, raymill: Sequence[str]) -> tuple[str, ...]:
        """The command of a job that has its config in CONFIG_VARIABLE. raymill: command that starts Raymill."""
        return (*raymill, self.work.verb, f"env:{CONFIG_VARIABLE}", *self.work.options)


# Called with a one-line message for the user.
OnMessage = Callable[[str], object]


def ignore_message(line: str) -> None:
    """Do nothing: the default OnMessage."""


class Backend(Protocol):
    """A place that jobs are submitted to. Every call has a time-out. Raises ClusterError: no answer."""

    def check(self, work: Work) -> list[str]:
        """The problems that would make the job fail, one line each with its fix; empty if it can start."""
        ...

    def start(self, request: Request) -> Attempt:
        """Start an attempt.

        Raises:
            AttemptExists: the name is taken: another `submit` was first, or as NameTaken: by something else.
        """
        ...

    def attempts(self) -> list[Attempt]:
        """The attempts of all runs, the newest last."""
        ...

    def attempt(self, name: str) -> Attempt | None:
        """The attempt of this name; None if the backend has none, or no longer."""
        ...

    def config(self, attempt: Attempt) -> Mapping[str, Any] | None:
        """The config that the attempt was submitted with; None if the backend no longer has it."""
        ...

    def logs(self, attempt: Attempt, follow: bool, on_message: OnMessage = ignore_message) -> Iterator[str]:
        """The lines of the job's log, each once; with `follow` until the attempt has ended.

        A lost connection is made again, for up to RETRY_S seconds.

        Args:
            on_message: called with the reason why there is no log yet, or no longer, each time that it changes.

        Raises:
            AttemptLost: the backend no longer has the attempt.
        """
        ...

    def cancel(self, attempt: Attempt) -> None:
        """Ask the job to stop, and kill it if it still runs after GRACE_S seconds. Finished units are kept.

        Does nothing to an attempt that has ended, unless it lingers.
        """
        ...


class Unreachable(ClusterError):
    """There is no connection to the address: it is wrong, or nothing listens there (any longer)."""


class NoAnswer(ClusterError):
    """The server did not answer, or not as it should. It may answer later."""


class NoConnection(NoAnswer, Unreachable):
    """No connection to the server: refused, no such host, no encryption, or it does not use HTTP."""


class NotThere(ClusterError):
    """The server has no such object, or no such kind of object."""


def first_attempts(backend: Backend) -> list[Attempt]:
    """The attempts of all runs, as the first request of a verb: without a connection, the user gave a wrong address.

    Raises:
        UserError: there is no connection to the address.
    """
    try:
        return backend.attempts()
    except Unreachable as error:
        raise UserError(str(error)) from None


class AttemptExists(Exception):
    """An attempt of this name exists."""


class NameTaken(AttemptExists):
    """The name is taken by something that is not listed as an attempt of the run, such as a damaged job."""


def name_conflict(backend: Backend, request: Request) -> AttemptExists:
    """The error for a name that is taken on a backend that lists each attempt from its start on."""
    listed = any((one.name, one.run_id) == (request.name, request.work.run_id) for one in backend.attempts())
    return AttemptExists(request.name) if listed else NameTaken(request.name)


class AttemptLost(ClusterError):
    """The backend no longer has an attempt that it had, as after the head of a cluster was replaced."""


def warn_of_unlisted(reasons: Sequence[str]) -> None:
    """Warn of jobs and objects that others damaged and that are left out; of the first ones with the reason."""
    for reason in reasons[:_WARNED]:
        log.warning("not listed: %s", reason)
    if len(reasons) > _WARNED:
        log.warning("not listed: %d more like these", len(reasons) - _WARNED)


# ---- following a job's log over connections that break ----


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
