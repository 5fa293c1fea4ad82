"""The commit of one unit in every interleaving up to a bound: python -m tests.cluster.commit_schedules

The commit code of cluster/stage.py runs on a simulated store: attempts of one unit, drivers that publish and sweep, and
a reader, with kills, lost answers and context switches (tests/support/interleavings.py). At each change of the store:

    no object is replaced, and none that is visible is half-written
    the unit has one record; it names files that exist, are whole and belong to one attempt
    a manifest names the files of the record and no others; none of these is ever deleted
    a reader that finds the manifest can read all that it names

At the end the same command, undisturbed, gives the undisturbed content, and the store has nothing else. Prints a line
for each case, then `schedules` and `violations`. Exits with 1 if there is a violation.
"""

import dataclasses
import hashlib
import io
import itertools
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.cluster import stage as stages
from raymill.cluster.artifact import MANIFEST, Artifact, Manifest
from raymill.cluster.stage import CommitRecord, Stage
from raymill.cluster.store import paths
from raymill.cluster.store import store as stores
from raymill.cluster.store.interface import Unavailable
from raymill.cluster.store.store import Store
from tests.benchmarks.timing import machine
from tests.support import simulation
from tests.support.interleavings import Choices, ExploredWorld, beginnings, explore
from tests.support.stages import run_inline

T = TypeVar("T")

ROOT = "s3://simulated/run"
NAME = "numbers"
_PROCESSES = 2
# The number of choices that are made before the schedules are divided between processes.
_BEGINNING = 4


class Violation(AssertionError):
    """The protocol broke a promise. The message has the steps."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Actors on one run, and the bounds of `main`.

    attempts: workers that do the unit. drivers: commands that do it, publish and sweep. switches, faults: of a
    schedule; see ExploredWorld.
    """

    name: str
    attempts: int
    drivers: int
    switches: int
    faults: int

    def works(self, stage: Stage) -> dict[str, Callable[[], object]]:
        """The actors, with one reader, by name."""
        works: dict[str, Callable[[], object]] = {}
        for number in range(self.attempts):
            works[f"attempt {number}"] = lambda: stages.run_unit(stage, ROOT, 0, stage.units[0])
        for number in range(self.drivers):
            works[f"driver {number}"] = lambda: run_inline(stage, ROOT)
        return works | {"reader": partial(read_all, stage.store)}


CASES = (
    Case("a late attempt and a driver", attempts=1, drivers=1, switches=2, faults=1),
    Case("two late attempts and a driver", attempts=2, drivers=1, switches=1, faults=1),
    Case("two drivers", attempts=0, drivers=2, switches=2, faults=1),
)


def read_all(store: Store) -> None:
    """Read what a manifest names, if there is one."""
    if found := Artifact.find(store, f"{ROOT}/{NAME}"):
        for uri, file in zip(found.file_uris, found.manifest.files, strict=True):
            if hashlib.sha256(store.read_bytes(uri)).hexdigest() != file.sha256:
                raise Violation(f"{uri} has another content than its manifest says")


class Promises:
    """What must hold before and after each change of the store. contents: of the files that an attempt writes."""

    def __init__(self, contents: set[bytes]) -> None:
        self.contents = contents
        self.seen: dict[str, bytes] = {}  # visible objects
        self.recorded: set[str] = set()  # files of the record
        self.published: set[str] = set()  # files of the manifest
        self.records: set[str] = set()

    def change(self, uri: str, data: bytes | None) -> None:
        """An object gets this content, or is deleted."""
        if data is None:
            if uri in self.records | self.recorded | self.published or uri.endswith(MANIFEST):
                raise Violation(f"{uri} is needed, and was deleted")
            del self.seen[uri]
            return
        if uri in self.seen:
            raise Violation(f"{uri} was replaced")
        self.seen[uri] = data
        if uri.endswith(MANIFEST):
            self._manifest(Manifest.from_json(data))
        elif uri.endswith(".json"):
            self._record(uri, CommitRecord.from_json(data))
        elif data not in self.contents:
            raise Violation(f"{uri} is visible half-written")

    def _record(self, uri: str, record: CommitRecord) -> None:
        self.records.add(uri)
        if len(self.records) > 1:
            raise Violation(f"two records of one unit: {sorted(self.records)}")
        self.recorded = {f"{ROOT}/{NAME}/{file.path}" for file in record.files[NAME]}
        if missing := sorted(self.recorded - self.seen.keys()):
            raise Violation(f"the record names files that are not there: {missing}")
        if strange := sorted(file for file in self.recorded if record.attempt not in file):
            raise Violation(f"the record names files of another attempt: {strange}")

    def _manifest(self, manifest: Manifest) -> None:
        self.published = {f"{ROOT}/{NAME}/{file.path}" for file in manifest.files}
        if self.published != self.recorded or len(self.recorded) != len(self.contents):
            raise Violation(f"the manifest names {sorted(self.published)}, the record {sorted(self.recorded)}")


@dataclasses.dataclass
class Simulation:
    """One unit with two files, written once; each schedule commits them anew.

    Attributes:
        world: of the schedule that runs. attempts: the numbers of its attempts.
        undisturbed: digest of the content that the first schedule ended with.
        ended: the states of the store at the ends of schedules for which `_end` has found nothing wrong.
    """

    stage: Stage
    contents: set[bytes]
    world: ExploredWorld | None = None
    attempts: Iterator[int] = dataclasses.field(default_factory=lambda: attempt_numbers())
    undisturbed: str = ""
    ended: set[tuple] = dataclasses.field(default_factory=set)

    def run(self, case: Case, choices: Choices) -> ExploredWorld:
        """Run one schedule.

        Raises:
            Violation: a promise was broken.
        """
        promises = Promises(self.contents)
        world = ExploredWorld(choices, case.switches, case.faults, promises.change)
        self.world, self.attempts = world, attempt_numbers()
        try:
            for name, error in world.interleave(case.works(self.stage)).items():
                if not isinstance(error, Unavailable):  # an upload that another driver aborted: tried again in reality
                    raise Violation(f"{name} ended with {type(error).__name__}: {error}") from error
            state = (frozenset(world.objects.items()), frozenset(world.begun), frozenset(promises.records))
            if state not in self.ended:
                self._end(world, promises)
                self.ended.add(state)
        except Violation as error:
            steps = "\n".join(" ".join(step).rstrip() for step in world.steps)
            raise Violation(f"{case.name}: {error}\n{steps}") from error.__cause__
        return world

    def attempt_name(self) -> str:
        """A name that no other attempt of this schedule has."""
        return f"{next(self.attempts):012}"

    def _end(self, world: ExploredWorld, promises: Promises) -> None:
        """Run the same command, undisturbed, on what a schedule left. What comes of it depends on nothing else.

        Raises:
            Violation: it gives another content, or something is left that is not needed.
        """
        made = run_inline(self.stage, ROOT)[NAME]
        self.undisturbed = self.undisturbed or made.manifest.digest
        if made.manifest.digest != self.undisturbed:
            raise Violation("the same command gave another content")
        needed = promises.published | promises.records | {f"{ROOT}/{NAME}/{MANIFEST}"}
        if world.objects.keys() != needed:
            raise Violation(f"left, and not needed: {sorted(world.objects.keys() - needed)}")


@contextmanager
def simulation_of_one_unit() -> Iterator[Simulation]:
    """The simulation; meanwhile every store of this process is the simulated one.

    Pure functions of the commit code are computed once for equal arguments, and clocks stand still, so that two
    attempts of a number write equal bytes in all schedules: a schedule takes less than half the time.
    """
    contents = [f"content {number}".encode() for number in range(2)]
    files = [(None, InMemory(data), 1) for number, data in enumerate(contents)]
    output = stages.Output(NAME, pa.schema([]))
    stage = Stage("count", (output,), [0], simulation.take_ready_made, "f" * 32, Store())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(simulation.ReadyMade.library, 0, ({NAME: files}, {"documents": 1}))
        simulation.use_ready_made(patch)
        patch.setattr(pq, "read_metadata", lambda path: SimpleNamespace(num_rows=1))
        for module in (stages, stores):
            patch.setattr(module, "failpoint", lambda name, detail="": None)
        patch.setattr(stages, "time", SimpleNamespace(perf_counter=lambda: 0.0))
        patch.setattr(stages, "datetime", SimpleNamespace(now=lambda zone: datetime(2026, 1, 1, tzinfo=zone)))
        patch.setattr(stages, "describe_schema", cache(stages.describe_schema))
        for pure in ("join", "absolute", "scheme"):
            patch.setattr(paths, pure, cache(getattr(paths, pure)))
        for kind in (CommitRecord, Manifest):
            patch.setattr(kind, "from_json", cache(kind.from_json))
            patch.setattr(kind, "to_json", _remembered(kind.to_json))
        simulated = Simulation(stage, set(contents))
        patch.setattr(Store, "_backend", lambda store, uri, *, file=True: (simulated.world, uri))
        patch.setattr(stages, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex=simulated.attempt_name())))
        yield simulated


def attempt_numbers() -> Iterator[int]:
    """What distinguishes the attempts of a schedule, in the order in which they begin."""
    return itertools.count()


@dataclasses.dataclass(frozen=True)
class InMemory:
    """What the commit code needs of the path of a file on scratch."""

    data: bytes
    suffix = ".parquet"

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)

    def read_bytes(self) -> bytes:
        return self.data

    def stat(self) -> SimpleNamespace:
        return SimpleNamespace(st_size=len(self.data))


def _remembered(method: Callable[[Any], T]) -> Callable[[Any], T]:
    """A method, computed once for records and manifests of the same files; all else in them is constant."""
    made: dict[tuple, T] = {}

    def remembered(value: CommitRecord | Manifest) -> T:
        files = value.files if isinstance(value, Manifest) else value.files[NAME]
        key = "" if isinstance(value, Manifest) else value.attempt, *files
        return made[key] if key in made else made.setdefault(key, method(value))

    return remembered


@dataclasses.dataclass
class Explored:
    """What came of schedules. processor_s: of the process that ran them."""

    schedules: int = 0
    steps: int = 0
    processor_s: float = 0.0
    violation: str = ""

    def add(self, other: "Explored") -> None:
        self.schedules += other.schedules
        self.steps += other.steps
        self.processor_s += other.processor_s
        self.violation = self.violation or other.violation


def run_all(case: Case, beginning: tuple[int, ...] = ()) -> Explored:
    """Run every schedule of a case with this beginning, until one breaks a promise."""
    return _explored(case, lambda run: explore(run, beginning))


def run_some(case: Case, seed: int, count: int) -> Explored:
    """Run `count` random schedules of a case, until one breaks a promise."""
    chances = (random.Random(f"{seed} {number}") for number in range(count))
    return _explored(case, lambda run: (run(Choices(chance=chance)) for chance in chances))


def _explored(case: Case, runs: Callable[[Callable[[Choices], None]], Iterable[object]]) -> Explored:
    explored, began = Explored(), time.process_time()
    with simulation_of_one_unit() as simulated:

        def run(choices: Choices) -> None:
            explored.schedules += 1
            explored.steps += len(simulated.run(case, choices).steps)

        try:
            for _ in runs(run):
                pass
        except Violation as error:
            explored.violation = str(error)
    explored.processor_s = time.process_time() - began
    return explored


def main() -> int:
    """Run all cases and print what came of them. Returns the number of violations."""
    print(machine())
    began, total, violations = time.perf_counter(), Explored(), 0
    with multiprocessing.get_context("spawn").Pool(_PROCESSES) as pool:
        for case in CASES:
            with simulation_of_one_unit() as simulated:
                parts = beginnings(partial(simulated.run, case), _BEGINNING)
            of_case = Explored()
            for part in [pool.apply_async(run_all, (case, tuple(part))) for part in parts]:
                explored = part.get()
                of_case.add(explored)
                if explored.violation:
                    violations += 1
                    print(f"VIOLATION {explored.violation}")
            steps, each_s = of_case.steps / of_case.schedules, of_case.processor_s / of_case.schedules
            print(
                f"{case.name}: {of_case.schedules:,} schedules with at most {case.switches} switches and {case.faults} "
                f"faults, each {steps:.1f} steps, {1000 * each_s:.2f} ms of processor time",
                flush=True,
            )
            total.add(of_case)
    rate = 60 * total.schedules / (time.perf_counter() - began)
    each_s = total.processor_s / total.schedules
    print(
        f"{rate:,.0f} a minute by {_PROCESSES} processes; {1000 * each_s:.2f} ms of processor time each, "
        f"that is {60 * _PROCESSES / each_s:,.0f} a minute by {_PROCESSES} cores that do nothing else"
    )
    print(f"schedules {total.schedules}")
    print(f"violations {violations}")
    return violations


if __name__ == "__main__":
    sys.exit(main() > 0)
