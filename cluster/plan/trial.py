"""Stages on a sample of the input, in this process and on the local disk.

The sample is run once to load models and kernels and to see what each stage reads, then an eighth of it and all of it
three times each. The line through two measurements gives what a unit and what a row takes.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median

import pyarrow as pa

from raymill.cluster.artifact import Artifact
from raymill.cluster.stage import Stage, prefix_of, publish, run_unit
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store

TIMES = 3
_PART = 8  # the smaller runs have every eighth row


@dataclass(frozen=True)
class ObservedStore(Store):
    """A store that notes the URI and the bytes of each read; a file that is opened without being read has 0."""

    seen: list[tuple[str, int]] = field(default_factory=list, compare=False)

    def read_bytes(self, uri: str, most: int | None = None) -> bytes:
        data = super().read_bytes(uri, most)
        self.seen.append((uri, len(data)))
        return data

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        self.seen.append((uri, end - start))
        return super().read_range(uri, start, end)

    def open_input(self, uri: str, stop: int | None = None) -> pa.NativeFile:
        return pa.PythonFile(_Observed(super().open_input(uri, stop), uri, self.seen, True), "r")

    def open_parts(self, uri: str) -> pa.NativeFile:
        return pa.PythonFile(_Observed(super().open_parts(uri), uri, self.seen, False), "r")


class _Observed(io.RawIOBase):
    """A file whose reads are added up, and noted when it is closed. tail: also those up to its end."""

    def __init__(self, file: pa.NativeFile, uri: str, seen: list[tuple[str, int]], tail: bool) -> None:
        self.file, self.uri, self.seen, self.size, self.tail = file, uri, seen, 0, tail

    def read(self, size: int = -1) -> bytes:
        start = self.file.tell()
        data = self.file.read(None if size < 0 else size)
        # The footer of a small Parquet file is read with all that precedes it.
        if self.tail or start + len(data) < self.file.size():
            self.size += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.seen.append((self.uri, self.size))
            self.file.close()
        super().close()


@dataclass(frozen=True)
class Tried:
    """A stage of a trial. seconds: of a processor. seen: what its units read, if the store is observed."""

    units: int
    seconds: float
    outputs: Mapping[str, Artifact]
    seen: Sequence[tuple[str, int]]


class Trial:
    """Runs stages one after the other.

    folder: for the sample and its run. store: of both. clock: seconds of a processor, as far as this process takes
    them. rows: of the sample.
    """

    def __init__(self, folder: str, store: Store, clock: Callable[[], float] = time.process_time) -> None:
        self.folder, self.store, self.clock, self.rows = folder, store, clock, 0
        self.stages: dict[str, Tried] = {}
        self.made: dict[str, Artifact] = {}  # by path below the run

    @property
    def input_folder(self) -> str:
        """Where the sample is."""
        return f"{self.folder}/in/"

    @property
    def root(self) -> str:
        """The output of the run."""
        return f"{self.folder}/run"

    def run(self, stage: Stage, folder: str = "") -> dict[str, Artifact]:
        """Do a stage in a folder of the run."""
        if stage.prepare is not None:
            stage = replace(stage, units=stage.prepare(lambda inner: self.run(inner, folder)), prepare=None)
        root = paths.join(self.root, folder) if folder else self.root
        seen: list[tuple[str, int]] = getattr(self.store, "seen", [])
        ready, before, began = stage.set_up(), len(seen), self.clock()
        records = {index: run_unit(ready, root, index, unit) for index, unit in enumerate(stage.units)}
        seconds = self.clock() - began
        read, made = seen[before:], publish(stage, root, records)
        self.made |= {paths.join(folder, name) if folder else name: one for name, one in made.items()}
        self.stages[f"{prefix_of(folder)}{stage.name}"] = Tried(len(stage.units), seconds, made, read)
        return made

    def seconds_of(self, name: str) -> float:
        """Processor seconds of a stage; 0 of one that the sample does not reach."""
        return self.stages[name].seconds if name in self.stages else 0.0


# try_out(trial, every) -> the artifacts of the run, on every `every`-th row of the sample.
TryOut = Callable[[Trial, int], Mapping[str, Artifact]]


@dataclass(frozen=True)
class Growth:
    """What grows with the units and with the rows."""

    fixed: float
    of_row: float

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> "Growth":
        """The line through two (rows, value) of equally many units, neither falling nor below 0."""
        (less, small), (more, large) = few, many
        of_row = max(large - small, 0) / (more - less) if more > less else 0.0
        return cls(max(large - more * of_row, 0), of_row)

    def at(self, units: float, rows: float) -> float:
        """The value for `units` times the units of the sample, and `rows` rows."""
        return self.fixed * units + self.of_row * rows


@dataclass(frozen=True)
class Sampled:
    """The measurements of a sample. observed, part, whole: its runs. seconds: by stage. artifacts: of the whole."""

    observed: Trial
    part: Trial
    whole: Trial
    seconds: Mapping[str, Growth]
    artifacts: Mapping[str, Artifact]

    def line(self, value: Callable[[Trial], float]) -> Growth:
        """A number of a trial, by units and rows."""
        return Growth.through((self.part.rows, value(self.part)), (self.whole.rows, value(self.whole)))


@contextmanager
def sampled(store: Store, try_out: TryOut, clock: Callable[[], float] = time.process_time) -> Iterator[Sampled]:
    """Run the sample, whose files are there until the end of the `with`. store: of the run. clock: see Trial.

    Raises:
        UserError: as the run.
    """
    with tempfile.TemporaryDirectory(prefix="raymill-plan-") as folder:

        def trial(name: str, every: int, store: Store) -> tuple[Trial, Mapping[str, Artifact]]:
            found = Trial(f"{folder}/{name}", store, clock)
            return found, try_out(found, every)

        observed, _ = trial("observed", 1, ObservedStore(store.options, store.setting))
        parts = [trial(f"part-{number}", _PART, store)[0] for number in range(TIMES)]
        wholes = [trial(f"whole-{number}", 1, store) for number in range(TIMES)]
        whole, artifacts = wholes[0]
        seconds = {
            name: Growth.through(
                (parts[0].rows, median(one.seconds_of(name) for one in parts)),
                (whole.rows, median(one.seconds_of(name) for one, _ in wholes)),
            )
            for name in whole.stages
        }
        yield Sampled(observed, parts[0], whole, seconds, artifacts)
