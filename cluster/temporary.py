"""Temporary folders of a process, and removal of those that killed processes left behind.

A folder's name contains a hash of the host name and the process id. The first call in each process removes the folders
of processes that no longer exist. The host name is part of the name because pods of one node may share a temporary
folder and have equal process ids.
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
    _sweep(kind, within)
    return Path(tempfile.mkdtemp(prefix=f"raymill-{kind}-{_machine()}-{os.getpid()}-", dir=within))


def abandoned(kind: str, within: str | None = None) -> list[Path]:
    """Folders of this kind whose processes on this machine have ended. Empty on systems without /proc."""
    if not Path("/proc/self").exists():
        return []
    prefix = f"raymill-{kind}-{_machine()}-"
    folders = Path(within or tempfile.gettempdir()).glob(f"{prefix}*-*")
    owners = {folder: folder.name.removeprefix(prefix).partition("-")[0] for folder in folders}
    return [folder for folder, owner in owners.items() if owner.isdigit() and not Path("/proc", owner).exists()]


@cache
def _sweep(kind: str, within: str | None) -> None:
    """Remove abandoned folders; runs once per process, kind and parent folder."""
    for folder in abandoned(kind, within):
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
