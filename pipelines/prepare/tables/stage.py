"""The stage `tables`: what depends on all rows of a table.

    survey   per unit of input: its numbers, its values with their counts, and a hash of each row   -> slices
    tables   per column that needs a value of all rows: that value                                  -> _work/tables
             per slice of the hashes: the rows that repeat an earlier one, a file a unit of input   -> _work/repeated

Median, quartiles, median distance and mean are exact (quantiles.py), counts are added up. A hash decides the slice of a
value or row, so that equal ones are in one slice. Nothing depends on how the rows are divided into units.

Memory: that of a unit of input, or of a slice, whatever the size of the table; see `tables_memory`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.read.limits import Limits
from cluster.sliced_file import read_offsets, read_slice, read_slices, read_table, table_slice
from cluster.stage import Output, RunStage, Scratch, Stage
from cluster.store.store import Store
from pipelines.prepare.config import Source
from pipelines.prepare.sources import Fields
from pipelines.prepare.tables.frame import Known, bounds_of, counted, fill_of, most_frequent, row_hashes, typed
from pipelines.prepare.tables.quantiles import Numbers
from pipelines.prepare.tables.settings import Table
from pipelines.readers.units import InputManifest, Reading, Unit, read_unit

TABLES, REPEATED = "_work/tables", "_work/repeated"
TABLES_VERSION = "2"

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

_SURVEYED = "_work/surveyed"
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
            return self.slices + len(numeric) + self.slices * self.named.index(column)
        return self.slices + numeric.index(column)


# A column of a source, and a slice of its rows.
Column = tuple[TableSource, str]
RowSlice = tuple[TableSource, int]


def tables_stage(
    sources: Sequence[Source], fields: Sequence[Fields], inputs: InputManifest, limits: Limits
) -> Stage | None:
    """The stage that writes TABLES and REPEATED; None without a table."""
    parts = []
    for source, of_source in zip(sources, fields, strict=True):
        if source.table is not None:
            units = tuple(unit for unit in inputs.units if unit.source == source.source)
            slices = -(-sum(unit.bytes for unit in units) // _SLICE_BYTES) or 1
            parts.append(TableSource(source, of_source, units, slices))
    if not parts:
        return None
    settings = [[one.source.source, one.table.model_dump(mode="json")] for one in parts]
    depends_on = [TABLES_VERSION, pl.__version__, inputs.fingerprint, len(inputs.units), limits.model_dump(), settings]
    store, memory = inputs.reading.store, tables_memory(sources, inputs)
    survey = Stage(
        "tables.survey",
        (Output(_SURVEYED, pa.schema([])),),
        [(one, unit) for one in parts for unit in one.units],
        SurveyTable(inputs.reading, limits),
        fingerprint([*depends_on, "survey"]),
        store,
        memory=memory,
    )
    columns = [(one, name) for one in parts for name in dict.fromkeys([*one.numeric, *one.named])]
    rows = [(one, at) for one in parts if one.table.unique != () for at in range(one.slices)]
    outputs = (Output(TABLES, TABLES_SCHEMA), Output(REPEATED, REPEATED_SCHEMA))
    found: tuple[Column | RowSlice, ...] = (*columns, *rows)
    made_from, prepare = fingerprint(depends_on), partial(_units, survey, parts, found)
    # `prepare` adds the files that a unit reads.
    return Stage("tables", outputs, found, FindOfAll(store), made_from, store, memory=memory, prepare=prepare)


def _units(
    survey: Stage, parts: Sequence[TableSource], units: Sequence[Column | RowSlice], run: RunStage
) -> list[tuple[Column | RowSlice, tuple[str, ...]]]:
    """The units with the files of the survey of their source."""
    places = [(one.source.source, unit.index) for one, unit in survey.units]
    of = dict(zip(places, run(survey)[_SURVEYED].file_uris, strict=True))
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
        rows = [np.empty(0, _ROW)]
        for raw in read_unit(unit, self.reading, self.limits):
            readable = raw.filter(pc.is_null(raw["problem"]))
            frame, _ = typed(part.fields.of(readable), part.table)
            for name, found in numbers.items():
                found.append(frame[name].drop_nulls().cast(pl.Float64).to_numpy().tobytes())
            for name, values in counts.items():
                values.append(counted(frame[name]))
            if part.table.unique != ():
                rows.append(_rows(frame, part.table, unit.index, readable["row"].to_numpy()))
        slices: list[pa.Buffer | bytes] = []
        hashed = np.concatenate(rows)
        of_slice = hashed["hash"] % np.uint64(part.slices)
        slices += [hashed[of_slice == number].tobytes() for number in range(part.slices)]
        slices += [b"".join(numbers[name]) for name in part.numeric]
        for name in part.named:
            slices += _by_hash(counts[name], part.slices)
        scratch.write_slices(_SURVEYED, slices)
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

    def __call__(self, unit: tuple[Column | RowSlice, tuple[str, ...]], scratch: Scratch) -> Counters:
        """Counters: none."""
        (part, what), uris = unit
        if isinstance(what, int):
            self._repeated(uris, what, scratch)
        else:
            found = {"source": part.source.source, "column": what} | self._of_column(part, what, uris)
            scratch.write(TABLES, pa.Table.from_pylist([found], TABLES_SCHEMA))
        return {}

    def _of_column(self, part: TableSource, name: str, uris: Sequence[str]) -> dict[str, object]:
        table, found = part.table, dict[str, object]()
        if name in part.named:
            found["fill"] = self._most_frequent(part.first_slice(name), part.slices, uris)
        how = table.missing.get(name)
        if name in part.numeric:
            numbers = self._numbers(part.numeric.index(name) + part.slices, uris)
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

    def _repeated(self, uris: Sequence[str], number: int, scratch: Scratch) -> None:
        rows = np.frombuffer(b"".join(read_slices(self.store, uris, number)), _ROW)
        order = np.lexsort((rows["other"], rows["hash"]))  # stable: of equal ones the earliest first
        before, after = rows[order[:-1]], rows[order[1:]]
        again = np.sort(order[1:][(before["hash"] == after["hash"]) & (before["other"] == after["other"])])
        units, places = rows["unit"][again], rows["row"][again]
        for unit in np.unique(units).tolist():
            scratch.write(REPEATED, pa.table([places[units == unit]], schema=REPEATED_SCHEMA), unit)


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
        rows = [row for row in self.tables.table().to_pylist() if row["source"] == source]
        return Known(
            {row["column"]: row["fill"] for row in rows if row["fill"] is not None},
            {row["column"]: (row["low"], row["high"]) for row in rows if row["low"] is not None},
        )

    def repeated_rows(self, unit: int) -> set[int]:
        """The rows of a unit of input that repeat an earlier one."""
        return {
            row for table in read_tables(self.tables.store, self.repeated[unit]) for row in table["row"].to_pylist()
        }
