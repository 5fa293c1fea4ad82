"""The files that settings name, such as lists and models, as files on this machine. What is read of one is kept in the
process by its version, and read again when the file changes."""

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from cluster.errors import StorageError
from cluster.store.interface import NotFound
from cluster.store.store import Store


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
