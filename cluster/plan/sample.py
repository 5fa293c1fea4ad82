"""A sample of the input: the first documents of some units at equal distances in the input; and the size of the input.

The same input gives the same sample, unless reading is slow: after 30 s of processor time the sample is complete. A
plan runs all stages on it, from Parquet files on the local disk.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymill.cluster.errors import DataError
from raymill.cluster.formats import plural
from raymill.cluster.guard import processor_seconds
from raymill.cluster.plan.trial import Trial
from raymill.cluster.plan.whole import PlannedInput
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.warc import RECORD_AT
from raymill.cluster.readers.freeze import bytes_of_unit
from raymill.cluster.readers.inputs import Limits, Unwanted
from raymill.cluster.readers.reader import TABLE_BYTES, ReaderCounts
from raymill.cluster.readers.streams import Span, compression_ending, expanded_size
from raymill.cluster.readers.units import InputManifest, Unit, conformed
from raymill.cluster.store import paths

_PIECES = 16
_PIECE_BYTES = 1 << 20
_MOST_READING_S = 30.0
# With fewer rows in the first table of a span, as after a very long document, more tables are read.
_FEW_ROWS, _MOST_TABLES = 10, 3


@dataclass(frozen=True)
class SampledUnit:
    """The first documents of a unit.

    columns: those whose bytes are text.
    documents: the readable rows, with the columns of `read_unit` except `row`; the text is empty where it was not
    extracted. unreadable: number of the other rows.
    read_s: processor seconds of reading the documents; 0 for Parquet, because the sample is stored as Parquet and its
    reading is in the time of the stages. text_share: bytes of text for each byte of the manifest's estimate; None if
    not known.
    """

    source: str
    columns: Sequence[str]
    documents: pa.Table
    unreadable: int
    read_s: float
    text_share: float | None


@dataclass(frozen=True)
class Sample:
    """Pieces of the input. lost: unreadable rows of units without a readable one."""

    pieces: tuple[SampledUnit, ...]
    lost: int = 0

    @property
    def documents(self) -> int:
        return sum(piece.documents.num_rows for piece in self.pieces)

    @property
    def text_bytes(self) -> int:
        return sum(text_bytes(piece.documents, piece.columns) for piece in self.pieces)

    @property
    def unreadable(self) -> int:
        """Rows that cannot be read."""
        return sum(piece.unreadable for piece in self.pieces) + self.lost

    @property
    def unreadable_share(self) -> float:
        """Share of the rows that cannot be read."""
        return self.unreadable / max(self.unreadable + self.documents, 1)

    @property
    def read_s(self) -> float:
        """Processor seconds of reading a byte of text, as far as they are not in the time of the stages."""
        return sum(piece.read_s for piece in self.pieces) / max(self.text_bytes, 1)

    @property
    def text_share(self) -> float:
        """Bytes of text for each byte of the manifest's estimate."""
        known = [piece.text_share for piece in self.pieces if piece.text_share is not None]
        return float(np.mean(known)) if known else 1.0

    @property
    def numbers(self) -> dict[str, float]:
        """What a plan states of its sample."""
        sizes = {"documents": self.documents, "text_bytes": self.text_bytes, "pieces": len(self.pieces)}
        return sizes | {"unreadable": self.unreadable_share}

    def by_source(self, every: int = 1) -> dict[str, pa.Table]:
        """The documents of each source, only every `every`-th."""
        found: dict[str, list[pa.Table]] = {}
        for piece in self.pieces:
            found.setdefault(piece.source, []).append(piece.documents)
        joined = {source: pa.concat_tables(tables) for source, tables in found.items()}
        return {source: table.take(pa.array(np.arange(0, table.num_rows, every))) for source, table in joined.items()}

    def write(self, trial: Trial, every: int, columns: Callable[[str, pa.Table], pa.Table]) -> dict[str, str]:
        """Write the rows of a trial, two files of each source. Returns the folder of each source.

        columns: columns(source, documents) -> the columns of its files.
        """
        folders = {}
        for number, (source, table) in enumerate(self.by_source(every).items()):
            folders[source] = f"{trial.input_folder}{number}"
            half = -(-table.num_rows // 2)
            for name, rows in (("a", table.slice(0, half)), ("b", table.slice(half))):
                written = pa.BufferOutputStream()
                pq.write_table(columns(source, rows), written)
                trial.store.write_bytes(f"{folders[source]}/{name}.parquet", written.getvalue().to_pybytes())
            trial.rows += table.num_rows
        return folders


def a_unit_for_each_file(inputs: InputManifest) -> InputManifest:
    """The input of a trial, of which even a small file is a unit."""
    spans = [(unit.source, span, unit.bytes // len(unit.spans)) for unit in inputs.units for span in unit.spans]
    units = tuple(Unit(index, source, (span,), size) for index, (source, span, size) in enumerate(spans))
    return replace(inputs, units=units)


def planned_input(
    inputs: InputManifest, sample: Sample, unit_bytes: int | None, documents: float | None
) -> tuple[InputManifest, PlannedInput, bool]:
    """(the input, its size, whether the number of documents is counted or given) of a plan.

    unit_bytes: of a unit, as set. documents: number of documents of the same kind, in files of the same sizes; the
    units are then of the size that such an input has.
    """
    of_row = max(sample.text_bytes, 1) / sample.documents  # no text is extracted where rules of the URL remove all
    stated = document_count(inputs, of_row / max(sample.text_share, 1e-9))
    read = [file for file in inputs.files if file.problem is None]
    is_exact = documents is not None or stated == sum(file.rows or 0 for file in inputs.files)
    rows = max(1, round(stated * (1 - sample.unreadable_share)))
    files, stored = len(read), sum(one.size for one in read)
    reads = sum(len(unit.uris) for unit in inputs.units)
    if documents is not None:
        factor = documents / rows
        whole = factor * sum(unit.bytes for unit in inputs.units)
        size = unit_bytes or bytes_of_unit(round(whole))
        rows, files, stored = round(documents), max(1, round(factor * files)), round(factor * stored)
        units = (inputs.units[number % len(inputs.units)] for number in range(max(1, math.ceil(whole / size))))
        of_unit = round(min(size, whole))
        inputs = replace(
            inputs, units=tuple(replace(unit, index=index, bytes=of_unit) for index, unit in enumerate(units))
        )
        reads = max(files, len(inputs.units))
    weights = [unit.bytes for unit in inputs.units]
    is_remote = any(paths.is_remote(one.path) for one in inputs.inputs)
    return inputs, PlannedInput(rows, rows * of_row, stored, files, weights, reads, is_remote, sample.read_s), is_exact


def document_count(inputs: InputManifest, document_bytes: float = 2000) -> int:
    """The number of documents: of Parquet from its footers, of other formats estimated from the size of their text.

    document_bytes: bytes of a document, as `Unit.bytes` counts them.
    """
    counted = sum(file.rows for file in inputs.files if file.rows is not None)
    others = {file.uri for file in inputs.files if file.rows is None}
    size = sum(unit.bytes for unit in inputs.units if unit.spans[0].uri in others)
    return counted + math.ceil(size / document_bytes)


def text_bytes(documents: pa.Table, columns: Sequence[str]) -> int:
    """Bytes of these columns in UTF-8."""
    return sum(pc.sum(pc.binary_length(documents[name])).as_py() or 0 for name in columns)


def draw_sample(
    inputs: InputManifest,
    limits: Limits,
    piece_bytes: int = _PIECE_BYTES,
    unwanted: Unwanted | None = None,
    content: Mapping[str, Sequence[str]] | None = None,
) -> Sample:
    """Read the sample: about `piece_bytes` of text from each of at most 16 units.

    unwanted: as of `read_unit`. content: source -> the carried columns that are text besides `text`; of other sources,
    none is.

    Raises:
        DataError: no document could be read.
        StorageError: the store failed.
    """
    chosen = spread([unit.bytes for unit in inputs.units], _PIECES)
    content = content or {}
    _read_first(inputs, inputs.units[chosen[0]], limits, piece_bytes, unwanted, content)  # loads what the reader needs
    pieces: list[SampledUnit] = []
    began = processor_seconds()
    for index in chosen:
        pieces.append(_read_first(inputs, inputs.units[index], limits, piece_bytes, unwanted, content))
        if processor_seconds() - began > _MOST_READING_S:
            break
    lost = sum(piece.unreadable for piece in pieces if not piece.documents.num_rows)
    sample = Sample(tuple(piece for piece in pieces if piece.documents.num_rows), lost)
    if not sample.pieces:
        if not lost:
            raise DataError(
                f"the files have no rows, or only a header ({len(pieces):,} of {plural(len(inputs.units), 'unit')} "
                "looked at). Point `inputs` at files with content."
            )
        raise DataError(
            f"none of the {plural(lost, 'row')} looked at can be read. --dry-run names the problems of the first files."
        )
    return sample


def spread(sizes: Sequence[int], count: int) -> list[int]:
    """Indexes of the items at the middles of `count` equal parts of all items, each index once. sizes: of the items."""
    ends = list(accumulate(sizes))
    middles = [ends[-1] * (2 * number + 1) // (2 * count) for number in range(count)]
    return sorted({min(bisect_right(ends, at), len(ends) - 1) for at in middles})


def _read_first(
    inputs: InputManifest,
    unit: Unit,
    limits: Limits,
    piece_bytes: int,
    unwanted: Unwanted | None,
    content: Mapping[str, Sequence[str]],
) -> SampledUnit:
    reading, columns = inputs.reading, ["text", *content.get(unit.source, ())]
    store, input = reading.store_of(unit.source), reading.input_of(unit.source).leaving_out(unwanted)
    tables: list[pa.Table] = []
    read = held = unreadable = estimated = known = 0
    spent, is_known = 0.0, True
    for span in map(_beginning, unit.spans):
        began = processor_seconds()
        with closing(READERS[span.format].read(store, span, input, limits, ReaderCounts())) as found:  # type: ignore[type-var]
            first = next(found, None)
            parts = [] if first is None else [first]
            while sum(map(len, parts)) < _FEW_ROWS and 0 < len(parts) < _MOST_TABLES:
                if (more := next(found, None)) is None:
                    break
                parts.append(more)
        spent += processor_seconds() - began
        if not parts:
            continue
        table = pa.concat_tables(parts)
        end: int | None = span.end
        if table.nbytes >= TABLE_BYTES or len(table) >= 1 << 16:  # a reader's last table is smaller
            end = _start_of_last_record(table)
        if span.format == "parquet" or end is None:
            is_known = False
        elif is_known:
            estimated += expanded_size(end - span.start, span.uri)  # as the manifest estimates its text
            known += text_bytes(table if end == span.end else table.slice(0, len(table) - 1), columns)
        read += text_bytes(table, columns)
        table = _cut(table, piece_bytes - held)
        readable = conformed(table.filter(pc.is_null(table["problem"])), reading.carried)
        at = readable.column_names.index("text")
        readable = readable.set_column(at, "text", pc.fill_null(readable["text"], ""))
        unreadable += table.num_rows - readable.num_rows
        held += text_bytes(readable, columns)
        tables.append(readable)
        if held >= piece_bytes:
            break
    documents = pa.concat_tables(tables) if tables else pa.table({"text": pa.array([], pa.large_string())})
    is_parquet = unit.spans[0].format == "parquet"
    return SampledUnit(
        unit.source,
        columns if tables else ["text"],
        documents,
        unreadable,
        0.0 if is_parquet else spent * (held / read if read else 1.0),
        known / max(estimated, 1) if is_known and tables else None,
    )


def _start_of_last_record(table: pa.Table) -> int | None:
    """The byte of its file at which the last record of a table of an archive begins; None where it is not known.

    A crawl is pages, whose texts are a small part of its bytes.
    """
    place = table["where"][-1].as_py() if "where" in table.column_names else None
    byte = (place or "").rpartition(RECORD_AT)[2]
    return int(byte) if byte.isdecimal() else None


def _beginning(span: Span) -> Span:
    """The part of a span to read: the first lines of uncompressed JSONL, the first row group of Parquet, else all."""
    if span.format == "parquet":
        return replace(span, end=min(span.end, span.start + 1))
    if span.format == "jsonl" and not compression_ending(span.uri):
        return replace(span, end=min(span.end, span.start + _PIECE_BYTES))
    return span


def _cut(documents: pa.Table, size: int) -> pa.Table:
    """The first rows with about `size` bytes of text, at least one row.

    A row of more than `size` counts as a quarter: after a very long document, others are still in the sample.
    """
    lengths = pc.fill_null(pc.binary_length(documents["text"]), 0).to_numpy()
    lengths = np.where(lengths > size, max(size // 4, 1), lengths)
    return documents.slice(0, int(np.searchsorted(np.cumsum(lengths), size)) + 1)
