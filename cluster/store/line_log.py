"""Lines that are kept as they come: on a local disk at once, on an object store every few seconds.

LOCATION.jsonl                    local: each line is appended by one write, so a killed process loses none
LOCATION.000000.jsonl ...         object store: an object for the lines of `_FLUSH_S` seconds, or 8 MB
"""

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

_FLUSH_S, _FLUSH_BYTES = 5.0, 8 << 20


class LineLog:
    """Writes lines. Use it in a `with`. location: URI that the names of its files begin with; no other writer's."""

    def __init__(self, store: Store, location: str) -> None:
        self._store, self._location = store, location
        self._file: int | None = None
        self._lines: list[bytes] = []
        self._size = self._parts = 0
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        if not paths.is_remote(self._location):
            path = Path(f"{self._location}.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def write(self, line: bytes) -> None:
        """Add a line. line: with its end."""
        if self._file is not None:
            os.write(self._file, line)
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size > _FLUSH_BYTES:
            self._flush()

    def flush_old(self) -> bool:
        """Write the lines to the store, if some seconds have passed since the last time.

        Returns:
            Whether it was time for it; on a local disk, where each line is written at once, always.
        """
        due = self._file is not None or time.monotonic() - self._flushed > _FLUSH_S
        if due:
            self._flush()
        return due

    def _flush(self) -> None:
        if self._lines:
            self._store.write_bytes(f"{self._location}.{self._parts:06}.jsonl", b"".join(self._lines))
            self._lines, self._size = [], 0
            self._parts += 1
        self._flushed = time.monotonic()
