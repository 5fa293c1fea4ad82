"""steps.jsonl: one line per step, in order. Also after interruptions, each step has one line.

An object store cannot append, so the first worker keeps all lines in memory and a thread writes the whole file
periodically. The interval grows with the file, so that a run of 100,000 steps does not write gigabytes. The lines of
all steps before a checkpoint are written before the checkpoint is committed, so a resumed run finds them.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import cast

from cluster.record import read_json_line
from cluster.store.interface import NotFound
from cluster.store.store import Store
from training.records.schema import StepRecord

_EVERY_S = 2.0
_BYTES_PER_S = 1 << 20  # the interval is at least a second for each MiB of the file


def read(store: Store, uri: str) -> list[StepRecord]:
    """The steps logged so far; none if there is no log yet."""
    try:
        data = store.read_bytes(uri)
    except NotFound:
        return []
    return [cast(StepRecord, read_json_line(line, uri)) for line in data.splitlines() if line.strip()]


class StepLog:
    """Writes the step log; only the first worker has one.

    resumed: step of the restored checkpoint, after which lines are removed; None: all lines are removed.
    """

    def __init__(self, store: Store, uri: str, resumed: int | None) -> None:
        self.store = store
        self.uri = uri
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._lines = [] if resumed is None else [line for line in _lines(store, uri) if line[0] <= resumed]
        self._changed = True
        self._closing = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._write_periodically, name="step-log", daemon=True)
        self._thread.start()

    def append(self, record: StepRecord) -> None:
        """Add a line, which the thread will write.

        Raises:
            StorageError: the thread could not write the file.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            assert not self._lines or record["step"] > self._lines[-1][0], "steps are logged once, in order"
            self._lines.append((record["step"], json.dumps(record, ensure_ascii=False).encode() + b"\n"))
            self._changed = True

    def cut(self, step: int) -> None:
        """Remove the lines after a step, to which the run returned."""
        with self._lock:
            self._lines = [line for line in self._lines if line[0] <= step]
            self._changed = True

    def flush(self) -> None:
        """Write all lines appended so far. Any thread may call it."""
        with self._writing:
            with self._lock:
                if not self._changed:
                    return
                data = b"".join(line for _, line in self._lines)
                self._changed = False
            self.store.write_bytes(self.uri, data)

    def close(self) -> None:
        """Stop the thread and write all lines."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _write_periodically(self) -> None:
        try:
            while not self._closing.is_set():
                began = time.monotonic()
                self.flush()
                size = sum(len(line) for _, line in self._lines)
                self._closing.wait(max(_EVERY_S, size / _BYTES_PER_S, 10 * (time.monotonic() - began)))
        except BaseException as error:  # raised by the next `append`
            self._error = error


def _lines(store: Store, uri: str) -> Iterator[tuple[int, bytes]]:
    for record in read(store, uri):
        yield record["step"], json.dumps(record, ensure_ascii=False).encode() + b"\n"
