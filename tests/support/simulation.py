"""Many workers and drivers on one thread of time: every interleaving of their steps can be tried, and repeated.

An actor is a greenlet that stops before and after each operation on the store and at each failpoint, and goes on when
the schedule says so, or is killed there. The store is a dictionary with put-if-absent. One seed, one schedule.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from greenlet import getcurrent, greenlet

from raymill.cluster import stage as stages
from raymill.cluster.artifact import MANIFEST, Counters, DataFile, Manifest
from raymill.cluster.stage import Scratch
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, NotFound, Upload


class Killed(BaseException):
    """What SIGKILL looks like from inside."""


class Actor(greenlet):
    """A piece of work that is continued with `switch`; each switch runs it to its next stop."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.work = work
        self.place = "start"
        self.doomed = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            if not self.doomed:
                self.work()
        except Killed:
            pass
        except BaseException as error:
            self.error = error
        self.place = "end"

    def stop_at(self, place: str) -> None:
        """Called within the work: go back to the schedule."""
        self.place = place
        self.parent.switch()
        if self.doomed:
            raise Killed


class World:
    """A store, and the actors that use it: stands in for `Store._backend` and for `failpoint`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.objects: dict[str, bytes] = {}
        self.killed_at: Counter[str] = Counter()
        self.lost_answers = 0.0

    @property
    def backend(self) -> Callable[..., tuple["World", str]]:
        return lambda store, uri, *, file=True: (self, uri)

    def step(self, place: str, detail: str = "") -> None:
        actor = getcurrent()
        if isinstance(actor, Actor):
            actor.stop_at(place)

    def run(self, works: Iterable[Callable[[], object]], kill: float, check: Callable[[], None]) -> None:
        """Interleave to the end; each step kills its actor with this probability."""
        actors = [Actor(work) for work in works]
        while alive := [actor for actor in actors if actor.place != "end"]:
            actor = self.random.choice(alive)
            actor.doomed = self.random.random() < kill
            if actor.doomed:
                self.killed_at[actor.place] += 1
            actor.switch()
            check()
        for actor in actors:
            if actor.error is not None:
                raise actor.error

    # --- the store

    def read(self, key: str, most: int | None = None) -> bytes:
        self.step("read")
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key]

    def create(self, key: str, data: bytes) -> bool:
        self.step("create")
        won = self.objects.setdefault(key, data) is data
        if won and self.random.random() < self.lost_answers:
            won = False  # the answer was lost, the client asked again, and found its own object
        self.step("created")
        return won

    def write(self, key: str, data: bytes) -> None:
        self.step("write")
        assert key not in self.objects, "a write must never replace anything"
        self.objects[key] = data
        self.step("written")

    def upload(self, path: Path, key: str, *, new: bool = False) -> None:
        self.step("upload")
        assert key not in self.objects, "an upload must never replace anything"
        self.objects[key] = path.read_bytes()
        self.step("uploaded")

    def info(self, key: str) -> FileInfo:
        self.step("info")
        if key not in self.objects:
            raise NotFound(key)
        return FileInfo(key, len(self.objects[key]), "")

    def walk(self, prefix: str, *, skip_bad_names: bool = False, inside: bool = False) -> list[FileInfo]:
        self.step("list")
        return [FileInfo(key, len(data), "") for key, data in self.objects.items() if key.startswith(prefix + "/")]

    def uploads(self, folder: str) -> list[Upload]:
        """None: an object appears whole."""
        return []

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self.step("delete")
            self.objects.pop(key, None)

    def manifest(self, uri: str) -> Manifest | None:
        data = self.objects.get(f"{uri}/{MANIFEST}")
        return None if data is None else Manifest.from_json(data)


class ReadyMade(Scratch):
    """A scratch whose files were written before: the same work over and over costs no disk."""

    library: dict[int, tuple[dict[str, list[tuple[int | None, Path, int]]], Counters]] = {}  # noqa: RUF012 - filled once, below

    def __init__(self, outputs: object) -> None:
        self.folder = Path("nowhere")

    def __exit__(self, *_: object) -> None:
        pass

    def finish(self) -> dict[str, list[tuple[int | None, Path, int]]]:
        return self.library[self.unit][0]


def take_ready_made(unit: int, scratch: ReadyMade) -> Counters:
    scratch.unit = unit
    return scratch.library[unit][1]


def use_ready_made(patch: pytest.MonkeyPatch) -> None:
    """Let units take their files from the library, in this thread."""
    patch.setattr(stages, "Scratch", ReadyMade)
    patch.setattr(stages, "ThreadPoolExecutor", inline_pool)
    patch.setattr(pq, "read_metadata", _remembered(pq.read_metadata))


def _remembered(read: Callable[[Path], object]) -> Callable[[Path], object]:
    found: dict[Path, object] = {}
    return lambda path: found.setdefault(path, read(path)) if path not in found else found[path]


def fill_library(work: Callable, outputs: tuple, units: Iterable[int], folder: Path) -> None:
    for unit in units:
        with Scratch(outputs) as scratch:
            counters = work(unit, scratch)
            made = scratch.finish()
            kept = {}
            for name, files in made.items():
                kept[name] = [(given, path.rename(folder / f"{unit}-{path.name}"), rows) for given, path, rows in files]
        ReadyMade.library[unit] = (kept, counters)


def inline_pool(_: int) -> "InlinePool":
    return InlinePool()


class InlinePool:
    def __enter__(self) -> "InlinePool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = staticmethod(map)

    def submit(self, work: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done


def holds(world: World, uri: str, file: DataFile) -> bool:
    data = world.objects.get(paths.join(uri, file.path))
    return data is not None and len(data) == file.bytes
