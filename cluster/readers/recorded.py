"""The input manifest on the store of a run.

    inputs.json      settings of the run and of its inputs, carried columns, skipped files, notes
    inputs.parquet   one row for each span of a file; for a file without spans one row, with null in `unit`

Neither contains keys of stores.
"""

import base64
from collections import defaultdict
from collections.abc import Mapping
from itertools import groupby
from posixpath import basename
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymill.cluster.artifact import read_schema
from raymill.cluster.errors import DataError, StorageError
from raymill.cluster.readers.inputs import Input
from raymill.cluster.readers.listing import InputListing
from raymill.cluster.readers.streams import Span
from raymill.cluster.readers.units import InputFile, InputManifest, Reading, Unit
from raymill.cluster.record import RecordFile, json_bytes, json_with
from raymill.cluster.run import differences
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.stored_parquet import StoredParquet, refuse_pickled

INPUTS_JSON, INPUTS_PARQUET = "inputs.json", "inputs.parquet"

_NAMED_FILES = 3  # files of each kind that a message names

_NAME = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema(
    [
        ("source", _NAME),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("format", _NAME),
        ("rows", pa.int64()),  # null if the format does not state them
        ("problem", pa.string()),  # why the file is not read
        ("unit", pa.int32()),
        ("unit_bytes", pa.int64()),  # text of the whole unit, estimated
        ("start", pa.int64()),
        ("end", pa.int64()),
        (
            "first_row",
            pa.int64(),
        ),  # null unless part of a row group; earlier versions lack these columns
        ("end_row", pa.int64()),
    ]
)
_COLUMNS_OF_FILE = ("uri", "size", "version", "source", "format", "rows", "problem")
_COLUMNS_OF_SPAN = ("unit", "unit_bytes", "start", "end", "first_row", "end_row")


def write_inputs(
    root: str, manifest: InputManifest, storage: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> None:
    """Record the manifest at a run.

    Args:
        storage: settings of the run's store, without keys. settings: those that decide the result, for
            `changes_since_attempt`.
    """
    store = manifest.reading.store
    buffer = pa.BufferOutputStream()
    pq.write_table(_table(manifest), buffer, compression="zstd")
    store.write_bytes(paths.join(root, INPUTS_PARQUET), buffer.getvalue().to_pybytes())
    record = {
        "fingerprint": manifest.fingerprint,
        "inputs": [one.recorded() for one in manifest.inputs],
        "carried": {field.name: str(field.type) for field in manifest.carried},  # for users
        "carried_schema": base64.b64encode(manifest.carried.serialize()).decode(),
        "skipped": {source: dict(endings) for source, endings in manifest.skipped.items()},
        "notes": list(manifest.notes),
        "storage": dict(storage),
        "settings": settings,
    }
    store.write_bytes(paths.join(root, INPUTS_JSON), json_bytes(record))


def inputs_file(store: Store, root: str) -> RecordFile[dict[str, Any]]:
    """inputs.json of a run."""
    return RecordFile(store, paths.join(root, INPUTS_JSON), "the record of a run's inputs", _parse)


def _parse(data: bytes) -> dict[str, Any]:
    record = json_with("fingerprint", "inputs", "carried_schema", "skipped", "notes", "storage")(data)
    for one in record["inputs"]:
        if one.get("path") is not None:
            one["path"] = paths.RecordedUri(one["path"])
    return record


def read_inputs(root: str, record: Mapping[str, Any], store: Store) -> InputManifest:
    """The manifest that was recorded at a run.

    Args:
        record: content of inputs.json.
        store: store of the run, and of the inputs without `storage` of their own.

    Raises:
        NotFound: inputs.parquet is missing.
    """
    try:
        schema = read_schema(base64.b64decode(record["carried_schema"]))
        refuse_pickled(schema)
        rows = _read(store, root).to_pylist()
        files = {(row["source"], row["uri"]): InputFile(*(row[name] for name in _COLUMNS_OF_FILE)) for row in rows}
        spans = (row for row in rows if row["unit"] is not None)
        units = (list(group) for _, group in groupby(spans, lambda row: row["unit"]))
        return InputManifest(
            Reading(store, tuple(Input(**one) for one in record["inputs"]), schema),
            tuple(files.values()),
            tuple(
                Unit(group[0]["unit"], group[0]["source"], tuple(map(_span, group)), group[0]["unit_bytes"])
                for group in units
            ),
            record["skipped"],
            record["fingerprint"],
            tuple(record["notes"]),
        )
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{paths.join(root, INPUTS_PARQUET)}: does not fit {INPUTS_JSON}, or is damaged ({str(error)[:200]}). Run "
            "the run's command again, which writes both."
        ) from error


def changes_since_attempt(listing: InputListing, settings: Mapping[str, Any], store: Store, root: str) -> list[str]:
    """What differs from the unfinished run at `root`: a line for each setting, else one on the input files."""
    try:
        record = inputs_file(store, root).read()
    except DataError:
        record = None
    if record is None:
        return []
    changed = differences(record["settings"], settings) if record.get("settings") else []
    return changed or [changes_since(listing, store, root)] * (record["fingerprint"] != listing.fingerprint)


def changes_since(listing: InputListing, store: Store, root: str) -> str:
    """A text about the files that are new, gone or changed since the run at `root` recorded its inputs."""
    try:
        table = _read(store, root, ["source", "uri", "size", "version"])
    except (StorageError, pa.ArrowException, OSError, ValueError):
        return "the input files changed"
    columns = (table[name].to_pylist() for name in ("source", "uri", "size", "version"))
    before = {(source, uri): (size, version) for source, uri, size, version in zip(*columns, strict=True)}
    now = {
        (source.input.source, file.uri): (file.size, file.version)
        for source in listing.sources
        for file, _ in source.files
    }
    changed = [key for key in now if key in before and now[key] != before[key]]
    same_size = {key for key in changed if now[key][0] == before[key][0]}
    kinds = {
        "new": [basename(uri) for source, uri in now if (source, uri) not in before],
        "gone": [basename(uri) for source, uri in before if (source, uri) not in now],
        "changed": [
            basename(key[1]) + " (same size, another time stamp or ETag)" * (key in same_size) for key in changed
        ],
    }
    parts = [
        f"{len(names):,} {kind}: {', '.join(names[:_NAMED_FILES])}" + ", ..." * (len(names) > _NAMED_FILES)
        for kind, names in kinds.items()
        if names
    ]
    if parts:
        return f"the input files changed ({'; '.join(parts)})"
    return "the input files changed, or the version of the library that extracts the text of web pages"


def _read(store: Store, root: str, columns: list[str] | None = None) -> pa.Table:
    with StoredParquet(store, paths.join(root, INPUTS_PARQUET)) as file:
        return file.read(columns)


def _table(manifest: InputManifest) -> pa.Table:
    placed: dict[tuple[str, str], list[tuple[Unit, Span]]] = defaultdict(list)
    for unit in manifest.units:
        for span in unit.spans:
            placed[unit.source, span.uri].append((unit, span))
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for file in manifest.files:
        spans: list[tuple[int | None, ...]] = [
            (unit.index, unit.bytes, span.start, span.end, *(span.rows or (None, None)))
            for unit, span in placed[file.source, file.uri]
        ]
        for of_span in spans or [(None,) * len(_COLUMNS_OF_SPAN)]:
            for name in _COLUMNS_OF_FILE:
                columns[name].append(getattr(file, name))
            for name, value in zip(_COLUMNS_OF_SPAN, of_span, strict=True):
                columns[name].append(value)
    return pa.table(columns, _SCHEMA)


def _span(row: Mapping[str, Any]) -> Span:
    numbers = [row[name] for name in ("unit", "size", "start", "end")]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError(f"unit, size, start and end of {row['uri']} are {numbers}; wanted numbers from 0 on")
    rows = None if row.get("first_row") is None else (row["first_row"], row["end_row"])
    return Span(row["uri"], row["size"], row["version"], row["format"], row["start"], row["end"], rows)
