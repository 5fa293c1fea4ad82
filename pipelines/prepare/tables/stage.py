"""The stage `tables`: what depends on all rows of a table.

one unit for each source with `table`  ->  _work/tables     values for missing ones, and bounds of outliers
                                           _work/repeated   rows that repeat an earlier one, a file a unit of input

Memory: the columns that need a statistic, and 50 bytes a row to find repeated ones; see `tables_memory`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from cluster.artifact import Artifact, Counters, fingerprint, read_tables
from cluster.read.limits import Limits
from cluster.stage import Output, Scratch, Stage
from pipelines.prepare.config import Source
from pipelines.prepare.sources import Fields
from pipelines.prepare.tables.frame import Known, bounds_of, fill_of, row_hashes, typed
from pipelines.prepare.tables.settings import Table
from pipelines.readers.units import InputManifest, Reading, Unit, read_unit

TABLES, REPEATED = "_work/tables", "_work/repeated"
TABLES_VERSION = "1"

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

_LIBRARIES = 1 << 30
_OF_A_BYTE = 4  # of text


@dataclass(frozen=True)
class TableSource:
    """A source with `table`, and its units of input."""

    source: Source
    fields: Fields
    units: tuple[Unit, ...]


def tables_stage(
    sources: Sequence[Source], fields: Sequence[Fields], inputs: InputManifest, limits: Limits
) -> Stage | None:
    """The stage that writes TABLES and REPEATED; None without a table."""
    parts = [
        TableSource(source, of_source, tuple(unit for unit in inputs.units if unit.source == source.source))
        for source, of_source in zip(sources, fields, strict=True)
        if source.table is not None
    ]
    if not parts:
        return None
    settings = [[one.source.source, one.source.table.model_dump(mode="json")] for one in parts if one.source.table]
    made_from = [TABLES_VERSION, pl.__version__, inputs.fingerprint, len(inputs.units), limits.model_dump(), settings]
    outputs = (Output(TABLES, TABLES_SCHEMA), Output(REPEATED, REPEATED_SCHEMA))
    work, memory = SurveyTable(inputs.reading, limits), tables_memory(sources, inputs)
    return Stage("tables", outputs, parts, work, fingerprint(made_from), inputs.reading.store, memory=memory)


def tables_memory(sources: Sequence[Source], inputs: InputManifest) -> int:
    """Bytes of the stage, by the text of the largest table; 0 without a table."""
    names = [one.source for one in sources if one.table is not None]
    sizes = [sum(unit.bytes for unit in inputs.units if unit.source == name) for name in names]
    return _LIBRARIES + _OF_A_BYTE * max(sizes) if sizes else 0


@dataclass(frozen=True)
class SurveyTable:
    """The work of a unit."""

    reading: Reading
    limits: Limits

    def __call__(self, part: TableSource, scratch: Scratch) -> Counters:
        """Counters: none."""
        table = part.source.table
        assert table is not None
        asked = _asked(table)
        values: dict[str, list[pl.Series]] = {name: [] for name in asked}
        hashes, units, rows = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for unit in part.units:
            for raw in read_unit(unit, self.reading, self.limits):
                readable = raw.filter(pc.is_null(raw["problem"]))
                frame, _ = typed(part.fields.of(readable), table)
                for name, found in values.items():
                    found.append(frame[name])
                if table.unique != ():
                    hashes.append(row_hashes(frame, table))
                    units.append(np.full(len(frame), unit.index, np.int32))
                    rows.append(readable["row"].to_numpy())
        known = [_known(part.source.source, name, table, found) for name, found in values.items() if found]
        if known:
            scratch.write(TABLES, pa.Table.from_pylist(known, TABLES_SCHEMA))
        repeated = _repeated(np.concatenate(hashes))
        unit_of, row_of = np.concatenate(units)[repeated], np.concatenate(rows)[repeated]
        for number in np.unique(unit_of).tolist():
            scratch.write(REPEATED, pa.table([row_of[unit_of == number]], schema=REPEATED_SCHEMA), number)
        return {}


def _asked(table: Table) -> dict[str, None]:
    """The columns that need a value of all rows."""
    filled = [name for name, how in table.missing.items() if how in ("median", "mean", "most_frequent")]
    return dict.fromkeys([*filled, *(table.outliers.columns if table.outliers else ())])


def _known(source: str, name: str, table: Table, found: list[pl.Series]) -> dict[str, object]:
    values = pl.concat(found)
    how = table.missing.get(name)
    row: dict[str, object] = {"source": source, "column": name}
    if isinstance(how, str) and how not in ("drop", "flag"):
        row["fill"] = fill_of(values, how)
    if table.outliers and name in table.outliers.columns:
        bounds = bounds_of(values.drop_nulls().cast(pl.Float64).to_numpy(), table.outliers)
        if bounds is not None:
            row["low"], row["high"] = bounds
    return row


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """Numbers of the rows that have the hashes of an earlier one, ascending. hashes: uint64[N, 2]."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: of equal ones the earliest first
    same = (hashes[order[1:]] == hashes[order[:-1]]).all(axis=1)
    return np.sort(order[1:][same])


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
