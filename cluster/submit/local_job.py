"""The process that runs an attempt on this machine: `python -m cluster.submit.local_job FOLDER GRACE COMMAND...`.

It starts the command, stops it at SIGTERM or when the file `cancel` is made, kills it if it still runs GRACE seconds
later, and writes its exit code.
It inherits the open file `lock`, locked; the lock ends with this process.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LOCK, PROCESS, CANCEL, LOG, EXIT = "lock", "process", "cancel", "log", "exit.json"
_POLL_S = 0.1


def main(folder: Path, grace_s: float, command: list[str]) -> None:
    """Run the command until it ends, this process gets SIGTERM, or the attempt is cancelled."""
    stopped: list[float] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(time.monotonic()))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    job = subprocess.Popen(command, start_new_session=True)
    write_whole(folder / PROCESS, str(os.getpid()))
    asked = killed = False
    while True:
        try:
            code = job.wait(_POLL_S)
            break
        except subprocess.TimeoutExpired:
            pass
        if not stopped and (folder / CANCEL).exists():
            stopped.append(time.monotonic())
        if stopped and not asked:
            asked = True
            job.terminate()
        if stopped and not killed and time.monotonic() - stopped[0] > grace_s:
            killed = True
            os.killpg(job.pid, signal.SIGKILL)
    left = {"code": code if code >= 0 else 128 - code, "cancelled": bool(stopped), "ended": time.time()}
    write_whole(folder / EXIT, json.dumps(left))


def write_whole(path: Path, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
