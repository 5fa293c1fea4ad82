"""Tables that several processes of a machine need at about the same time: one makes each, and the others map its file.

The files are below the folder of this user's copies, in Arrow's format, and mapped: a table is in memory once for all
processes. The newest stay; the folder is removed when its last process closes it. A process that is killed leaves it to
the next one that uses the same name.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pyarrow as pa

from raymill.cluster.store.local import own_folder

# Files that keep processes from making one table twice; tables that share one are made one after the other.
_LOCKS = 64


class SharedTables:
    """The tables of one name, any text. kept: number of files that stay.

    Where no file can be written or locked, each process makes its own tables.
    """

    def __init__(self, name: str, kept: int) -> None:
        hashed = f"shared-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        self.folder, self.kept = own_folder() / hashed, kept
        self._users = (own_folder() / f"{hashed}.users").open("a")
        fcntl.flock(self._users, fcntl.LOCK_SH)

    def table(self, key: str, make: Callable[[], pa.Table]) -> pa.Table:
        """The table of a key: from the file of another process, or made here, with a file for the others.

        Raises what `make` raises; then the next process tries.
        """
        path = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
        with ExitStack() as stack:
            with suppress(OSError):
                self.folder.mkdir(exist_ok=True)
                lock = stack.enter_context((self.folder / f"{int(path.stem[:8], 16) % _LOCKS}.lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it if this process dies
            with suppress(OSError, pa.ArrowException):  # there is no file, or it was removed for newer ones
                return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            table = make()
            with suppress(OSError):
                self._write(path, table)
            return table

    def close(self) -> None:
        """Remove the folder, unless another process uses it."""
        with self._users, suppress(BlockingIOError):
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, path: Path, table: pa.Table) -> None:
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
        written = sorted(((one.stat().st_mtime_ns, one) for one in self.folder.glob("*.arrow")), reverse=True)
        for _, old in written[self.kept :]:
            old.unlink(missing_ok=True)
