"""The process that runs an attempt on this machine.

    python -m raymill.cluster.submit.local_job FOLDER GRACE COMMAND...

It starts the command, stops it at SIGTERM or when the file `cancel` is made, kills it if it still runs GRACE seconds
later, and writes its exit code.
It inherits the open file `lock`, locked; the lock ends with this process.
"""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path

LOCK, PROCESS, CANCEL, LOG, EXIT = "lock", "process", "cancel", "log", "exit.json"
_POLL_S = 0.1


def main(folder: Path, grace_s: float, command: list[str]) -> None:
    """Run the command until it ends, this process gets SIGTERM, or the attempt is cancelled."""
    stopped: list[float] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(time.monotonic()))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    write_whole(folder, PROCESS, str(os.getpid()))
    job = subprocess.Popen(command, start_new_session=True)
    asked = killed = False
    while True:
        try:
            code = job.wait(_POLL_S)
            break
        except subprocess.TimeoutExpired:
            pass
        if not stopped and os.path.lexists(folder / CANCEL):
            stopped.append(time.monotonic())
        if stopped and not asked:
            asked = True
            job.terminate()
        if stopped and not killed and time.monotonic() - stopped[0] > grace_s:
            killed = True
            os.killpg(job.pid, signal.SIGKILL)
    left = {"code": code if code >= 0 else 128 - code, "cancelled": bool(stopped), "ended": time.time()}
    write_whole(folder, EXIT, json.dumps(left))


def open_file(folder: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """The descriptor of an ordinary file in the folder of an attempt. Links are not followed, to the folder neither.

    Raises:
        OSError: there is no such file, or something else in its place.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        # Not blocking: a FIFO would wait for its other end.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=opened)
    finally:
        os.close(opened)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no ordinary file")
    return descriptor


def write_whole(folder: Path, name: str, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    part = f".{name}.{uuid.uuid4().hex}"
    with open(open_file(folder, part, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(folder / part, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
