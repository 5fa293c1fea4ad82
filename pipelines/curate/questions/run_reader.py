"""Reads a run whose stage `measure` is finished: manifest, inputs, artifacts and single documents.

Later stages may be unfinished.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from raymill.cluster.artifact import Artifact, read_tables, require_files
from raymill.cluster.errors import ConfigError, DataError
from raymill.cluster.plugins import Plugin, context_of
from raymill.cluster.readers.formats import READERS
from raymill.cluster.readers.formats.cdx import indexes_beside, records_of
from raymill.cluster.readers.formats.text_files import OneDocument
from raymill.cluster.readers.formats.warc import RECORD_AT, Archive
from raymill.cluster.readers.inputs import Input, Limits
from raymill.cluster.readers.reader import PROBLEMS, ReaderCounts
from raymill.cluster.readers.recorded import INPUTS_JSON, inputs_file, read_inputs
from raymill.cluster.readers.streams import Span, refuse_changed
from raymill.cluster.readers.units import Reading, Unit, read_unit
from raymill.cluster.run import RunFolder
from raymill.cluster.store import paths
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.ids import ID_INDEX, positions_of, row_at
from raymill.pipelines.curate.stages.measure import ATTRIBUTES, PLACE, QUARANTINE
from raymill.pipelines.curate.stages.measured_texts import TEXTS, measured_documents, texts_by_unit
from raymill.pipelines.text.normalize import normalize
from raymill.pipelines.text.texts import Texts


@dataclass(frozen=True)
class MeasuredDocument:
    """A document: its unit of input, its row in the unit, its row in the attributes (`position`), its measurements."""

    unit: int
    row: int
    position: int
    attributes: dict[str, Any]


class RunReader:
    """A run by its folder or URI.

    Args:
        store: of the run. If it has no settings, those are used that the run recorded, without secrets.
        inputs: those of the run's config, from which `storage` is taken; else it is that which the run recorded. An
            endpoint or a profile that only the record names is not used: whoever wrote the record would choose where
            requests with the user's keys go.
        plugins: those of the run's config, which the user gives. Code that only the record names is not imported.

    Raises:
        DataError: nothing was measured there.
    """

    def __init__(self, store: Store, uri: str, inputs: Sequence[Input] = (), plugins: Sequence[Plugin] = ()) -> None:
        self._plugins = plugins
        self.uri = paths.absolute(uri)
        if (record := inputs_file(store, self.uri).read()) is None:
            require_files(store, self.uri)
            raise DataError(
                f"{self.uri}: no run of `raymill curate` here ({INPUTS_JSON} is missing). Give the config's `output`."
            )
        if (made := RunFolder(store, self.uri).manifest_file.read()) and made.get("kind") != "curate":
            raise DataError(
                f"{self.uri}: a run of `raymill {made.get('kind')}`, and this verb asks runs of `raymill curate`. Use "
                "`raymill inspect` or `raymill sample`."
            )
        self._endpoint = "" if inputs else _take_out_addresses(record)
        if store == Store():
            store = Store(StorageOptions(**record["storage"]))
        self.store = store
        self.inputs = read_inputs(self.uri, record, store).with_storage_of(inputs)
        self.attributes = Artifact.load(store, paths.join(self.uri, ATTRIBUTES))

    def _tables(self, unit: Unit) -> Iterator[pa.Table]:
        """The tables of a unit, read again.

        Raises:
            ConfigError: its files are at an endpoint that only the record of the run names.
        """
        self._refuse_recorded_endpoint(unit)
        return read_unit(unit, self._reading, self._limits)

    def _refuse_recorded_endpoint(self, unit: Unit) -> None:
        if self._endpoint and paths.is_remote(unit.spans[0].uri):
            raise ConfigError(
                f"{unit.spans[0].uri}: by its record, this run read it with {self._endpoint}. To send requests there "
                "with your keys, give the run's config: --config CONFIG."
            )

    @cached_property
    def _reading(self) -> Reading:
        return self.inputs.reading.after(Artifact.load(self.store, paths.join(self.uri, QUARANTINE)))

    @cached_property
    def _texts(self) -> list[list[str] | None]:
        """The files with the stored texts of each unit; None for a unit that is read again."""
        found = self.artifact(TEXTS)
        if found is not None and found.manifest.fingerprint != self.attributes.manifest.fingerprint:
            found = None  # of an earlier run at this output
        return texts_by_unit(found, self.inputs)

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The run's manifest; None if it is unfinished."""
        return RunFolder(self.store, self.uri).manifest_file.read()

    @property
    def config(self) -> CurateConfig | None:
        """The config of the run; None if the run is unfinished, or if this version does not accept its settings."""
        if (manifest := self.manifest) is None:
            return None
        try:
            plain = manifest["config"] | {"output": self.uri}
            return CurateConfig.model_validate(plain, context=context_of(self._plugins))
        except ValidationError:
            return None

    def artifact(self, name: str) -> Artifact | None:
        """An artifact of the run; None if it is unfinished."""
        return Artifact.find(self.store, paths.join(self.uri, name))

    def find(self, id: str) -> list[MeasuredDocument]:
        """All documents with this id. Reads the ids of all documents if the run has no index of them."""
        index = self.artifact(ID_INDEX)
        if index is None or index.manifest.rows != self.attributes.manifest.rows:
            return [self.document_at(position) for position in self._scan("id", id)]
        found = [self.document_at(position) for position in positions_of(index, id)]
        return [document for document in found if document.attributes["id"] == id]

    def find_file(self, path: str) -> list[MeasuredDocument]:
        """The document of a file that is one document, by its path or URI; empty if there is none."""
        uri = path if paths.is_remote(path) else paths.absolute(path)
        for unit in self.inputs.units:
            if not any(span.uri == uri and isinstance(READERS[span.format], OneDocument) for span in unit.spans):
                continue
            row = 0
            for span in unit.spans:
                tables = self._tables(dataclasses.replace(unit, spans=(span,)))
                count = sum(table.num_rows for table in tables)
                if span.uri == uri:
                    return [self.document_at(position) for position in self._scan("row", row, unit.index)]
                row += count
        return []

    def document_at(self, position: int) -> MeasuredDocument:
        """The document in this row of the attributes."""
        file, row = row_at(self.attributes, position, lambda name: name not in ("signature", "text_hash"))
        return MeasuredDocument(file.unit, row["row"], position, row)

    def unit_of(self, document: MeasuredDocument) -> Unit:
        """The unit that the document is in.

        Raises:
            DataError: the inputs of the run have no such unit.
        """
        if document.unit < len(self.inputs.units):
            return self.inputs.units[document.unit]
        raise DataError(
            f"{self.uri}: its attributes are of unit {document.unit:,}, and inputs.parquet has "
            f"{len(self.inputs.units):,} units. One of them was damaged after it was written: run the command that "
            "wrote them again."
        )

    def place_of(self, document: MeasuredDocument) -> str:
        """The document's row in its file, and the file's URI, as text. Reads the unit's files up to the document.

        Raises:
            DataError, StorageError: a file changed or cannot be read.
        """
        place, unit = document.attributes.get(PLACE), self.unit_of(document)
        if span := _span_of(unit, place):
            return f"{span.uri.rpartition('/')[0]}/{place}"
        row = document.row
        for span in unit.spans:
            if span == unit.spans[-1]:
                break
            for table in self._tables(dataclasses.replace(unit, spans=(span,))):
                if row < table.num_rows:
                    return _place(span, row)
                row -= table.num_rows
        return _place(unit.spans[-1], row)

    @property
    def _limits(self) -> Limits:
        return Limits(**(self.manifest or {}).get("config", {}).get("limits", {}))

    def text_of(self, document: MeasuredDocument) -> str:
        """The text that was measured, normalised: as it was stored, or read again. Personal data is not replaced.

        Raises:
            DataError: the document is not in the unit any more.
        """
        unit = self.unit_of(document)
        texts = self._texts[document.unit]
        if texts is None and (found := self._record(unit, document.attributes.get(PLACE))) is not None:
            return normalize(Texts.from_arrow(pc.fill_null(found["text"], "")))[0]
        tables = self._tables(unit) if texts is None else measured_documents(unit, texts, self._reading, self._limits)
        for table in tables:
            found = table.filter(pc.equal(table["row"], document.row))
            if found.num_rows:
                return normalize(Texts.from_arrow(pc.fill_null(found["text"], "")))[0]
        raise DataError(
            f"{unit.spans[0].uri}: row {document.row} of unit {document.unit} is not there any more. Restore the input."
        )

    def _record(self, unit: Unit, place: str | None) -> pa.Table | None:
        """The row of a record of an archive, read from its place; None if the place is not known or no byte of a file.

        Raises:
            as of `_tables`; DataError: the file changed.
        """
        start, span = (place or "").rpartition(RECORD_AT)[2], _span_of(unit, place)
        if span is None or not start.isdecimal():
            return None
        self._refuse_recorded_endpoint(unit)
        reader, reading = READERS[span.format], self._reading
        assert isinstance(reader, Archive)
        store = reading.store_of(unit.source)
        refuse_changed(store, span)
        limits = self._limits.again(reading.exceeded or {})
        return reader.record_at(store, span, int(start), reading.input_of(unit.source), limits)

    def indexed(self, url: str) -> Iterator[tuple[str, str, str]]:
        """(place, index, what the run makes of it) of each record of a URL in CDX files beside the run's archives.

        Raises:
            ConfigError, StorageError: as of `_tables`; DataError: an archive changed.
        """
        found = {
            span.uri: (unit, span)
            for unit in self.inputs.units
            for span in unit.spans
            if isinstance(READERS[span.format], Archive) and READERS[span.format].leaves_out
        }

        for source in dict.fromkeys(unit.source for unit, _ in found.values()):
            of_source = [uri for uri, (unit, _) in found.items() if unit.source == source]
            self._refuse_recorded_endpoint(found[of_source[0]][0])
            store = self._reading.store_of(source)
            for archive, index in indexes_beside(of_source, store.exists):
                unit, span = found[archive]
                for record in records_of(store, index, url, self._limits):
                    if record.archive in ("", archive.rpartition("/")[2]) and record.offset < span.size:
                        place = f"{archive}{RECORD_AT}{record.offset}"
                        yield place, index, self._made_of(unit, span, record.offset)

    def _made_of(self, unit: Unit, span: Span, start: int) -> str:
        """What the reader makes of a record of an archive, in words."""
        reader, counts = READERS[span.format], ReaderCounts()
        assert isinstance(reader, Archive)
        store = self._reading.store_of(unit.source)
        refuse_changed(store, span)
        limits = self._limits.again(self._reading.exceeded or {})
        found = reader.record_at(store, span, start, self._reading.input_of(unit.source), limits, counts)
        if found is None:
            return f"no document: {next(iter(counts.skipped), 'no record begins there')}"
        problem = found["problem"][0].as_py()
        return f"in quarantine: {problem} ({PROBLEMS[problem]})" if problem else "a page with a text"

    def _scan(self, column: str, value: str | int, unit: int | None = None) -> Iterator[int]:
        """The positions of the documents with this value of an attribute. unit: the only one that is read."""
        first = 0
        for file in self.attributes.manifest.files:
            if unit in (None, file.unit):
                uri = self.attributes.file_uri(file)
                before = first
                for table in read_tables(self.store, [uri], {column}.__contains__):
                    found = pc.indices_nonzero(pc.equal(table[column], pa.scalar(value)))
                    yield from (before + found.to_numpy()).tolist()
                    before += table.num_rows
            first += file.rows


def _take_out_addresses(record: dict[str, Any]) -> str:
    """Remove endpoints and profiles from the storage settings of inputs.json. Returns the first, for messages."""
    options = [record["storage"], *(one["storage"] for one in record["inputs"] if one.get("storage"))]
    taken = [f"{name}: {one.pop(name)}" for one in options for name in ("endpoint_url", "profile") if name in one]
    return taken[0] if taken else ""


def _span_of(unit: Unit, place: str | None) -> Span | None:
    """The file of a place as of `attributes`; None if several of the unit have its name."""
    name = (place or "").rpartition(RECORD_AT)[0]
    found = [span for span in unit.spans if name and span.uri.rpartition("/")[2] == name]
    return found[0] if len(found) == 1 else None


def _place(span: Span, row: int) -> str:
    part = "" if span.start == 0 and not (span.rows and span.rows[0]) else "this unit's part of "
    return f"row {row}, counted from 0, of {part}{span.uri}"
