"""The exchange of slices between two stages: each unit of the first writes a slice for each unit of the second.

Each of S sources writes a sliced file (output.py) with a slice for each of T targets. A file of a level has the slices
of its sources unchanged, sorted by target, then source, so the slices of one target are neighbours and are read with
one request.

If each of T targets reads its part of every file, that is S * T reads. If both S and T are above FAN, the data
therefore passes through levels:

    level 0      the sources: S files
    level k      a unit reads, from `fan_in` neighbouring files of level k - 1, the data for one part of the targets,
                 a `fan_out`-th of the targets of these files, and writes it to one file
    last level   a unit reads, from at most `fan_in` files, the data for one target

With L levels, fan_in is the L-th root of S and fan_out the L-th root of T. A level then has about max(S, T) units, each
with about as much data as one source or one target, and there are at most L * max(S, T) * FAN reads. With at most FAN
sources, or at most FAN targets, there is only the last level, which reads the sources themselves. With 30,000 sources
and targets, L is 3: 2.7 million reads instead of 900 million.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Self, TypeVar

import numpy as np

from raymill.cluster.artifact import Artifact, Counters
from raymill.cluster.cost import Cost, Planning, requests_to_write
from raymill.cluster.output import parsed, read_between, read_offsets
from raymill.cluster.stage import RunStage, Scratch, Stage
from raymill.cluster.store.store import Store

# The most files of one level that a unit of the next level reads. A larger number gives fewer levels and smaller reads.
# Parquet files are read by whole row groups of 1 MiB: packing takes 98 ns a token with 64 files, 68 ns with 32.
FAN = 64

# Bytes that a unit of a level reads at a time; more if its slices for one target are larger.
CHUNK = 64 << 20
MEMORY = 512 << 20  # bytes of memory of a unit of a level
_THREADS = 16
_BYTE_S = 3.3e-9  # of a core, to move a byte (AMD EPYC, 2026-11-25)

T = TypeVar("T")

# (name, output, units, work) -> a stage with one sliced output.
MakeStage = Callable[[str, str, Sequence[Any], Callable[[Any, Scratch], Counters]], Stage]


@dataclass(frozen=True)
class Levels:
    """The groups of sources and the parts of the targets at each level, from 0 to `count`.

    A file of level k has the data of one group, `fan_in ** k` neighbouring sources, for one part, `fan_out **
    (count - k)` neighbouring targets. Files are numbered by part, then by group.
    """

    sources: int
    targets: int
    count: int
    fan_in: int
    fan_out: int

    @classmethod
    def of(cls, sources: int, targets: int, fan: int = FAN) -> Self:
        """The levels for these numbers of sources and targets. fan: see FAN."""
        count = 1
        while fan**count < min(sources, targets):
            count += 1
        return cls(sources, targets, count, _root(sources, count), _root(targets, count))

    def groups(self, level: int) -> int:
        """Number of groups of sources, each of which has a file in every part."""
        return -(-self.sources // self.sources_of_group(level))

    def sources_of_group(self, level: int) -> int:
        """Number of sources of a group; the last one may have fewer."""
        return self.fan_in**level

    def parts(self, level: int) -> int:
        """Number of parts of the targets."""
        return -(-self.targets // self.targets_of_part(level))

    def targets_of_part(self, level: int) -> int:
        """Number of targets of a part; the last one may have fewer."""
        return self.fan_out ** (self.count - level)

    def reads(self, level: int) -> int:
        """Number of reads of all units of this level, each from one file of the level before."""
        return self.parts(level) * self.groups(level - 1)


def _root(number: int, degree: int) -> int:
    """The smallest whole number whose power of this degree is at least `number`."""
    root = max(1, int(number ** (1 / degree)) - 1)
    while root**degree < number:
        root += 1
    return root


@dataclass(frozen=True)
class Slice:
    """The slices of all sources for one target: in each file `width` neighbouring slices, from number `at * width` on.

    widths: `width` of each file, which is the number of its sources.
    """

    uris: tuple[str, ...]
    widths: tuple[int, ...]
    at: int

    def read(self, store: Store, parse: Callable[[bytes], T]) -> list[T]:
        """The slice of each source, in order; 16 files at once.

        Raises:
            StorageError, DataError: as of `read_slice`.
        """

        def of_file(uri: str, width: int) -> list[T]:
            offsets = read_offsets(store, uri, self.at * width, width)
            data, starts = read_between(store, uri, offsets), (offsets - offsets[0]).tolist()
            parts = [data[start:end] for start, end in pairwise(starts)] if width > 1 else [data]
            return [parsed(uri, part, parse) for part in parts]

        with ThreadPoolExecutor(_THREADS) as pool:
            return [one for found in pool.map(of_file, self.uris, self.widths) for one in found]


@dataclass(frozen=True)
class SlicedFiles:
    """The files of a level, sorted by part, then group (see Levels)."""

    uris: tuple[str, ...]
    levels: Levels
    level: int = 0

    @classmethod
    def of(cls, uris: Sequence[str], targets: int, fan: int = FAN) -> Self:
        """Level 0: the files that the sources wrote."""
        return cls(tuple(uris), Levels.of(len(uris), targets, fan))

    def slice(self, target: int) -> Slice:
        """The slices of all sources for a target."""
        part, at = divmod(target, self.levels.targets_of_part(self.level))
        groups, width = self.levels.groups(self.level), self.levels.sources_of_group(self.level)
        widths = (*(width for _ in range(groups - 1)), self.levels.sources - (groups - 1) * width)
        return Slice(self.uris[part * groups : (part + 1) * groups], widths, at)

    def next(self, uris: Sequence[str]) -> Self:
        """The files of the next level."""
        return type(self)(tuple(uris), self.levels, self.level + 1)


def exchange(run: RunStage, store: Store, files: SlicedFiles, name: str, output: str, stage: MakeStage) -> SlicedFiles:
    """Run the levels before the last, if there are any. Returns the files from which the targets read.

    name, output: prefixes of the names of the stages and of their outputs. stage: makes a stage, whose memory is the
    larger of MEMORY and the memory of a unit that reads one target.
    """
    levels = files.levels
    for level in range(1, levels.count):
        made = f"{output}-{level}"
        units = [(part, group) for part in range(levels.parts(level)) for group in range(levels.groups(level))]
        one = stage(f"{name}-{level}", made, units, Regroup(store, files, made))
        artifact: Artifact = run(replace(one, model=partial(_planned_level, files.uris, levels, level)))[made]
        files = files.next(artifact.file_uris)
    return files


def cost_of_level(levels: Levels, level: int, size: float) -> Cost:
    """What a level takes. size: bytes of all slices."""
    units = levels.parts(level) * levels.groups(level)
    puts = units * (1 + requests_to_write(size / units))
    return Cost(
        units=units,
        core_s=size * _BYTE_S,
        read=size,
        written=size,
        gets=2 * levels.reads(level),
        puts=puts,
        memory=MEMORY,
        scratch=size / units,
    )


def _planned_level(
    uris: Sequence[str], levels: Levels, level: int, planning: Planning, sampled: Cost | None
) -> list[Cost]:
    return [cost_of_level(levels, level, planning.bytes_of(uris))]


@dataclass(frozen=True)
class Regroup:
    """The work of a unit of a level, which is (part, group). files: those of the level before."""

    store: Store
    files: SlicedFiles
    output: str

    def __call__(self, unit: tuple[int, int], scratch: Scratch) -> Counters:
        part, group = unit
        levels, level = self.files.levels, self.files.level + 1
        first = part * levels.targets_of_part(level)
        targets = min(levels.targets_of_part(level), levels.targets - first)
        whole = self.files.slice(first)
        own = slice(group * levels.fan_in, (group + 1) * levels.fan_in)
        uris, widths = whole.uris[own], whole.widths[own]
        with ThreadPoolExecutor(_THREADS) as pool:
            offsets = list(
                pool.map(
                    lambda uri, width: read_offsets(self.store, uri, whole.at * width, targets * width), uris, widths
                )
            )
            sizes = [np.diff(of_file).reshape(targets, -1) for of_file in offsets]
            pieces = self._pieces(pool, uris, offsets, widths, sum(one.sum(axis=1) for one in sizes))
            scratch.write_slices(self.output, pieces, np.concatenate(sizes, axis=1).ravel())
        return {}

    def _pieces(
        self,
        pool: ThreadPoolExecutor,
        uris: Sequence[str],
        offsets: Sequence[np.ndarray],
        widths: Sequence[int],
        bytes_of_target: np.ndarray,
    ) -> Iterator[memoryview]:
        """The slices sorted by target, then file, as pieces. About CHUNK bytes are read at a time."""
        ends = np.cumsum(bytes_of_target)
        targets, first = len(ends), 0
        while first < targets:
            before = ends[first - 1] if first else 0
            end = max(first + 1, int(np.searchsorted(ends, before + CHUNK, "right")))
            cuts = [
                of_file[first * width : end * width + 1 : width] for of_file, width in zip(offsets, widths, strict=True)
            ]
            read = list(pool.map(lambda uri, cut: memoryview(read_between(self.store, uri, cut)), uris, cuts))
            starts = [(cut - cut[0]).tolist() for cut in cuts]
            for target in range(end - first):
                for data, start in zip(read, starts, strict=True):
                    yield data[start[target] : start[target + 1]]
            del read, data  # before the next ones are read
            first = end
