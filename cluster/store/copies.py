"""Files of a store as files on this machine: those that settings name, and folders for libraries that read local paths.

What is read of a file is kept in the process by its version, and read again when the file changes. The name of a copied
folder contains the versions of its source, so a change on the store gives another copy. A copy is complete as soon as
it exists. If several processes need it at once, one fetches it while the others wait.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from raymill.cluster.errors import StorageError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, NotFound, Unavailable
from raymill.cluster.store.local import own_folder
from raymill.cluster.store.store import Store

_FILES_AT_ONCE = 8
_PIECE_BYTES = 16 << 20


class LocalFile(NamedTuple):
    """A file with its version."""

    path: Path
    size: int
    mtime_ns: int


def local_file(store: Store, uri: str, setting: str) -> LocalFile:
    """The file at a path, or a copy of the object at a URI, which is made once a process. setting: for messages.

    Raises:
        NotFound: there is no such file.
        StorageError: it cannot be read.
    """
    try:
        path = _local_copy(store, uri)
        stat = path.stat()
    except (NotFound, FileNotFoundError) as error:
        raise NotFound(f"{setting}: {uri}") from error
    except OSError as error:
        raise StorageError(f"{setting}: {uri}: cannot be read ({error.strerror}). Check its permissions.") from error
    return LocalFile(path, stat.st_size, stat.st_mtime_ns)


def sha256_of(file: LocalFile) -> str:
    """sha256 of the content, hexadecimal; computed once a version."""
    return _sha256(file)


@cache
def _local_copy(store: Store, uri: str) -> Path:
    return store.local_copy(uri)


@cache
def _sha256(file: LocalFile) -> str:
    with file.path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def local_folder(store: Store, uri: str) -> Path:
    """A local folder with everything below the URI: the folder itself, or a copy kept for this machine.

    Raises:
        NotFound: there is no such folder, or nothing in it.
        StorageError: the disk is full, or an object's name leaves the folder.
    """
    if not paths.is_remote(uri):
        path = Path(paths.absolute(uri))
        if not path.is_dir():
            raise NotFound(uri, "no such folder")
        return path
    files = store.list_files(uri)
    if not files:
        raise NotFound(uri, "no such folder, or nothing in it")
    root = paths.absolute(uri)
    try:
        inside = [paths.RelativePath(file.uri.removeprefix(f"{root}/")) for file in files]
    except ValueError as error:
        raise StorageError(f"{uri}: {error}. Rename that object, or remove it.") from error
    listing = "\n".join(f"{file.uri}\n{file.version}\n{file.size}" for file in files)
    name = hashlib.sha256(listing.encode()).hexdigest()[:32] + "-" + PurePosixPath(root).name[-100:]
    target = own_folder() / name
    with _alone(target):
        if not target.is_dir():
            _fetch(store, uri, files, inside, target)
    return target


def _fetch(store: Store, uri: str, files: list[FileInfo], inside: list[paths.RelativePath], target: Path) -> None:
    unfinished = target.with_name(f"{target.name}.part")
    # Left by a process that was killed here; the caller holds the lock.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
            list(pool.map(partial(_copy, store), files, (unfinished / path for path in inside)))
        os.rename(unfinished, target)
    except OSError as error:
        size = sum(file.size for file in files)
        raise StorageError(
            f"{uri}: {size / 1e9:,.2f} GB could not be copied to {target.parent} ({error.strerror or error}). "
            "Make room there, or set TMPDIR to a folder on a larger disk."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy(store: Store, file: FileInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.open_input(file.uri) as source, path.open("wb") as copy:
        while piece := source.read(_PIECE_BYTES):
            copy.write(piece)
    if (size := path.stat().st_size) != file.size:
        raise Unavailable(
            f"{file.uri}: {size} bytes were read, and the store listed {file.size}. The file changed meanwhile: run "
            "the same command again."
        )


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock on the target, for processes of this machine; the kernel releases it if this process dies."""
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
