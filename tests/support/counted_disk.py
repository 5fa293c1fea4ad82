"""A local disk that counts the requests which an object store would get for the same work.

Files are read by the same pieces and parts as objects are, so a run too large for a test's S3 server can be counted.
Left out is the listing of unfinished uploads when an artifact is published, which is done on object stores alone.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from raymill.cluster.store import store as stores
from raymill.cluster.store.interface import FileInfo
from raymill.cluster.store.local import LOCAL, LocalStore
from raymill.cluster.store.object_files import TAIL_BYTES, Onward, Parts, PartsFile

METHODS = ("GET", "PUT", "POST", "HEAD")
PART_BYTES = 5 << 20  # of obstore's uploads
A_REQUEST = 1000  # files that are listed, or deleted, by one request


class CountedDisk(LocalStore):
    """requests: their number by method. delay_s: what each of them waits, one after the other within a call."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.delay_s = 0.0
        self._lock = threading.Lock()

    def read(self, key: str, most: int | None = None) -> bytes:
        self._count("GET")
        return super().read(key)

    def read_range(self, key: str, start: int, end: int) -> bytes:
        self._count("GET")
        return super().read_range(key, start, end)

    def open(self, key: str, stop: int | None = None) -> pa.NativeFile:
        return pa.PythonFile(Onward(partial(self.read_range, key), self.info(key).size, stop), mode="r")

    def open_parts(self, key: str) -> pa.NativeFile:
        size = super().info(key).size
        tail = self.read_range(key, max(0, size - TAIL_BYTES), size)
        return PartsFile(Parts(partial(self.read_range, key), size, tail), "r")

    def write(self, key: str, data: bytes) -> None:
        self._count("PUT")
        super().write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        self._count("PUT")
        return super().create(key, data)

    def upload(self, path: Path, key: str, *, new: bool = False) -> None:
        size = path.stat().st_size
        if size > PART_BYTES:
            self._count("POST", 2)  # to begin, and to end it
        self._count("PUT", max(1, -(-size // PART_BYTES)))
        super().upload(path, key, new=new)

    def info(self, key: str) -> FileInfo:
        self._count("HEAD")
        return super().info(key)

    def walk(self, prefix: str, *, skip_bad_names: bool = False, inside: bool = False) -> Iterator[FileInfo]:
        found = list(LOCAL.walk(prefix, skip_bad_names=skip_bad_names, inside=inside))
        self._count("GET", max(1, -(-len(found) // A_REQUEST)))
        return iter(found)

    def delete(self, keys: list[str]) -> None:
        self._count("POST", -(-len(keys) // A_REQUEST))
        super().delete(keys)

    def _count(self, method: str, times: int = 1) -> None:
        with self._lock:
            self.requests[method] += times
        if self.delay_s:
            time.sleep(self.delay_s * times)


@contextmanager
def counted_disk() -> Iterator[CountedDisk]:
    """Every local path that this process reads or writes by a store is on the counted disk."""
    disk = CountedDisk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "LOCAL", disk)
        yield disk


def shown(requests: Counter[str]) -> str:
    """Such as `12 GET, 3 PUT, 2 other`; what there is none of is left out."""
    counts = {method: requests[method] for method in ("GET", "PUT")}
    counts["other"] = requests.total() - sum(counts.values())
    return ", ".join(f"{count:,} {method}" for method, count in counts.items() if count) or "no requests"
