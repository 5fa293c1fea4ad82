"""The stages `tables` and `repeated`: what depends on all rows of a table.

    tables.survey    per unit of input: its numbers, and its values with their counts               -> slices
    tables           per column that needs a value of all rows: that value                          -> _work/tables
    repeated.survey  per unit of input: a hash of each row that stays, after missing values are filled -> slices
    repeated         per slice of the hashes: the rows that repeat an earlier one                   -> _work/repeated

Median, quartiles, median distance and mean are exact: they are found in several passes over the numbers, which are
never held at once (`Numbers`). Counts are added up. A hash decides the slice of a value or row, so that equal ones are
in one slice. Nothing depends on how the rows are divided into units.

Memory: one unit of input, or one slice, whatever the size of the table; see `tables_memory`. A table is read
twice before its rows become records.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import Artifact, Counters, fingerprint, read_tables
from raymill.cluster.output import array_of, read_offsets, read_slice, read_slices, table_of, table_slice
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.units import InputManifest, Reading, Unit, read_unit
from raymill.cluster.stage import Output, RunStage, RunStageIn, Scratch, Stage
from raymill.cluster.store.store import Store
from raymill.pipelines.prepare.config import Source
from raymill.pipelines.prepare.records.tables import ColumnOutliers, ColumnType, Known, Table, filled, typed
from raymill.pipelines.prepare.sources import Fields

_BITS = 16  # of a number's 64 that a pass finds
_MASK = np.uint64((1 << _BITS) - 1)
_SIGN = np.uint64(1 << 63)
_NORMAL = 0.6745  # the third quartile of the normal distribution: MAD of it by its standard deviation
TABLES, REPEATED = "_work/tables", "_work/repeated"
TABLES_VERSION = "3"
TABLES_SCHEMA = pa.schema(
    {"source": pa.string(), "column": pa.string(), "fill": pa.string(), "low": pa.float64(), "high": pa.float64()}
)
REPEATED_SCHEMA = pa.schema({"row": pa.int64()})
_SURVEYED, _SURVEYED_ROWS = "_work/surveyed", "_work/surveyed-rows"
_LIBRARIES = 1 << 30
_OF_A_BYTE = 4  # of text
_SLICE_BYTES = 256 << 20  # text of the table for each slice
_ROW = np.dtype([("hash", "<u8"), ("other", "<u8"), ("unit", "<i4"), ("row", "<i8")])


@dataclass(frozen=True)
class Numbers:
    """Finite numbers in parts. parts: float64[N] each; reads them again at every call. count: of all parts.

    Memory: one part, and half a megabyte for each wanted quantile.
    """

    parts: Callable[[], Iterable[np.ndarray]]
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Numbers":
        """Numbers in one part. values: float64[N]."""
        return cls(lambda: [values], len(values))

    def quantiles(self, *wanted: float) -> list[float]:
        """Quantiles by linear interpolation, as `numpy.quantile`. Reads all parts four times. wanted: in [0, 1]."""
        assert self.count, "numbers without one have no quantile"
        places = [(self.count - 1) * one for one in wanted]
        ranks = {rank for place in places for rank in (math.floor(place), math.ceil(place))}
        found = self._ranked(ranks)
        return [_between(found[math.floor(one)], found[math.ceil(one)], one % 1) for one in places]

    def mean(self) -> float:
        """The correctly rounded sum by the count. Reads all parts once.

        Raises:
            OverflowError: the sum is no float64.
        """
        return math.fsum(chain.from_iterable(part.tolist() for part in self.parts())) / self.count

    def distances(self, middle: float) -> "Numbers":
        """How far each number is from the middle."""
        return Numbers(lambda: (np.abs(part - middle) for part in self.parts()), self.count)

    def _ranked(self, ranks: Iterable[int]) -> dict[int, float]:
        """Rank -> the number of this rank, from 0, the least.

        Radix selection: each pass counts the next 16 bits of the numbers that begin with the bits found so far.
        """
        begins = dict.fromkeys(ranks, 0)  # rank -> the bits found so far
        below = dict.fromkeys(begins, 0)  # rank -> numbers with lesser ones
        for shift in range(64 - _BITS, -1, -_BITS):
            counts = {begin: np.zeros(1 << _BITS, np.int64) for begin in begins.values()}
            for part in self.parts():
                ordered = _ordered(part)
                for begin, count in counts.items():
                    # A shift by 64 bits is none in C.
                    here = ordered if shift + _BITS == 64 else ordered[ordered >> np.uint64(shift + _BITS) == begin]
                    count += np.bincount(((here >> np.uint64(shift)) & _MASK).astype(np.int64), minlength=1 << _BITS)
            for rank, begin in begins.items():
                ends = np.cumsum(counts[begin])
                at = int(np.searchsorted(ends, rank - below[rank], "right"))
                below[rank] += int(ends[at - 1]) if at else 0
                begins[rank] = begin << _BITS | at
        return {rank: _number(bits) for rank, bits in begins.items()}


def _ordered(numbers: np.ndarray) -> np.ndarray:
    """uint64[N]: in the order of the numbers. numbers: float64[N]; -0 is 0."""
    bits = np.ascontiguousarray(numbers + 0.0).view(np.uint64)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def _number(ordered: int) -> float:
    """The number of a value of `_ordered`."""
    bits = np.array([ordered], np.uint64)
    return float(np.where(bits & _SIGN, bits ^ _SIGN, ~bits).view(np.float64)[0])


def _between(low: float, high: float, part: float) -> float:
    """Interpolate as numpy does, from the nearer of both; where numpy's difference overflows, by their shares."""
    if math.isinf(high - low):
        return low * (1 - part) + high * part
    return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


# --- what depends on all rows


def bounds_of(numbers: Numbers, outliers: ColumnOutliers) -> tuple[float, float] | None:
    """Least and most number that is no outlier; None if nothing is one."""
    if not numbers.count:
        return None
    low, middle, high = numbers.quantiles(0.25, 0.5, 0.75)
    if outliers.method == "mad":
        (spread,) = numbers.distances(middle).quantiles(0.5)
        spread, low, high = spread / _NORMAL, middle, middle
    else:
        spread = high - low
    return (low - outliers.distance * spread, high + outliers.distance * spread) if spread else None


def fill_of(numbers: Numbers, how: str, kind: ColumnType) -> str | None:
    """The median or mean as the text of a value of the column's type; None if there is none."""
    if not numbers.count:
        return None
    try:
        found = numbers.quantiles(0.5)[0] if how == "median" else numbers.mean()
    except OverflowError:
        return None
    return str(round(found)) if kind == "integer" else repr(found)


def counted(values: pl.Series) -> pl.DataFrame:
    """Columns `value` and `count`: how often a column has each value. Missing ones are left out."""
    return values.drop_nulls().alias("value").value_counts(name="count").with_columns(pl.col("count").cast(pl.Int64))


def most_frequent(counts: pl.DataFrame) -> tuple[int, Any, str] | None:
    """(its count, the value, the value as text) of the most frequent value, of equally frequent ones the least.

    counts: of `counted`, of several parts one after the other. None without a value.
    """
    if not len(counts):
        return None
    ranked = counts.group_by("value").agg(pl.col("count").sum()).sort(["count", "value"], descending=[True, False])
    return ranked["count"][0], ranked["value"][0], str(ranked["value"].cast(pl.String)[0])


def row_hashes(frame: pl.DataFrame, table: Table) -> np.ndarray:
    """uint64[N, 2]: a hash of the values by which rows are told apart."""
    names = list(table.types) if table.unique is None else list(table.unique)
    return np.stack([frame.select(names).hash_rows(seed).to_numpy() for seed in (1, 2)], axis=1)


@dataclass(frozen=True)
class TableSource:
    """A source with `table`. units: its units of input. slices: into which its values and rows are divided."""

    source: Source
    fields: Fields
    units: tuple[Unit, ...]
    slices: int

    @property
    def table(self) -> Table:
        assert self.source.table is not None
        return self.source.table

    @property
    def numeric(self) -> list[str]:
        """Columns of numbers of which something of all rows is wanted."""
        filled = [name for name, how in self.table.missing.items() if how in ("median", "mean")]
        outliers = self.table.outliers.columns if self.table.outliers else ()
        return list(dict.fromkeys([*filled, *outliers]))

    @property
    def named(self) -> list[str]:
        """Columns whose most frequent value is wanted."""
        return [name for name, how in self.table.missing.items() if how == "most_frequent"]

    def typed_rows(self, unit: Unit, reading: Reading, limits: Limits) -> Iterator[tuple[pa.Table, Any, list[Any]]]:
        """(the readable rows, their values in their types, why a row is wrong) of each table of a unit."""
        for raw in read_unit(unit, reading, limits):
            readable = raw.filter(pc.is_null(raw["problem"]))
            yield readable, *typed(self.fields.of(readable), self.table, self.source.day_first)


# A column of a source, and a slice of its rows.
Column = tuple[TableSource, str]
RowSlice = tuple[TableSource, int]


@dataclass(frozen=True)
class TablesFound:
    """What the stages found. repeated: files of each unit of input."""

    tables: Artifact
    repeated: tuple[tuple[str, ...], ...]

    def known(self, source: str) -> Known:
        """What depends on all rows of a source."""
        return known_of(self.tables, source)

    def repeated_rows(self, unit: int) -> set[int]:
        """The rows of a unit of input that repeat an earlier one."""
        tables = read_tables(self.tables.store, self.repeated[unit])
        return {row for table in tables for row in table["row"].to_pylist()}


def known_of(tables: Artifact, source: str) -> Known:
    """What depends on all rows of a source. tables: TABLES."""
    rows = [row for row in tables.table().to_pylist() if row["source"] == source]
    return Known(
        {row["column"]: row["fill"] for row in rows if row["fill"] is not None},
        {row["column"]: (row["low"], row["high"]) for row in rows if row["low"] is not None},
    )


def find_in_tables(
    sources: Sequence[Source], fields: Sequence[Fields], inputs: InputManifest, limits: Limits, run: RunStageIn
) -> TablesFound | None:
    """What depends on all rows of the sources that are tables; None without one. run: makes or finds artifacts."""
    parts = []
    for source, of_source in zip(sources, fields, strict=True):
        if source.table is not None:
            units = tuple(unit for unit in inputs.units if unit.source == source.source)
            slices = -(-sum(unit.bytes for unit in units) // _SLICE_BYTES) or 1
            parts.append(TableSource(source, of_source, units, slices))
    if not parts:
        return None
    reading, store, memory = inputs.reading, inputs.reading.store, tables_memory(sources, inputs)
    surveyed = [(one, unit) for one in parts for unit in one.units]

    def stage(
        output: Output,
        units: Sequence[Column] | Sequence[RowSlice],
        work: Any,
        slices: str,
        survey: Any,
        made_from: Any,
    ) -> Stage:
        """A stage whose units read slices of a survey of all units of input."""
        name = output.name.removeprefix("_work/")
        fingerprints = (fingerprint([*made_from, one]) for one in (f"{name}.survey", name))
        before = Stage(
            f"{name}.survey", (Output(slices, pa.schema([])),), surveyed, survey, next(fingerprints), store,
            memory=memory,
        )  # fmt: skip
        # `_with_files` adds the files that a unit reads.
        prepare = partial(_with_files, before, slices, parts, tuple(units))
        return Stage(name, (output,), tuple(units), work, next(fingerprints), store, memory=memory, prepare=prepare)

    settings = [[one.source.source, one.source.day_first, one.table.model_dump(mode="json")] for one in parts]
    depends_on = [TABLES_VERSION, pl.__version__, inputs.fingerprint, len(inputs.units), limits.model_dump(), settings]
    columns = [(one, name) for one in parts for name in dict.fromkeys([*one.numeric, *one.named])]
    survey = partial(survey_table, reading, limits)
    found = Output(TABLES, TABLES_SCHEMA)
    tables = run(stage(found, columns, partial(find_of_all, store), _SURVEYED, survey, depends_on))[TABLES]
    rows = [(one, at) for one in parts if one.table.unique != () for at in range(one.slices)]
    survey, found = partial(survey_rows, reading, limits, tables), Output(REPEATED, REPEATED_SCHEMA)
    depends_on.append(tables.manifest.fingerprint)
    again = run(stage(found, rows, partial(find_repeated_rows, store), _SURVEYED_ROWS, survey, depends_on))
    return TablesFound(tables, tuple(tuple(uris) for uris in again[REPEATED].files_by_unit(len(inputs.units))))


def _with_files(
    survey: Stage, slices: str, parts: Sequence[TableSource], units: Sequence[Column | RowSlice], run: RunStage
) -> list[tuple[Column | RowSlice, tuple[str, ...]]]:
    """The units with the files of the survey of their source."""
    places = [(one.source.source, unit.index) for one, unit in survey.units]
    of = dict(zip(places, run(survey)[slices].file_uris, strict=True))
    files = {one.source.source: tuple(of[one.source.source, unit.index] for unit in one.units) for one in parts}
    return [(unit, files[unit[0].source.source]) for unit in units]


def tables_memory(sources: Sequence[Source], inputs: InputManifest) -> int:
    """Bytes of a unit of the stages and of their surveys; 0 without a table."""
    names = {one.source for one in sources if one.table is not None}
    sizes = [unit.bytes for unit in inputs.units if unit.source in names]
    return _LIBRARIES + _OF_A_BYTE * max(max(sizes), min(sum(sizes), _SLICE_BYTES)) if sizes else 0


def survey_table(reading: Reading, limits: Limits, of: tuple[TableSource, Unit], scratch: Scratch) -> Counters:
    """The work of `tables.survey`: a sliced file of a unit of input, with a slice of each numeric column, then `slices`
    of each named one. No counters."""
    part, unit = of
    numbers: dict[str, list[bytes]] = {name: [] for name in part.numeric}
    counts: dict[str, list[pl.DataFrame]] = {name: [] for name in part.named}
    for _, frame, _ in part.typed_rows(unit, reading, limits):
        for name, found in numbers.items():
            found.append(frame[name].drop_nulls().cast(pl.Float64).to_numpy().tobytes())
        for name, values in counts.items():
            values.append(counted(frame[name]))
    slices: list[pa.Buffer | bytes] = [b"".join(numbers[name]) for name in part.numeric]
    for some in counts.values():
        if not some:
            slices += [b""] * part.slices
            continue
        whole = pl.concat(some).group_by("value").agg(pl.col("count").sum()).sort("value")
        of_slice = whole["value"].hash(0).to_numpy() % np.uint64(part.slices)
        for number in range(part.slices):
            here = whole.filter(pl.Series(of_slice == number))
            slices.append(table_slice(here.to_arrow(compat_level=pl.CompatLevel.oldest())) if len(here) else b"")
    scratch.write_slices(_SURVEYED, slices)
    return {}


def find_of_all(store: Store, unit: tuple[Column, tuple[str, ...]], scratch: Scratch) -> Counters:
    """The work of `tables`. No counters."""
    (part, name), uris = unit
    table, found = part.table, {"source": part.source.source, "column": name}
    how = table.missing.get(name)
    best: tuple[int, Any, str] | None = None
    for number in range(part.slices) if name in part.named else ():
        at = len(part.numeric) + part.slices * part.named.index(name) + number
        tables = [one for one in read_slices(store, uris, at, table_of) if one is not None]
        frame = pl.from_arrow(pa.concat_tables(tables)) if tables else pl.DataFrame()
        assert isinstance(frame, pl.DataFrame)
        one = most_frequent(frame)
        if one and (best is None or one[0] > best[0] or (one[0] == best[0] and one[1] < best[1])):
            best = one
    of_all: dict[str, Any] = {"fill": best[2]} if best else {}
    if name in part.numeric:
        at = part.numeric.index(name)

        def numbers() -> Iterator[np.ndarray]:
            for uri in uris:
                yield read_slice(store, uri, at, array_of(np.float64))

        sizes = (np.diff(read_offsets(store, uri, at, 1))[0] for uri in uris)
        of_column = Numbers(numbers, int(sum(sizes)) // np.dtype(np.float64).itemsize)
        if how in ("median", "mean"):
            of_all["fill"] = fill_of(of_column, str(how), table.types[name])
        if table.outliers and name in table.outliers.columns and (bounds := bounds_of(of_column, table.outliers)):
            of_all["low"], of_all["high"] = bounds
    scratch.write(TABLES, pa.Table.from_pylist([found | of_all], TABLES_SCHEMA))
    return {}


def survey_rows(
    reading: Reading, limits: Limits, tables: Artifact, of: tuple[TableSource, Unit], scratch: Scratch
) -> Counters:
    """The work of `repeated.survey`: a slice of hashes of rows for each slice of the source. tables: TABLES. No
    counters.
    """
    part, unit = of
    known, rows = known_of(tables, part.source.source), [np.empty(0, _ROW)]
    for readable, frame, wrong in part.typed_rows(unit, reading, limits) if part.table.unique != () else ():
        frame, dropped = filled(frame, part.table, known)
        stays = np.array([not (one or other) for one, other in zip(wrong, dropped, strict=True)], bool)
        found = np.empty(int(stays.sum()), _ROW)
        found["hash"], found["other"] = row_hashes(frame.filter(pl.Series(stays)), part.table).T
        found["unit"], found["row"] = unit.index, readable["row"].to_numpy()[stays]
        rows.append(found)
    hashed = np.concatenate(rows)
    of_slice = hashed["hash"] % np.uint64(part.slices)
    scratch.write_slices(_SURVEYED_ROWS, [hashed[of_slice == number].tobytes() for number in range(part.slices)])
    return {}


def find_repeated_rows(store: Store, unit: tuple[RowSlice, tuple[str, ...]], scratch: Scratch) -> Counters:
    """The work of `repeated`: a file for each unit of input with rows that repeat an earlier one. No counters."""
    (_, number), uris = unit
    rows = np.concatenate([np.empty(0, _ROW), *read_slices(store, uris, number, array_of(_ROW))])
    order = np.lexsort((rows["other"], rows["hash"]))  # stable: of equal ones the earliest first
    before, after = rows[order[:-1]], rows[order[1:]]
    again = np.sort(order[1:][(before["hash"] == after["hash"]) & (before["other"] == after["other"])])
    units, places = rows["unit"][again], rows["row"][again]
    for index in np.unique(units).tolist():
        scratch.write(REPEATED, pa.table([places[units == index]], schema=REPEATED_SCHEMA), index)
    return {}
