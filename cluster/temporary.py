"""Temporary folders of a process, and removal of those that killed processes left behind.

A folder's name contains a hash of the host name and the process namespace, and the process id. The first call in each
process removes the folders of processes that no longer exist. The hash is part of the name because pods and containers
of one node may share a temporary folder and have equal process ids; containers on the host's network also share its
name.
"""

import errno
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from raymill.cluster.errors import RaymillError, StorageError

_FULL = {code: os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)}


def temporary_folder(kind: str, within: str | None = None) -> Path:
    """A new empty folder raymill-KIND-MACHINE-PROCESS-RANDOM, which only this user may enter. The caller removes it."""
    _sweep(kind, within)
    return Path(tempfile.mkdtemp(prefix=f"raymill-{kind}-{_machine()}-{os.getpid()}-", dir=within))


@contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """A temporary folder, removed at the end. kind: what is written there, in a word that error messages name.

    Raises:
        StorageError: the disk of temporary folders is full.
    """
    folder = None
    try:
        folder = temporary_folder(kind)
        yield folder
    except Exception as error:
        if not (cause := full_disk(error)):
            raise
        raise StorageError(
            f"{kind}: {folder or tempfile.gettempdir()}: {cause}. Files are written there before they are uploaded: "
            "free space, or set TMPDIR to a larger disk, and run the same command again; finished work is kept."
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def reserved(path: Path, size: int) -> Iterator[None]:
    """Make a file of `size` bytes to be mapped into memory; at the end its name is removed, and the mapping stays.

    Its space on the disk is reserved, since a process that writes to mapped pages is ended if the disk is full then.

    Raises:
        OSError: the disk is full.
    """
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    try:
        yield
    finally:
        path.unlink()


def full_disk(error: Exception) -> str:
    """What a library's error says of a full disk or quota; empty if it is another error.

    Libraries written in Rust raise exceptions of their own, which say it in the text alone.
    """
    if isinstance(error, RaymillError):
        return ""
    number, text = getattr(error, "errno", None), str(error)
    return next((what for code, what in _FULL.items() if number == code or (number is None and what in text)), "")


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
    namespace = "/proc/self/ns/pid"
    name = f"{socket.gethostname()} {os.readlink(namespace) if os.path.lexists(namespace) else ''}"
    return hashlib.sha256(name.encode()).hexdigest()[:4]
