"""Runs a function on data that others wrote in a child process, with a bound on processor time and memory per item.

A parser in C, such as the HTML parser, cannot be interrupted from Python. So a child process does the work, and the
operating system ends it at the bound: ITIMER_PROF with the default action of SIGPROF, and RLIMIT_AS. The next item gets
a new child. A child is a fork of this process, so it imports nothing, and it is kept for the next items. Time is
processor time of the child, so a busy machine does not change which items exceed it. Processes that the work starts are
ended with the child, except one in a group of its own whose child the operating system ends.

Cost: 20 ms for a new child, and 0.1 ms for an item by itself, less for one of many (`Guard.map`).
Memory: the pages that the child changes. macOS ignores RLIMIT_AS, so there only time is bounded.
"""

import ctypes
import faulthandler
import gc
import mmap
import os
import pickle
import resource
import select
import signal
import struct
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from raymill.cluster.errors import is_panic
from raymill.cluster.logs import PrintableStream

Item = TypeVar("Item")
Result = TypeVar("Result")

_LENGTH = struct.Struct("<q")
OUT_OF_MEMORY = 99  # exit status of the child
# A child that waits for something uses no processor time. It is ended when this many times the bound has passed.
_WALL_TIME_FACTOR = 30
_POLL_MS = 1000
_PARENT_MS = 5000  # how often an idle child looks whether its parent is still there
_MOST_STARTS = 3
_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_STDERR = 2

_children: "weakref.WeakSet[_Child]" = weakref.WeakSet()  # for processor_seconds
# Held from the making of pipes until this process has closed the child's ends. Otherwise a child that another thread
# forks has a copy of such an end, and the end of the first child is not seen.
_forking = threading.Lock()
_found_once: dict[tuple[Any, ...], Any] = {}  # for once


class WorkBounds(NamedTuple):
    """The bounds of an item. seconds: processor time. memory: bytes, besides those of this process at the fork."""

    seconds: float
    memory: int


class Exceeded(Exception):
    """An item exceeded its bounds, or ended the child process.

    problem: `too_slow`, `too_large`, or `died` for a crash within a library. seen: the bound or the signal, in words.
    """

    def __init__(self, problem: str, seen: str) -> None:
        super().__init__(problem, seen)
        self.problem = problem
        self.seen = seen

    def __str__(self) -> str:
        return f"{self.problem} ({self.seen})"


@dataclass(frozen=True, slots=True)
class Failed:
    """An item without a result. error: what the function raised, or Exceeded."""

    error: Exception


class Guard(Generic[Item, Result]):
    """A function that runs in a child process. Threads may share it, and take turns.

    work: a pure function. Items, results and errors are pickled. The child has the function, and all that it refers to,
        as they are in this process when the child begins.

    Attributes:
        seconds: processor time of all items so far; of one that took too much or ended the child, its bound.
    """

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self.seconds = 0.0
        self._work = work
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __call__(self, item: Item, bounds: WorkBounds) -> Result:
        """The result of one item.

        Raises:
            Exceeded: it took too much time or memory, or ended the child.
            Exception: what the function raised.
        """
        (outcome,) = self.map([item], [bounds])
        if isinstance(outcome, Failed):
            raise outcome.error
        return outcome

    def map(self, items: Sequence[Item], bounds: Sequence[WorkBounds]) -> list[Result | Failed]:
        """The result of each item, in order. bounds: one for each item; the largest memory bound holds for all.

        An item that ends the child has the others done again, so items should be about a megabyte together.
        If the reason was not time, it is tried again as well, since memory that earlier items left in the child can
        have been the reason.
        """
        failed = dict[int, Failed]()
        waiting, tried, starts = list(range(len(items))), set[int](), 0
        found: list[Result | Failed] = []
        with self._lock:
            while waiting:
                child = self._running()
                try:
                    outcome = child.run([items[one] for one in waiting], [bounds[one] for one in waiting])
                except BaseException:
                    self._child = None  # `run` has ended it and closed its pipes
                    raise
                if not isinstance(outcome, _Ended):
                    found, seconds = outcome
                    self.seconds += seconds
                    break
                self._child = None
                if outcome.at < 0:
                    starts += 1
                    if starts == _MOST_STARTS:
                        raise RuntimeError(f"a child process ended {starts} times before its work ({outcome.seen})")
                elif outcome.problem == "too_slow" or waiting[outcome.at] in tried:
                    self.seconds += bounds[waiting[outcome.at]].seconds
                    failed[waiting.pop(outcome.at)] = Failed(Exceeded(outcome.problem, outcome.seen))
                else:
                    tried.add(waiting[outcome.at])
        results = iter(found)
        return [failed[one] if one in failed else next(results) for one in range(len(items))]

    def _running(self) -> "_Child":
        if self._child is None or self._child.parent != os.getpid():
            self._child = _Child(self._work)
        return self._child


class _Ended(NamedTuple):
    """Why a child ended. at: the number of the item that it worked on; -1 if there was none."""

    at: int
    problem: str
    seen: str


class _Child:
    """A child process with the pipes to it. parent: the process that may use it."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.parent = os.getpid()
        self._at = mmap.mmap(-1, _LENGTH.size)  # shared: the number of the item that is worked on
        with _forking:
            to_child, self._requests = os.pipe()
            self._results, to_parent = os.pipe()
            if not (pid := _fork()):
                os.close(self._requests)
                os.close(self._results)
                _serve(work, self.parent, self._at, to_child, to_parent)
            os.close(to_child)
            os.close(to_parent)
        self._pid = pid
        self._stop = weakref.finalize(self, _stop, self.parent, pid, self._requests, self._results)
        _children.add(self)

    def run(self, items: Sequence[Any], bounds: Sequence[WorkBounds]) -> "tuple[list[Any], float] | _Ended":
        """(the outcome of each item, their processor seconds); or why the child ended before it did all of them."""
        _LENGTH.pack_into(self._at, 0, -1)
        try:
            _send(self._requests, pickle.dumps((items, bounds), pickle.HIGHEST_PROTOCOL))
            self._wait(bounds)
            found: tuple[list[Any], float] = pickle.loads(_received(self._results))
            return found
        except (EOFError, BrokenPipeError):
            return self._ended(bounds)
        except BaseException:  # such as Ctrl-C: what the child sends later is no answer to the next request
            self._stop()
            raise

    def _wait(self, bounds: Sequence[WorkBounds]) -> None:
        """Wait for results. Ends a child that neither ends an item nor uses processor time.

        Raises:
            EOFError: the child ended without any.
        """
        before, since = -1, time.monotonic()
        while not _comes(self._results, self._pid):
            (at,) = _LENGTH.unpack_from(self._at)
            if at != before:
                before, since = at, time.monotonic()
            elif time.monotonic() - since > _WALL_TIME_FACTOR * bounds[at].seconds:
                _end_below(self._pid)
                os.kill(self._pid, signal.SIGPROF)
                os.kill(self._pid, signal.SIGCONT)

    def _ended(self, bounds: Sequence[WorkBounds]) -> _Ended:
        """Why the child ended."""
        (at,) = _LENGTH.unpack_from(self._at)
        return _Ended(at, *_why(self._stop(), bounds[at]))


def once(key: tuple[Any, ...], work: Callable[[], Result]) -> Result:
    """The result of `work`, which is called once per process and key.

    For checks in a child process, which costs more than most of them. An exception is not stored: the next call with
    the key calls `work` again.
    """
    if key not in _found_once:
        _found_once[key] = work()
    return _found_once[key]


def processor_seconds() -> float:
    """Processor time of this process, its ended children and the running children of guards.

    Only the difference of two calls is meaningful. On macOS the clock of a running child cannot be read, and is left
    out.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = 0.0
    for child in list(_children):
        with suppress(OSError):  # the child has ended
            running += time.clock_gettime(~child._pid << 3 | 2)  # clock_getcpuclockid(3)
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def _comes(results: int, pid: int) -> bool:
    """Whether results or their end come within _POLL_MS.

    Raises:
        EOFError: the child ended without any. A process that it started may still hold the pipe, so there is no end.
    """
    poll = select.poll()  # select() takes no file above 1,023
    poll.register(results, select.POLLIN)
    if poll.poll(_POLL_MS):
        return True
    if sys.platform == "linux" and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) and not poll.poll(0):
        raise EOFError
    return False


def _why(status: int | None, bounds: WorkBounds) -> tuple[str, str]:
    """(problem, seen) of the Exceeded for a child's exit status."""
    if status in (-signal.SIGPROF, -signal.SIGALRM):
        return "too_slow", f"over {bounds.seconds:.3g} s"
    if status == OUT_OF_MEMORY:
        return "too_large", f"over {bounds.memory >> 20:,} MiB of memory"
    return "died", f"exit status {status}" if status is None or status >= 0 else signal.Signals(-status).name


def _stop(parent: int, pid: int, *pipes: int) -> int | None:
    """End a child and what it started. Returns its exit status as subprocess does; None if this is not `parent`.

    One that ended by itself is a zombie, to which a signal does nothing, and whose id and group are still its own.
    """
    if os.getpid() != parent:
        return None
    for pipe in pipes:
        os.close(pipe)
    _end_below(pid)
    os.kill(pid, signal.SIGKILL)
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end_below(pid: int) -> None:
    """Stop a process, and end all that it started (Linux)."""
    found = [pid]
    for one in found:  # which grows; a stopped process starts no other
        with suppress(OSError):
            os.kill(one, signal.SIGSTOP)
            for thread in Path(f"/proc/{one}/task").glob("*/children"):
                found += map(int, thread.read_text().split())
    for one in found[1:]:
        with suppress(OSError):
            os.kill(one, signal.SIGKILL)


def _serve(work: Callable[[Any], Any], parent: int, at: mmap.mmap, requests: int, results: int) -> NoReturn:
    """What the child does: the items of each request, until the parent closes the pipe or ends.

    A parent that is killed closes its end of the pipe, but children that it forked later still have a copy. What the
    function started ends with this process.
    """
    try:
        base, own = _begin(), os.getpid()
        requested = select.poll()
        requested.register(requests, select.POLLIN)
        while True:
            while not requested.poll(_PARENT_MS):
                if os.getppid() != parent:
                    os.killpg(0, signal.SIGKILL)
            items, bounds = pickle.loads(_received(requests))
            outcomes, before = [], time.process_time()
            _limit_memory(base, max(one.memory for one in bounds))
            for number, (item, bound) in enumerate(zip(items, bounds, strict=True)):
                _LENGTH.pack_into(at, 0, number)
                signal.setitimer(signal.ITIMER_PROF, bound.seconds)
                outcomes.append(_outcome(work, item))
                if os.getpid() != own:  # the function forked, and this process would send its results as well
                    os._exit(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _send(results, pickle.dumps((outcomes, time.process_time() - before), pickle.HIGHEST_PROTOCOL))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except (EOFError, BrokenPipeError):
        os.killpg(0, signal.SIGKILL)
    finally:
        os._exit(1)


def guarded_items(items: Callable[[], Iterator[Result]], bounds: WorkBounds) -> Iterator[Result]:
    """What an iterator yields that runs in a child process, each item with a bound on time and memory.

    Args:
        items: makes the iterator, in the child. What it yields and raises is pickled. The child is at most one item
            ahead.
        bounds: seconds are wall time here, because a server that is waited for uses no processor time.

    Raises:
        Exceeded: an item took too much time or memory, or ended the child.
        Exception: what the iterator raised.
    """
    parent = os.getpid()
    with _forking:
        results, to_parent = os.pipe()
        if not (pid := _fork()):
            os.close(results)
            _yield_items(items, bounds, to_parent, parent)
        os.close(to_parent)
    stop = weakref.finalize(items, _stop, parent, pid, results)
    try:
        while True:
            while not _comes(results, pid):
                pass
            if (outcome := pickle.loads(_received(results))) is None:
                return
            if isinstance(outcome, Failed):
                raise outcome.error
            (item,) = outcome
            yield item
    except EOFError:
        raise Exceeded(*_why(stop(), bounds)) from None
    finally:
        stop()


def _yield_items(items: Callable[[], Iterator[Any]], bounds: WorkBounds, results: int, parent: int) -> NoReturn:
    """What the child does: send each item as a tuple, then None, or Failed. The timer ends it also without a parent."""
    try:
        _limit_memory(_begin(), bounds.memory)
        own = os.getpid()
        os.set_blocking(results, False)
        writable = select.poll()
        writable.register(results, select.POLLOUT)
        iterator = None
        while True:
            signal.setitimer(signal.ITIMER_REAL, bounds.seconds)
            if iterator is None:
                iterator = items()
            outcome = _outcome(lambda found: next(((one,) for one in found), None), iterator)
            signal.setitimer(signal.ITIMER_REAL, 0)  # the parent takes as long as it wants
            if os.getpid() != own:
                os._exit(0)
            data = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
            rest = memoryview(_LENGTH.pack(len(data)) + data)
            while rest:
                if writable.poll(_PARENT_MS):
                    rest = rest[os.write(results, rest) :]
                elif os.getppid() != parent:
                    os._exit(0)
            if not isinstance(outcome, tuple):
                os._exit(0)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)
    except BrokenPipeError:
        os._exit(0)
    finally:
        os._exit(1)


def _renew_lock() -> None:
    global _forking
    _forking = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)  # a thread that held it does not run there


def _fork() -> int:
    """As os.fork. The garbage of this process is not collected in the child, now or later.

    Finalizers of libraries may crash there, because it has none of the threads of this process. Besides, a collection
    would copy every page.
    """
    with warnings.catch_warnings():
        # Python warns of locks that other threads hold at the fork. The child needs none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        collects = gc.isenabled()
        gc.disable()
        try:
            if not (pid := os.fork()):
                gc.freeze()
            return pid
        finally:
            if collects:
                gc.enable()


def _begin() -> int:
    """What a child does first. Returns the bytes of its address space, as `_address_space`.

    What it starts is in its group, and what its children leave becomes its own, so that `_stop` finds all of it.
    """
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    faulthandler.disable()  # a crash is an outcome here, and needs no traceback
    _hide_traces()
    timers = (signal.SIGPROF, signal.SIGALRM, signal.SIGTERM)
    for one in timers:
        signal.signal(one, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and with it the pipe
    signal.pthread_sigmask(signal.SIG_UNBLOCK, timers)
    return _address_space()


def _hide_traces() -> None:
    """Have what libraries in C and Rust write about a crash or a panic go nowhere; Python's own lines stay."""
    with suppress(OSError, ValueError, AttributeError):  # standard error is closed, or is no file
        if sys.stderr.fileno() == _STDERR:
            sys.stderr.flush()
            lines = os.fdopen(os.dup(_STDERR), "w", buffering=1, errors="backslashreplace")
            sys.stderr = PrintableStream(lines)  # type: ignore[assignment]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    if nowhere != _STDERR:
        os.close(nowhere)


def _limit_memory(base: int, memory: int) -> None:
    """Bound the address space to that at the beginning and some bytes more."""
    if base:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]  # set by `ulimit -v`, for example; it cannot be raised
        most = base + memory if hard == resource.RLIM_INFINITY else min(base + memory, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _outcome(work: Callable[[Any], Any], item: Any) -> Any:
    """The result of an item, or Failed."""
    try:
        return work(item)
    except MemoryError:
        raise
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an error that cannot be made again from its arguments
            return Failed(RuntimeError(f"{type(error).__name__}: {error}"))
        return Failed(error)
    except BaseException as error:
        if not is_panic(error):
            raise
        return Failed(Exceeded("died", f"{type(error).__name__}: {str(error)[:200]}"))


def _address_space() -> int:
    """Bytes of this process's address space; 0 where that is unknown (macOS)."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[0]
    except OSError:
        return 0
    return int(pages) * resource.getpagesize()


def _send(pipe: int, data: bytes) -> None:
    for part in (_LENGTH.pack(len(data)), data):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe, rest) :]


def _received(pipe: int) -> bytes:
    """What `_send` sent.

    Raises:
        EOFError: the process at the other end is gone.
    """
    (size,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    return _read(pipe, size)


def _read(pipe: int, size: int) -> bytes:
    pieces, left = list[bytes](), size
    while left:
        block = os.read(pipe, min(left, 1 << 20))
        if not block:
            raise EOFError
        pieces.append(block)
        left -= len(block)
    return b"".join(pieces)
