"""The kept documents, without the text that several of them have.

`select` and the stages that prepare it read the texts of units of input (measured_texts.py) together with their
attributes, verdicts and groups. Kept are the documents that passed the rules and are not removed as duplicates. A cut
is a setting with a stage of its own (`CurateConfig.cuts`). A document of which a cut leaves too few words is removed;
the corpus and later cuts get the text that is left.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymill.cluster.artifact import open_parquet, read_tables
from raymill.cluster.exchange import Slice
from raymill.cluster.readers.inputs import Limits
from raymill.cluster.readers.units import Reading, Unit
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.stages.measured_texts import measured_documents
from raymill.pipelines.curate.stages.shared_keys import read_shared
from raymill.pipelines.dedup.compare import GROUPS_SCHEMA
from raymill.pipelines.rules.filters import Filters
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts

TOO_FEW_WORDS_LEFT = "too_few_words_left"  # the reason of removal, of each kind of cut


@dataclass(frozen=True)
class MeasuredUnit:
    """A unit of input with its files of attributes, verdicts and groups.

    Attributes:
        first: position of its first document.
        texts: files with its stored texts; None: it is read again (measured_texts.py).
        shared: the unit's shared keys (shared_keys.py) of each cut, by its name.
    """

    unit: Unit
    first: int
    attributes: list[str]
    verdicts: list[str]
    groups: list[str]
    texts: list[str] | None = None
    shared: Mapping[str, Slice] = field(default_factory=dict)


@dataclass(frozen=True)
class CutTexts:
    """D documents after a cut.

    Attributes:
        texts: the text that is left.
        is_cut: bool[D], whether text was cut.
        words: int64[D], tokens that are left.
        found: the places that were found, for the list of cut texts.
    """

    texts: Texts
    is_cut: np.ndarray
    words: np.ndarray
    found: Any

    def stays(self, min_words_left: int) -> np.ndarray:
        """bool[D]: whether a document was not cut, or has enough words left."""
        return ~(self.is_cut & (self.words < min_words_left))


class Cut(Protocol):
    """The settings of a kind of cut. name: the name of the setting, the artifact, and the stage in the ledger."""

    name: ClassVar[str]

    @property
    def min_words_left(self) -> int: ...

    def cut_out(self, source: str, texts: Texts, positions: np.ndarray, shared: np.ndarray) -> CutTexts:
        """Cut D documents of a source. positions: int64[D]. shared: from `read_shared`."""
        ...


@dataclass(frozen=True)
class KeptTexts:
    """The kept documents of a unit.

    Attributes:
        without_duplicates: whether documents of the groups with a reason are left out.
        cuts: those that are made before.
    """

    reading: Reading
    limits: Limits
    filters: Filters
    without_duplicates: bool
    cuts: tuple[Cut, ...] = ()

    def __call__(self, unit: MeasuredUnit) -> Iterator[tuple[np.ndarray, Texts]]:
        """(numbers int64[D], texts), table by table; normalised, without the lines that rules remove, and cut.

        Only readable documents are numbered, so a document's position is `unit.first` plus its number.
        """
        store = self.reading.store
        removed = [table["row"].to_numpy() for table in read_tables(store, unit.verdicts, "row".__eq__)]
        if self.without_duplicates:
            groups = groups_in(store, [unit])
            removed.append(groups.filter(pc.is_valid(groups["reason"]))["row"].to_numpy())
        removed_rows = np.concatenate([np.empty(0, np.int64), *removed])
        shared = [read_shared(store, unit.shared.get(cut.name)) for cut in self.cuts]
        first = 0
        for readable in measured_documents(unit.unit, unit.texts, self.reading, self.limits):
            kept = np.flatnonzero(~np.isin(readable["row"].to_numpy(), removed_rows))
            if len(kept):
                numbers = first + kept
                texts = cleaned(normalize(Texts.from_arrow(readable["text"].take(pa.array(kept)))), self.filters)
                for cut, of_unit in zip(self.cuts, shared, strict=True):
                    left = cut.cut_out(unit.unit.source, texts, unit.first + numbers, of_unit)
                    enough = left.stays(cut.min_words_left)
                    numbers, texts = numbers[enough], filter_texts(left.texts, enough)
                yield numbers, texts
            first += readable.num_rows


def groups_in(store: Store, units: Sequence[MeasuredUnit]) -> pa.Table:
    """The rows of the groups in neighbouring units. Reads only row groups with these units; rows are sorted by unit."""
    found = [GROUPS_SCHEMA.empty_table()]
    first, last = units[0].unit.index, units[-1].unit.index
    wanted = pa.array([one.unit.index for one in units], pa.int32())
    for uri in dict.fromkeys(uri for one in units for uri in one.groups):
        with open_parquet(store, uri) as parquet:
            column = parquet.schema_arrow.names.index("unit")
            bounds = [parquet.metadata.row_group(n).column(column).statistics for n in range(parquet.num_row_groups)]
            groups = [number for number, one in enumerate(bounds) if one.min <= last and one.max >= first]
            parquet.fetch_ahead(groups)
            for number in groups:
                table = parquet.read_row_group(number, use_threads=False)
                found.append(table.filter(pc.is_in(table["unit"], wanted)))
    return pa.concat_tables(found)


def cleaned(texts: Texts, filters: Filters) -> Texts:
    """The documents without the lines that a rule removes."""
    for rule in filters.rules:
        if getattr(rule, "remove_lines", False):
            texts = rule.clean(texts, filters.dialect)  # type: ignore[attr-defined]
    return texts


def filter_texts(texts: Texts, kept: np.ndarray) -> Texts:
    """The documents for which bool[D] is true."""
    return Texts.from_arrow(texts.to_arrow().filter(pa.array(kept)))
