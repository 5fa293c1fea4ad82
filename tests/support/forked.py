"""An engine whose workers are forks of the driver: processes that can be killed and suspended, without Ray.

Everything of the engine is as it is but Ray: rounds, attempts, limits of retries, the limit on time without progress.
A worker that dies is started again, as Ray does. So is one that is suspended, as if its machine were lost; it goes on
when its unit was done by another.
"""

import dataclasses
import os
import pickle
import signal
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil

from raymill.cluster import engine as engines
from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.stage import Answer, NothingYet, Stage
from tests.support.inline import NoRay

_LOOK_S = 0.02


class Worker:
    """A forked process that does units, one after the other, until the driver's end of its pipe is closed.

    others: workers of the driver, whose ends of pipes the fork has too.
    """

    def __init__(self, others: Iterable["Worker"]) -> None:
        self.pipe, its_end = Pipe()
        self.unit: tuple[int, bytes] | None = None
        self.process = os.fork()
        if self.process:
            its_end.close()
            return
        with suppress(BaseException):
            for pipe in (self.pipe, *(other.pipe for other in others)):
                pipe.close()
            while True:
                run, unit = its_end.recv()
                its_end.send(run(*unit))
        os._exit(0)

    def start(self, run: Any, unit: tuple[int, bytes]) -> None:
        """Have it do a unit."""
        self.unit = unit
        self.pipe.send((run, unit))

    def state(self) -> str:
        """`running`, `dead` or `suspended`."""
        ended, status = os.waitpid(self.process, os.WNOHANG | os.WUNTRACED)
        return "running" if not ended else "suspended" if os.WIFSTOPPED(status) else "dead"


class ForkedWorkers(NoRay):
    """The session of a ForkedEngine. count: workers that work at once."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.count = count
        self.workers: list[Worker] = []
        self.suspended: list[Worker] = []

    def stop(self) -> None:
        """Kill the workers, as of a Ray that is stopped; suspended ones stay."""
        super().stop()
        workers, self.workers = self.workers, []
        for worker in workers:
            os.kill(worker.process, signal.SIGKILL)
            os.waitpid(worker.process, 0)

    def map(self, run: Any, units: Mapping[int, Any], losses: int, wait_s: float) -> Iterator[Answer | NothingYet]:
        """The answers of the units, in the order of completion. losses: how often a unit is started again."""
        waiting = deque((index, pickle.dumps(unit)) for index, unit in units.items())
        lost, missing, quiet_since = Counter[int](), len(units), time.monotonic()
        while missing:
            if time.monotonic() - quiet_since >= wait_s:
                quiet_since = time.monotonic()
                yield NothingYet(running=True)
            while waiting:
                free = next((worker for worker in self.workers if worker.unit is None), None)
                if free is None and len(self.workers) < self.count:
                    free = Worker([*self.workers, *self.suspended])
                    self.workers.append(free)
                if free is None:
                    break
                free.start(run, waiting.popleft())
            ready = wait([worker.pipe for worker in self.workers if worker.unit], _LOOK_S)
            for worker in list(self.workers):
                if worker.unit is None:
                    continue
                try:
                    if worker.pipe in ready:
                        answer, worker.unit = worker.pipe.recv(), None
                        missing, quiet_since = missing - 1, time.monotonic()
                        yield answer
                        continue
                except (EOFError, OSError):
                    pass  # it died
                if (state := worker.state()) == "running":
                    continue
                index = worker.unit[0]
                self.workers.remove(worker)
                if state == "suspended":
                    self.suspended.append(worker)
                lost[index] += 1
                if lost[index] <= losses:
                    waiting.append(worker.unit)
                else:
                    missing -= 1
        while self.suspended:  # what they were to do has been done by others
            worker = self.suspended.pop()
            os.kill(worker.process, signal.SIGCONT)
            worker.pipe.close()


class ForkedEngine(Engine):
    """The engine on ForkedWorkers, also for small stages, which the driver would do itself."""

    def run(self, stage: Stage) -> dict[str, Artifact]:
        return super().run(dataclasses.replace(stage, small=False))

    def _map(self, run: Any, units: Mapping[int, Any], options: Mapping[str, Any]) -> Iterator[Answer | NothingYet]:
        assert isinstance(self.session, ForkedWorkers)
        return self.session.map(run, units, self.limits.losses, min(engines._POLL_S, self.limits.stall_s))


class Command:
    """A function in a forked process, with a process group of its own.

    Args:
        function: what the process does. Its error, if it is ours, is written to the file `error`.
        error: a file. environment: variables of the process besides those of this one.
    """

    def __init__(self, function: Any, error: Path, **environment: str) -> None:
        self.error = error
        self._code: int | None = None
        self.process = os.fork()
        if self.process:
            with suppress(OSError):  # the process did it first
                os.setpgid(self.process, self.process)
            return
        code = 70
        try:
            os.setpgid(0, 0)
            os.environ.update(environment)
            with error.open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            function()
            code = 0
        except BaseException as raised:
            code = getattr(raised, "exit_code", 70)
            error.write_text(f"{type(raised).__name__}: {raised}\n")
            error.with_suffix(".traceback").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self._code is None:
            ended, status = os.waitpid(self.process, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self, seconds: float) -> int:
        """The exit code, negative for a signal.

        Raises:
            TimeoutError: it did not end, and was killed with its group.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if (code := self.poll()) is not None:
                return code
            time.sleep(_LOOK_S / 4)
        os.killpg(self.process, signal.SIGKILL)
        self._code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        raise TimeoutError(f"did not end within {seconds:.0f} s; {self.error.read_text()[-2000:]}")

    def group(self) -> list[int]:
        """The process and those that it started, unless they made groups of their own."""
        return [process.pid for process in psutil.process_iter() if _group_of(process.pid) == self.process]

    def settle(self, seconds: float) -> None:
        """Wake what is suspended of its group, and wait until all of it has ended.

        This process has to be the one that orphans are given to: see `adopt_orphans`.

        Raises:
            TimeoutError: something did not end, and was killed.
        """
        until = time.monotonic() + seconds
        while True:
            with suppress(ProcessLookupError):
                os.killpg(self.process, signal.SIGCONT)
            try:
                while os.waitpid(-self.process, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            if time.monotonic() > until:
                os.killpg(self.process, signal.SIGKILL)
                raise TimeoutError(f"a process of the group did not end within {seconds:.0f} s")
            time.sleep(_LOOK_S / 4)


def _group_of(process: int) -> int:
    """The process group; 0 if the process has ended."""
    try:
        return os.getpgid(process)
    except ProcessLookupError:
        return 0


def bury_orphans() -> None:
    """Wait for every adopted process that has ended. Call it when no command is running."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def adopt_orphans() -> None:
    """Make this process the parent of what its killed children leave, so that it can wait for their end (Linux)."""
    import ctypes

    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
