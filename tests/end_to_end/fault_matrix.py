"""The fault matrix: python -m tests.end_to_end.fault_matrix N [FIRST_SEED]

Injects at least N faults, ten for each seed or more, into curate (with grouping, boilerplate and repeats in stages of
units), prepare, pack and train, and compares each result with the one of a run that nothing disturbed. Prints a line
for each run, and at the end `faults`, `violations`, recovery times and units that were done twice. Exits with 1 if
there is a violation or a run could not be judged.

    every seed      curate, prepare, pack, train, generate, distil, annotate and errors, killed at random failpoints;
                    workers also suspended, failing and hanging; curate, pack or train by seed with one of: a poisoned
                    unit, two drivers, a suspended driver, a full disk, a store that loses requests or is away
    one in five     on Ray, one at a time: curate or pack with kill -9 of workers; of raylet, control process or driver;
                    memory pressure; a suspended worker, or all of a node; a training whose worker, driver or raylet is
                    killed

Faults that need no Ray are injected into forks of this process, which has all modules and kernels loaded.
"""

import fcntl
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import raymill.training.tokenizer.load_tokenizer  # noqa: F401 - loaded before processes are forked
from raymill.cluster.session import Session
from raymill.cluster.store.store import Store
from raymill.training.records.job import Job
from raymill.training.records.schema import Outcome
from tests.benchmarks.timing import machine
from tests.conftest import moto
from tests.support import fault_kinds as kinds
from tests.support.fault_case import Case, Pass
from tests.support.fault_works import Work, works
from tests.support.fit_jobs import pack_tiny
from tests.support.forked import adopt_orphans, bury_orphans
from tests.support.generate_inline import endpoint
from tests.support.inline import InlineEngine
from tests.support.killed_fits import fit_by_ranks, kill_and_finish

LANES = 4
# Of this number of faults and fewer, no part is with Ray or with a store, and a seed has curate and two others.
SMALL = 10
# Faults of a seed without Ray: the kind comes from the seed, and the work of a kind changes from one time to the next.
WORKS = ("curate", "pack", "train")
# Seeds of 40 with a training on Ray, and what is killed of it.
FITS = {4: "worker", 14: "raylet", 34: "driver"}


@dataclass
class Result:
    """What one run came to. units: different ones. redone: starts of units beyond the first.

    error: traceback of a run that could not be judged, such as one whose Ray cluster did not start.
    skipped: why there was no fault.
    """

    seed: int
    name: str
    faults: int
    violations: list[str]
    recovery_s: list[float]
    units: int
    redone: int
    seconds: float
    error: str = ""
    skipped: str = ""


class Matrix:
    """Works, their undisturbed results, and the runs of a seed. small: see SMALL. endpoint: of a model."""

    def __init__(self, folder: Path, server: str, small: bool, endpoint: str = "") -> None:
        self.folder, self.server, self.small = folder, server, small
        self.works = works(folder, endpoint)
        self._undisturbed: dict[str, tuple[dict, list[Pass]]] = {}
        self._fits: tuple[Path, tuple[Job, Outcome]] | None = None

    def undisturbed(self, work: Work) -> tuple[dict, list[Pass]]:
        """(content, passes) of a run without faults; the first of a work also loads its kernels into this process."""
        if work.name not in self._undisturbed:
            if work.name != "train":  # torch must not compute before the fork
                work.run(str(self.folder / f"warm-{work.name}"), InlineEngine, Session(), {})
            case = Case(work, {}, self.folder / f"undisturbed-{work.name}", "undisturbed")
            command = case.start()
            assert case.code(command) == 0, case.last_error()
            command.settle(60)
            self._undisturbed[work.name] = work.content(case.output, Store()), case.passes()
        return self._undisturbed[work.name]

    def prepare(self) -> None:
        """Do what lanes share."""
        for work in self.works.values():
            self.undisturbed(work)

    def seed(self, seed: int) -> Iterator[Result]:
        """The runs of a seed, one after the other."""
        faults = {"curate": 5, "prepare": 2, "pack": 2, "train": 2, "generate": 2}
        sample = {"curate", *random.Random(seed).sample(["prepare", "pack", "train", "generate"], 2)}
        for name, count in faults.items():
            if name in sample or not self.small:
                yield self._run(seed, name, "killed, suspended and failing", kinds.points(count))
        if self.small:
            return
        yield self._run(seed, "distil", "killed, suspended and failing", kinds.points(2))
        yield self._run(seed, "annotate", "killed, suspended and failing", kinds.points(2))
        yield self._run(seed, "errors", "killed, suspended and failing", kinds.points(2))
        without_ray = (
            ("a poisoned unit", kinds.poisoned_unit),
            ("two drivers", kinds.two_drivers),
            ("a suspended driver", kinds.suspended_driver),
            ("a full disk", kinds.full_disk),
            ("a store that loses requests", kinds.flaky_store(self.server)),
            ("a store that is away", kinds.store_that_is_away(self.server)),
        )
        turn, number = divmod(seed, len(without_ray))
        yield self._run(seed, WORKS[(turn + number) % len(WORKS)], *without_ray[number])
        # What Ray does for `train` before its training, it does for `pack`.
        on_ray = {
            1: ("curate", "Ray: workers killed", kinds.ray_workers),
            7: ("pack", "Ray: a process killed", kinds.ray_process),
            12: ("pack", "Ray: memory pressure", kinds.ray_memory),
            18: ("curate", "Ray: a process killed", kinds.ray_process),
            23: ("curate", "Ray: a suspended worker", kinds.ray_suspended_worker),
            26: ("curate", "Ray: memory pressure", kinds.ray_memory),
            29: ("pack", "Ray: workers killed", kinds.ray_workers),
            31: ("pack", "Ray: a suspended worker", kinds.ray_suspended_worker),
            37: ("curate", "Ray: a suspended node", kinds.ray_suspended_node),
        }
        number = seed % 40
        if number not in on_ray and number not in FITS:
            return
        with self._one_ray_at_a_time():
            if number in on_ray:
                yield self._run(seed, *on_ray[number], ray=True)
            else:
                yield self._fit(seed, FITS[number])

    @contextmanager
    def _one_ray_at_a_time(self) -> Iterator[None]:
        """Several would not start within the time that Ray waits for its processes."""
        with (self.folder / "ray.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _run(self, seed: int, name: str, what: str, kind: kinds.Kind, ray: bool = False) -> Result:
        work = self.works[name]
        content, passes = self.undisturbed(work)
        began, folder = time.perf_counter(), self.folder / f"{seed}-{name}-{what.replace(' ', '-').replace(':', '')}"
        case = Case(work, content, folder, what, ray=ray)
        case.usual.update(one.detail for one in passes if one.name == "unit_started")
        error = ""
        try:
            kind(case, random.Random(f"{seed} {name} {what}"), passes)
        except Exception:
            error = traceback.format_exc()
            case.abandon()
        else:
            case.judge()
        bury_orphans()
        seconds = time.perf_counter() - began
        result = Result(
            seed, f"{name}, {what}", len(case.fault_times), case.violations, case.recovery_s, case.units, case.redone,
            seconds, error, case.skipped,
        )  # fmt: skip
        if not case.violations and not error:
            shutil.rmtree(folder)
        return result

    def _fit(self, seed: int, victim: str) -> Result:
        began = time.perf_counter()
        violations, recovery = [], []
        if self._fits is None:
            packed = self.folder / f"fit-{os.getpid()}"
            pack_tiny(str(packed))
            self._fits = packed, fit_by_ranks(packed)
        try:
            recovery.append(kill_and_finish(*self._fits, seed, victim))
        except AssertionError as error:
            violations.append(f"{type(error).__name__}: {error}")
        return Result(
            seed, f"train on Ray, {victim} killed", 1, violations, recovery, 0, 0, time.perf_counter() - began
        )


def run(faults: int, first_seed: int = 1) -> int:
    """Inject this number of faults and print what came of it. Returns the number of violations and errors."""
    began, small = time.perf_counter(), faults <= SMALL
    os.environ |= {"OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    adopt_orphans()
    print(machine("ray", "torch"))
    # In memory, if it can be: most of the time for the many small files would be the disk's.
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    with moto() as server, endpoint(share=0.2) as model:
        matrix = Matrix(folder, server, small, model)
        if small:
            results = list(_until(matrix, itertools.count(first_seed), faults))
        else:
            matrix.prepare()
            results = _in_lanes(matrix, faults, first_seed)
    wrong = sum(len(result.violations) + bool(result.error) for result in results)
    _print_summary(results, time.perf_counter() - began)
    if wrong:
        print(f"what they left: {folder}")
    else:
        shutil.rmtree(folder)
    return wrong


def _until(matrix: Matrix, seeds: Iterable[int], faults: int) -> Iterator[Result]:
    """The results of seeds until there are `faults` faults, and a seed for every ten of them."""
    done = 0
    for count, seed in enumerate(seeds, start=1):
        for result in matrix.seed(seed):
            done += result.faults
            recovery = ", ".join(f"{seconds:.1f}" for seconds in result.recovery_s)
            wrong = [f"VIOLATION {line}" for line in result.violations]
            wrong += [f"ERROR {result.error}"] if result.error else []
            wrong += [f"SKIPPED {result.skipped}"] if result.skipped else []
            print(
                f"seed {result.seed}: {result.name}: {result.faults} faults, goes on after {recovery or '-'} s, "
                f"{result.redone} of {result.units} units done again, {result.seconds:.1f} s",
                *wrong, sep="\n  ", flush=True,
            )  # fmt: skip
            yield result
        if done >= faults and 10 * count >= faults:
            return


def _in_lanes(matrix: Matrix, faults: int, first_seed: int) -> list[Result]:
    """The seeds in LANES processes."""
    lanes = []
    for lane in range(LANES):
        if process := os.fork():
            lanes.append(process)
            continue
        code = 1
        try:
            adopt_orphans()
            share = -(-faults // LANES)
            with (matrix.folder / f"lane-{lane}.jsonl").open("w") as file:
                for result in _until(matrix, itertools.count(first_seed + lane, LANES), share):
                    file.write(json.dumps(asdict(result)) + "\n")
                    file.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in lanes]
    assert codes == [0] * LANES, codes
    files = [matrix.folder / f"lane-{lane}.jsonl" for lane in range(LANES)]
    return [Result(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


def _print_summary(results: list[Result], seconds: float) -> None:
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.name, []).append(result)
    print(f"\n{'':<42}{'runs':>6}{'faults':>8}{'violations':>12}{'goes on after, s':>24}{'done again':>16}")
    for name, group in sorted(by_name.items()):
        times = sorted(one for result in group for one in result.recovery_s)
        shown = f"median {statistics.median(times):.1f}, at most {times[-1]:.1f}" if times else "-"
        counts = Counter({"faults": 0, "redone": 0, "units": 0})
        for result in group:
            counts.update(faults=result.faults, redone=result.redone, units=result.units)
        wrong = sum(len(result.violations) for result in group)
        again = f"{counts['redone']:,} of {counts['units']:,}" if counts["units"] else "-"
        print(f"{name:<42}{len(group):>6}{counts['faults']:>8}{wrong:>12}{shown:>24}{again:>16}")
    times = sorted(one for result in results for one in result.recovery_s)
    faults, redone = sum(result.faults for result in results), sum(result.redone for result in results)
    print(f"\nseeds {len({result.seed for result in results})}, runs {len(results)}, {seconds:.0f} s")
    print(f"recovery: median {statistics.median(times or [0]):.1f} s, at most {max(times, default=0):.1f} s")
    units = sum(result.units for result in results)
    print(f"wasted work: {redone:,} of {units:,} units done again, {redone / max(faults, 1):.2f} a fault")
    if errors := [f"seed {result.seed}: {result.name}" for result in results if result.error]:
        print(f"not judged, because of errors: {', '.join(errors)}")
    if skipped := [f"seed {result.seed}: {result.name}: {result.skipped}" for result in results if result.skipped]:
        print(f"skipped {len(skipped)}: {'; '.join(skipped)}")
    print(f"faults {faults}")
    print(f"violations {sum(len(result.violations) for result in results)}")


if __name__ == "__main__":
    sys.exit(run(*map(int, sys.argv[1:])) > 0)
