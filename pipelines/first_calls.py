"""The order in which a process does the parts of its work: on a fresh machine the workers compile different kernels.

All workers do the same parts, so with one order for all each would wait for every kernel that another one compiles. A
part that this process has not done before is done later if another process of this machine is doing it for the first
time.
"""

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pipelines.kernel_cache import CACHE_VARIABLE

T = TypeVar("T")

_done: set[str] = set()  # the parts that this process has done


def each(parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """The result of each part, by name and in the order of `parts`, which are done in any order."""
    left, found = dict(parts), dict[str, T]()
    while left:
        name, lock = _next(left)
        try:
            found[name] = left.pop(name)()
        finally:
            if lock is not None:
                os.close(lock)
        _done.add(name)
    return {name: found[name] for name in parts}


def _next(left: Mapping[str, object]) -> tuple[str, int | None]:
    """The part to do next, and the descriptor of the lock that this process has taken for it."""
    for name in left:
        if name in _done:
            return name, None
        try:
            return name, _lock(name)
        except BlockingIOError:
            continue
        except OSError:  # a read-only folder, or a file system without locks
            return name, None
    return next(iter(left)), None


def _lock(name: str) -> int:
    """Take the lock of a part.

    Raises:
        BlockingIOError: another process has it.
    """
    folder = Path(os.environ[CACHE_VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"first-{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
