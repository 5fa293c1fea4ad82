"""One driver at a time at an output: a lease on its store, which a living driver refreshes and a dead one loses.

    OUTPUT/_lease/00000003.json     who holds the lease and since when; the highest number counts

Number N + 1 is created with put-if-absent, and only where N was released or its holder is gone, so that of several
drivers one gets it. Afterwards only its holder writes to it: a refresh every 10 s. A holder on this machine is gone
when its process is; elsewhere, when it did not refresh for 45 s by the clock of the driver that waits. A holder that
was suspended meanwhile finds the higher number at its next refresh and stops.
"""

import getpass
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from cluster.errors import BusyError, StorageError
from cluster.store import storage

log = logging.getLogger(__name__)

_FOLDER = "_lease"
_REFRESH_S = 10.0
_EXPIRES_S = 45.0
_LOOK_S = 1.0
# Clocks of two machines differ by less: a lease this old is not waited for.
_LONG_AGO_S = 900.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. machine: tells boots and containers apart. process_started: as /proc states it."""

    user: str
    host: str
    machine: str
    process: int
    process_started: str
    since: str
    refreshed: float
    released: bool = False

    @classmethod
    def me(cls) -> Self:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        process = os.getpid()
        return cls(_user(), socket.gethostname(), _machine(), process, _started(process), now, time.time())

    def __str__(self) -> str:
        return f"process {self.process} of {self.user} on {self.host}, since {self.since}"

    @property
    def here(self) -> bool:
        """Whether its process would be visible to this one."""
        return self.machine == _machine()

    @property
    def alive(self) -> bool:
        """Whether the process runs; only for one that is `here`."""
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's
        return _started(self.process) == self.process_started


class Lease:
    """A lease that this process holds. `check` it where work begins that a lost lease would waste."""

    def __init__(self, root: str, number: int, holder: Holder) -> None:
        self.root, self.number, self.holder = root, number, holder
        self._lost: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh_on, daemon=True, name="lease")
        self._thread.start()

    def check(self) -> None:
        """
        Raises:
            BusyError: another driver took the lease, because this one did not refresh it for too long.
        """
        if self._lost is not None:
            raise BusyError(self._lost)

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._lost is None:
            storage.write_bytes(_uri(self.root, self.number), _to_json(replace(self.holder, released=True)))

    def _refresh_on(self) -> None:
        while not self._ended.wait(_REFRESH_S):
            try:
                self._refresh()
            except StorageError as error:
                log.warning("the lease was not refreshed: %s", error)
            if self._lost is not None:
                return

    def _refresh(self) -> None:
        newest = _newest(self.root)
        if newest is not None and newest[0] > self.number:
            self._lost = (
                f"{self.root}: another run took over here ({newest[1]}), because this one did not refresh its lease "
                f"for {_EXPIRES_S:.0f} s or more; was this machine suspended, or the store out of reach? This run "
                "stops. The other one goes on from the checkpoints and units that were finished."
            )
            return
        storage.write_bytes(_uri(self.root, self.number), _to_json(replace(self.holder, refreshed=time.time())))


@contextmanager
def held(root: str) -> Iterator[Lease]:
    """Hold the lease of an output, an absolute path or URI.

    Raises:
        BusyError: another run is writing there.
    """
    lease = _acquire(root)
    try:
        yield lease
    finally:
        lease.release()


def _acquire(root: str) -> Lease:
    while True:
        newest = _newest(root)
        number = 1
        if newest is not None:
            number = newest[0] + 1
            _require_gone(root, *newest)
        holder = Holder.me()
        if storage.create(_uri(root, number), _to_json(holder)):
            files = storage.list_files(storage.join(root, _FOLDER))
            storage.delete(file.uri for file in files if _number(file.uri) < number)
            return Lease(root, number, holder)


def _require_gone(root: str, number: int, holder: Holder) -> None:
    """Return once the holder released the lease or is gone.

    Raises:
        BusyError: it is alive.
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
        newest = _newest(root)
        if newest is None or newest[1].released:
            return
        if newest[0] != number or newest[1].refreshed != holder.refreshed:
            raise _busy(root, newest[1])


def _busy(root: str, holder: Holder) -> BusyError:
    return BusyError(
        f"{root}: another run is writing here: {holder}. Nothing was done. Wait until it has ended and run the same "
        "command again, which goes on from what it leaves; end that process; or choose another output."
    )


def _newest(root: str) -> tuple[int, Holder] | None:
    """The lease that counts; None where there never was one."""
    while True:
        uris = [file.uri for file in storage.list_files(storage.join(root, _FOLDER))]
        if not uris:
            return None
        uri = max(uris, key=_number)
        try:
            return _number(uri), Holder(**json.loads(storage.read_bytes(uri)))
        except storage.NotFound:
            continue  # a higher one took its place


def _uri(root: str, number: int) -> str:
    return storage.join(root, _FOLDER, f"{number:08d}.json")


def _number(uri: str) -> int:
    return int(uri.rpartition("/")[2].removesuffix(".json"))


def _to_json(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in many containers
        return str(os.getuid())


def _machine() -> str:
    """Equal for processes that see each other's ids: the boot, and the namespace of process ids."""
    parts = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    if boot.exists():
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return " ".join(parts)


def _started(process: int) -> str:
    """When a process began, so that a later one with the same id is not taken for it; empty where that is not known."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
