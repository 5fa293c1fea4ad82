"""`deduplicate`: the duplicate groups of a Ray Dataset, by the stages with which `curate` groups documents.

    blocks of the Dataset  ->  SCRATCH/rows          a copy of the rows
                               SCRATCH/attributes    what is compared of each document, without its text
    attributes             ->  SCRATCH/groups-*      the members of groups (pipelines/dedup/group.py)
    rows, groups           ->  the Dataset that is returned, read when it is used

A block is committed like a unit of a stage, under a name that is a digest of its content and the settings. So a call
with the same scratch reads the Dataset again, and takes up what was measured and grouped, also where the first call
failed; other Datasets and settings do not meet. Only records and numbers pass through the driver.
"""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from raymill.cluster.artifact import Artifact, Counters, DataFile, Manifest, describe_schema, fingerprint, read_tables
from raymill.cluster.engine import Engine
from raymill.cluster.errors import ConfigError, DataError, RaymillError, as_record, from_record
from raymill.cluster.formats import listed
from raymill.cluster.output import Output, changed
from raymill.cluster.progress import Progress
from raymill.cluster.readers.reader import plain_chunks
from raymill.cluster.session import Session
from raymill.cluster.stage import CommitRecord, Scratch, Stage, add_counters, committed, run_unit
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.pipelines.curate.config import CurateConfig
from raymill.pipelines.curate.stages.measure import MEASURE_VERSION, signatures, text_hashes
from raymill.pipelines.dedup.compare import NEWEST_BY, is_comparable, newness
from raymill.pipelines.dedup.documents import sketch_settings
from raymill.pipelines.dedup.group import GROUPS, files_of, group_stage
from raymill.pipelines.dedup.signatures import SKETCH_TYPE
from raymill.pipelines.ray_data.documents import (
    pieces_of,
    refuse_damaged,
    refuse_taken,
    settings_of,
    warn_of_unreadable,
)
from raymill.pipelines.text.lines import count_characters

log = logging.getLogger(__name__)

NAME = "deduplicate"
SOURCE = "dataset"
ROWS, ATTRIBUTES, UNREADABLE = "rows", "attributes", "unreadable"
_STAGE = "measure"
_DIGEST_BYTES = 16
_FIRST_SLICE = 16  # offset of the only slice in a sliced file
_PROBLEM = "problem/"  # a counter: the texts that cannot be read, by problem

_ANSWER = pa.schema([("key", pa.string()), ("record", pa.string()), ("error", pa.string())])
_GROUP_COLUMNS = ("unit", "row", "partner", "partner_position", "similarity", "group_id")


def deduplicate(
    dataset: ray.data.Dataset,
    *,
    scratch: str,
    text: str = "text",
    id: str | None = None,
    limits: Mapping[str, Any] | None = None,
    storage: Mapping[str, Any] | None = None,
    **settings: Any,
) -> ray.data.Dataset:
    """The rows of a Dataset with the duplicate group of each, as `curate` finds them.

    Adds columns, null for a row without duplicates or without a readable text:

        group       int64, the same for the members of a group
        partner     of a duplicate: the row that its group keeps, by `id` (string) or `position` (int64); null for the
                    row that is kept
        similarity  float64, Jaccard similarity of a duplicate to its partner
        position    int64, number of the row in the Dataset; only without `id`

    `filter(lambda row: row["partner"] is None)` keeps one row of each group.

    Reads the Dataset once, in the order of its blocks, and writes a copy of its rows to `scratch`, from which the
    result is read: delete the folder when the result is no longer needed. A failed call is continued by the same call.

    Args:
        scratch: folder or URI that the driver and all workers can write to.
        text: name of the column with the texts.
        id: name of a column that names rows, such as a URL or a number.
        limits: group `limits` of a config, of which `max_document_bytes` counts.
        storage: group `storage` of a config, for the scratch.
        settings: group `dedup` of a config, such as `threshold=0.8`. `keeper` is position, longest, or newest, which
            compares the column `newest_by`.

    Raises:
        ConfigError: lists all mistakes in the settings.
        DataError: the Dataset lacks a column, or has one that would be added.
        StorageError: the scratch cannot be written.
        ClusterError: Ray or one of its machines failed; what is finished is kept in `scratch`.
    """
    config = _config(settings, limits, storage)
    root, store = paths.absolute(scratch), config.store
    store.require_conditional_writes(root)
    blocks = MeasureBlock(config, text, id, root)
    records = _measured(dataset, blocks)
    if not records:
        return dataset.map_batches(partial(_with_groups, by_id=id is not None), batch_format="pyarrow")
    _warn_of_unreadable(records)
    rows, attributes, unreadable = (_artifact(store, root, output, records) for output in blocks.outputs)
    groups = _grouped(config, root, attributes, unreadable, len(records))
    counts = [int(record.counters["documents"]) for record in records]
    starts = np.cumsum([0, *counts[:-1]]).tolist()
    files = files_of(groups, zip(starts, counts, strict=True))
    units = [
        {"unit": unit, "uri": uri, "sha256": file.sha256, "start": start, "groups": list(of_unit)}
        for unit, (uri, file, start, of_unit) in enumerate(
            zip(rows.file_uris, rows.manifest.files, starts, files, strict=True)
        )
    ]
    return ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        ReadGrouped(store, by_id=id is not None), batch_format="pyarrow"
    )


def _config(
    settings: Mapping[str, Any], limits: Mapping[str, Any] | None, storage: Mapping[str, Any] | None
) -> CurateConfig:
    """The config with these settings of deduplication.

    Raises:
        ConfigError: lists all mistakes, or names a setting that has no meaning for a Dataset.
    """
    newest_by = settings.get("newest_by")
    if settings.get("keeper") == "score":
        raise ConfigError(
            f"{NAME}, dedup.keeper: a Dataset has no measured signals. Give the column with the scores as "
            'keeper="newest", newest_by="COLUMN", which keeps the largest number.'
        )
    config = settings_of(
        NAME, {"dedup": settings}, limits, storage, (newest_by,) if isinstance(newest_by, str) and newest_by else ()
    )
    dedup = config.dedup
    assert dedup is not None
    refused = [
        name
        for name, given in (
            ("remove", not dedup.remove),
            ("against", bool(dedup.against)),
            ("scope", dedup.scope != "all"),
            ("sources", bool(dedup.sources)),
        )
        if given
    ]
    if refused:
        raise ConfigError(
            f"{NAME}, dedup: {', '.join(refused)} of a config concern the inputs or the output of a run, and a Dataset "
            "has neither. Leave them out, or use `curate`."
        )
    return config


def _measured(dataset: ray.data.Dataset, blocks: "MeasureBlock") -> list[CommitRecord]:
    """The record of each block with rows, in the order of the Dataset. Measures those without one.

    Raises:
        RaymillError: a worker raised it.
    """
    known = blocks.known()
    measuring = replace(blocks, done=frozenset(known))
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    records: list[CommitRecord] = []
    try:
        answers = dataset.map_batches(measuring, batch_format="pyarrow", zero_copy_batch=True)
        for answer in answers.iter_rows():
            if answer["error"]:
                raise from_record(json.loads(answer["error"]))
            found = known.get(answer["key"]) or CommitRecord.from_json(answer["record"].encode())
            records.append(found.at(len(records)))
    finally:
        options.preserve_order = before
    return records


@dataclass(frozen=True)
class MeasureBlock:
    """Measures a block of a Dataset, and commits its rows, its attributes and the rows without a readable text.

    Attributes:
        id: column of the ids; None: none.
        root: URI of the scratch.
        done: keys of the blocks that are committed.
    """

    config: CurateConfig
    text: str
    id: str | None
    root: str
    done: frozenset[str] = frozenset()

    @property
    def outputs(self) -> tuple[Output, Output, Output]:
        """ROWS, ATTRIBUTES and UNREADABLE, the outputs of the stage."""
        columns = [
            ("row", pa.int64()),
            ("id", pa.string()),
            ("source", pa.string()),
            ("text_hash", pa.binary(16)),
            ("characters", pa.int64()),
            ("signature", SKETCH_TYPE),
        ]
        newest_by = [(NEWEST_BY, pa.float64())] if self.config.dedup.newest_by else []  # type: ignore[union-attr]
        return (
            Output(ROWS, pa.schema([])),
            Output(ATTRIBUTES, pa.schema(columns + newest_by)),
            Output(UNREADABLE, pa.schema([("row", pa.int64())])),
        )

    def known(self) -> dict[str, CommitRecord]:
        """Key -> record of the committed blocks whose files are as they were written."""
        store, stage = self.config.store, self._stage("")
        folder = paths.join(self.root, stage.folder)
        keys = [file.uri.rpartition("/")[2].removesuffix(".json") for file in store.list_files(folder)]
        found = committed(replace(stage, units=keys), self.root)
        return {keys[index]: record for index, record in found.items()}

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """One row of _ANSWER: the key of the block, and its record or an error. None for a block without rows."""
        if not block.num_rows:
            return
        try:
            key, record = self._commit(block)
            answer = {"key": key, "record": record, "error": None}
        except RaymillError as error:
            answer = {"key": None, "record": None, "error": json.dumps(as_record(error))}
        yield pa.Table.from_pylist([answer], _ANSWER)

    def _commit(self, block: pa.Table) -> tuple[str, str | None]:
        """(key of the block, its record as JSON; None if it was committed before)."""
        refuse_taken(list(_added(by_id=self.id is not None)), block.column_names, NAME)
        rows = _as_slice(block)
        key = hashlib.blake2b(self._settings().encode(), digest_size=_DIGEST_BYTES)
        key.update(memoryview(rows))
        name = key.hexdigest()
        if name in self.done:
            return name, None
        stage = replace(self._stage(name), work=lambda unit, scratch: self._measure(block, rows, scratch))
        return name, run_unit(stage, self.root, 0, name).to_json().decode()

    def _settings(self) -> str:
        """What the attributes of a block depend on besides its rows."""
        dedup = self.config.dedup
        assert dedup is not None
        return fingerprint(
            {
                "version": MEASURE_VERSION,
                "sketches": [sketch_settings(dedup), dedup.exact_short],
                "newest_by": dedup.newest_by,
                "columns": [self.text, self.id],
                "limits": self.config.limits.max_document_bytes,
            }
        )

    def _stage(self, fingerprint: str) -> Stage:
        return Stage(_STAGE, self.outputs, (), _no_work, fingerprint, self.config.store, key=str)

    def _measure(self, block: pa.Table, rows: pa.Buffer, scratch: Scratch) -> Counters:
        """Counters: `documents`, `passed`, and the unreadable ones by problem."""
        scratch.write_slices(ROWS, [rows])
        counters: Counters = {"documents": float(block.num_rows), "passed": 0.0}
        newest_by = self.config.dedup.newest_by  # type: ignore[union-attr]
        first = 0
        for piece in pieces_of(block, self.text, self.config.limits, NAME):
            count = len(piece.texts)
            hashes = text_hashes(piece.texts)
            columns: dict[str, Any] = {
                "row": first + np.arange(count),
                "id": self._ids(piece.rows),
                "source": pa.repeat(SOURCE, count),
                "text_hash": pa.array(hashes, pa.binary(16)),
                "characters": count_characters(piece.texts),
                "signature": signatures(piece.texts, self.config.dedup)["signature"],
            }
            if self.id is not None and columns["id"].null_count:
                columns["id"] = pc.coalesce(columns["id"], pa.array([one.hex() for one in hashes]))
            if newest_by:
                columns[NEWEST_BY] = _newness(piece.rows, newest_by)
            scratch.write(ATTRIBUTES, pa.table(columns))
            unreadable = sorted(piece.problems)
            scratch.write(UNREADABLE, pa.table({"row": pa.array(unreadable, pa.int64())}))
            for problem, number in Counter(piece.problems.values()).items():
                name = f"{_PROBLEM}{problem}"
                counters[name] = counters.get(name, 0.0) + number
            counters["passed"] += count - len(unreadable)
            first += count
        return counters

    def _ids(self, rows: pa.Table) -> pa.Array:
        if self.id is None:
            return pa.nulls(rows.num_rows, pa.string())
        column = _column(rows, self.id, "id")
        try:
            return plain_chunks(column).cast(pa.string()).combine_chunks()
        except pa.ArrowException as error:
            raise DataError(
                f"{NAME}: the column {self.id} holds {column.type}, and ids are strings or whole numbers. Name another "
                "one, or leave `id` out."
            ) from error


def _newness(rows: pa.Table, name: str) -> np.ndarray:
    column = plain_chunks(_column(rows, name, "newest_by"))
    if not is_comparable(column.type):
        raise DataError(
            f"{NAME}: the column {name} of newest_by holds {column.type}; wanted dates, times, numbers, or text of "
            "these. Choose another column."
        )
    return newness(column)


def _column(rows: pa.Table, name: str, setting: str) -> pa.ChunkedArray:
    if name not in rows.column_names:
        raise DataError(
            f"{NAME}: the Dataset has no column {name}, which `{setting}` names; it has: "
            f"{listed(rows.column_names)}. Correct the name."
        )
    if rows.column_names.count(name) > 1:
        raise DataError(f"{NAME}: the Dataset has several columns {name}. Rename all but one.")
    refuse_damaged(rows[name], name, NAME)
    return rows[name]


def _no_work(unit: Any, scratch: Scratch) -> Counters:
    raise NotImplementedError


def _as_slice(block: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, block.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
        stream.write_table(block)
    return sink.getvalue()


def _warn_of_unreadable(records: Sequence[CommitRecord]) -> None:
    counters = add_counters(record.counters for record in records)
    found = {name.removeprefix(_PROBLEM): int(count) for name, count in counters.items() if name.startswith(_PROBLEM)}
    if found:
        warn_of_unreadable(Counter(found), NAME)


def _artifact(store: Store, root: str, output: Output, records: Sequence[CommitRecord]) -> Artifact:
    """The artifact with the files of these records. It has no manifest on the store, so several share a folder."""
    files: list[DataFile] = [file for record in records for file in record.files[output.name]]
    manifest = Manifest(
        kind=output.name,
        fingerprint=fingerprint([[file.unit, file.sha256] for file in files]),
        **describe_schema(output.schema),
        files=files,
        counters=add_counters(record.counters for record in records),
        seconds=sum(record.seconds for record in records),
        made="",
        version="",
    )
    return Artifact(store, paths.join(root, output.name), manifest)


def _grouped(config: CurateConfig, root: str, attributes: Artifact, unreadable: Artifact, units: int) -> Artifact:
    """GROUPS of the documents, in a folder of the scratch that is named by what they are made from."""
    assert config.dedup is not None
    stage = group_stage(config.dedup, config.inputs, attributes, unreadable, units)
    folder = paths.join(root, f"groups-{stage.fingerprint[:16]}")
    return Engine(folder, DatasetSession(), Progress(), name=NAME).run(stage)[GROUPS]


class DatasetSession(Session):
    """The Ray on which the Dataset is, which other code has started and ends."""

    embedded = False

    def start(self) -> None:
        """Mark the session as started: Ray runs already."""
        self.started = True

    def stop(self) -> None:
        """Mark the session as stopped. Ray keeps running."""
        self.started = False


@dataclass(frozen=True)
class ReadGrouped:
    """Reads the rows of units, and joins them with their groups. by_id: partners are named by id."""

    store: Store
    by_id: bool

    def __call__(self, units: pa.Table) -> Iterator[pa.Table]:
        for unit in units.to_pylist():
            rows = self._rows(unit["uri"], unit["sha256"])
            tables = [
                table.filter(pc.equal(table["unit"], unit["unit"]))
                for table in read_tables(self.store, unit["groups"], _GROUP_COLUMNS.__contains__)
            ]
            yield _with_groups(rows, tables, unit["start"], by_id=self.by_id)

    def _rows(self, uri: str, sha256: str) -> pa.Table:
        data = self.store.read_bytes(uri)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise changed(uri)
        return pa.ipc.open_stream(pa.py_buffer(data).slice(_FIRST_SLICE)).read_all()


def _added(*, by_id: bool) -> dict[str, pa.DataType]:
    """The columns that are added."""
    position = {} if by_id else {"position": pa.int64()}
    partner = pa.string() if by_id else pa.int64()
    return position | {"group": pa.int64(), "partner": partner, "similarity": pa.float64()}


def _with_groups(rows: pa.Table, groups: Sequence[pa.Table] = (), start: int = 0, *, by_id: bool) -> pa.Table:
    """The rows with the columns of `_added`.

    groups: rows of GROUPS of their unit. start: position of the first row.
    """
    numbers = np.full(rows.num_rows, -1, np.int64)
    columns: dict[str, pa.Array] = {"position": pa.array(start + np.arange(rows.num_rows))}
    members = pa.concat_tables(groups) if groups else None
    if members is not None:
        numbers[members["row"].to_numpy()] = np.arange(members.num_rows)
    taken = pa.array(numbers, mask=numbers < 0)
    partner = "partner" if by_id else "partner_position"
    for name, of_groups in (("group", "group_id"), ("partner", partner), ("similarity", "similarity")):
        kind = _added(by_id=by_id)[name]
        columns[name] = pa.nulls(rows.num_rows, kind) if members is None else members[of_groups].take(taken)
    for name, kind in _added(by_id=by_id).items():
        rows = rows.append_column(pa.field(name, kind), columns[name])
    return rows
