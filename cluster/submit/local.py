"""Submits to this machine: a process that goes on when the terminal is closed.

An attempt is a folder below $XDG_STATE_HOME/raymill/runs (default ~/.local/state/raymill/runs):

    request.json   what was submitted
    lock           held by the process `local_job.py` as long as the attempt is active
    process        its process id, for messages
    cancel         made by `cancel`; the process sees it and stops the job
    log            output of the job
    exit.json      written last: exit code, and whether the job was cancelled
"""

import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, DataError, StorageError
from cluster.logs import printable
from cluster.record import read_json
from cluster.store.store import Store
from cluster.submit.backend import CONFIG_VARIABLE, GRACE_S, Attempt, AttemptExists, AttemptLost, Request, State
from cluster.submit.following import LogLines
from cluster.submit.local_job import CANCEL, EXIT, LOCK, LOG, PROCESS, write_whole
from cluster.submit.preflight import ProbeRequest, problems_here
from cluster.submit.work import Work

log = logging.getLogger(__name__)

_REQUEST = "request.json"
_TEXTS = ("run_id", "kind", "config_fingerprint", "output")
_LATEST_S = 1 << 33  # the year 2242
_POLL_S = 0.2


class Local:
    """This machine.

    Args:
        folder: folder of the attempts; default: see above.
        command: command that starts Raymill.
        grace_s: seconds that a cancelled job has to commit what is done.
    """

    def __init__(
        self,
        folder: Path | None = None,
        command: Sequence[str] = (sys.executable, "-m", "cluster.cli"),
        grace_s: float = GRACE_S,
    ) -> None:
        self.folder = folder or _default_folder()
        self.grace_s = grace_s
        self.command = tuple(command)

    def check(self, work: Work) -> list[str]:
        """Check that the run's files can be read and its output can be written."""
        return problems_here(ProbeRequest.of(work), None)

    def start(self, request: Request) -> Attempt:
        config, folder = dict(request.work.config), self.folder / request.name
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700, exist_ok=True)
        with open(folder / LOCK, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AttemptExists(request.name) from None
            if (folder / _REQUEST).exists():  # without it, a `submit` was killed before it started the job
                raise AttemptExists(request.name)
            record = request.metadata | {"started": time.time(), "config": config}
            write_whole(folder / _REQUEST, json.dumps(record, ensure_ascii=False))
            command = request.command(self.command)
            with open(folder / LOG, "wb") as output:
                # The new process inherits the lock, so that the attempt is active without a gap.
                subprocess.Popen(
                    [sys.executable, "-m", "cluster.submit.local_job", str(folder), str(self.grace_s), *command],
                    env=os.environ | {CONFIG_VARIABLE: json.dumps(config), "PYTHONUNBUFFERED": "1"},
                    pass_fds=[lock.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return self._attempt(folder)

    def attempts(self, run_id: str | None = None) -> list[Attempt]:
        found = []
        for file in self.folder.glob(f"*/{_REQUEST}"):
            try:
                found.append(self._attempt(file.parent))
            except (DataError, StorageError) as error:
                log.warning("not listed: %s", error)
        found.sort(key=lambda attempt: attempt.started or 0)
        return [attempt for attempt in found if run_id in (None, attempt.run_id)]

    def attempt(self, name: str) -> Attempt | None:
        folder = self.folder / name
        return self._attempt(folder) if (folder / _REQUEST).is_file() else None

    def config(self, attempt: Attempt) -> Mapping[str, Any] | None:
        found = _read(self.folder / attempt.name / _REQUEST, "config")
        return found and found["config"]

    def logs(self, attempt: Attempt, follow: bool, on_message: object = None) -> Iterator[str]:
        """The lines of the log. on_message: never called, because a local job starts at once."""
        lines = LogLines()
        path = self.folder / attempt.name / LOG
        if not path.is_file():
            raise AttemptLost(f"{attempt.name}: its folder was removed. Submit the config again to continue.")
        with open(path, "rb") as file:
            while True:
                active = follow and self._active(self.folder / attempt.name)
                while chunk := file.read(1 << 20):
                    yield from lines.add(chunk)
                if not active:  # seen before the last bytes were read
                    break
                time.sleep(_POLL_S)
        yield from lines.end()

    def cancel(self, attempt: Attempt) -> None:
        folder = self.folder / attempt.name
        if not self._active(folder):
            return
        # No signal: the id in `process` may be edited, or that of another machine with the same home folder.
        (folder / CANCEL).touch()
        until = time.monotonic() + self.grace_s + 30
        while self._active(folder):
            if time.monotonic() > until:
                raise ClusterError(
                    f"{attempt.name}: still running {self.grace_s + 30} s after it was asked to stop. End its process: "
                    f"`kill -9 {(folder / PROCESS).read_text()}`."
                )
            time.sleep(_POLL_S)

    def _attempt(self, folder: Path) -> Attempt:
        active = self._active(folder)  # read before the exit code, which is written while the lock is held
        record = _read(folder / _REQUEST, "started", *_TEXTS)
        if record is None:
            raise DataError(f"{folder}: its {_REQUEST} was removed. Remove the folder; the run's output is elsewhere.")
        code, ended, state, message = None, None, State.RUNNING, ""
        if not active:
            left = _read(folder / EXIT, "code", "ended", "cancelled")
            if left is not None:
                code, ended = left["code"], left["ended"]
                state = State.SUCCEEDED if not code else State.CANCELLED if left["cancelled"] else State.FAILED
                message = f"exit code {code}" if state is State.FAILED else ""
            else:
                state, message = State.FAILED, "its process was killed, or the machine was restarted"
                code = 1
        return Attempt(
            name=folder.name,
            run_id=record["run_id"],
            kind=record["kind"],
            state=state,
            message=message,
            exit_code=code,
            started=record["started"],
            ended=ended,
            config_fingerprint=record["config_fingerprint"],
            output=record["output"],
        )

    def _active(self, folder: Path) -> bool:
        try:
            # Not blocking: a FIFO in its place would wait for a writer.
            with open(os.open(folder / LOCK, os.O_RDONLY | os.O_NONBLOCK)) as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False


def _read(file: Path, *keys: str) -> dict[str, Any] | None:
    """The record in a file of an attempt, which somebody may have edited; None if there is no such file.

    Raises:
        DataError: it is damaged, or a value cannot be that of its key.
        StorageError: it is no ordinary file.
    """
    found = read_json(Store(), str(file), "the record of a job", *keys)
    for key in keys if found else ():
        value = found[key]
        if key in _TEXTS:
            right = isinstance(value, str) and printable(value) == value and "\n" not in value
        elif key in ("started", "ended"):
            right = isinstance(value, int | float) and 0 <= value < _LATEST_S
        else:
            right = isinstance(value, dict if key == "config" else int)
        if not right:
            raise DataError(f"{file}: {key} is {str(value)[:40]!a}. Remove the folder {file.parent}; no run is in it.")
    return found


def _default_folder() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "raymill" / "runs"
