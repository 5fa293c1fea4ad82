"""What a plan of failpoints does to the process that comes to a point (cluster/failpoints.py)."""

import os
import signal
import time

# More than the head room that the test leaves below Ray's memory limit.
TAKEN_BYTES = 4 << 30


def kill() -> None:
    """End this process at once, as `kill -9` or a lost machine does."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    """Suspend this process, until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


def fail() -> None:
    """An error that another attempt may not have."""
    raise RuntimeError("disturbed by a test")


def hang() -> None:
    """Wait until the process that started this one has ended; Ray ends the workers of a driver that died."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def take_memory() -> None:
    """Take memory until somebody ends this process, or until it has enough."""
    held = [bytearray(os.urandom(1 << 20) * 64) for _ in range(TAKEN_BYTES >> 26)]
    hang()
    del held
