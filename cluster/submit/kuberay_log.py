"""The log of a RayJob's driver: standard output of the container `driver-log` of the head's pod."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator

from raymill.cluster.submit.backend import (
    AttemptLost,
    LogReader,
    NoAnswer,
    NotThere,
    OnMessage,
    Retries,
    State,
    as_text,
    split_lines,
)
from raymill.cluster.submit.kubernetes_api import Forbidden, KubernetesApi, Object
from raymill.cluster.submit.rayjob_state import state_of

log = logging.getLogger(__name__)

_CONTAINER = "driver-log"
_POLL_S = 1.0
_WATCH_S = 10
# Seconds after the end of a job until its last lines are in its log: the container prints new lines each 0.25 s.
_LAST_LINES_S = 2.0
# Seconds until a log that cannot be read, as while its node does not answer, is reported; and until it is given up if
# its job has ended.
_UNREADABLE_S = 20.0
# Seconds before the last line at which a connection begins, so that clocks may differ by as much.
_OVERLAP_S = 600
_MOST_OF_ONE_TIME = 100_000  # lines that are told apart; a server that lies may send any number


def read_log(api: KubernetesApi, job: Object) -> Iterator[str]:
    """The lines so far of the log on the current head.

    Raises:
        AttemptLost: the job has ended, and its pods are gone.
    """
    pod = _head(api, job, set())
    if pod is None:
        if state_of(job).final:
            raise AttemptLost(_gone(job["metadata"]["name"]))
        return
    lines = PodLog()
    lines.connected()
    for chunk in api.log(pod["metadata"]["name"], _CONTAINER, follow=False):
        yield from lines.add(chunk)
    yield from lines.end()


class Follower:
    """Follows the log of a job, from every head that it has, one after the other.

    Args:
        api: API server and namespace.
        name: name of the RayJob.
        retries: waits while the API server does not answer.
        message: returns why a RayJob waits or failed.
        on_message: called with the reason why there is no log, each time that it changes.

    Attributes:
        gone: whether `lines` ended because there is no RayJob.
    """

    def __init__(
        self, api: KubernetesApi, name: str, retries: Retries, message: Callable[[Object], str], on_message: OnMessage
    ) -> None:
        self.gone = False
        self._api, self._name, self._retries, self._message = api, name, retries, message
        self._on_message, self._last_message = on_message, ""
        self._unreadable: float | None = None  # since when the log of a container that runs or ran cannot be read
        self._reader: LogReader | None = None
        self._lines, self._uid, self._container_ended = PodLog(), "", False
        self._read: set[str] = set()  # uids of pods whose log was read to its end

    def lines(self) -> Iterator[str]:
        """Each line once, until the job has ended or its RayJob is gone."""
        while True:
            try:
                job = self._api.rayjob(self._name)
                if job is None and self._reader is None:
                    self.gone = True
                    return
                connected = self._reader is not None or self._connect(job)
            except NoAnswer as error:
                self._retries.failed(error)
                continue
            self._retries.succeeded()
            if job is not None and state_of(job).final:
                yield from self._rest(job)
                return
            yield from self._new_lines(_POLL_S if connected else 0)
            if job is not None and not connected:
                if state_of(job) is State.WAITING:
                    self._notify(f"waiting: {self._message(job)}")
                self._wait(job)

    def _connect(self, job: Object | None) -> bool:
        """Begin to follow the next unread log of a head. False if there is none."""
        pod = None if job is None else _head(self._api, job, self._read)
        if pod is None:
            return False
        self._container_ended = _state(pod) == "terminated"
        self._reader = LogReader(self._log(pod, follow=not self._container_ended))
        return True

    def _log(self, pod: Object, follow: bool) -> Iterator[bytes]:
        """The log of a head, on a new connection, from some minutes before the last line that was yielded."""
        if pod["metadata"]["uid"] != self._uid:
            self._lines, self._uid = PodLog(), pod["metadata"]["uid"]
        self._lines.connected()
        return self._api.log(pod["metadata"]["name"], _CONTAINER, follow, self._lines.since_s())

    def _new_lines(self, seconds: float) -> Iterator[str]:
        until = time.monotonic() + seconds
        while self._reader is not None and (left := until - time.monotonic()) > 0:
            try:
                chunk = self._reader.read(left)
            except (NoAnswer, NotThere) as error:  # also of a log that cannot be read yet, or no longer
                self._reader = None
                if self._unreadable_too_long():
                    self._notify(f"its log cannot be read now, trying again: {error}")
                time.sleep(min(left, _POLL_S / 4))
                return
            if chunk is None:
                self._reader = self._unreadable = None
                if self._container_ended:
                    self._read.add(self._uid)
                    yield from self._lines.end()
                else:
                    time.sleep(left)
            elif chunk:
                self._unreadable = None
                yield from self._lines.add(chunk)

    def _rest(self, job: Object) -> Iterator[str]:
        """The lines of an ended job's log that were not read yet."""
        until, self._unreadable = time.monotonic() + _LAST_LINES_S, None
        yield from self._new_lines(_LAST_LINES_S)
        time.sleep(max(0.0, until - time.monotonic()))
        while True:
            try:
                pod = _head(self._api, job, self._read)
            except NoAnswer as error:
                self._retries.failed(error)
                continue
            self._retries.succeeded()
            if pod is None:
                break
            try:
                for chunk in self._log(pod, follow=False):
                    yield from self._lines.add(chunk)
                yield from self._lines.end()
                self._read.add(self._uid)
            except (NoAnswer, NotThere):
                if self._unreadable_too_long():
                    self._notify("the rest of its log cannot be read: its node does not answer")
                    return
                time.sleep(_POLL_S)
        if not self._uid and (job.get("status") or {}).get("jobStatus"):
            log.warning("%s", _gone(self._name))

    def _unreadable_too_long(self) -> bool:
        """Record that the log could not be read. True if that has lasted longer than _UNREADABLE_S."""
        self._unreadable = self._unreadable or time.monotonic()
        return time.monotonic() - self._unreadable > _UNREADABLE_S

    def _notify(self, why: str) -> None:
        if why != self._last_message:
            self._on_message(f"{self._name}: {why}")
            self._last_message = why

    def _wait(self, job: Object) -> None:
        """Wait for a change of a job that has no log now."""
        if state_of(job) is State.RUNNING:
            time.sleep(_POLL_S)  # for its next head, which is no change of the RayJob
            return
        try:
            self._api.wait_for_change(job, _WATCH_S)
        except (NoAnswer, Forbidden):
            time.sleep(_POLL_S)


def _head(api: KubernetesApi, job: Object, read: set[str]) -> Object | None:
    """The pod of the job's head, if it has a log and its uid is not in `read`.

    There is at most one: KubeRay gives all heads of a cluster the same name.
    """
    name = (job.get("status") or {}).get("rayClusterName")
    if not name:
        return None
    pods = api.pods(f"ray.io/cluster={name},ray.io/node-type=head")
    return next((pod for pod in pods if pod["metadata"]["uid"] not in read and _state(pod) is not None), None)


def _state(pod: Object) -> str | None:
    """`running` or `terminated`, if the container with the log has begun."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container["name"] == _CONTAINER:
            state = container.get("state") or {}
            return next((name for name in ("running", "terminated") if name in state), None)
    return None


def _gone(name: str) -> str:
    return (
        f"{name}: its log is gone with its pods, which KubeRay deletes minutes after a job has ended. Look in the "
        "cluster's log collection, if it has one."
    )


class PodLog:
    """Splits the log of one container, as `KubernetesApi.log` gives it, into lines without their times."""

    def __init__(self) -> None:
        self._last: bytes | None = None  # the last line that was yielded, with its time
        self._counts: Counter[int] = Counter()  # hash of each yielded line that has the last one's time -> how often
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
        self._to_come, self._rest = self._counts[hash(self._last)], b""

    def add(self, chunk: bytes) -> list[str]:
        """The lines that these bytes complete and that were not yielded before."""
        lines, self._rest = split_lines(self._rest + chunk)
        return [_untimed(line) for line in lines if self._is_new(line)]

    def end(self) -> list[str]:
        """The last line, if the log has ended without a line feed."""
        rest, self._rest = self._rest, b""
        return [_untimed(rest)] if rest and self._is_new(rest) else []

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
        if self._last is None or when != _time(self._last) or len(self._counts) >= _MOST_OF_ONE_TIME:
            self._counts.clear()
        self._counts[hash(line)] += 1
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
    return int(moment.timestamp()), int(digits[:9].ljust(9, "0"))


def _untimed(line: bytes) -> str:
    return as_text(line.partition(b" ")[2])
