"""The verb `raymill gc`: lists and removes what killed tries and commands left below the output of a run.

A run needs what its manifests and the records of its unfinished stages name, and the files that each command writes
under a fixed name. Left over, and removed if they are older than a stated age, are

    files      of units, if no manifest and no record names them
    records    of stages that are finished or of other settings, and records with a file that is missing
    artifacts  that prepared a finished stage (`Stage.prepare`); below _work/ of a finished run that does not name them;
               made of rows that are no longer there (`Kind.made_of`)
    uploads    multipart uploads on S3, hidden files of interrupted writes on local disks
    tests      test files, with which a command examined the store

The small files of the run's answer store are joined; no answer is removed.

Records of units with a key stay as long as a manifest or an unfinished stage has their files: a run with more input
uses them again. Files with unknown names are listed and stay. Ages are by the clock of the store.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated

import typer

from raymill.cluster.artifact import MANIFEST, Manifest, manifest_file
from raymill.cluster.asking.answers import ANSWERS
from raymill.cluster.asking.compaction import StoreFacts, compact, stores_below
from raymill.cluster.cli import shell_command
from raymill.cluster.config import shown_override
from raymill.cluster.errors import DataError
from raymill.cluster.formats import byte_size, one_line, plural
from raymill.cluster.frame.calls import AnyConfig, Changes
from raymill.cluster.frame.job import REPORT_HTML, Run
from raymill.cluster.frame.kinds import kinds
from raymill.cluster.inspection import RunConfig, StorageOverrides, store_for
from raymill.cluster.lease import LEASES, held, require_free
from raymill.cluster.run import RUN_MANIFEST, RUN_REPORT, RunFolder
from raymill.cluster.stage import COMMITS, RECORD_THREADS, CommitRecord, record_file
from raymill.cluster.store import paths
from raymill.cluster.store.interface import FileInfo, Upload
from raymill.cluster.store.store import Store
from raymill.cluster.submit.work import seconds_of

UNNAMED = "no manifest and no record names it"
FINISHED = "of a stage that is finished"
OTHER_SETTINGS = "of other settings or inputs"
INCOMPLETE = "names a file that is missing or damaged"
PREPARED = "made for a stage that is finished"
NOT_OF_RUN = "not part of the finished run"
NO_ROWS = "made of rows that are no longer there"
UPLOAD = "an upload or write that did not end"
TEST_FILE = "examined the store for a command that was killed"

_WORK = "_work/"
_UNIT_FILE = re.compile(r"\d{6,}-\d{3,}-[0-9a-f]{12}\.parquet|[0-9a-f]{12}-\d{6,}\.slices")
_TEST_FILE_NAME = re.compile(r"_probe-[0-9a-f]{32}")
_OF_FINGERPRINT = re.compile(r"(.+)-([0-9a-f]{16})")  # a folder of records named by units' indices
_MADE_OF = re.compile(r"(?:.*/)?([^/]+)/([0-9a-f]{32})/[^/]+/(?:_manifest\.json|part-\d{6}\.parquet)")
_FILES_OF_RUNS = {RUN_MANIFEST, RUN_REPORT, REPORT_HTML}
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Leftover:
    """A file or upload that no run needs. folder: that it is in, relative to the output. why: one of the constants."""

    item: FileInfo | Upload
    folder: str
    why: str


@dataclass
class Garbage:
    """Files below an output that no run needs.

    Attributes:
        old: those old enough to be removed.
        young: those that are not yet.
        unknown: URIs of files with unknown names, which stay.
        stores: answer stores with small files that can be joined, by URI.
        text: the table of all, which `str` returns.
    """

    old: list[Leftover] = field(default_factory=list)
    young: list[Leftover] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    stores: dict[str, StoreFacts] = field(default_factory=dict)
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text


def gc(
    run: Annotated[str, typer.Argument(help="folder or URI: the `output` (or `packed`) of a config")],
    older_than: Annotated[str, typer.Option("--older-than", help="age of what is removed, as 90m, 24h or 7d")] = "24h",
    delete: Annotated[bool, typer.Option("--delete", help="remove it; default: only list it")] = False,
    config: RunConfig = None,
    override: StorageOverrides = None,
) -> None:
    """What killed attempts left below a run's output: list it, or remove it."""
    found = collect_garbage(run, older_than, delete, config, override)
    print(found)
    if (found.old or found.stores) and not delete:
        options = ["--older-than", older_than, *(["--config", config] if config else [])]
        shown = [word for one in override or [] for word in ("-o", shown_override(one, "..."))]
        command = shell_command("gc", run, *options, *shown, "--delete")
        print(f"\nTo {'remove it' if found.old else 'join them'}: {command}")


def collect_garbage(
    run: str | os.PathLike[str] | Run,
    older_than: str = "24h",
    delete: bool = False,
    config: AnyConfig = None,
    override: Changes = None,
) -> Garbage:
    """What killed attempts left below a run's output. `str(garbage)` lists it.

    Args:
        run: folder or URI, the `output` (or `packed`) of a config; or the run.
        older_than: least age of what is removed, as 90m, 24h or 7d.
        delete: remove it.
        config: the run's config, for its `storage` settings.
        override: changes of single settings, as in {"storage.endpoint_url": "http://HOST:PORT"}.

    Raises:
        BusyError: a run writes there.
        DataError: no run is there, or a manifest cannot be read.
    """
    seconds = seconds_of(older_than, "--older-than")
    with store_for(run, config, override) as (store, root), ExitStack() as stack:
        leases = []
        for output in _leased(store, root):
            if delete:
                leases.append(stack.enter_context(held(store, output)))
            else:
                require_free(store, output)
        found = find_garbage(store, root, seconds)
        found.stores = {
            paths.join(root, ANSWERS, folder) if folder else paths.join(root, ANSWERS): facts
            for folder, facts in stores_below(store, paths.join(root, ANSWERS)).items()
            if facts.small > 1
        }
        found.text = _text(found, root, older_than, delete)
        if delete:
            for lease in leases:
                lease.check()
            remove_garbage(store, root, found.old)
            for uri in found.stores:
                compact(store, uri, fewest=2)
    return found


def find_garbage(store: Store, root: str, older_than_s: float) -> Garbage:
    """What no run below an output needs. Reads the manifests there and the records of unfinished stages.

    The caller makes sure that no run writes there: see cluster/lease.py.

    Args:
        older_than_s: age in seconds, by the clock of the store, from which it is old.

    Raises:
        DataError: a manifest cannot be read, so it is unknown which files it names.
    """
    before = store.clock(root) - older_than_s
    uploads = store.list_uploads(root)
    files = [file for file in store.list_files(root, skip_bad_names=True) if not _in_folder(root, file.uri, LEASES)]
    outputs = {root, *(output for file in files if (output := _in_folder(root, file.uri, COMMITS)))}
    by_output: dict[str, tuple[list[FileInfo], list[Upload]]] = defaultdict(lambda: ([], []))
    for file in files:
        by_output[_innermost(file.uri, outputs)][0].append(file)
    for upload in uploads:
        by_output[_innermost(upload.uri, outputs)][1].append(upload)
    garbage = Garbage()
    for output, (own_files, own_uploads) in sorted(by_output.items()):
        contents = _Contents(store, output, own_files)
        found: list[tuple[FileInfo | Upload, str]] = [*contents.leftover_files()]
        found += contents.leftover_uploads(own_uploads)
        for item, why in found:
            folder = item.uri.removeprefix(root).rpartition("/")[0].strip("/")
            modified = item.modified if isinstance(item, FileInfo) else item.started
            (garbage.old if modified <= before else garbage.young).append(Leftover(item, folder, why))
        garbage.unknown += contents.unknown
    return garbage


def remove_garbage(store: Store, root: str, leftovers: Sequence[Leftover]) -> None:
    """Remove files and uploads. Manifests go first, then records, so neither is left without its files."""
    store.abort_uploads(one.item for one in leftovers if isinstance(one.item, Upload))
    files = [one.item.uri for one in leftovers if isinstance(one.item, FileInfo)]
    manifests = [uri for uri in files if uri.endswith(f"/{MANIFEST}")]
    records = [uri for uri in files if _in_folder(root, uri, COMMITS)]
    for group in (manifests, records, sorted({*files} - {*manifests, *records})):
        store.delete(group)
    emptied = {one.item.uri.rpartition("/")[0] for one in leftovers}
    emptied |= {folder.rpartition("/")[0] for folder in emptied}
    for folder in sorted(emptied, key=len, reverse=True):
        if folder.startswith(f"{root}/"):
            store.delete_empty_folder(folder)


class _Contents:
    """The files of one output, without those of other outputs below it.

    files: by path below the output. artifacts: manifests by folder. of_run: the artifacts of the finished run; None if
    it is unfinished or one of them is not there. unknown: URIs; filled by `leftover_files`.
    """

    def __init__(self, store: Store, root: str, files: Iterable[FileInfo]) -> None:
        self.store = store
        self.root = root
        self.files = {file.uri.removeprefix(f"{root}/"): file for file in files}
        self.artifacts = self._read_artifacts()
        self.unknown: list[str] = []
        run = RunFolder(store, root).manifest_file.read() if "manifest.json" in self.files else None
        named = set((run or {}).get("artifacts", ()))
        self.of_run = named if run is not None and named <= self.artifacts.keys() else None
        self._named = {f"{folder}/{MANIFEST}" for folder in self.artifacts}
        self._named |= {path for folder, found in self.artifacts.items() for path in _files(folder, found)}
        self._outputs = {folder for folder, found in self.artifacts.items() if found.kind == folder}
        self._discarded: dict[str, str] = {}  # folder of an artifact -> why it is not needed

    def leftover_files(self) -> list[tuple[FileInfo, str]]:
        """(file, why) of those that are not needed."""
        why = self._leftover_records()
        if self.of_run is not None:
            stale = [folder for folder in self.artifacts if folder.startswith(_WORK) and folder not in self.of_run]
            self._discarded = dict.fromkeys(stale, NOT_OF_RUN) | self._discarded
        digests = {found.digest[:32] for found in self.artifacts.values()}
        for path, file in self.files.items():
            folder, _, name = path.rpartition("/")
            if (digest := self._made_of(path)) is not None:
                if digest not in digests:
                    why[path] = NO_ROWS
            elif folder in self._discarded and (name == MANIFEST or _UNIT_FILE.fullmatch(name)):
                why[path] = self._discarded[folder]
            elif path in self._named or path in why:
                continue
            elif _TEST_FILE_NAME.fullmatch(path):
                why[path] = TEST_FILE
            elif self._is_unit_file(path):
                why[path] = UNNAMED
            elif not self._is_of_run(path):
                self.unknown.append(file.uri)
        return [(self.files[path], reason) for path, reason in why.items()]

    def leftover_uploads(self, uploads: Iterable[Upload]) -> list[tuple[Upload, str]]:
        """(upload, why). Multipart uploads of objects whose names are unknown belong to other programs."""
        found = []
        for upload in uploads:
            path = upload.uri.removeprefix(f"{self.root}/")
            if not upload.id or self._is_unit_file(path) or self._is_of_run(path):
                found.append((upload, UPLOAD))
            else:
                self.unknown.append(upload.uri)
        return found

    def _is_unit_file(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        is_output = folder in self._outputs or folder.startswith(_WORK)
        return is_output and _UNIT_FILE.fullmatch(name) is not None

    @staticmethod
    def _made_of(path: str) -> str | None:
        """The first 32 digits of the digest of the artifact that a file is made of; None of other files."""
        found = _MADE_OF.fullmatch(path)
        return found[2] if found and any(found[1] in kind.made_of for kind in kinds()) else None

    def _is_of_run(self, path: str) -> bool:
        *folders, name = path.split("/")
        files = _FILES_OF_RUNS.union(*(kind.files for kind in kinds()))
        of_runs = {LEASES}.union(*(kind.folders for kind in kinds()))
        return name in files or not of_runs.isdisjoint(folders)

    def _leftover_records(self) -> dict[str, str]:
        """Path -> why, for the records that are not needed. The files of the others are named from here on."""
        folders: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            if path.startswith(f"{COMMITS}/") and path.count("/") == 2 and path.endswith(".json"):
                folders[path.split("/")[1]].append(path)
        why: dict[str, str] = {}
        finished: set[str] = set()  # names of stages
        # A stage `A.B` prepares stage A, so A comes first.
        for name, found in sorted(folders.items(), key=lambda item: "." in item[0]):
            of_fingerprint = _OF_FINGERPRINT.fullmatch(name)
            if of_fingerprint is None:
                why |= self._unneeded(self._read_records(found))
                continue
            stage, fingerprint = of_fingerprint.groups()
            outputs = {output for record in self._read_records(found[:1]).values() for output in record.files}
            self._outputs |= outputs
            state = self._state(outputs, fingerprint)
            if state == FINISHED:
                finished.add(stage)
            prepared_for, dot, _ = stage.partition(".")
            if dot and prepared_for in finished:
                state = PREPARED
                self._discarded |= {output: PREPARED for output in outputs if output.startswith(_WORK)}
            why |= dict.fromkeys(found, state) if state else self._unneeded(self._read_records(found))
        return why

    def _state(self, outputs: set[str], fingerprint: str) -> str | None:
        """Why the records of a stage with these outputs are not needed; None if it is unfinished."""
        if not outputs:
            return None  # the record could not be read
        there = {output: self.artifacts[output].fingerprint[:16] for output in outputs & self.artifacts.keys()}
        if any(found != fingerprint for found in there.values()):
            return OTHER_SETTINGS
        if there.keys() == outputs and all(map(self._is_whole, outputs)):
            return FINISHED
        if self.of_run is not None and self.of_run.isdisjoint(outputs):
            return OTHER_SETTINGS
        return None

    def _unneeded(self, records: dict[str, CommitRecord]) -> dict[str, str]:
        """Path -> why, for the records of single units that are not needed. The files of the others are named."""
        why = {}
        for path, record in records.items():
            self._outputs |= record.files.keys()
            files = {f"{name}/{file.path}": file.bytes for name, listed in record.files.items() for file in listed}
            if not all(one in self.files and self.files[one].size == size for one, size in files.items()):
                why[path] = INCOMPLETE
            elif all(name in self.artifacts and self._is_whole(name) for name in record.files):
                if not files.keys() <= self._named:
                    why[path] = OTHER_SETTINGS
                else:
                    self._named.add(path)
            else:
                self._named |= {path, *files}
        return why

    def _is_whole(self, folder: str) -> bool:
        """Whether the files of a finished artifact are there with their sizes."""
        sizes = _files(folder, self.artifacts[folder])
        return all(path in self.files and self.files[path].size == size for path, size in sizes.items())

    def _read_records(self, found: Sequence[str]) -> dict[str, CommitRecord]:
        """Records by path, without those that are gone or cannot be read; the latter stay, as unknown files."""

        def read(path: str) -> CommitRecord | None:
            try:
                return record_file(self.store, paths.join(self.root, path)).read()
            except DataError:
                return None

        with ThreadPoolExecutor(RECORD_THREADS) as pool:
            return {path: record for path, record in zip(found, pool.map(read, found), strict=True) if record}

    def _read_artifacts(self) -> dict[str, Manifest]:
        folders = [path.removesuffix(f"/{MANIFEST}") for path in self.files if path.endswith(f"/{MANIFEST}")]
        uris = [paths.join(self.root, folder) for folder in folders]
        with ThreadPoolExecutor(RECORD_THREADS) as pool:
            manifests = pool.map(lambda uri: manifest_file(self.store, uri).read(), uris)
            return {folder: found for folder, found in zip(folders, manifests, strict=True) if found is not None}


def _files(folder: str, manifest: Manifest) -> dict[str, int]:
    """Path below the output -> bytes, of the files of an artifact."""
    return {f"{folder}/{file.path}": file.bytes for file in manifest.files}


def _leased(store: Store, root: str) -> list[str]:
    """The outputs with a lease: `root`, and those below it.

    Raises:
        DataError: `root` has none.
    """
    files = store.list_files(root, skip_bad_names=True)
    found = {output for file in files if (output := _in_folder(root, file.uri, LEASES))}
    if root not in found:
        raise DataError(
            f"{root}: no run of `raymill curate`, `pack` or `train` here ({LEASES}/ is missing). Give the `output` of "
            "a config, or the `packed` of a train config that has one."
        )
    return sorted(found)


def _in_folder(root: str, uri: str, name: str) -> str | None:
    """The output in whose folder `name` a file lies; None if it is in no such folder."""
    before, found, _ = uri.removeprefix(root).partition(f"/{name}/")
    return f"{root}{before}" if found else None


def _innermost(uri: str, outputs: set[str]) -> str:
    """The output that a file is in."""
    while uri not in outputs:
        uri = uri.rpartition("/")[0]
    return uri


def _text(found: Garbage, root: str, older_than: str, delete: bool) -> str:
    """The table of what is old, and a line for each kind of file that stays."""
    lines = [root]
    if found.old:
        rows = []
        ordered = sorted(found.old, key=lambda one: (one.folder, one.why))
        for (folder, why), group in groupby(ordered, key=lambda one: (one.folder, one.why)):
            sizes = [one.item.size for one in group]
            rows.append((one_line(f"{folder}/") if folder else ".", why, f"{len(sizes):,}", byte_size(sum(sizes))))
        rows.append(("total", "", f"{len(found.old):,}", byte_size(sum(one.item.size for one in found.old))))
        rows.insert(0, ("what", "why", "files", "bytes"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines += [
            f"{what:<{widths[0]}}  {why:<{widths[1]}}  {files:>{widths[2]}}  {size:>{widths[3]}}"
            for what, why, files, size in rows
        ]
        if any(isinstance(one.item, Upload) and one.item.id for one in found.old):
            lines.append("The bytes of interrupted multipart uploads are not counted.")
        lines += ["removed"] if delete else []
    else:
        lines.append(f"Nothing older than {older_than} to remove.")
    for uri, facts in found.stores.items():
        name, what = uri.removeprefix(f"{root}/"), "joined" if delete else "can be joined by --delete"
        lines.append(
            f"{one_line(name)}/: {plural(facts.small, 'small file')} of {facts.text} {what}; no answer is removed."
        )
    if found.young:
        size = byte_size(sum(one.item.size for one in found.young))
        lines.append(f"Younger than {older_than}, left: {plural(len(found.young), 'file')}, {size}.")
    if found.unknown:
        names = [one_line(uri.removeprefix(f"{root}/")) for uri in found.unknown[:_NAMES_SHOWN]]
        more = ", ..." if len(found.unknown) > _NAMES_SHOWN else ""
        lines.append(f"Not ours, left: {plural(len(found.unknown), 'file')} ({', '.join(names)}{more}).")
    return "\n".join(lines)
