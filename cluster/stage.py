"""Stages, their units, and the commit of a unit.

A unit is done, retried and committed as a whole:

    write to scratch -> read the footers back -> upload under names of this try alone -> create the commit record

A unit is committed by creating its commit record (put-if-absent), so of several tries the first wins. A later try finds
the record and returns it; its own files stay until the driver removes them, so workers need no right to delete. When
every unit has a record, the manifests of the stage's artifacts are created, also put-if-absent. Running the same
command again does the units without a record; two drivers at once cannot mix their results.

This module does not use Ray: engine.py distributes units over workers, and a test can call `run_unit` in a loop.
"""

import hashlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymill import cluster
from raymill.cluster.artifact import (
    Artifact,
    Counters,
    DataFile,
    Manifest,
    check_counters,
    describe_schema,
    discard_artifact,
    manifest_file,
)
from raymill.cluster.cost import Model
from raymill.cluster.errors import BusyError, ClusterError, StorageError
from raymill.cluster.failpoints import failpoint
from raymill.cluster.formats import plural
from raymill.cluster.nodes import Resources
from raymill.cluster.output import Output, OutputFiles, empty_file
from raymill.cluster.record import OtherSettings, RecordFile, record_json
from raymill.cluster.store import paths
from raymill.cluster.store.store import Store
from raymill.cluster.temporary import full_disk, temporary_folder

log = logging.getLogger(__name__)

COMMITS = "_commits"  # Spark and `datasets` skip names with a leading underscore when they list a folder
# To continue a stage of 20,000 units their records are read: in 5 s from a local disk, in 10 s from a store that
# answers after 20 ms. So they are not joined to fewer files.
RECORD_THREADS = 64
_ENDINGS = (".parquet", ".slices")  # of the files that units write


def _without_description(unit: Any) -> str:
    return ""


@dataclass(frozen=True)
class Stage:
    """A part of a run, divided into units.

    name: without spaces, because names on the store contain it. A stage `A.B` prepares the stage A.
    outputs: the artifacts it makes.
    units: picklable. Their results are in the artifacts in this order.
    work: `work(unit, scratch)`, a pure function of the unit, writes tables to the scratch and returns counters. All
        functions are picklable.
    fingerprint: of everything the result depends on: code version, parameters, fingerprints of what is read.
    store: what the artifacts are written to.
    describe: the files that a unit reads, in a few words, for error messages.
    small: the driver does the units itself, one after the other, without Ray: all of them together take less time than
        starting Ray's workers, or they must not run at once.
    memory: bytes that a unit takes; Ray starts no more units on a machine than fit. 0: not known.
    cpus, gpus: that a unit reserves. resources: others that it reserves, by Ray's names, such as {"TPU": 4}.
    concurrency: largest number of units that run at once; None: as many as the resources allow.
    setup: run once in each worker, before its first unit; then `work(unit, scratch, result of setup)` is called, as
        with a model that stays loaded. The workers are then actors of Ray, which keep their resources until no units
        are left for them.
    key: `key(unit)` names everything on which the unit's result depends. Such a result stays valid when other units
        are added or removed: its record is named by the key. None: the record is named by the unit's index, and is
        valid for this fingerprint alone.
    prepare: `prepare(run)` runs stages whose artifacts only this stage reads, and returns its units, which replace
        `units`. It is called only if the stage is unfinished. When the stage is finished, those artifacts are removed.
    per_input: a unit has several units of input, each of which takes time of its own, and may have files of its own.
    per_file: the time of a unit grows with the number of files that it reads, and little with their rows.
    watch: `watch(counters)` is what the units that are running have done so far, in words, for the progress line; the
        driver calls it every few seconds. counters: the sums of the units that are done.
    model: what a sample of the input does not show of the stage and of those that prepare it; see cost.py.
    """

    name: str
    outputs: tuple[Output, ...]
    units: Sequence[Any]
    work: Callable[..., Counters]
    fingerprint: str
    store: Store
    describe: Callable[[Any], str] = _without_description
    small: bool = False
    memory: int = 0
    cpus: float = 1
    gpus: float = 0
    resources: Resources = field(default_factory=dict)
    concurrency: int | None = None
    setup: Callable[[], Any] | None = None
    key: Callable[[Any], str] | None = None
    prepare: Callable[["RunStage"], Sequence[Any]] | None = None
    per_input: bool = False
    per_file: bool = False
    watch: Callable[[Counters], str] | None = None
    model: Model | None = None

    @property
    def folder(self) -> str:
        """The folder of its units' records, relative to the run."""
        return f"{COMMITS}/{self.name}" if self.key else f"{COMMITS}/{self.name}-{self.fingerprint[:16]}"

    @property
    def wanted(self) -> dict[str, float]:
        """What a unit reserves, by Ray's names of resources."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory, **self.resources}
        return {name: amount for name, amount in named.items() if amount}

    def set_up(self) -> Self:
        """The stage with its set-up done in this process."""
        if self.setup is None:
            return self
        result = self.setup()
        return replace(self, setup=None, work=lambda unit, scratch: self.work(unit, scratch, result))

    def record_name(self, index: int, unit: Any) -> str:
        """The file name of a unit's record in the folder."""
        return f"{self.key(unit)}.json" if self.key else f"{index:06}.json"


RunStage = Callable[[Stage], dict[str, Artifact]]


class RunStageIn(Protocol):
    """Makes or finds the artifacts of a stage. folder: where, relative to the run's folder."""

    def __call__(self, stage: Stage, folder: str = "") -> dict[str, Artifact]: ...


def prefix_of(folder: str) -> str:
    """The prefix of stages' names in plans and progress, from their folder in the run: `a.b.` for `_work/a/b`."""
    parts = folder.removeprefix("_work/").replace("/", ".")
    return f"{parts}." if parts else ""


@dataclass(frozen=True)
class CommitRecord:
    """The commit record of a unit: its files and counters.

    `attempt`, the id of the try, and `seconds` are not part of the artifact's digest.
    """

    unit: int
    attempt: str
    files: Mapping[str, list[DataFile]]
    counters: Counters
    seconds: float

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    def at(self, unit: int) -> Self:
        """The record with the index that its unit has in this run."""
        if unit == self.unit:
            return self
        files = {name: [replace(file, unit=unit) for file in listed] for name, listed in self.files.items()}
        return replace(self, unit=unit, files=files)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        plain = record_json(data)
        check_counters(plain["counters"])
        files = {
            paths.RelativePath(name): [DataFile.from_plain(file) for file in listed]
            for name, listed in plain["files"].items()
        }
        return cls(**plain | {"files": files})


# What a worker returns for a unit: its record, or why it failed.
Answer = dict[str, Any]


@dataclass(frozen=True)
class NothingYet:
    """No unit ended within some time. running: whether one runs; else all of them wait for resources."""

    running: bool


class Scratch:
    """Local folder and Parquet writers of one unit. The folder is deleted when the unit ends or fails."""

    def __init__(self, outputs: Sequence[Output]) -> None:
        self.folder = temporary_folder("unit")
        self._outputs = {output.name: output for output in outputs}
        self._files: dict[str, dict[int | None, OutputFiles]] = {output.name: {} for output in outputs}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, output: str, table: pa.Table, unit: int | None = None) -> None:
        """Append rows; columns are taken by name and must have the output's types.

        unit: index of the unit in the manifest; None: of the unit that is run. A unit that covers several units of
        an earlier stage gives their indices here: the rows of each go to separate files, which later stages can find.
        """
        files = self._files[output]
        if unit not in files:
            folder = self.folder if unit is None else self.folder / str(unit)
            folder.mkdir(exist_ok=True)
            files[unit] = OutputFiles(self._outputs[output], folder)
        files[unit].write(table)

    def write_slices(self, output: str, slices: Iterable[Any], sizes: np.ndarray | None = None) -> None:
        """Write the file of a sliced output.

        slices: contiguous objects with the buffer protocol, in order. sizes: bytes of each slice; if given, `slices`
        may be the same bytes in pieces of other lengths.
        """
        files = self._files[output].setdefault(None, OutputFiles(self._outputs[output], self.folder))
        files.write_slices(slices, sizes)

    def finish(self) -> dict[str, list[tuple[int | None, Path, int]]]:
        """Close the files. Returns, by output, (unit given to `write`, path, rows or slices) of each file in order."""
        return {
            name: [(unit, *made) for unit, written in files.items() for made in written.finish()]
            for name, files in self._files.items()
        }


def files_from(uris: Sequence[str]) -> str:
    """The file, or 'N files from FIRST', or empty text: for `Stage.describe`."""
    return "" if not uris else uris[0] if len(uris) == 1 else f"{len(uris):,} files from {uris[0]}"


def run_unit(stage: Stage, root: str, index: int, unit: Any) -> CommitRecord:
    """Do the work of a unit and commit it. Returns its record, or the one of a try that committed it before.

    `stage.units` is not read, so it may be empty in a worker. The stage's set-up, if any, has been done.

    Raises:
        StorageError: the scratch disk is full, or the store failed.
        ClusterError: rows that were written to scratch could not be read back.
    """
    failpoint("unit_started", f"{stage.name}/{index}")
    started = time.perf_counter()
    attempt = uuid.uuid4().hex[:12]
    with Scratch(stage.outputs) as scratch:
        try:
            counters = stage.work(unit, scratch)
            written = scratch.finish()
        except Exception as error:
            if cause := full_disk(error):
                raise StorageError(
                    f"{stage.name}, unit {index}: {scratch.folder}: {cause}. Units write there before they "
                    "upload: free space, or set TMPDIR to a larger disk, and run the same command again; finished "
                    "units are kept."
                ) from error
            raise
        failpoint("files_written", f"{stage.name}/{index}")
        folders = {name: paths.join(root, name) for name in written}
        files = {name: _upload(stage.store, folders[name], index, attempt, made) for name, made in written.items()}
    record = CommitRecord(index, attempt, files, counters, time.perf_counter() - started)
    uri = paths.join(root, stage.folder, stage.record_name(index, unit))
    return record_file(stage.store, uri).create(record.to_json()).at(index)


def committed(stage: Stage, root: str) -> dict[int, CommitRecord]:
    """The valid records, by unit.

    A record is removed if one of its files is missing or has another size (changed by hand, or by a run with other
    settings at the same output); its unit is then done again.
    """
    root = paths.absolute(root)
    wanted = _record_uris(stage, root)
    listed = [file.uri for file in stage.store.list_files(paths.join(root, stage.folder)) if file.uri in wanted]
    files = [record_file(stage.store, uri) for uri in listed]
    with ThreadPoolExecutor(RECORD_THREADS) as pool:
        found = zip(files, pool.map(RecordFile.read, files), strict=True)
        records = [(file, record.at(wanted[file.uri])) for file, record in found if record is not None]
    # The files are listed after the records are read, because files are uploaded before their record is created.
    folders = [paths.join(root, output.name) for output in stage.outputs] if records else []
    there = {file.uri: file.size for folder in folders for file in stage.store.list_files(folder)}
    damaged = {file.uri for file, record in records if not _sizes(root, record).items() <= there.items()}
    if damaged:
        count = len(damaged)
        log.warning("%s: files of %s are gone or damaged; doing them again", stage.name, plural(count, "finished unit"))
        stage.store.delete(damaged)
    return {record.unit: record for file, record in records if file.uri not in damaged}


def publish(
    stage: Stage, root: str, records: Mapping[int, CommitRecord], seconds_before: float = 0.0
) -> dict[str, Artifact]:
    """Write the manifests of a stage whose units all have records, and remove files of tries without a record.

    seconds_before: seconds of the units of the stages that prepared this one; the manifests include them.

    Raises:
        BusyError: another run removed the artifacts right after they were written.
        DataError: another run published artifacts with another fingerprint first.
    """
    assert len(records) == len(stage.units), f"{stage.name}: {len(records)} records of {len(stage.units)} units"
    ordered = [records[index] for index in range(len(stage.units))]
    counters = add_counters(record.counters for record in ordered)
    for output in stage.outputs:
        uri = paths.join(root, output.name)
        # A record of an earlier run may be of a stage without this output, if its unit has nothing to write there.
        files = [file for record in ordered for file in record.files.get(output.name, ())]
        manifest = Manifest(
            kind=output.name,
            fingerprint=stage.fingerprint,
            **describe_schema(output.schema),
            files=files or [_put_empty_file(stage.store, output, uri)],
            counters=counters,
            seconds=round(seconds_before + sum(record.seconds for record in ordered), 3),
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            version=cluster.__version__,
        )
        manifest_file(stage.store, uri).create(manifest.to_json())
    artifacts = published(stage, root)  # read back: another driver may have written them first
    if artifacts is None:
        raise BusyError(
            f"{paths.absolute(root)}: the results of {stage.name} were removed just after they were written. Another "
            "run works here: wait until it has ended and run the same command again, which continues from its results."
        )
    for artifact in artifacts.values():
        sweep(artifact)
    if stage.key:  # remove the records of units that are not in this run; `sweep` has removed their files
        wanted = _record_uris(stage, paths.absolute(root))
        listed = stage.store.list_files(paths.join(root, stage.folder))
        stage.store.delete(file.uri for file in listed if file.uri not in wanted)
    return artifacts


def _record_uris(stage: Stage, root: str) -> dict[str, int]:
    """URI of its record -> index of a unit."""
    folder = paths.join(root, stage.folder)
    return {paths.join(folder, stage.record_name(index, unit)): index for index, unit in enumerate(stage.units)}


def published(stage: Stage, root: str) -> dict[str, Artifact] | None:
    """The stage's artifacts if all of them are finished, else None.

    Raises:
        OtherSettings: there is a finished artifact with another fingerprint or schema at the URI of one of them.
    """
    artifacts = {}
    for output in stage.outputs:
        uri = paths.join(root, output.name)
        if (found := Artifact.find(stage.store, uri)) is None:
            continue
        artifacts[output.name] = found
        if not _is_made_by(stage, output, found):
            raise OtherSettings(
                f"{uri}: holds a finished artifact made from other settings, inputs or code. "
                "Choose another output, or run with --replace to remove it and make it again."
            )
    return artifacts if len(artifacts) == len(stage.outputs) else None


def _is_made_by(stage: Stage, output: Output, artifact: Artifact) -> bool:
    return artifact.manifest.fingerprint == stage.fingerprint and artifact.schema.equals(output.schema)


class _StageToRun(Exception):
    """A stage has no artifacts yet."""


def finished_stages(root: str, run_stages: Callable[[RunStageIn], object]) -> list[str]:
    """The names of a run's stages that are finished, up to the first that is not. Runs nothing.

    run_stages: passes each stage of the run to a function that returns its artifacts.

    Raises:
        OtherSettings: an artifact of one was made from other settings, inputs or code.
    """
    done: list[str] = []

    def find(stage: Stage, folder: str = "") -> dict[str, Artifact]:
        if (found := published(stage, paths.join(root, folder) if folder else root)) is None:
            raise _StageToRun
        done.append(f"{prefix_of(folder)}{stage.name}")
        return found

    with suppress(_StageToRun):
        run_stages(find)
    return done


def sweep(artifact: Artifact) -> None:
    """Remove what tries without a record left: files that the manifest does not name, and interrupted uploads."""
    if paths.is_remote(artifact.uri):  # a local upload could be a manifest that another driver is writing
        artifact.store.abort_uploads(artifact.store.list_uploads(artifact.uri))
    wanted = set(artifact.file_uris)
    found = artifact.store.list_files(artifact.uri)
    artifact.store.delete(file.uri for file in found if file.uri.endswith(_ENDINGS) and file.uri not in wanted)


def discard_stale(stage: Stage, root: str) -> None:
    """Remove finished artifacts with another fingerprint or schema at the URIs of this stage's outputs.

    If units have keys, only the manifests are removed if the schema is the same: the results of units that are also in
    this stage are used again, and `publish` removes the others.
    """
    for output in stage.outputs:
        found = Artifact.find(stage.store, paths.join(root, output.name))
        if found is not None and not _is_made_by(stage, output, found):
            keeps = stage.key is not None and found.schema.equals(output.schema)
            discard_artifact(stage.store, found.uri, () if keeps else found.file_uris)


def discard_damaged(stage: Stage, root: str) -> None:
    """Remove the manifest and the damaged files of each finished output with files that are missing or of another size.

    The units that wrote these files are then done again.
    """
    for output in stage.outputs:
        found = Artifact.find(stage.store, paths.join(root, output.name))
        if found is not None and found.manifest.fingerprint == stage.fingerprint and (damage := found.damage()):
            discard_artifact(stage.store, found.uri, damage)


def discard(stage: Stage, root: str) -> None:
    """Remove the manifests and records of a stage, so that all of its units are done again.

    Their files stay until `publish` removes those that the new manifests do not name.
    """
    root = paths.absolute(root)
    for output in stage.outputs:
        discard_artifact(stage.store, paths.join(root, output.name))
    stage.store.delete(file.uri for file in stage.store.list_files(paths.join(root, stage.folder)))


def from_scratch(stage: Stage, root: str) -> Stage:
    """Discard a stage's results. Returns the stage, changed so that `prepare` discards those of the stages it runs."""
    discard(stage, root)
    if (prepare := stage.prepare) is None:
        return stage
    return replace(stage, prepare=lambda run: prepare(lambda inner: run(from_scratch(inner, root))))


def remove(stage: Stage, root: str) -> None:
    """Remove all that a stage wrote: manifests and records, then files."""
    discard(stage, root)
    folders = [paths.join(paths.absolute(root), output.name) for output in stage.outputs]
    stage.store.delete(file.uri for folder in folders for file in stage.store.list_files(folder))


def add_counters(all_counters: Iterable[Counters]) -> Counters:
    """The sum of each counter, sorted by name."""
    total: Counters = {}
    for counters in all_counters:
        for name, value in counters.items():
            total[name] = total.get(name, 0) + value
    return dict(sorted(total.items()))


_SMALL_FILE = 1 << 20  # bytes that are hashed in a millisecond: a thread for it takes as long


def _upload(
    store: Store, folder: str, index: int, attempt: str, made: list[tuple[int | None, Path, int]]
) -> list[DataFile]:
    files = []
    for number, (given, path, rows) in enumerate(made):
        unit = index if given is None else given
        if path.suffix == ".parquet" and (found := pq.read_metadata(path).num_rows) != rows:
            raise ClusterError(
                f"{path}: {found} of {rows} rows written were read back. The scratch disk is failing: "
                "replace it, or set TMPDIR to another disk, and run the same command again; finished units are kept."
            )
        # Object stores divide their load by prefixes of names, so files that many workers read at once have random
        # prefixes.
        name = f"{attempt}-{unit:06}.slices" if path.suffix == ".slices" else f"{unit:06}-{number:03}-{attempt}.parquet"
        size, uri = path.stat().st_size, paths.join(folder, name)
        if size <= _SMALL_FILE:
            digest = hashlib.sha256(path.read_bytes())
            store.upload(path, uri, new=True)
        else:
            # The digest is computed while the store, or the disk, takes the file. A local store moves it.
            with path.open("rb") as stream, ThreadPoolExecutor(1) as pool:
                computed = pool.submit(hashlib.file_digest, stream, "sha256")
                store.upload(path, uri, new=True)
                digest = computed.result()
        files.append(DataFile(paths.RelativePath(name), unit, rows, size, digest.hexdigest()))
    return files


def _put_empty_file(store: Store, output: Output, uri: str) -> DataFile:
    """Write a file without rows, from which readers take the schema of an artifact without rows."""
    data = empty_file(output.schema)
    name = f"000000-000-{uuid.uuid4().hex[:12]}.parquet"
    store.write_bytes(paths.join(uri, name), data)
    return DataFile(paths.RelativePath(name), 0, 0, len(data), hashlib.sha256(data).hexdigest())


def record_file(store: Store, uri: str) -> RecordFile[CommitRecord]:
    """The record of a unit at this URI."""
    return RecordFile(store, uri, "the commit record of a unit", CommitRecord.from_json, of_folder=False)


def _sizes(root: str, record: CommitRecord) -> dict[str, int]:
    """Bytes of each file of a record, by URI."""
    return {paths.join(root, name, file.path): file.bytes for name, files in record.files.items() for file in files}
