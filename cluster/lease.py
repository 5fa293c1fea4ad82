"""A lease on an output, so that one driver at a time writes to it.

    OUTPUT/_lease/00000003.json     the holder and since when; the file with the highest number is the current lease

A driver takes the lease by creating number N + 1 (put-if-absent) after N was released or has expired, so of several
drivers one succeeds. After that only the holder writes the file: it refreshes it every 10 s. A lease expires when its
holder's process has ended, if that ran on this machine; else when it was not refreshed for 45 s by the clock of the
driver that waits. A holder that was suspended finds the higher number at its next refresh and stops.
"""

import getpass
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from raymill.cluster.errors import BusyError, DataError, StorageError, UserError
from raymill.cluster.record import RecordFile, json_bytes
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.store import Store

log = logging.getLogger(__name__)

LEASES = "_lease"
_LEASE = re.compile(r"/\d+\.json$")
_REFRESH_S = 10.0
_EXPIRES_S = 45.0
_LOOK_S = 1.0
# The clocks of two machines differ by less than this, so a lease that was refreshed longer ago has surely expired, and
# `_require_gone` does not wait.
_LONG_AGO_S = 900.0
_CREATE_TRIES = 10


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    machine: host, boot and process namespace. process_started: from /proc, as text. refreshed: Unix time in seconds.
    """

    user: str
    host: str
    machine: str
    process: Annotated[int, Field(gt=0, lt=2**31)]
    process_started: str
    since: str
    refreshed: FiniteFloat
    released: bool = False

    @classmethod
    def me(cls) -> Self:
        """This process, as a holder from now on."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        process = os.getpid()
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a user id without a name, as in many containers
            user = str(os.getuid())
        return cls(user, socket.gethostname(), _machine(), process, _started(process), now, time.time())

    def __str__(self) -> str:
        return f"process {self.process} of {self.user} on {self.host}, since {self.since}"

    @property
    def here(self) -> bool:
        """Whether it runs on this machine, in the same process namespace."""
        return self.machine == _machine()

    @property
    def alive(self) -> bool:
        """Whether the process is running; valid only if `here`."""
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        return _started(self.process) == self.process_started


_HOLDER = TypeAdapter(Holder)
_FIX = "Make sure that no run is writing to this output, delete the file and run the same command again."


class Lease:
    """A lease that this process holds, refreshed by a thread. Call `check` before each longer piece of work."""

    def __init__(self, store: Store, root: str, number: int, holder: Holder) -> None:
        self.store, self.root, self.number, self.holder = store, root, number, holder
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh_on, daemon=True, name="lease")
        self._thread.start()

    def check(self) -> None:
        """Verify that this process still holds the lease, as of the last refresh.

        Raises:
            BusyError: another driver took it, because this one did not refresh it in time.
        """
        if self._lost is not None:
            raise BusyError(self._lost)

    def release(self) -> None:
        """Stop refreshing and mark the lease as released, unless another driver has taken it.

        If the store cannot be reached, that is logged, and the lease expires later. It is not raised as an error,
        because that could hide the error that ended the run.
        """
        self._ended.set()
        self._thread.join()
        if self._lost is None:
            try:
                self.store.write_bytes(
                    _uri(self.root, self.number), _to_json(replace(self.holder, refreshed=time.time(), released=True))
                )
            except StorageError as error:
                log.warning("the lease was not released: %s", error)

    def _refresh_on(self) -> None:
        while not self._ended.wait(_REFRESH_S):
            try:
                self.refresh()
            except UserError as error:
                log.warning("the lease was not refreshed: %s", error)
            if self._lost is not None:
                return

    def refresh(self) -> None:
        """Write the current time to the lease, unless another driver has taken it."""
        # The number alone decides: a driver of another version may write leases that this one cannot read.
        if max(_files(self.store, self.root), default=0) > self.number:
            try:
                newest = _newest(self.store, self.root)
            except DataError:
                newest = None
            self._lost = (
                f"{self.root}: another run took over here "
                f"({newest[1] if newest else 'its lease cannot be read'}), because this one did not refresh its lease "
                f"for {_EXPIRES_S:.0f} s or more (a suspended machine, or an unreachable store). This run "
                "stops. The other run continues from the checkpoints and units that were finished."
            )
            return
        self.store.write_bytes(_uri(self.root, self.number), _to_json(replace(self.holder, refreshed=time.time())))


@contextmanager
def held(store: Store, root: str) -> Iterator[Lease]:
    """Hold the lease of an output inside the `with`.

    root: absolute path or URI of the output.

    Raises:
        StorageError: a link below the output leads out of it.
        BusyError: another run is writing there. Raised at once, or after 45 s if its holder is on another machine. Also
            raised in place of any error of the work inside the `with` after another run took the lease, because that
            run commits, replaces and removes what this one has read.
    """
    store.refuse_links_out(root)
    lease = _acquire(store, root)
    try:
        yield lease
    except Exception as error:
        with suppress(UserError):
            lease.refresh()
        try:
            lease.check()
        except BusyError as lost:
            raise lost from error
        raise
    finally:
        lease.release()


def require_free(store: Store, root: str) -> None:
    """Verify that no process holds the lease of an output. Writes nothing; may wait 45 s, as `held` does.

    Raises:
        BusyError: a run is writing there.
    """
    if (newest := _newest(store, root)) is not None:
        _require_gone(store, root, *newest)


def last_held(store: Store, root: str) -> float | None:
    """Unix time at which the last holder of the lease of an output refreshed or released it, every 10 s; None if there
    is none.

    Raises:
        DataError: the lease cannot be read.
    """
    newest = _newest(store, root)
    return None if newest is None else newest[1].refreshed


def _acquire(store: Store, root: str) -> Lease:
    for _ in range(_CREATE_TRIES):
        newest = _newest(store, root)
        number = 1
        if newest is not None:
            number = newest[0] + 1
            _require_gone(store, root, *newest)
        holder = Holder.me()
        if store.create(_uri(root, number), _to_json(holder)):
            files = _files(store, root)
            newest_number = max(files, default=0)
            store.delete(file.uri for of_number, file in files.items() if of_number < newest_number)
            # The first listing may have missed a lease that was created during it, while the one before was removed.
            if newest_number == number:
                return Lease(store, root, number, holder)
    raise StorageError(
        f"{_uri(root, number)}: exists when it is created and is no file when it is listed ({_CREATE_TRIES} "
        "tries). Is it a folder or a broken link? Make sure that no run is writing to this output, delete it and "
        "run the same command again."
    )


def _require_gone(store: Store, root: str, number: int, holder: Holder) -> None:
    """Wait until the lease was released or has expired.

    Raises:
        BusyError: the holder is alive.
    """
    if holder.released or time.time() - holder.refreshed > _LONG_AGO_S:
        return
    if holder.here:
        if holder.alive:
            raise _busy(root, holder)
        return
    log.warning(
        "%s: another run was writing here (%s); waiting up to %.0f s to see whether it still is",
        root,
        holder,
        _EXPIRES_S,
    )
    until = time.monotonic() + _EXPIRES_S
    while time.monotonic() < until:
        time.sleep(_LOOK_S)
        newest = _newest(store, root)
        if newest is None or newest[1].released:
            return
        if newest[0] != number or newest[1].refreshed != holder.refreshed:
            raise _busy(root, newest[1])


def _busy(root: str, holder: Holder) -> BusyError:
    return BusyError(
        f"{root}: another run is writing here: {holder}. Nothing was done. Wait until it has ended and run the same "
        "command again, which continues from its results; end that process; or choose another output."
    )


def _newest(store: Store, root: str) -> tuple[int, Holder] | None:
    """Number and holder of the current lease; None if there is none.

    Raises:
        DataError: it cannot be read.
    """
    while files := _files(store, root):
        number = max(files)
        found = RecordFile(store, files[number].uri, "a lease", _parse, _FIX, of_folder=False).read()
        if found is not None:  # else removed by the driver that created a higher one
            return number, found
    return None


def _files(store: Store, root: str) -> dict[int, FileInfo]:
    """The files of leases by number. Files with other names, as file managers write them, are skipped."""
    files = store.list_files(paths.join(root, LEASES), skip_bad_names=True)
    return {_number(file.uri): file for file in files if _LEASE.search(file.uri)}


def _uri(root: str, number: int) -> str:
    return paths.join(root, LEASES, f"{number:08d}.json")


def _number(uri: str) -> int:
    return int(uri.rpartition("/")[2].removesuffix(".json"))


def _parse(data: bytes) -> Holder:
    """The holder in a lease. Keys that a later version may add are ignored."""
    try:
        return _HOLDER.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(": ".join([*map(str, first["loc"]), first["msg"]])) from error


def _to_json(holder: Holder) -> bytes:
    return json_bytes(asdict(holder))


def _machine() -> str:
    """Host, boot and process namespace: equal for processes that see each other's process ids."""
    parts = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    if boot.exists():
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return " ".join(parts)


def _started(process: int) -> str:
    """Start time of a process in clock ticks, which distinguishes it from a later one with its id; empty if unknown."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
