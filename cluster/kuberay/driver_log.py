"""Prints the log of a job's driver: the container `driver-log` of the head's pod.

    python -m raymill.cluster.kuberay.driver_log /tmp/ray 6379

Ray writes the output of each driver to a file of its session, FOLDER/session_*/logs/job-driver-*.log. This program
prints what is added to these files, so that `kubectl logs`, `raymill logs` and every log agent have it: KubeRay's HTTP
mode has no pod of a submitter. Only whole lines are printed; a line without its end is printed after a second.

A pod that is deleted ends all its containers at once, and a driver may then take a minute to commit what is done. So
this program ends after Ray's control process, which listens at PORT of the same pod.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import BinaryIO

_POLL_S = 0.25
_PARTIAL_S = 1.0
_CHUNK = 1 << 20


class DriverLogs:
    """The drivers' log files below a folder, each from its beginning.

    A file that was renamed is read to its end; one that was shortened is read from its beginning again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[tuple[int, int], _File] = {}  # device and inode -> file

    def new_lines(self, flush: bool = False) -> bytes:
        """What was added since the last call, in whole lines. flush: also the beginnings of lines."""
        # Real folders of sessions: the link session_latest would name each file twice.
        for path in sorted(self._folder.glob("session_[0-9]*/logs/job-driver-*.log")):
            try:
                stat = path.stat()
                if (stat.st_dev, stat.st_ino) not in self._files:
                    self._files[stat.st_dev, stat.st_ino] = _File(open(path, "rb"))  # noqa: SIM115 - stays open
            except FileNotFoundError:
                continue
        return b"".join(file.new_lines(flush) for file in self._files.values())


class _File:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._rest = b""
        self._changed = 0.0

    def new_lines(self, flush: bool) -> bytes:
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        found = []
        while chunk := self._file.read(_CHUNK):
            self._changed = time.monotonic()
            found.append(chunk)
        text = self._rest + b"".join(found)
        whole, end, self._rest = text.rpartition(b"\n")
        if self._rest and (flush or time.monotonic() - self._changed > _PARTIAL_S):
            whole, end, self._rest = whole + end + self._rest, b"\n", b""
        return whole + end


def listens(port: int) -> bool:
    """Whether a process of this pod listens at the port, on any of the pod's addresses."""
    for host in ("127.0.0.1", socket.gethostname()):
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            continue
    return False


def main() -> None:
    """Print new lines until SIGTERM has come and Ray's control process has ended."""
    logs, port = DriverLogs(Path(sys.argv[1])), int(sys.argv[2])
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    while True:
        ends = bool(stopped) and not listens(port)  # before the last lines are read
        sys.stdout.buffer.write(logs.new_lines(flush=ends))
        sys.stdout.buffer.flush()
        if ends:
            return
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main()
