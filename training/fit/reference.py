"""Log-probabilities of all answers by the reference model, computed once before the first step.

The reference is the model before training. All workers compute it with the engine, the kernels and the micro-batches of
the training, so a model that the engine shards is never whole, and a loss that compares with it begins at its value for
equal models.

They are artifacts beside the packed rows, one for each artifact of these, which every training with the same model and
the same rows finds: PACKED/reference/ROWS/KEY, ROWS the first 32 digits of the digest of the rows, KEY a fingerprint of
the model and of how it is computed. A part is written once, by the first worker, when all its rows are computed; a
training that is interrupted continues with the next part. The manifest is written last.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from raymill import cluster
from raymill.cluster.artifact import (
    Artifact,
    ArtifactFile,
    DataFile,
    Manifest,
    describe_schema,
    fingerprint,
    manifest_file,
    read_tables,
)
from raymill.cluster.errors import DataError
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.store import Store
from raymill.training.config import TrainConfig
from raymill.training.data.batch import Loader
from raymill.training.data.order import rows_of_worker
from raymill.training.data.packed import PackedRows, RowBounds
from raymill.training.fit.ranks import Ranks
from raymill.training.models.answers import AnswerLoss
from raymill.training.pack.packed_run import REFERENCES, ROWS_DIGITS, PackedRun
from raymill.training.records.job import Job

log = logging.getLogger(__name__)

_VERSION = 2
_LISTS = pa.list_(pa.float64())  # so that equal models have a ratio of exactly zero
# A row for each packed row: of each of its documents, and of these with the answer of the next one (objective kto).
REFERENCE = pa.schema([("reference", _LISTS), ("reference_mismatched", _LISTS)])
_LEAST_LOGP = -10_000.0  # of a token; sums of many such are finite as float32
_PART_TOKENS = 4 << 20
# At most, in a part: of the file, and of an answer's two numbers with the levels of their lists.
_FILE_BYTES, _ANSWER_BYTES = 64 << 10, 64


@dataclass(frozen=True)
class ReferencedRows:
    """Packed rows with the columns of REFERENCE. table: of REFERENCE, a row for each row of `rows`."""

    rows: PackedRows
    table: pa.Table

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def documents_per_row(self) -> float:
        return self.rows.documents_per_row

    def read(self, indices: Sequence[int]) -> list[pa.Table]:
        """As of PackedRows."""
        tables = zip(indices, self.rows.read(indices), strict=True)
        return [with_reference(table, self.table.slice(int(index), 1)) for index, table in tables]

    def close(self) -> None:
        """Close the files."""
        self.rows.close()


def with_reference(table: pa.Table, reference: pa.Table) -> pa.Table:
    """Packed rows with the columns of REFERENCE of the same rows."""
    for name in REFERENCE.names:
        table = table.append_column(REFERENCE.field(name), reference[name].combine_chunks())
    return table


def reference_uri(model: str, config: TrainConfig, packed: str, rows: Artifact, attention: str) -> str:
    """The artifact's folder. model: fingerprint of the model. packed: folder of the packed rows. attention: its kernel.

    Methods round differently in bf16, and qlora's model has 4 bits.
    """
    how = [config.method, config.bf16, attention, config.objective == "kto"]
    key = fingerprint([_VERSION, cluster.__version__, model, *how])
    return paths.join(packed, REFERENCES, rows.manifest.digest[:ROWS_DIGITS], key)


def find_reference(uri: str, rows: Artifact) -> pa.Table | None:
    """The finished table of REFERENCE of an artifact of packed rows; None if there is none. uri: of the table.

    Raises:
        DataError: it was changed after it was written.
    """
    found = Artifact.find(rows.store, uri)
    if found is None:
        return None
    if found.manifest.fingerprint != rows.manifest.digest or found.rows != rows.rows:
        raise _changed(uri, "is of other packed rows")
    if not found.schema.equals(REFERENCE):
        raise _changed(uri, "has other columns than were written")
    for file, seen in found.damage(compare_sha256=True).items():
        raise _changed(uri, seen, file)
    table = _table(rows.store, uri, [found.file_uri(file) for file in found.manifest.files])
    if problem := _problem(table, rows.table(["lengths"])["lengths"]):
        raise _changed(uri, problem)
    return table


def _table(store: Store, uri: str, files: Sequence[ArtifactFile]) -> pa.Table:
    try:
        return pa.concat_tables([REFERENCE.empty_table(), *read_tables(store, files)]).combine_chunks()
    except DataError as error:
        file, _, seen = str(error).partition(": ")
        raise _changed(uri, seen.partition(". It was ")[0], file) from error


def _problem(table: pa.Table, lengths: pa.ChunkedArray) -> str:
    """What is wrong in a table of REFERENCE; empty if nothing is. lengths: of the documents of the same rows."""
    counts = pc.list_value_length(lengths).combine_chunks()
    # Answers of other rows, as of KTO, are no longer than the longest document.
    least = _LEAST_LOGP * (pc.max(pc.list_flatten(lengths)).as_py() or 0)
    for name in REFERENCE.names:
        lists = table[name].combine_chunks()
        values = lists.flatten()
        if lists.null_count or values.null_count or not pc.list_value_length(lists).equals(counts):
            return f"does not have a number for each answer in column {name}"
        numbers = values.to_numpy()
        if not ((numbers >= least) & (numbers <= 0)).all():
            return f"has numbers in column {name} that are no log-probabilities"
    return ""


def _changed(uri: str, seen: str, file: str = "") -> DataError:
    return DataError(
        f"{file or uri}: {seen}. It was changed after it was written. Delete {uri} and run the same command again: it "
        "is computed again."
    )


def compute_references(
    job: Job, config: TrainConfig, packed: PackedRun, objective: AnswerLoss, call: Any, ranks: Ranks, bounds: RowBounds
) -> dict[str, pa.Table]:
    """URI of packed rows -> table of REFERENCE, of all artifacts with rows. A collective, before weights are restored.

    Args:
        config: with the rows of a micro-batch that are computed. call: the engine's module around the objective.
        bounds: of the packed rows.
    """
    model, found = job.folder.fingerprint_parts["model"], {}
    for rows in packed.artifacts:
        if not rows.rows:
            continue
        uri = reference_uri(model, config, packed.uri, rows, objective.attention)
        known = ranks.from_first(find_reference(uri, rows) is not None if ranks.first else None)
        if not known:
            _Computing(uri, rows, config, objective, call, ranks, bounds).run()
        table = find_reference(uri, rows)
        if table is None:
            raise DataError(f"{uri}: was deleted while it was read. Run the same command again.")
        found[rows.uri] = table
    objective.measures.take()
    return found


@dataclass
class _Listed:
    """Rows `first` to before `end` of one corpus, in order."""

    first: int
    end: int
    rows_per_step: int

    def step(self, step: int) -> list[tuple[int, int]]:
        start = self.first + step * self.rows_per_step
        return [(0, row) for row in range(start, min(start + self.rows_per_step, self.end))]


@dataclass
class _Computing:
    """The computation of one artifact. uri: of it. rows: packed rows."""

    uri: str
    rows: Artifact
    config: TrainConfig
    objective: AnswerLoss
    call: Any
    ranks: Ranks
    bounds: RowBounds

    @property
    def store(self) -> Store:
        return self.rows.store

    @cached_property
    def lengths(self) -> pa.ChunkedArray:
        """The lengths of the documents of each row."""
        return self.rows.table(["lengths"])["lengths"]

    def run(self) -> None:
        """Compute the parts that are missing, and write the manifest."""
        size = max(1, _PART_TOKENS // self.config.sequence_length)
        starts = range(0, self.rows.rows, size)
        files = []
        for number, first in enumerate(starts):
            name = f"part-{number:06d}.parquet"
            end = min(first + size, self.rows.rows)
            data = self._existing(name, first, end) if self.ranks.first else None
            if not self.ranks.from_first(data is not None):
                table = self._part(first, end)
                if table is not None:
                    data = _parquet(table)
                    # The first writer's counts: another start of this training may be at work.
                    if not self.store.create(paths.join(self.uri, name), data):
                        data = self._existing(name, first, end)
                log.info("reference model: %d of %d rows of %s", end, self.rows.rows, self.uri)
            if data is not None:
                digest = hashlib.sha256(data).hexdigest()
                files.append(DataFile(paths.RelativePath(name), 0, end - first, len(data), digest))
        if self.ranks.first:
            made = datetime.now(UTC).isoformat(timespec="seconds")
            version, schema = cluster.__version__, describe_schema(REFERENCE)
            manifest = Manifest(
                "reference", self.rows.manifest.digest, **schema, files=files, counters={}, seconds=0.0, made=made,
                version=version,
            )  # fmt: skip
            manifest_file(self.store, self.uri).create(manifest.to_json())
        self.ranks.from_first(None)  # the others read it

    def _existing(self, name: str, first: int, end: int) -> bytes | None:
        """A part that is there already: rows `first` to before `end`; None if there is none.

        Raises:
            DataError: it is not one that was written here.
        """
        uri = paths.join(self.uri, name)
        lengths = self.lengths.slice(first, end - first)
        most = _FILE_BYTES + _ANSWER_BYTES * pc.sum(pc.list_value_length(lengths)).as_py()
        try:
            if (size := self.store.info(uri).size) > most:
                raise _changed(self.uri, f"has {size:,} bytes, and at most {most:,} are written", uri)
            data = self.store.read_bytes(uri, most)
        except NotFound:
            return None
        schema = describe_schema(REFERENCE)["arrow_schema"]
        table = _table(self.store, self.uri, [ArtifactFile(uri, end - first, len(data), schema)])
        if problem := _problem(table, lengths):
            raise _changed(self.uri, problem, uri)
        return data

    def _part(self, first: int, end: int) -> pa.Table | None:
        """The rows of one part, on the first worker; None on the others."""
        ranks, rows = self.ranks, PackedRows(self.rows, bounds=self.bounds)
        micro_rows = self.config.micro_rows(ranks.world)
        order = _Listed(first, end, micro_rows * ranks.world)
        steps = -(-(end - first) // order.rows_per_step)
        mismatched = self.config.objective == "kto"
        loader = Loader(
            order,
            [rows],
            ranks.rank,
            ranks.world,
            micro_rows,
            self.config.sequence_length,
            0,
            steps=steps,
            mismatched=mismatched,
        )
        training = self.objective.training
        self.objective.eval()
        mine: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        try:
            with torch.no_grad():
                for step in range(steps):
                    ranks.reached(f"reference model, rows from {first + step * order.rows_per_step}")
                    own = [row for _, row in rows_of_worker(order.step(step), ranks.rank, ranks.world)]
                    (batch,) = loader.micro_batches(step)
                    logp = self._logp(batch)
                    other = self._logp(batch.mismatched) if batch.mismatched else np.zeros_like(logp)
                    ends = np.cumsum([len(row) for row in batch.documents])[:-1]
                    each = zip(np.split(logp, ends), np.split(other, ends), strict=True)
                    if own:  # else the batch is padding
                        mine |= dict(zip(own, each, strict=True))
        finally:
            loader.close()
            self.objective.train(training)
        everyone: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for worker in ranks.gather(mine):
            everyone |= worker
        if not ranks.first:
            return None
        columns = zip(*(everyone[row] for row in range(first, end)), strict=True)
        return pa.table([pa.array(list(column), _LISTS) for column in columns], schema=REFERENCE)

    def _logp(self, batch: Any) -> np.ndarray:
        self.call(**self.objective.tensors(batch, self.ranks.device))
        return self.objective.logp.cpu().numpy()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
