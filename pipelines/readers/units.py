"""The input manifest: the files of a run with their versions, and the units of work into which they are divided.

    InputManifest   result of `freeze`: files, units, carried columns, fingerprint
      Unit          is read, retried and committed as a whole; contains spans of one source
        Span        part of one file: row groups, bytes, or the whole file

A document is identified by (index of its unit, row in the unit). Units depend on the files and `unit_bytes` alone.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import pyarrow as pa

from cluster.read.span import Span
from cluster.store.store import Store
from pipelines.readers.inputs import Input, input_stores

# A request to a store takes tens of milliseconds, so a unit of a thousand tiny files takes under a minute.
MAX_SPANS_PER_UNIT = 1000


@dataclass(frozen=True, slots=True)
class Unit:
    """Spans of one source that are read together. bytes: estimate of the uncompressed text."""

    index: int
    source: str
    spans: tuple[Span, ...]
    bytes: int

    @property
    def uris(self) -> list[str]:
        """The files of the unit, each once, in order."""
        return list(dict.fromkeys(span.uri for span in self.spans))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(record["index"], record["source"], tuple(Span(**span) for span in record["spans"]), record["bytes"])


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the run. rows: their number, if the format has it in its footer."""

    uri: str
    size: int
    version: str
    source: str
    format: str
    rows: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a worker needs to read any unit.

    store: for the inputs without `storage` of their own. carried: name and type of the carried columns of all sources.
    """

    store: Store
    inputs: tuple[Input, ...]
    carried: pa.Schema

    def input_of(self, source: str) -> Input:
        """The settings of a source's input."""
        return next(one for one in self.inputs if one.source == source)

    def store_of(self, source: str) -> Store:
        """The store of a source's input."""
        stores = zip(self.inputs, input_stores(self.store, self.inputs), strict=True)
        return next(store for one, store in stores if one.source == source)


@dataclass(frozen=True, slots=True)
class InputManifest:
    """The input of a run, as it was when the run began.

    skipped: source -> ending or kind -> number of skipped files. fingerprint: of the inputs' settings and the files.
    notes: sentences for the user about the columns.
    """

    reading: Reading
    files: tuple[InputFile, ...]
    units: tuple[Unit, ...]
    skipped: Mapping[str, Mapping[str, int]]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Input, ...]:
        return self.reading.inputs

    @property
    def carried(self) -> pa.Schema:
        return self.reading.carried

    def with_storage_of(self, inputs: Iterable[Input]) -> Self:
        """The manifest with the `storage` of these inputs, by source. A recorded manifest contains no secrets."""
        storage = {one.source: one.storage for one in inputs}
        read = (one.model_copy(update={"storage": storage.get(one.source, one.storage)}) for one in self.inputs)
        return replace(self, reading=replace(self.reading, inputs=tuple(read)))

    def to_json(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "inputs": [one.recorded() for one in self.inputs],
            "carried": {field.name: str(field.type) for field in self.carried},  # for users
            "carried_schema": base64.b64encode(self.carried.serialize()).decode(),
            "skipped": {source: dict(endings) for source, endings in self.skipped.items()},
            "notes": list(self.notes),
            "files": [asdict(file) for file in self.files],
            "units": [unit.to_json() for unit in self.units],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], store: Store) -> Self:
        """The manifest of `to_json`, without secrets. store: for the inputs without `storage` of their own."""
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["carried_schema"])))
        return cls(
            Reading(store, tuple(Input(**one) for one in record["inputs"]), schema),
            tuple(InputFile(**file) for file in record["files"]),
            tuple(Unit.from_json(unit) for unit in record["units"]),
            record["skipped"],
            record["fingerprint"],
            tuple(record.get("notes", ())),
        )


def make_units(source: str, pieces: Iterable[tuple[Span, int]], unit_bytes: int, first_index: int) -> list[Unit]:
    """Units of at most `unit_bytes` from (span, text bytes) pieces of one source, in order.

    A larger piece has a unit of its own. Neighbouring pieces of one file become one span. A unit has at most 1,000
    spans.
    """
    units: list[Unit] = []
    spans: list[Span] = []
    held = 0

    def close() -> None:
        nonlocal spans, held
        if spans:
            units.append(Unit(first_index + len(units), source, tuple(spans), held))
        spans, held = [], 0

    for span, text_bytes in pieces:
        if held + text_bytes > unit_bytes or len(spans) == MAX_SPANS_PER_UNIT:
            close()
        last = spans[-1] if spans else None
        if last is not None and last.uri == span.uri and last.end == span.start:
            spans[-1] = Span(span.uri, span.size, span.version, span.format, last.start, span.end)
        else:
            spans.append(span)
        held += text_bytes
    close()
    return units
