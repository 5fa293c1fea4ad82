"""The stages `tables` and `repeated`: what depends on all rows of a table.

    tables.survey    per unit of input: its numbers, and its values with their counts               -> slices
    tables           per column that needs a value of all rows: that value                          -> _work/tables
    repeated.survey  per unit of input: a hash of each row that stays, after missing values are filled -> slices
    repeated         per slice of the hashes: the rows that repeat an earlier one                   -> _work/repeated

Median, quartiles, median distance and mean are exact (quantiles.py), counts are added up. A hash decides the slice of a
value or row, so that equal ones are in one slice. Nothing depends on how the rows are divided into units.

Memory: that of a unit of input, or of a slice, whatever the size of the table; see `tables_memory`. A table is read
twice before its rows become records.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.output import read_offsets, read_slice, read_slices, read_table, table_slice
from cluster.readers.inputs import Limits
from cluster.readers.units import InputManifest, Reading, Unit, read_unit
from cluster.stage import Output, RunStage, Scratch, Stage
from cluster.store.store import Store
from pipelines.prepare.config import Source
from pipelines.prepare.sources import Fields
from pipelines.prepare.tables.frame import Known, bounds_of, counted, fill_of, filled, most_frequent, row_hashes, typed
from pipelines.prepare.tables.quantiles import Numbers
from pipelines.prepare.tables.settings import Table

TABLES, REPEATED = "_work/tables", "_work/repeated"
TABLES_VERSION = "3"

TABLES_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("column", pa.string()),
        ("fill", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
REPEATED_SCHEMA = pa.schema([("row", pa.int64())])

_SURVEYED, _SURVEYED_ROWS = "_work/surveyed", "_work/surveyed-rows"
_LIBRARIES = 1 << 30
_OF_A_BYTE = 4  # of text
_SLICE_BYTES = 256 << 20  # text of the table for each slice
_ROW = np.dtype([("hash", "<u8"), ("other", "<u8"), ("unit", "<i4"), ("row", "<i8")])


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

    def first_slice(self, column: str) -> int:
        """The first slice of a column in the file of a unit: one of numbers, `slices` of values."""
        numeric = self.numeric
        if column in self.named:
            return len(numeric) + self.slices * self.named.index(column)
        return numeric.index(column)


# A column of a source, and a slice of its rows.
Column = tuple[TableSource, str]
RowSlice = tuple[TableSource, int]


def tables_stage(
    sources: Sequence[Source], fields: Sequence[Fields], inputs: InputManifest, limits: Limits
) -> Stage | None:
    """The stage that writes TABLES; None without a table."""
    parts = _parts(sources, fields, inputs)
    if not parts:
        return None
    columns = [(one, name) for one in parts for name in dict.fromkeys([*one.numeric, *one.named])]
    survey = [(one, unit) for one in parts for unit in one.units]
    work = SurveyTable(inputs.reading, limits), FindOfAll(inputs.reading.store)
    depends_on = _depends_on(parts, inputs, limits)
    return _surveyed(
        "tables", parts, survey, columns, _SURVEYED, Output(TABLES, TABLES_SCHEMA), work, depends_on, inputs
    )


def repeated_stage(
    sources: Sequence[Source], fields: Sequence[Fields], inputs: InputManifest, limits: Limits, tables: Artifact
) -> Stage:
    """The stage that writes REPEATED. tables: TABLES of these sources."""
    parts = _parts(sources, fields, inputs)
    rows = [(one, at) for one in parts if one.table.unique != () for at in range(one.slices)]
    survey = [(one, unit) for one in parts for unit in one.units]
    work = SurveyRows(inputs.reading, limits, tables), FindRepeatedRows(inputs.reading.store)
    depends_on = [*_depends_on(parts, inputs, limits), tables.manifest.fingerprint]
    output = Output(REPEATED, REPEATED_SCHEMA)
    return _surveyed("repeated", parts, survey, rows, _SURVEYED_ROWS, output, work, depends_on, inputs)


def _parts(sources: Sequence[Source], fields: Sequence[Fields], inputs: InputManifest) -> list[TableSource]:
    parts = []
    for source, of_source in zip(sources, fields, strict=True):
        if source.table is not None:
            units = tuple(unit for unit in inputs.units if unit.source == source.source)
            slices = -(-sum(unit.bytes for unit in units) // _SLICE_BYTES) or 1
            parts.append(TableSource(source, of_source, units, slices))
    return parts


def _depends_on(parts: Sequence[TableSource], inputs: InputManifest, limits: Limits) -> list[Any]:
    settings = [[one.source.source, one.source.day_first, one.table.model_dump(mode="json")] for one in parts]
    return [TABLES_VERSION, pl.__version__, inputs.fingerprint, len(inputs.units), limits.model_dump(), settings]


def _surveyed(
    name: str,
    parts: Sequence[TableSource],
    surveyed: Sequence[tuple[TableSource, Unit]],
    units: Sequence[Column] | Sequence[RowSlice],
    slices: str,
    output: Output,
    work: tuple[Any, Any],
    depends_on: list[Any],
    inputs: InputManifest,
) -> Stage:
    """A stage whose units read slices of a survey of all units of input. work: of the survey, and of the stage."""
    store = inputs.reading.store
    memory = tables_memory([one.source for one in parts], inputs)
    made_from = fingerprint([*depends_on, f"{name}.survey"])
    survey = Stage(
        f"{name}.survey", (Output(slices, pa.schema([])),), surveyed, work[0], made_from, store, memory=memory
    )
    prepare = partial(_units, survey, slices, parts, tuple(units))
    # `prepare` adds the files that a unit reads.
    return Stage(
        name, (output,), tuple(units), work[1], fingerprint([*depends_on, name]), store, memory=memory, prepare=prepare
    )


def _units(
    survey: Stage, slices: str, parts: Sequence[TableSource], units: Sequence[Column | RowSlice], run: RunStage
) -> list[tuple[Column | RowSlice, tuple[str, ...]]]:
    """The units with the files of the survey of their source."""
    places = [(one.source.source, unit.index) for one, unit in survey.units]
    of = dict(zip(places, run(survey)[slices].file_uris, strict=True))
    files = {one.source.source: tuple(of[one.source.source, unit.index] for unit in one.units) for one in parts}
    return [(unit, files[unit[0].source.source]) for unit in units]


def tables_memory(sources: Sequence[Source], inputs: InputManifest) -> int:
    """Bytes of a unit of the stage and of its survey; 0 without a table."""
    names = {one.source for one in sources if one.table is not None}
    sizes = [unit.bytes for unit in inputs.units if unit.source in names]
    whole = sum(sizes)
    return _LIBRARIES + _OF_A_BYTE * max(max(sizes), min(whole, _SLICE_BYTES)) if sizes else 0


@dataclass(frozen=True)
class SurveyTable:
    """The work of `tables.survey`: a sliced file of a unit of input, see `TableSource.first_slice`."""

    reading: Reading
    limits: Limits

    def __call__(self, of: tuple[TableSource, Unit], scratch: Scratch) -> Counters:
        """Counters: none."""
        part, unit = of
        numbers: dict[str, list[bytes]] = {name: [] for name in part.numeric}
        counts: dict[str, list[pl.DataFrame]] = {name: [] for name in part.named}
        for raw in read_unit(unit, self.reading, self.limits):
            readable = raw.filter(pc.is_null(raw["problem"]))
            frame, _ = typed(part.fields.of(readable), part.table, part.source.day_first)
            for name, found in numbers.items():
                found.append(frame[name].drop_nulls().cast(pl.Float64).to_numpy().tobytes())
            for name, values in counts.items():
                values.append(counted(frame[name]))
        slices: list[pa.Buffer | bytes] = [b"".join(numbers[name]) for name in part.numeric]
        for name in part.named:
            slices += _by_hash(counts[name], part.slices)
        scratch.write_slices(_SURVEYED, slices)
        return {}


@dataclass(frozen=True)
class SurveyRows:
    """The work of `repeated.survey`: a slice of hashes of rows for each slice of the source. tables: TABLES."""

    reading: Reading
    limits: Limits
    tables: Artifact

    def __call__(self, of: tuple[TableSource, Unit], scratch: Scratch) -> Counters:
        """Counters: none."""
        part, unit = of
        known = known_of(self.tables, part.source.source)
        rows = [np.empty(0, _ROW)]
        for raw in read_unit(unit, self.reading, self.limits) if part.table.unique != () else ():
            readable = raw.filter(pc.is_null(raw["problem"]))
            frame, wrong = typed(part.fields.of(readable), part.table, part.source.day_first)
            frame, dropped = filled(frame, part.table, known)
            stays = np.array([not (one or other) for one, other in zip(wrong, dropped, strict=True)], bool)
            places = readable["row"].to_numpy()[stays]
            rows.append(_rows(frame.filter(pl.Series(stays)), part.table, unit.index, places))
        hashed = np.concatenate(rows)
        of_slice = hashed["hash"] % np.uint64(part.slices)
        scratch.write_slices(_SURVEYED_ROWS, [hashed[of_slice == number].tobytes() for number in range(part.slices)])
        return {}


def _rows(frame: pl.DataFrame, table: Table, unit: int, rows: np.ndarray) -> np.ndarray:
    """_ROW[N]: the hashes of rows, and their places."""
    found = np.empty(len(frame), _ROW)
    found["hash"], found["other"] = row_hashes(frame, table).T
    found["unit"], found["row"] = unit, rows
    return found


def _by_hash(counts: Sequence[pl.DataFrame], slices: int) -> Iterator[pa.Buffer | bytes]:
    """The values with their counts, by a hash of the value."""
    if not counts:
        yield from [b""] * slices
        return
    whole = pl.concat(counts).group_by("value").agg(pl.col("count").sum()).sort("value")
    of_slice = whole["value"].hash(0).to_numpy() % np.uint64(slices)
    for number in range(slices):
        here = whole.filter(pl.Series(of_slice == number))
        yield table_slice(here.to_arrow(compat_level=pl.CompatLevel.oldest())) if len(here) else b""


@dataclass(frozen=True)
class FindOfAll:
    """The work of `tables`."""

    store: Store

    def __call__(self, unit: tuple[Column, tuple[str, ...]], scratch: Scratch) -> Counters:
        """Counters: none."""
        (part, name), uris = unit
        found = {"source": part.source.source, "column": name} | self._of_column(part, name, uris)
        scratch.write(TABLES, pa.Table.from_pylist([found], TABLES_SCHEMA))
        return {}

    def _of_column(self, part: TableSource, name: str, uris: Sequence[str]) -> dict[str, object]:
        table, found = part.table, dict[str, object]()
        if name in part.named:
            found["fill"] = self._most_frequent(part.first_slice(name), part.slices, uris)
        how = table.missing.get(name)
        if name in part.numeric:
            numbers = self._numbers(part.first_slice(name), uris)
            if how in ("median", "mean"):
                found["fill"] = fill_of(numbers, str(how), table.types[name])
            if table.outliers and name in table.outliers.columns:
                bounds = bounds_of(numbers, table.outliers)
                found |= dict(zip(("low", "high"), bounds, strict=True)) if bounds else {}
        return found

    def _numbers(self, first: int, uris: Sequence[str]) -> Numbers:
        def parts() -> Iterator[np.ndarray]:
            for uri in uris:
                yield np.frombuffer(read_slice(self.store, uri, first), np.float64)

        sizes = (np.diff(read_offsets(self.store, uri, first, 1))[0] for uri in uris)
        return Numbers(parts, int(sum(sizes)) // np.dtype(np.float64).itemsize)

    def _most_frequent(self, first: int, slices: int, uris: Sequence[str]) -> str | None:
        best = None
        for number in range(slices):
            tables = [read_table(data) for data in read_slices(self.store, uris, first + number) if data]
            frame = pl.from_arrow(pa.concat_tables(tables)) if tables else pl.DataFrame()
            assert isinstance(frame, pl.DataFrame)
            found = most_frequent(frame)
            if found and (best is None or found[0] > best[0] or (found[0] == best[0] and found[1] < best[1])):
                best = found
        return best and best[2]


@dataclass(frozen=True)
class FindRepeatedRows:
    """The work of `repeated`: a file for each unit of input with rows that repeat an earlier one."""

    store: Store

    def __call__(self, unit: tuple[RowSlice, tuple[str, ...]], scratch: Scratch) -> Counters:
        """Counters: none."""
        (_, number), uris = unit
        rows = np.frombuffer(b"".join(read_slices(self.store, uris, number)), _ROW)
        order = np.lexsort((rows["other"], rows["hash"]))  # stable: of equal ones the earliest first
        before, after = rows[order[:-1]], rows[order[1:]]
        again = np.sort(order[1:][(before["hash"] == after["hash"]) & (before["other"] == after["other"])])
        units, places = rows["unit"][again], rows["row"][again]
        for index in np.unique(units).tolist():
            scratch.write(REPEATED, pa.table([places[units == index]], schema=REPEATED_SCHEMA), index)
        return {}


@dataclass(frozen=True)
class TablesFound:
    """What the stage found. repeated: files of each unit of input."""

    tables: Artifact
    repeated: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, artifacts: Mapping[str, Artifact], units: int) -> "TablesFound":
        """The artifacts of the stage."""
        return cls(artifacts[TABLES], tuple(tuple(uris) for uris in artifacts[REPEATED].files_by_unit(units)))

    def known(self, source: str) -> Known:
        """What depends on all rows of a source."""
        return known_of(self.tables, source)

    def repeated_rows(self, unit: int) -> set[int]:
        """The rows of a unit of input that repeat an earlier one."""
        return {
            row for table in read_tables(self.tables.store, self.repeated[unit]) for row in table["row"].to_pylist()
        }


def known_of(tables: Artifact, source: str) -> Known:
    """What depends on all rows of a source. tables: TABLES."""
    rows = [row for row in tables.table().to_pylist() if row["source"] == source]
    return Known(
        {row["column"]: row["fill"] for row in rows if row["fill"] is not None},
        {row["column"]: (row["low"], row["high"]) for row in rows if row["low"] is not None},
    )
