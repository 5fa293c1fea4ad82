"""Looking back into a run: its config, its inputs, and any one of its documents.

Works on a run that is still under way too, as far as its stages are finished.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.artifact import Artifact, open_parquet, require_files
from cluster.errors import DataError
from cluster.read.limits import Limits
from cluster.run import RUN_MANIFEST
from cluster.store import paths
from cluster.store.interface import NotFound, StorageOptions
from cluster.store.store import Store
from pipelines.curate.measure import ATTRIBUTES
from pipelines.readers import read_unit
from pipelines.readers.inputs import Input
from pipelines.readers.units import InputManifest
from pipelines.text.normalize import normalize
from pipelines.text.texts import Texts


@dataclass(frozen=True)
class Place:
    """Where a document stands: its unit of input, its row there, its row in the attributes, what was measured on it."""

    unit: int
    row: int
    position: int
    attributes: dict[str, Any]


class FinishedRun:
    """A run by its folder or URI.

    Where the store has no settings, those that the run recorded are used: all but the keys. Inputs with `storage` of
    their own are read by what the run recorded of it, or by that of `inputs`, which has the keys.

    Args:
        inputs: of the run's config, if it is known.

    Raises:
        DataError: nothing was measured there.
    """

    def __init__(self, store: Store, uri: str, inputs: Sequence[Input] = ()) -> None:
        self.uri = paths.absolute(uri)
        try:
            frozen = json.loads(store.read_bytes(paths.join(self.uri, "inputs.json")))
        except NotFound:
            require_files(store, self.uri)
            raise DataError(
                f"{self.uri}: no run of `raymill curate` here (inputs.json is missing). Give the config's `output`."
            ) from None
        if store == Store():
            store = Store(StorageOptions(**frozen.get("storage", {})))
        self.store = store
        self.inputs = InputManifest.from_json(frozen, store).with_storage_of(inputs)
        self.attributes = Artifact.load(store, paths.join(self.uri, ATTRIBUTES))

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The run's manifest, None while it is unfinished."""
        uri = paths.join(self.uri, RUN_MANIFEST)
        return json.loads(self.store.read_bytes(uri)) if self.store.exists(uri) else None

    def artifact(self, name: str) -> Artifact | None:
        """A finished artifact of the run, None where the run has not come that far."""
        return Artifact.find(self.store, paths.join(self.uri, name))

    def find(self, id: str) -> list[Place]:
        """Every document of that id; one, unless an id is used twice."""
        return list(self._find(id))

    def file_of(self, place: Place) -> str:
        """The file that the document is in; where its unit has several, they are read up to it.

        Raises:
            DataError, StorageError: one of them changed or cannot be read.
        """
        unit, row = self.inputs.units[place.unit], place.row
        for span in unit.spans:
            if span.uri == unit.spans[-1].uri:
                break
            for table in read_unit(dataclasses.replace(unit, spans=(span,)), self.inputs.reading, self._limits):
                if row < table.num_rows:
                    return span.uri
                row -= table.num_rows
        return unit.spans[-1].uri

    @property
    def _limits(self) -> Limits:
        return Limits(**(self.manifest or {}).get("config", {}).get("limits", {}))

    def text(self, place: Place) -> str:
        """The document as it was measured: read again and normalised, before redaction."""
        unit = self.inputs.units[place.unit]
        for table in read_unit(unit, self.inputs.reading, self._limits):
            mine = table.filter(pc.equal(table["row"], place.row))
            if mine.num_rows:
                return normalize(Texts.from_arrow(mine["text"]))[0]
        raise DataError(f"{unit.spans[0].uri}: row {place.row} of unit {place.unit} is no longer there.")

    def at(self, position: int) -> Place:
        """The document that is this row of the attributes."""

        def hits(parquet: pq.ParquetFile, group: int, first: int) -> np.ndarray:
            inside = first <= position < first + parquet.metadata.row_group(group).num_rows
            return np.array([position - first] if inside else [], np.int64)

        return next(self._places(hits))

    def _find(self, id: str) -> Iterator[Place]:
        def hits(parquet: pq.ParquetFile, group: int, first: int) -> np.ndarray:
            ids = parquet.read_row_group(group, columns=["id"], use_threads=False)["id"]
            return pc.indices_nonzero(pc.equal(ids, pa.scalar(id))).to_numpy()

        return self._places(hits)

    def _places(self, hits: Callable[[pq.ParquetFile, int, int], np.ndarray]) -> Iterator[Place]:
        """The documents that `hits` picks of a row group, by their rows in it; its last argument is its first row."""
        first = 0
        for file in self.attributes.manifest.files:
            with open_parquet(self.store, paths.join(self.attributes.uri, file.path)) as parquet:
                columns = [name for name in parquet.schema_arrow.names if name not in ("signature", "text_hash")]
                for group in range(parquet.num_row_groups):
                    found = hits(parquet, group, first)
                    if len(found):
                        rows = parquet.read_row_group(group, columns=columns, use_threads=False).take(pa.array(found))
                        for at, attributes in zip(found.tolist(), rows.to_pylist(), strict=True):
                            yield Place(file.unit, attributes["row"], first + at, attributes)
                    first += parquet.metadata.row_group(group).num_rows
