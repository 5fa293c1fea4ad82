"""Folders for the length of one process, and those that killed processes left.

A folder's name holds the machine and the process that made it. Whoever makes the next one removes those of processes
that are gone. The machine is in the name because pods of one node may share a temporary folder and count alike.
"""

import hashlib
import os
import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path

# raymill-KIND-MACHINE-PROCESS-RANDOM
LONGEST_NAME = len("raymill-unit-12ab-4194304-") + 8


def temporary_folder(kind: str, within: str | None = None) -> Path:
    """A new empty folder that only this user may enter. The caller removes it."""
    prefix = f"raymill-{kind}-{_machine()}-"
    _sweep(within or tempfile.gettempdir(), prefix)
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=within))


@cache
def _sweep(within: str, prefix: str) -> None:
    """Once a process and kind: remove what processes left that were killed on this machine."""
    if not Path("/proc/self").exists():
        return
    for folder in Path(within).glob(f"{prefix}*-*"):
        owner = folder.name.removeprefix(prefix).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


@cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
