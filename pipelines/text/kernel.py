"""The decorator of kernels: functions that numba compiles at their first call and stores in its cache.

When several processes need the same kernel at once, as the workers of a machine do at their first unit, one of them
compiles it and the others wait and load the result from the cache.
"""

import fcntl
import logging
import os
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)

_OPTIONS: dict[str, Any] = {"nogil": True, "no_cfunc_wrapper": True}  # no entry for callers in C, which nobody uses


def kernel(function: Callable) -> Any:
    """Compile a function with numba, without the GIL, and store it in the cache."""
    compiled = njit(**_OPTIONS)(function)
    compile_for_types, cache = compiled.compile, _CompiledOnce(function)

    def compile_once(signature: object) -> object:
        try:
            return compile_for_types(signature)
        finally:
            cache.release()

    compiled._cache, compiled.compile = cache, compile_once
    return compiled


class _CompiledOnce(FunctionCache):
    """numba's cache of one kernel. A kernel that it does not hold is compiled under a lock of the cache's folder."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        self._lock: int | None = None

    def load_overload(self, sig: object, target_context: object) -> object:
        """The stored kernel; None if there is none: then this process has the lock until `release`, and compiles."""
        found = super().load_overload(sig, target_context)
        if found is None and self._lock is None:
            while not self._take_lock():
                found = super().load_overload(sig, target_context)
                if found is not None:
                    return found
            # Another process may have stored it since the first look.
            found = super().load_overload(sig, target_context)
        return found

    def release(self) -> None:
        """Give the lock back, if this kernel took it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> bool:
        """Take the lock and return True; if another process has it, wait until that one is done and return False.

        No two processes wait for each other, as no kernel calls itself, directly or by another. Without a lock, as on a
        read-only file system, every process compiles.
        """
        try:
            descriptor = os.open(f"{self.cache_path}/{self._impl.filename_base}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            log.info("%s: no lock, each process compiles: %s", self.cache_path, error)
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(descriptor, fcntl.LOCK_SH)  # all who wait continue together
            os.close(descriptor)
            return False
        except OSError as error:  # a file system without locks
            log.info("%s: no lock, each process compiles: %s", self.cache_path, error)
            os.close(descriptor)
            return True
        self._lock = descriptor
        return True
