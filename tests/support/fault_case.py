"""One disturbed run: its commands, which points they passed, and whether the result equals an undisturbed run's."""

import fcntl
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raymill.cluster.artifact import Artifact
from raymill.cluster.engine import Engine
from raymill.cluster.failpoints import VARIABLE
from raymill.cluster.garbage import find_garbage, remove_garbage
from raymill.cluster.session import Session
from raymill.cluster.stage import COMMITS, Stage
from raymill.cluster.store.store import Store
from tests.support.fault_works import Work
from tests.support.forked import Command, ForkedEngine, ForkedWorkers

WORKERS = 2
_WAIT_S = 400.0
_AGAIN = ("same call again", "same command again", "run it again")  # the matrix calls Python


@dataclass(frozen=True)
class Pass:
    """A process came to a failpoint. time: Unix time in seconds."""

    name: str
    detail: str
    process: int
    time: float

    @property
    def commits(self) -> bool:
        """Whether a unit, an artifact, a checkpoint or a run was committed."""
        return self.name == "after_create" and "/_lease/" not in self.detail and "/_probe-" not in self.detail

    @property
    def commits_unit(self) -> bool:
        """Whether the record of a unit was created."""
        return self.name == "after_create" and f"/{COMMITS}/" in self.detail


def committed_units(passes: Iterable[Pass], known: bool = False) -> set[str]:
    """The units whose records were created. A process does one unit at a time, so a record is of its last one.

    known: without the last one of each process, whose answer its driver may not have.
    """
    begun, found, last = dict[int, str](), set[str](), dict[int, str]()
    for one in passes:
        if one.name == "unit_started":
            begun[one.process] = one.detail
            last.pop(one.process, None)
        elif one.commits_unit:
            last[one.process] = begun[one.process]
            found.add(begun[one.process])
    return found - set(last.values()) if known else found


class EngineOnRay(Engine):
    """The engine, also for small stages, which the driver would do itself: a fault is to hit a worker of Ray."""

    def run(self, stage: Stage) -> dict[str, Artifact]:
        return super().run(replace(stage, small=False))


@dataclass
class Case:
    """A work that is disturbed at an output of its own, and what came of it.

    undisturbed: content of a run that nothing disturbed. store: of the output. ray: whether its units run on Ray.
    address: of a Ray cluster; empty: an embedded Ray.

    Attributes:
        faults: Unix times of the faults that were injected outside of the plan.
        violations: a line for each thing that should not have happened.
        poisoned: the unit that fails however often it is tried.
        usual: starts of each unit in a run that nothing disturbed. `prepare` has several stages of one name, in folders
            of their own, whose units have the same names. A unit that is not there is started once.
        redone_by_a_fault: units that one fault may cause to be done again: those in flight, and the one that failed.
        kept_from: numbers of passes; units that were committed before one of these must not be started after it. Each
            start of the command adds one.
        woken: a driver goes on that was suspended; a unit whose answer it had not read then is one in flight.
        recovers_in_place: processes that ran at the time of a fault recover from it.
        skipped: why the fault was not injected.
    """

    work: Work
    undisturbed: dict[str, Any]
    folder: Path
    name: str
    store: Store = field(default_factory=Store)
    more: dict[str, Any] = field(default_factory=dict)
    ray: bool = False
    address: str = ""
    faults: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    poisoned: str = ""
    usual: Counter[str] = field(default_factory=Counter)
    redone_by_a_fault: float = WORKERS + 1
    kept_from: list[int] = field(default_factory=list)
    woken: bool = False
    recovers_in_place: bool = False
    skipped: str = ""

    def __post_init__(self) -> None:
        self.points, self.output = self.folder / "points", str(self.folder / "out")
        self.points.mkdir(parents=True)
        self._planned: list[tuple[str, int]] = []
        self._commands: list[Command] = []

    # --- what is to happen

    def plan(self, *lines: tuple[str, int, str]) -> None:
        """(point, number of its pass, name of a function in disturbances.py)."""
        self._planned += [(point, number) for point, number, _ in lines]
        with (self.points / "plan").open("a") as plan:
            for point, number, function in lines:
                plan.write(f"{point}@{number or '*'} tests.support.disturbances:{function}\n")

    def no_more_faults(self) -> None:
        """Forget what is planned and has not happened."""
        self._planned = self._fired()
        (self.points / "plan").write_text("")

    def start(self, before: Callable[[], None] = lambda: None, **environment: str) -> Command:
        """Start the command. before: called in its process before anything else."""

        def run() -> None:
            before()
            if self.ray:
                with Session(self.address) if self.address else Session(cpus=WORKERS) as session:
                    self.work.run(self.output, EngineOnRay, session, self.more)
            else:
                self.work.run(self.output, ForkedEngine, ForkedWorkers(WORKERS), self.more)

        return self.start_process(run, **environment)

    def start_process(self, function: Callable[[], object], **environment: str) -> Command:
        """Start a process that passes the failpoints of this case, and has to keep what was committed before."""
        self.kept_from.append(len(self.passes()))
        error = self.folder / f"error-{len(self._commands)}"
        command = Command(function, error, **{VARIABLE: str(self.points)}, **environment)
        self._commands.append(command)
        return command

    def wait_for_passes(self, number: int, command: Command) -> bool:
        """Wait until this number of points was passed. False: the command ended before; `code` waits for it."""
        until = time.monotonic() + _WAIT_S
        while len(self.passes()) < number:
            if command.poll() is not None or time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    @contextmanager
    def between_passes(self) -> Iterator[None]:
        """Let no process pass a failpoint: one that is suspended there would keep all others waiting."""
        with (self.points / "passes").open("a") as passes:
            fcntl.flock(passes, fcntl.LOCK_EX)
            yield

    def code(self, command: Command) -> int | None:
        """The exit code of a command; None if it did not end, which is a violation."""
        try:
            return command.wait(_WAIT_S)
        except TimeoutError as error:
            self.violations.append(str(error))
            return None

    def abandon(self) -> None:
        """Kill what still runs of all commands."""
        for command in self._commands:
            with suppress(ProcessLookupError):
                os.killpg(command.process, signal.SIGKILL)

    def finish(self) -> None:
        """Run the command until it succeeds, as often as faults can explain."""
        for _ in range(len(self._planned) + 3):
            before = len(self._fired())
            command = self.start()
            code = self.code(command)
            if code == 0 or code is None:
                break
            self.judge_failure(command, code, killed=len(self._fired()) > before)
        else:
            self.violations.append(f"it does not succeed: {self.last_error()}")

    # --- what happened

    def passes(self) -> list[Pass]:
        """The points that were passed so far, by all commands."""
        file = self.points / "passes"
        text = file.read_text() if file.exists() else ""
        lines = text[: text.rfind("\n") + 1].splitlines()  # the last one may be written at this moment
        split = [line.split(" ") for line in lines]
        return [Pass(name, detail, int(process), float(when)) for name, detail, process, when in split]

    def last_error(self) -> str:
        """What the last command printed and raised."""
        return self._commands[-1].error.read_text()[-2000:]

    def judge_failure(self, command: Command, code: int, killed: bool) -> None:
        """A command failed. killed: a fault was injected meanwhile that may have killed it."""
        error = command.error.read_text()
        if not (code == -9 and killed) and not (code in (1, 2) and any(words in error for words in _AGAIN)):
            self.violations.append(f"exit code {code} without a word on how to continue: {error[-1000:]}")

    def judge(self) -> None:
        """Compare the result with the undisturbed one; again when what dead attempts left was removed."""
        for command in self._commands:
            try:
                command.settle(_WAIT_S)
            except TimeoutError as error:
                self.violations.append(str(error))
        self._compare("")
        more = {unit: count - self._once(unit) for unit, count in self._starts().items() if unit != self.poisoned}
        again = {unit: count for unit, count in more.items() if count > 0}
        if sum(again.values()) > self.redone_by_a_fault * len(self.fault_times):
            self.violations.append(f"units were started again so often after {len(self.fault_times)} faults: {again}")
        passes = self.passes()
        for number in self.kept_from:
            started = {one.detail for one in passes[number:] if one.name == "unit_started"}
            # Of units of several stages it is not known which of these was committed.
            started = {unit for unit in started if self._once(unit) == 1}
            if lost := committed_units(passes[:number], known=self.woken) & started:
                self.violations.append(f"units that were committed before pass {number} were started: {sorted(lost)}")
        if "://" not in self.output:
            found = find_garbage(self.store, self.output, -60.0)
            if found.unknown:
                self.violations.append(f"files that `raymill gc` does not know: {found.unknown[:3]}")
            remove_garbage(self.store, self.output, found.old)
            self._compare(" after `raymill gc`")

    def _compare(self, when: str) -> None:
        """In a process of its own: an object store's client starts threads, which this one must not have."""

        def compare() -> None:
            content = self.work.content(self.output, self.store)
            if content != self.undisturbed:
                names = [name for name in self.undisturbed if content.get(name) != self.undisturbed[name]]
                raise AssertionError(f"another result: {names}")

        command = Command(compare, self.folder / f"compared{len(when)}")
        if self.code(command) != 0:
            self.violations.append(f"the result{when}: {command.error.read_text()}")

    @property
    def fault_times(self) -> list[float]:
        """Unix times of all faults that happened."""
        fired = []
        passes = self.passes()
        for point, number in self._fired():
            wanted, _, where = point.partition(":")
            found = [one for one in passes if wanted in ("any", one.name) and where in ("", one.detail)]
            fired.append(found[max(number, 1) - 1].time)
        return sorted(fired + self.faults)

    def _fired(self) -> list[tuple[str, int]]:
        """What was planned and has happened."""
        passes, fired = self.passes(), []
        for point, number in self._planned:
            wanted, _, where = point.partition(":")
            count = sum(wanted in ("any", one.name) and where in ("", one.detail) for one in passes)
            fired += [(point, number)] * (count >= max(number, 1))
        return fired

    @property
    def recovery_s(self) -> list[float]:
        """For each fault, the seconds until a process that had to recover from it committed something, if one did.

        Those are the processes that began after the fault; with `recovers_in_place` all.
        """
        passes, begun, found = self.passes(), dict[int, float](), []
        for one in passes:
            begun.setdefault(one.process, one.time)
        for fault in self.fault_times:
            since = (lambda one: one.time) if self.recovers_in_place else (lambda one: begun[one.process])
            after = [one.time for one in passes if one.commits and since(one) > fault]
            found += [min(after) - fault] if after else []
        return found

    @property
    def units(self) -> int:
        """Units that were done, each counted once."""
        return sum(map(self._once, self._starts()))

    @property
    def redone(self) -> int:
        """How often a unit was started again."""
        return sum(max(count - self._once(unit), 0) for unit, count in self._starts().items())

    def _once(self, unit: str) -> int:
        return max(self.usual[unit], 1)

    def _starts(self) -> Counter[str]:
        return Counter(one.detail for one in self.passes() if one.name == "unit_started")
