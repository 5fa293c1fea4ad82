"""Ends of this process from outside: SIGTERM is an interrupt, and an end without warning has an error message.

Ray's client ends this process without an exception if it finds that the raylet of its machine has died, and a SIGKILL,
such as the kernel's for lack of memory, leaves no time for a message. A shell waits for the end of this process and
prints the message, unless it was told before that the process leaves Ray by itself.

If the control process (`gcs_server`) of an embedded Ray has not answered for a minute, Ray's client ends this process
without an exception: also while Ray starts or shuts down, and while the main thread waits in one of its calls. The
engine looks first and ends the run in good order; the thread of `watch` is for all other moments, and ends the process
with an error before Ray does.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from raymill.cluster.errors import ClusterError

MESSAGE = (
    "This process was killed, or was ended by Ray because one of Ray's processes died, possibly for lack of memory. "
    "Finished units are kept: run the same command again."
)
_SCRIPT = 'read -r word; [ "$word" = left ] || echo "$1" >&2'

_LOOK_S = 0.2
# After the death, for the engine to end the run itself; Ray ends the process after 60 s.
_GRACE_S = 30.0


_is_command = False


@contextmanager
def command_process() -> Iterator[None]:
    """Inside, `is_command` is true."""
    global _is_command
    before, _is_command = _is_command, True
    try:
        yield
    finally:
        _is_command = before


def is_command() -> bool:
    """Whether this process runs a command. Otherwise another program called a function of Raymill, and its
    signal handlers, environment and loggers are left as they are.
    """
    return _is_command


def interrupt_on_sigterm() -> None:
    """Have SIGTERM raise KeyboardInterrupt in the main thread, as Ctrl-C does, so that the clean-up runs.

    Pods and jobs of batch systems receive SIGTERM before they are killed.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def report_sudden_end() -> Callable[[], None]:
    """Start the shell. Returns a function that tells it that this process leaves; calling that again does nothing."""
    # In a session of its own, so that an interrupt of the terminal does not reach it.
    shell = subprocess.Popen(
        ["/bin/sh", "-c", _SCRIPT, "sh", MESSAGE],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

    def leave() -> None:
        atexit.unregister(leave)
        if shell.returncode is None:
            with suppress(BrokenPipeError):
                shell.communicate(b"left\n")

    atexit.register(leave)
    return leave


def watch(folder: Path, end: Callable[[], None]) -> threading.Event:
    """Start to look at the control process of a Ray, until the returned event is set. Needs /proc.

    folder: of the Ray. end: called before this process is ended, to remove what is left of the Ray.
    """
    left = threading.Event()

    def look() -> None:
        process = None
        while not left.wait(_LOOK_S):
            if process is None:
                process = control_process(folder)
            elif not _is_running(process):
                if left.wait(_GRACE_S):
                    return
                error = ClusterError(
                    "Ray's control process died, possibly for lack of memory. Finished units are kept: run the same "
                    "command again."
                )
                print(error, file=sys.stderr, flush=True)
                end()
                os._exit(error.exit_code)

    threading.Thread(target=look, name="control process", daemon=True).start()
    return left


def control_process(folder: Path) -> int | None:
    """The process id of the control process of the Ray in a folder; None if there is none yet."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, *arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if name.endswith(b"/gcs_server") and any(f"{folder}/".encode() in argument for argument in arguments):
            return int(process.name)
    return None


def _is_running(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # empty for a child that has ended
    except OSError:
        return False
