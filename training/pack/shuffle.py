"""Examples from their files to ranges of shuffle keys, with few requests for any number of files.

The examples of a split are shuffled by sorting their shuffle keys (column `place`). The keys of a split, or with a
curriculum those of each stage, are cut into ranges of equal width, which have about equally many tokens. A range has
examples of every file, so they pass through the levels of cluster/exchange.py: the sources are the files of examples,
sorted by (split, shuffle key), and the targets are the ranges. The files in between are sliced files.

The examples of a range are in the order of the files, for any number of levels.

Memory of a unit: see `memory_of_level`.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifact import Artifact, Counters, fingerprint, open_parquet
from cluster.cost import Cost, Planning
from cluster.examples.splits import SPLITS
from cluster.exchange import Levels, cost_of_level
from cluster.output import read_slices, read_table, table_slices
from cluster.stage import Output, RunStage, Scratch, Stage, files_from
from cluster.store import paths
from cluster.store.store import Store
from training.data.packed import EXAMPLES, STAGE_SHIFT, STAGE_TOKENS, by_stage

_SHUFFLE_KEYS = 1 << 64
# Bytes of a task, without its examples. Measured: 146 MiB, and Ray's worker.
_LIBRARIES = 256 << 20
# Bytes of memory for each token, and in addition for each example: the examples, a sorted copy, 8 bytes per token while
# it is made, row groups that are read ahead, and in the last level the rows. Measured: 44 to 64 bytes per token.
_OF_A_TOKEN = 64
_OF_AN_EXAMPLE = 300
# Threads that read the files of a unit; they wait for the store.
_THREADS = 8
_NO_COLUMNS = pa.schema([])


class KeyRange(TypedDict):
    """The documents of a split with `low` <= shuffle key < `high`."""

    split: int
    low: int
    high: int


def ranges(counters: Counters, unit_tokens: int) -> Iterator[KeyRange]:
    """Ranges of about `unit_tokens` tokens, each of one split and stage, which have all examples.

    counters: those of the artifact of examples.
    """
    for index in range(len(SPLITS)):
        for low, high, tokens in _spans(counters, index):
            count = max(1, round(tokens / unit_tokens))
            for part in range(count):
                ends = (low + (high - low) * at // count for at in (part, part + 1))
                yield {"split": index, "low": next(ends), "high": next(ends)}


def _spans(counters: Counters, split: int) -> list[tuple[int, int, float]]:
    """(first shuffle key, end, tokens) of each stage of a split; of the whole split if it has no stages."""
    if split == 0 and (tokens := by_stage(counters, STAGE_TOKENS)):
        return [(stage << STAGE_SHIFT, (stage + 1) << STAGE_SHIFT, count) for stage, count in tokens.items()]
    return [(0, _SHUFFLE_KEYS, counters.get(f"tokens/{SPLITS[split]}", 0))]


@dataclass(frozen=True)
class ShuffleUnit:
    """A unit of a level.

    first, end: its ranges are those from `first` to before `end`. folder, names: the files that it reads. slice: the
    number of the slice that is read of each; None if they are files of examples.
    """

    first: int
    end: int
    folder: str
    names: tuple[str, ...]
    slice: int | None

    @property
    def uris(self) -> list[str]:
        return [paths.join(self.folder, name) for name in self.names]


def files_of_unit(unit: ShuffleUnit) -> str:
    """The files that a unit reads, for `Stage.describe`."""
    return files_from(unit.uris)


def moves(levels: Levels, level: int, before: Artifact) -> list[ShuffleUnit]:
    """The units of a level. before: the files of the level before."""
    names = [file.path for file in before.manifest.files]
    groups, width = levels.groups(level - 1), levels.targets_of_part(level)
    assert len(names) == groups * levels.parts(level - 1), f"{before.uri}: {len(names)} files of level {level - 1}"
    units = []
    for parent in range(levels.parts(level - 1)):
        of_parent = names[parent * groups : (parent + 1) * groups]
        grouped = [tuple(of_parent[at : at + levels.fan_in]) for at in range(0, groups, levels.fan_in)]
        children = range(parent * levels.fan_out, min((parent + 1) * levels.fan_out, levels.parts(level)))
        for number, part in enumerate(children):
            first, end = part * width, min((part + 1) * width, levels.targets)
            units += [ShuffleUnit(first, end, before.uri, some, number if level > 1 else None) for some in grouped]
    return units


def memory_of_level(examples: Artifact, ranges: Sequence[KeyRange], levels: Levels, level: int) -> int:
    """Bytes of the largest unit of a level: those of the largest part, times the largest share of a group of files."""
    of_ranges = _bytes_of(ranges, examples.manifest.counters)
    of_files = np.array([file.bytes for file in examples.manifest.files], np.float64)
    of_parts = np.add.reduceat(of_ranges, np.arange(0, len(of_ranges), levels.targets_of_part(level)))
    of_groups = np.add.reduceat(of_files, np.arange(0, len(of_files), levels.sources_of_group(level)))
    return _LIBRARIES + int(of_parts.max() * of_groups.max() / of_files.sum())


def _bytes_of(ranges: Sequence[KeyRange], counters: Counters) -> np.ndarray:
    """float64[R]: bytes of memory for the examples of each range, estimated from the tokens of its split and stage."""
    found = np.empty(len(ranges))
    for index, split in enumerate(SPLITS):
        tokens, examples = (counters.get(f"{what}/{split}", 0) for what in ("tokens", "examples"))
        for low, high, of_span in _spans(counters, index):
            own = [at for at, one in enumerate(ranges) if one["split"] == index and low <= one["low"] < high]
            found[own] = of_span * (_OF_A_TOKEN + _OF_AN_EXAMPLE * examples / max(tokens, 1)) / max(len(own), 1)
    return found


@dataclass(frozen=True)
class Shuffle:
    """Runs the levels before the last one. Returns the units of the last one, as `Stage.prepare` does.

    corpus: its name. stage: name of the stage that is prepared. ranges: all ranges. small: as in `Stage`.
    """

    corpus: str
    stage: str
    examples: Artifact
    ranges: tuple[KeyRange, ...]
    levels: Levels
    made_from: str
    small: bool

    def __call__(self, run: RunStage) -> list[ShuffleUnit]:
        made = self.examples
        for level in range(1, self.levels.count):
            output = f"_work/shuffle/{self.corpus}/{level}"
            stage = Stage(
                name=f"{self.stage}.shuffle-{level}",
                outputs=(Output(output, _NO_COLUMNS),),
                units=moves(self.levels, level, made),
                work=MoveExamples(output, self.examples.store, self.ranges, self.levels, level),
                fingerprint=fingerprint([self.made_from, level, self.levels.fan_in, self.levels.fan_out]),
                store=self.examples.store,
                describe=files_of_unit,
                small=self.small,
                memory=memory_of_level(self.examples, self.ranges, self.levels, level),
                model=partial(_planned_level, self.levels, level, made.manifest.bytes),
            )
            made = run(stage)[output]
        return moves(self.levels, self.levels.count, made)


def _planned_level(levels: Levels, level: int, size: int, planning: Planning, sampled: Cost | None) -> list[Cost]:
    """What a level takes. size: bytes of all examples."""
    return [replace(cost_of_level(levels, level, size), memory=0)]


@dataclass(frozen=True)
class MoveExamples:
    """The work of a unit of a level before the last. The other fields are as in `Shuffle`."""

    output: str
    store: Store
    ranges: tuple[KeyRange, ...]
    levels: Levels
    level: int

    def __call__(self, unit: ShuffleUnit, scratch: Scratch) -> Counters:
        ranges = self.ranges[unit.first : unit.end]
        table = read_examples(self.store, unit, ranges)
        part = numbers(table, ranges) // self.levels.targets_of_part(self.level + 1)
        ends = np.cumsum(np.bincount(part, minlength=self.levels.fan_out))
        table = table.take(pa.array(np.argsort(part, kind="stable")))
        scratch.write_slices(self.output, table_slices(table, ends.tolist()))
        return {}


def numbers(table: pa.Table, ranges: Sequence[KeyRange]) -> np.ndarray:
    """int64[N]: index in `ranges` of the range that each example is in. ranges: consecutive, with all examples."""
    split, shuffle_key = table["split"].to_numpy(), table["place"].to_numpy()
    found = np.empty(len(split), np.int64)
    for index in range(len(SPLITS)):
        own = [number for number, one in enumerate(ranges) if one["split"] == index]
        here = split == index
        if own:
            lows = np.array([ranges[number]["low"] for number in own], np.uint64)
            found[here] = own[0] + np.searchsorted(lows, shuffle_key[here], "right") - 1
    return found


def read_examples(store: Store, unit: ShuffleUnit, ranges: Sequence[KeyRange]) -> pa.Table:
    """The examples of a unit, in the order of its files. ranges: its ranges. Reads only row groups with these."""
    if unit.slice is not None:
        found = [read_table(part) for part in read_slices(store, unit.uris, unit.slice) if part]
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda uri: _read_file(store, uri, ranges), unit.uris))
    return pa.concat_tables([EXAMPLES.empty_table(), *found])


def _read_file(store: Store, uri: str, ranges: Sequence[KeyRange]) -> pa.Table:
    bounds = _bounds(ranges)
    found = [EXAMPLES.empty_table()]
    with open_parquet(store, uri) as parquet:
        groups = list(_groups(parquet, bounds))
        parquet.fetch_ahead(groups)
        for group in groups:
            table = parquet.read_row_group(group, use_threads=False)
            split, shuffle_key = table["split"].to_numpy(), table["place"].to_numpy()
            inside = np.zeros(len(split), bool)
            for index, (low, high) in bounds.items():
                own = (split == index) & (shuffle_key >= np.uint64(low))
                inside |= own & (shuffle_key <= np.uint64(high - 1))
            found.append(table.filter(pa.array(inside)))
    return pa.concat_tables(found)


def _bounds(ranges: Sequence[KeyRange]) -> dict[int, tuple[int, int]]:
    """Split -> (low, high) of consecutive ranges."""
    bounds: dict[int, tuple[int, int]] = {}
    for one in ranges:
        low, _ = bounds.get(one["split"], (one["low"], 0))
        bounds[one["split"]] = low, one["high"]
    return bounds


def _groups(parquet: pq.ParquetFile, bounds: dict[int, tuple[int, int]]) -> Iterator[int]:
    metadata = parquet.metadata
    names = {metadata.schema.column(index).path: index for index in range(metadata.num_columns)}
    for group in range(metadata.num_row_groups):
        split, shuffle_key = (metadata.row_group(group).column(names[name]).statistics for name in ("split", "place"))
        if any(
            split.min <= index <= split.max and shuffle_key.min < high and low <= shuffle_key.max
            for index, (low, high) in bounds.items()
        ):
            yield group
