"""The kept documents, read again: those that passed the rules and are not removed as duplicates.

`select` and the stages that prepare it read units of input together with their attributes, verdicts and groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.artifact import open_parquet, read_tables
from cluster.exchange import Slice
from cluster.readers.units import Reading, Unit, read_unit, split_problems
from cluster.store.store import Store
from pipelines.curate.config import SelectSettings
from pipelines.dedup.compare import GROUPS_SCHEMA
from pipelines.rules.filters import Filters
from pipelines.text.normalize import normalize
from pipelines.text.texts import Texts


@dataclass(frozen=True)
class MeasuredUnit:
    """A unit of input with its files of attributes, verdicts and groups. first: position of its first document.

    boilerplate, repeats: the unit's shared keys (shared_keys.py) of pieces (boilerplate.py) and windows (repeats.py).
    """

    unit: Unit
    first: int
    attributes: list[str]
    verdicts: list[str]
    groups: list[str]
    boilerplate: Slice | None = None
    repeats: Slice | None = None


def groups_in(store: Store, units: Sequence[MeasuredUnit]) -> pa.Table:
    """The rows of the groups in neighbouring units. Reads only row groups with these units; rows are sorted by unit."""
    found = []
    wanted = pa.array([one.unit.index for one in units], pa.int32())
    for uri in dict.fromkeys(uri for one in units for uri in one.groups):
        with open_parquet(store, uri) as parquet:
            groups = list(_groups_with(parquet, units[0].unit.index, units[-1].unit.index))
            parquet.fetch_ahead(groups)
            for number in groups:
                table = parquet.read_row_group(number, use_threads=False)
                found.append(table.filter(pc.is_in(table["unit"], wanted)))
    return pa.concat_tables([GROUPS_SCHEMA.empty_table(), *found])


def _groups_with(parquet: pq.ParquetFile, first: int, last: int) -> Iterator[int]:
    """The row groups that can have rows of these units, by the statistics of the column `unit`."""
    column = parquet.schema_arrow.names.index("unit")
    for number in range(parquet.num_row_groups):
        statistics = parquet.metadata.row_group(number).column(column).statistics
        if statistics.min <= last and statistics.max >= first:
            yield number


def take_texts(texts: Texts, kept: np.ndarray, filters: Filters) -> Texts:
    """The documents with these indexes, as from `cleaned`."""
    return cleaned(Texts.from_arrow(texts.to_arrow().take(pa.array(kept))), filters)


def cleaned(texts: Texts, filters: Filters) -> Texts:
    """The documents without the lines that a rule removes."""
    for rule in filters.rules:
        if getattr(rule, "remove_lines", False):
            texts = rule.clean(texts, filters.dialect)  # type: ignore[attr-defined]
    return texts


def kept_texts(settings: SelectSettings, reading: Reading, unit: MeasuredUnit) -> Iterator[tuple[np.ndarray, Texts]]:
    """(numbers int64[D], texts) of the kept documents of a unit, table by table; normalised and as from `cleaned`.

    Only readable documents are numbered, so a document's position is `unit.first` plus its number.
    """
    store = reading.store
    removed = [table["row"].to_numpy() for table in read_tables(store, unit.verdicts, "row".__eq__)]
    if settings.dedup and settings.dedup.remove:
        groups = groups_in(store, [unit])
        removed.append(groups.filter(pc.is_valid(groups["reason"]))["row"].to_numpy())
    removed_rows = np.concatenate([np.empty(0, np.int64), *removed])
    first = 0
    for table in read_unit(unit.unit, reading, settings.limits):
        readable, _ = split_problems(table)
        kept = np.flatnonzero(~np.isin(readable["row"].to_numpy(), removed_rows))
        if len(kept):
            texts = normalize(Texts.from_arrow(readable["text"].take(pa.array(kept))))
            yield first + kept, cleaned(texts, settings.filters)
        first += readable.num_rows
