"""Finding and killing the processes of one command: they all carry a mark in their environment."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

MARK = "RAYMILL_TEST_MARK"


class Command:
    """A `raymill` command running in processes of its own."""

    started: ClassVar[list["Command"]] = []  # those that `end_commands` ends

    def __init__(self, *words: str, **environment: str) -> None:
        Command.started.append(self)
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raymill.cluster.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment | {MARK: self.mark},
            cwd=Path(__file__).resolve().parents[2],
        )

    def wait(self, seconds: float) -> tuple[int, str, str]:
        """(exit code, standard output, standard error). Raises subprocess.TimeoutExpired, and then ends everything."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.end_all()
            raise
        return self.process.returncode, out, err

    def others(self, title: str = "") -> list[int]:
        """Process ids of what the command started, whose command line contains `title`."""
        return [pid for pid, line in marked(self.mark) if pid != self.process.pid and title in line]

    def kill(self, pid: int, how: int = signal.SIGKILL) -> bool:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            return False
        return True

    def end_all(self) -> None:
        for pid, _ in marked(self.mark):
            self.kill(pid)
        self.process.wait()


def end_commands() -> None:
    """End every command that still runs, as after a failed assertion."""
    while Command.started:
        command = Command.started.pop()
        if command.process.poll() is None:
            command.end_all()


def suspend(processes: Iterable[int]) -> None:
    """Send SIGSTOP, and wait until no thread of them runs any more: one may still get a lock that it waits for."""
    found = list(processes)
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGSTOP)
    stopped = wait_until(lambda: not any(_has_running_thread(process) for process in found), 60)
    assert stopped, "a process does not stop"


def _has_running_thread(process: int) -> bool:
    """Whether a thread of it is neither stopped nor ended."""
    for file in Path(f"/proc/{process}/task").glob("*/stat"):
        with suppress(OSError):
            if file.read_text().rpartition(")")[2].split()[0] not in "TtZXx":
                return True
    return False


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Poll; False if it did not come true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return true()


def marked(mark: str) -> Iterator[tuple[int, str]]:
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
