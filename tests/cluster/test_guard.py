"""One item that takes too long, too much memory, or ends the process costs that item, and no other."""

import gc
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest

from raymill.cluster import guard as guards
from raymill.cluster.guard import (
    Exceeded,
    Failed,
    Guard,
    WorkBounds,
    _address_space,
    guarded_items,
    once,
    processor_seconds,
)
from tests.support.processes import wait_until

ROOMY = WorkBounds(20.0, 1 << 30)
TIGHT = WorkBounds(0.2, 64 << 20)


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class PanicException(BaseException):
    """As a library written in Rust raises it."""


def work(item: str) -> str:
    match item:
        case "backtracks":  # interrupted within the C code of `re`
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "grows":
            return str(len("x" * (1 << 30)))
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "leaves":
            os._exit(3)
        case "refuses":
            raise ValueError("no")
        case "panics":
            raise PanicException("index out of bounds")
        case "refuses oddly":
            raise Unpicklable(1, 2)
    return f"{item}!"


def shown(outcomes: list) -> list[str]:
    return [str(one.error) if isinstance(one, Failed) else one for one in outcomes]


def test_an_item_beyond_its_bounds_fails_alone():
    items = [
        "a",
        "backtracks",
        "b",
        "grows",
        "c",
        "crashes",
        "d",
        "leaves",
        "e",
        "refuses",
        "refuses oddly",
        "f",
        "panics",
        "g",
    ]
    assert shown(Guard(work).map(items, [TIGHT] * len(items))) == [
        "a!",
        "too_slow (over 0.2 s)",
        "b!",
        "too_large (over 64 MiB of memory)",
        "c!",
        "died (SIGSEGV)",
        "d!",
        "died (exit status 3)",
        "e!",
        "no",
        "Unpicklable: 1 and 2",
        "f!",
        "died (PanicException: index out of bounds)",
        "g!",
    ]


_PANICS = """
import os, sys
from raymill.cluster.guard import Exceeded, Guard, WorkBounds, guarded_items

def panics(item):
    print("a line of Python \\x1b[2J", file=sys.stderr)
    os.write(2, b"thread '<unnamed>' panicked: stack backtrace: 0: rust_begin_unwind")
    os.abort()

for run in (lambda: Guard(panics)(0, WorkBounds(5, 1 << 28)),
            lambda: next(guarded_items(lambda: map(panics, [0]), WorkBounds(5, 1 << 28)))):
    try:
        run()
    except Exceeded as error:
        print(error)
print("the parent", file=sys.stderr)
"""


def test_what_a_library_prints_before_it_ends_a_child_is_not_printed_and_lines_of_python_are():
    made = subprocess.run([sys.executable, "-c", _PANICS], capture_output=True, text=True, timeout=60)
    assert made.stdout == "died (SIGABRT)\n" * 2
    assert set(made.stderr.splitlines()) == {"a line of Python \\u001b[2J", "the parent"}


def test_results_that_were_not_sent_before_the_child_ended_are_made_again():
    items = [str(number) for number in range(1000)]
    items[500] = "leaves"
    outcomes = Guard(work).map(items, [ROOMY] * 1000)
    assert [at for at, one in enumerate(outcomes) if isinstance(one, Failed)] == [500]
    assert outcomes[499] == "499!" and outcomes[501] == "501!"


def test_a_process_whose_own_memory_is_bounded_has_the_bound_of_the_item_below_it():
    pid = os.fork()
    if not pid:  # a bound that `ulimit -v` set cannot be raised again
        most = _address_space() + (512 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        os._exit(shown(Guard(work).map(["a", "grows"], [ROOMY] * 2)) != ["a!", "too_large (over 1,024 MiB of memory)"])
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_large_items_and_results_pass_both_ways():
    text = "x" * 5_000_000
    assert Guard(work).map([text, text], [ROOMY] * 2) == [f"{text}!"] * 2


def test_time_that_the_child_only_waits_is_not_counted():
    def waits(item: str) -> str:
        time.sleep(0.5)
        return item

    assert Guard(waits)("a", TIGHT) == "a"


def forks(item):
    os.fork()
    return item


def forks_between():
    for item in (1, 2, 3):
        os.fork()
        yield item


def test_a_fork_that_the_function_makes_sends_no_results():
    guard = Guard(forks)
    assert guard.map([1, 2, 3], [ROOMY] * 3) == [1, 2, 3]
    assert guard(4, ROOMY) == 4
    assert list(guarded_items(forks_between, ROOMY)) == [1, 2, 3]


def test_errors_of_one_item_are_raised():
    guard = Guard(work)
    with pytest.raises(ValueError, match="no"):
        guard("refuses", ROOMY)
    with pytest.raises(Exceeded) as exceeded:
        guard("crashes", ROOMY)
    assert (exceeded.value.problem, exceeded.value.seen) == ("died", "SIGSEGV")
    assert guard("a", ROOMY) == "a!"


def test_threads_share_a_child():
    guard, found = Guard(work), dict[int, str]()
    guard("first", ROOMY)

    def use(number: int) -> None:
        found[number] = guard(str(number), ROOMY)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert found == {number: f"{number}!" for number in range(8)}


def test_a_child_that_was_killed_from_outside_is_started_again():
    guard = Guard(lambda item: str(os.getpid()))
    first = guard("a", ROOMY)
    assert guard("b", ROOMY) == first, "one child does many items"
    os.kill(int(first), signal.SIGKILL)
    assert guard("c", ROOMY) not in (first, str(os.getpid()))


def test_a_child_that_another_thread_forks_meanwhile_does_not_hide_the_end_of_the_first(monkeypatch):
    fork, kept, others = guards._fork, Guard(abs), list[threading.Thread]()

    def with_another_before():
        if not others:  # between the pipes of the first child and its fork
            others.append(threading.Thread(target=kept, args=(-3, ROOMY)))
            others[0].start()
            others[0].join(0.5)
        return fork()

    monkeypatch.setattr(guards, "_fork", with_another_before)
    failed = list[Exception]()

    def first():
        with pytest.raises(Exceeded) as caught:
            Guard(lambda item: os._exit(3))(0, ROOMY)
        failed.append(caught.value)

    one = threading.Thread(target=first, daemon=True)
    one.start()
    one.join(20)
    assert failed and failed[0].problem == "died"
    others[0].join()


class _CrashesElsewhere:
    """As an object of a library whose finalizer needs the threads of the process that made it."""

    def __init__(self):
        self.process, self.itself = os.getpid(), self

    def __del__(self):
        if os.getpid() != self.process:
            os.kill(os.getpid(), signal.SIGSEGV)


_after_fork: list[Callable[[], object]] = []
os.register_at_fork(after_in_child=lambda: [one() for one in _after_fork])


def test_garbage_of_this_process_is_not_collected_in_the_child(monkeypatch):
    thresholds = gc.get_threshold()
    monkeypatch.setattr(sys.modules[__name__], "_after_fork", [lambda: [[] for _ in range(200_000)]])
    gc.collect()
    gc.set_threshold(100_000)  # it is reached in the child alone
    try:
        _CrashesElsewhere()
        assert Guard(lambda item: (gc.collect(), item)[1])(1, ROOMY) == 1 and gc.isenabled()
    finally:
        gc.set_threshold(*thresholds)


def test_the_child_ends_with_its_guard():
    guard = Guard(lambda item: str(os.getpid()))
    child = int(guard("a", ROOMY))
    del guard
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_forked_process_has_a_child_of_its_own():
    """As of a pool of `multiprocessing`: two processes at one pipe would get each other's results."""
    guard = Guard(lambda item: str(os.getpid()))
    first = guard("a", ROOMY)
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.write(write, guard("b", ROOMY).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 20).decode() not in (first, str(os.getpid()))
    assert guard("c", ROOMY) == first


def test_the_child_ends_with_a_killed_parent_whose_pipe_another_fork_still_holds(monkeypatch):
    monkeypatch.setattr(guards, "_PARENT_MS", 50)
    read, write = os.pipe()
    if not (parent := os.fork()):
        child = Guard(lambda item: os.getpid())
        asked = child("a", ROOMY)
        if not (holder := os.fork()):
            time.sleep(600)
        os.write(write, f"{asked} {holder}".encode())
        time.sleep(600)
    asked, holder = map(int, os.read(read, 100).split())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    ended = wait_until(lambda: not psutil.pid_exists(asked) or psutil.Process(asked).status() == "zombie", 30)
    os.kill(holder, signal.SIGKILL)
    assert ended


def counted(kind: str) -> Iterator[int]:
    yield 1
    yield 2
    match kind:
        case "fails":
            raise ValueError("no third")
        case "waits":
            time.sleep(60)
        case "grows":
            bytes(1 << 30)
        case "crashes":
            os.abort()


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("fails", ValueError, "no third"),
        ("waits", Exceeded, r"too_slow \(over 0.5 s\)"),
        ("grows", Exceeded, r"too_large \(over 256 MiB of memory\)"),
        ("crashes", Exceeded, r"died \(SIGABRT\)"),
    ],
)
def test_items_of_an_iterator_come_until_one_exceeds_its_bounds(kind, error, said):
    found = guarded_items(partial(counted, kind), WorkBounds(0.5, 256 << 20))
    assert [next(found), next(found)] == [1, 2]
    with pytest.raises(error, match=said):
        next(found)


def test_an_iterator_ends_and_one_that_is_not_wanted_any_more_leaves_no_child():
    before = set(psutil.Process().children())
    assert list(guarded_items(partial(counted, "ends"), WorkBounds(5, 256 << 20))) == [1, 2]
    found = guarded_items(partial(counted, "waits"), WorkBounds(60, 256 << 20))
    next(found)
    assert len(set(psutil.Process().children()) - before) == 1
    found.close()
    assert set(psutil.Process().children()) <= before


def test_after_an_item_that_cannot_be_sent_the_next_one_has_a_new_child():
    guard = Guard(len)
    assert guard("ab", ROOMY) == 2
    with pytest.raises(Exception, match="pickle"):
        guard(lambda: None, ROOMY)
    assert guard("abc", ROOMY) == 3


def test_a_check_is_made_once_for_each_content_and_again_after_an_error():
    calls = []

    def check(answer):
        calls.append(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ValueError):
        once(("test", "a"), lambda: check(ValueError()))
    assert once(("test", "a"), lambda: check(1)) == once(("test", "a"), lambda: check(2)) == 1
    assert once(("test", "b"), lambda: check(None)) is None and once(("test", "b"), lambda: check(3)) is None
    assert len(calls) == 3


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_processor_time_counts_a_running_child_and_one_that_ended():
    guard = Guard(busy)
    before = processor_seconds()
    guard(0.2, ROOMY)
    running = processor_seconds() - before
    del guard
    ended = processor_seconds() - before
    assert 0.2 < running < 1 and 0.2 < ended < 1


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    if seconds == 0.2:
        raise ValueError("no")


def test_the_processor_time_of_all_items_is_counted():
    """Of one that raises too, and of one that is ended its bound."""
    guard = Guard(spin)
    guard.map([0.1, 0.2, 0.0], [ROOMY] * 3)
    assert 0.3 <= guard.seconds < 0.6
    guard.map([10.0], [TIGHT])
    assert 0.5 <= guard.seconds < 0.8
