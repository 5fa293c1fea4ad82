"""Ends of this process from outside: SIGTERM is an interrupt, and an end without warning has an error message.

Ray's client ends this process without an exception if it finds that the raylet of its machine has died, and a SIGKILL,
such as the kernel's for lack of memory, leaves no time for a message. A shell waits for the end of this process and
prints the message, unless it was told before that the process leaves Ray by itself.
"""

import atexit
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress

MESSAGE = (
    "This process was killed, or was ended by Ray because one of Ray's processes died, possibly for lack of memory. "
    "Finished units are kept: run the same command again."
)
_SCRIPT = 'read -r word; [ "$word" = left ] || echo "$1" >&2'


def interrupt_on_sigterm() -> None:
    """Have SIGTERM raise KeyboardInterrupt in the main thread, as Ctrl-C does, so that the clean-up runs.

    Pods and jobs of batch systems receive SIGTERM before they are killed.
    """
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


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
