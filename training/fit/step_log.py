"""steps.jsonl: a line a step, in order, each step once, whatever was killed and resumed on the way.

An object store cannot append, so the first worker keeps the lines and writes the whole file now and then, in a thread:
the longer the file, the more seldom, so that a run of a hundred thousand steps does not write gigabytes. Before a
checkpoint's manifest is put, the lines up to it are written: whatever a run resumes from, its lines are there.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import cast

from cluster.store.interface import NotFound
from cluster.store.store import Store
from training.fit.records import StepRecord

_EVERY_S = 2.0
_BYTES_PER_S = 1 << 20  # of waiting per byte already in the file


def parse(data: bytes) -> Iterator[StepRecord]:
    for line in data.splitlines():
        if line.strip():
            yield cast(StepRecord, json.loads(line))


def read(store: Store, uri: str) -> list[StepRecord]:
    """The steps logged so far; none if there is no log yet."""
    try:
        return list(parse(store.read_bytes(uri)))
    except NotFound:
        return []


class StepLog:
    """The first worker's. `resumed`: lines after this step are of work that was lost, and go; None: all do."""

    def __init__(self, store: Store, uri: str, resumed: int | None) -> None:
        self.store = store
        self.uri = uri
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._lines = [] if resumed is None else [line for line in _lines(store, uri) if line[0] <= resumed]
        self._changed = True
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_now_and_then, name="step-log", daemon=True)
        self._thread.start()

    def append(self, record: StepRecord) -> None:
        """
        Raises:
            StorageError: the file could not be written meanwhile.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            assert not self._lines or record["step"] > self._lines[-1][0], "steps are logged once, in order"
            self._lines.append((record["step"], json.dumps(record, ensure_ascii=False).encode() + b"\n"))
            self._changed = True

    def cut(self, step: int) -> None:
        """Forget what came after a step: the run went back to it."""
        with self._lock:
            self._lines = [line for line in self._lines if line[0] <= step]
            self._changed = True

    def flush(self) -> None:
        """Everything appended before is on the store when this returns. Any thread may call it."""
        with self._writing:
            with self._lock:
                if not self._changed:
                    return
                data = b"".join(line for _, line in self._lines)
                self._changed = False
            self.store.write_bytes(self.uri, data)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.flush()

    def _write_now_and_then(self) -> None:
        try:
            while not self._closing.is_set():
                began = time.monotonic()
                self.flush()
                size = sum(len(line) for _, line in self._lines)
                self._closing.wait(max(_EVERY_S, size / _BYTES_PER_S, 10 * (time.monotonic() - began)))
        except BaseException as error:  # whatever it is, the training's own thread must hear of it
            self._error = error


def _lines(store: Store, uri: str) -> Iterator[tuple[int, bytes]]:
    for record in read(store, uri):
        yield record["step"], json.dumps(record, ensure_ascii=False).encode() + b"\n"
