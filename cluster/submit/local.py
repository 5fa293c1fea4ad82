"""Submits to this machine: a process that goes on when the terminal is closed.

An attempt is a folder below $XDG_STATE_HOME/raymill/runs (default ~/.local/state/raymill/runs):

    request.json   what was submitted
    lock           held by the process `local_job.py` as long as the attempt is active
    process        its process id, for messages
    cancel         made by `cancel`; the process sees it and stops the job
    log            output of the job
    exit.json      written last: exit code, and whether the job was cancelled

Somebody else may have made or changed the folder, as on a shared disk. Links in it are not followed, and a file that is
not as this module writes it makes the attempt unreadable, but no other.
"""

import fcntl
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from raymill.cluster.errors import ClusterError, DataError, StorageError
from raymill.cluster.logs import printable
from raymill.cluster.record import json_with
from raymill.cluster.submit.backend import (
    CONFIG_VARIABLE,
    GRACE_S,
    Attempt,
    AttemptExists,
    AttemptLost,
    LogLines,
    Request,
    State,
)
from raymill.cluster.submit.local_job import CANCEL, EXIT, LOCK, LOG, PROCESS, open_file, write_whole
from raymill.cluster.submit.preflight import CheckRequest, problems_here
from raymill.cluster.submit.work import Work

log = logging.getLogger(__name__)

_REQUEST = "request.json"
_TEXTS = ("run_id", "kind", "config_fingerprint", "output")
_LATEST_S = 1 << 33  # the year 2242
_CLOCK_S = 86_400  # by which a clock may be set back while a job runs
_LARGEST_RECORD = 1 << 20  # bytes; a request has a config, which fits into an environment variable
_LONGEST_LOG = 256 << 20  # bytes; of a longer log the end is printed
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
        command: Sequence[str] = (sys.executable, "-P", "-m", "raymill.cluster.cli"),
        grace_s: float = GRACE_S,
    ) -> None:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        self.folder = folder or Path(state) / "raymill" / "runs"
        self.grace_s = grace_s
        self.command = tuple(command)

    def check(self, work: Work) -> list[str]:
        """Check that the run's files can be read and its output can be written."""
        return problems_here(CheckRequest.of(work), None)

    def start(self, request: Request) -> Attempt:
        config, folder = dict(request.work.config), self.folder / request.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):  # a `submit` was killed before it started the job, or another is in it
                folder.mkdir(mode=0o700)
        except OSError as error:
            raise StorageError(f"{error.filename}: cannot be made ({error.strerror}). Set XDG_STATE_HOME.") from error
        with open(_open(folder, LOCK, os.O_RDWR | os.O_CREAT)) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left = {name for name in os.listdir(folder) if name != LOCK and not name.startswith(f".{_REQUEST}.")}
            except BlockingIOError:
                left = {_REQUEST}
            if _REQUEST in left:
                fcntl.flock(lock, fcntl.LOCK_UN)
                self.attempt(request.name)  # raises the error of a damaged one, which `attempts` leaves out
                raise AttemptExists(request.name)
            if left:
                raise DataError(f"{folder}: has {min(left)!a}, which no `submit` left there. Remove the folder.")
            record = request.metadata | {"started": time.time(), "config": config}
            write_whole(folder, _REQUEST, json.dumps(record, ensure_ascii=False))
            command = request.command(self.command)
            # Appended to, so that a log that somebody truncates meanwhile gets no hole.
            with open(_open(folder, LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL), "ab") as output:
                # The new process inherits the lock, so that the attempt is active without a gap.
                subprocess.Popen(
                    [
                        sys.executable,
                        "-P",  # no module of the working folder
                        "-m",
                        "raymill.cluster.submit.local_job",
                        str(folder),
                        str(self.grace_s),
                        *command,
                    ],
                    env=os.environ | {CONFIG_VARIABLE: json.dumps(config), "PYTHONUNBUFFERED": "1"},
                    pass_fds=[lock.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        return self._attempt(folder)

    def attempts(self) -> list[Attempt]:
        try:
            folders = [self.folder / name for name in os.listdir(self.folder)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.folder}: cannot be read ({error.strerror}). Set XDG_STATE_HOME.") from error
        found = []
        for folder in folders:
            if os.path.lexists(folder / _REQUEST):
                try:
                    found.append(self._attempt(folder))
                except DataError as error:
                    log.warning("not listed: %s", error)
        return sorted(found, key=lambda attempt: attempt.started or 0)

    def attempt(self, name: str) -> Attempt | None:
        folder = self.folder / name
        return self._attempt(folder) if os.path.lexists(folder / _REQUEST) else None

    def config(self, attempt: Attempt) -> Mapping[str, Any] | None:
        found = _read(self.folder / attempt.name, _REQUEST, "config")
        return found and found["config"]

    def logs(self, attempt: Attempt, follow: bool, on_message: object = None) -> Iterator[str]:
        """The lines of the log, of a long one those in the last 256 MiB, without its zero bytes.

        on_message: never called, because a local job starts at once.
        """
        lines, folder = LogLines(), self.folder / attempt.name
        try:
            descriptor = _open(folder, LOG)
        except FileNotFoundError:
            raise AttemptLost(f"{attempt.name}: its folder was removed. Submit the config again to continue.") from None
        with open(descriptor, "rb") as file:
            if (before := os.fstat(file.fileno()).st_size - _LONGEST_LOG) > 0:
                log.warning("%s: the first %s bytes are not printed", folder / LOG, f"{before:,}")
                file.seek(before)
            while True:
                active = follow and self._active(folder)
                while chunk := file.read(1 << 20):
                    yield from lines.add(chunk.replace(b"\0", b""))
                if not active:  # seen before the last bytes were read
                    break
                time.sleep(_POLL_S)
        yield from lines.end()

    def cancel(self, attempt: Attempt) -> None:
        folder = self.folder / attempt.name
        if not self._active(folder):
            return
        # No signal: the id in `process` may be edited, or the id of a process of another machine with the same home
        # folder.
        with suppress(FileExistsError):
            os.close(_open(folder, CANCEL, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        until = time.monotonic() + self.grace_s + 30
        while self._active(folder):
            if time.monotonic() > until:
                raise ClusterError(
                    f"{attempt.name}: still running {self.grace_s + 30} s after it was asked to stop. End its process: "
                    f"`kill -9 {_process(folder)}`."
                )
            time.sleep(_POLL_S)

    def _attempt(self, folder: Path) -> Attempt:
        active = self._active(folder)  # read before the exit code, which is written while the lock is held
        record = _read(folder, _REQUEST, "started", *_TEXTS)
        if record is None:
            raise _damaged(folder, _REQUEST, "was removed")
        if not _plain(folder.name):
            raise _damaged(folder, _REQUEST, "is in a folder with control characters in its name")
        code, ended, state, message = None, None, State.RUNNING, ""
        if not active:
            left = _read(folder, EXIT, "code", "ended", "cancelled")
            if left is not None:
                code, ended = left["code"], left["ended"]
                if ended < record["started"] - _CLOCK_S:
                    raise _damaged(folder, EXIT, "has an end before the job's start")
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
            with open(_open(folder, LOCK)) as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False


def _damaged(folder: Path, name: str, why: str) -> DataError:
    return DataError(f"{folder / name}: {why}. Remove the folder {folder}; the run's output is elsewhere.")


def _open(folder: Path, name: str, flags: int = os.O_RDONLY) -> int:
    """The descriptor of a file of an attempt.

    Raises:
        FileNotFoundError: there is no such file.
        FileExistsError: there is one, and a new one is wanted.
        DataError: something else is in its place.
    """
    try:
        return open_file(folder, name, flags)
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        is_link = folder.is_symlink() or (folder / name).is_symlink()
        raise _damaged(folder, name, "is a link" if is_link else f"cannot be opened ({error.strerror})") from error


def _process(folder: Path) -> str:
    """The id in the file `process`, for a message."""
    with suppress(OSError, DataError), open(_open(folder, PROCESS), "rb") as file:
        if found := re.fullmatch(rb"[1-9]\d{0,9}", file.read(11)):
            return found[0].decode()
    return "ID"


def _read(folder: Path, name: str, *keys: str) -> dict[str, Any] | None:
    """The record in a file of an attempt, which somebody may have edited; None if there is no such file.

    Raises:
        DataError: it is damaged, no ordinary file, or a value is not possible for its key.
    """
    try:
        with open(_open(folder, name), "rb") as file:
            found: dict[str, Any] = json_with(*keys)(file.read(_LARGEST_RECORD))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(folder, name, f"is not the record of a job ({error})") from error
    for key in keys:
        value = found[key]
        if key in _TEXTS:
            right = isinstance(value, str) and _plain(value)
        elif key in ("started", "ended"):
            right = type(value) in (int, float) and 0 <= value < _LATEST_S
        elif key == "code":
            right = type(value) is int and 0 <= value <= 255
        else:
            right = isinstance(value, dict if key == "config" else bool)
        if not right:
            raise _damaged(folder, name, f"has {str(value)[:40]!a} as {key}")
    return found


def _plain(text: str) -> bool:
    """Whether a text is one line without control characters, and without a secret."""
    return printable(text) == text and "\n" not in text
