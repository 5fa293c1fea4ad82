"""The format of a checkpoint on the store, and reading it, also with another engine or number of workers.

    checkpoints/step-00000050-ATTEMPT/
        rank-00003-00000.safetensors    flat float32 pieces of that rank's part of the training state
        rank-00003.json                 the list of its files and pieces; written after them
        rank-00003.index.json           which values the rank has, without pieces, and the sha256 of its list
        manifest.json                   created last (put-if-absent). A folder without it is an unfinished checkpoint
                                        and is deleted at the next start.

A piece has at most 32 MiB and its own sha256. To read a part of a parameter, only the pieces that overlap it are read
and verified. The files are ordinary safetensors files with keys `NAME|STATE|START`.

The manifest of a checkpoint of up to 10,000 pieces has the lists of all ranks, so that small ones are read by one
request. Of a larger one it has the ranges of values of each rank, and the lists that overlap what is read are fetched
and compared with their sha256. Parameters that are divided alike share their ranges, so this manifest grows with the
number of files and parameters, not with parameters times ranks.
"""

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, field
from itertools import pairwise
from math import prod
from threading import Lock
from typing import Any, Self

import numpy as np

from raymill.cluster.errors import DataError
from raymill.cluster.record import RecordFile, record_json
from raymill.cluster.store import paths
from raymill.cluster.store.interface import NotFound
from raymill.cluster.store.paths import FileName
from raymill.cluster.store.store import Store
from raymill.training.records.job import TrainingFolder
from raymill.training.records.schema import TrainingProgress

MANIFEST = "manifest.json"
PIECE_VALUES = 8 << 20
VALUE_BYTES = 4

_ADVICE = "Use another checkpoint."

# Files up to this size are read whole and once: one request for the hundreds of small tensors of an adapter.
_WHOLE_BYTES = 64 << 20
_READERS = 8

# More than the header of a safetensors file has for each tensor, besides its name, and for itself.
_HEADER_BYTES = 1 << 10
_LARGEST_LIST = 256 << 20  # bytes, as of a manifest

# Pieces of a checkpoint whose manifest has all lists: about 2 MB.
LISTED_PIECES = 10_000


@dataclass(frozen=True)
class StateRange:
    """Consecutive values of one state (`param`, `exp_avg` or `exp_avg_sq`) of the parameter `name`.

    start, count: first value in the flattened parameter, and number of values. offset: byte of the file at which they
    start. sha256: of their bytes.
    """

    name: str
    state: str
    start: int
    count: int
    offset: int
    sha256: str


@dataclass(frozen=True)
class StateFile:
    """One safetensors file. path: relative to the checkpoint's folder. bytes: its size."""

    path: FileName
    bytes: int
    pieces: tuple[StateRange, ...]

    def check(self) -> None:
        """Verify types and sizes of what somebody may have changed.

        Raises:
            ValueError: they cannot be of a file that `pack_file` wrote.
        """
        if type(self.bytes) is not int:
            raise ValueError("the size of a file is no number of bytes")
        for piece in self.pieces:
            if not all(isinstance(text, str) for text in (piece.name, piece.state, piece.sha256)):
                raise ValueError("a piece has no name, state or sha256")
            if any(type(number) is not int or number < 0 for number in (piece.start, piece.count, piece.offset)):
                raise ValueError("a piece has numbers that are no counts of values")
            if piece.count > PIECE_VALUES:
                raise ValueError("a piece has more values than are written at once: more than a piece holds")
        beside = self.bytes - sum(one.count for one in self.pieces) * VALUE_BYTES
        if beside < 0:
            raise ValueError("a file has fewer bytes than its pieces")
        # Small files are read whole, and a sparse one has any number of bytes that are of no piece.
        if beside > _HEADER_BYTES + sum(_HEADER_BYTES + len(one.name.encode()) for one in self.pieces):
            raise ValueError("a file has far more bytes than its pieces")

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The file that `to_plain` described."""
        return cls(FileName(plain["path"]), plain["bytes"], tuple(StateRange(*piece) for piece in plain["pieces"]))

    def to_plain(self) -> dict[str, Any]:
        """The file as JSON values for the manifest."""
        return {"path": self.path, "bytes": self.bytes, "pieces": [list(astuple(piece)) for piece in self.pieces]}


@dataclass(frozen=True)
class StatePart:
    """What one rank wrote. path, bytes, sha256: of the list of its files. files: (path, size) of each file."""

    path: FileName
    bytes: int
    sha256: str
    files: tuple[tuple[FileName, int], ...]

    @classmethod
    def from_plain(cls, plain: list[Any]) -> Self:
        """The part in the JSON values of its fields (`dataclasses.astuple`)."""
        path, size, sha256, files = plain
        part = cls(FileName(path), size, sha256, tuple((FileName(name), count) for name, count in files))
        if not isinstance(sha256, str) or any(type(one) is not int for one in (size, *(n for _, n in part.files))):
            raise ValueError("a part has no sha256 or sizes that are no numbers of bytes")
        return part


@dataclass(frozen=True)
class Layout:
    """Where the values of one state of a parameter are: the range from starts[i] to the next start is in parts[i]."""

    starts: tuple[int, ...]
    parts: tuple[int, ...]

    def overlapping(self, start: int, stop: int) -> tuple[int, ...]:
        """The numbers of the parts that have values of [start, stop)."""
        first = max(0, bisect_right(self.starts, start) - 1)
        return self.parts[first : bisect_left(self.starts, stop)]


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of manifest.json.

    fingerprint_parts: see TrainingFolder. shapes: of every trained parameter, by name. files: all files, or none if
    there are parts. parts: of the ranks; layouts: of each (parameter, state). world, made, versions: number of workers,
    time and package versions when it was written; for information only.
    """

    fingerprint_parts: dict[str, str]
    progress: TrainingProgress
    shapes: dict[str, tuple[int, ...]]
    files: tuple[StateFile, ...]
    world: int
    made: str
    versions: dict[str, str]
    parts: tuple[StatePart, ...] = ()
    layouts: dict[tuple[str, str], Layout] = field(default_factory=dict)

    @property
    def file_sizes(self) -> Iterator[tuple[FileName, int]]:
        """(path, size) of each file."""
        for file in self.files:
            yield file.path, file.bytes
        for part in self.parts:
            yield part.path, part.bytes
            yield from part.files

    @property
    def exported_state(self) -> str:
        """The state with the weights to export: their average (`ema`), if the training kept one, else `param`."""
        try:
            settings = json.loads(self.fingerprint_parts.get("settings.optimizer", "{}"))
        except (ValueError, RecursionError):
            return "param"
        return "ema" if isinstance(settings, dict) and settings.get("ema_decay") else "param"

    def to_json(self) -> bytes:
        plain = {
            "identity": self.fingerprint_parts,
            "course": asdict(self.progress),
            "world": self.world,
            "made": self.made,
            "versions": self.versions,
            "shapes": self.shapes,
            "files": [file.to_plain() for file in self.files],
        }
        if self.parts:
            numbers: dict[Layout, int] = {}
            states: dict[str, dict[str, int]] = defaultdict(dict)
            for (name, state), layout in self.layouts.items():
                states[name][state] = numbers.setdefault(layout, len(numbers))
            plain |= {"parts": [astuple(part) for part in self.parts], "states": states}
            plain["layouts"] = [astuple(layout) for layout in numbers]
        return json.dumps(plain, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """The manifest in the content of manifest.json.

        Raises:
            ValueError, TypeError, KeyError: the content is not a manifest.
        """
        plain = record_json(data)
        manifest = cls(
            fingerprint_parts=plain["identity"],
            progress=TrainingProgress.from_plain(plain["course"]),
            shapes={name: tuple(shape) for name, shape in plain["shapes"].items()},
            files=tuple(StateFile.from_plain(file) for file in plain["files"]),
            world=plain["world"],
            made=plain["made"],
            versions=plain["versions"],
            parts=tuple(StatePart.from_plain(part) for part in plain.get("parts", ())),
            layouts=_layouts(plain) if "parts" in plain else {},
        )
        identity = manifest.fingerprint_parts
        if not isinstance(identity, dict) or not all(isinstance(one, str) for one in identity.values()):
            raise ValueError("its identity is no object of texts")
        for file in manifest.files:
            file.check()
        sizes = [size for shape in manifest.shapes.values() for size in shape]
        if any(type(size) is not int or not 0 <= size < 1 << 53 for size in sizes):
            raise ValueError("a shape has numbers that are no sizes")
        if manifest.parts:
            _check_layouts(manifest)
        elif not has_every_value(manifest.shapes, manifest.files):
            raise ValueError("values are missing or are there twice")
        return manifest


def _layouts(plain: dict[str, Any]) -> dict[tuple[str, str], Layout]:
    every = [Layout(*map(tuple, layout)) for layout in plain["layouts"]]
    of_states = {(name, state): number for name, states in plain["states"].items() for state, number in states.items()}
    if any(type(number) is not int or not 0 <= number < len(every) for number in of_states.values()):
        raise ValueError("a state has no number of a layout")
    return {key: every[number] for key, number in of_states.items()}


def _check_layouts(manifest: CheckpointManifest) -> None:
    if manifest.files:
        raise ValueError("it has both parts and files")
    if {name for name, _ in manifest.layouts} != manifest.shapes.keys():
        raise ValueError("its layouts are of other parameters than its shapes")
    # By identity: many parameters share a long one, and its hash is computed each time.
    for layout in {id(one): one for one in manifest.layouts.values()}.values():
        if len(layout.starts) != len(layout.parts) or layout.starts[:1] != (0,):
            raise ValueError("a layout has other starts than parts, or does not begin at 0")
        if any(type(number) is not int or number < 0 for number in (*layout.starts, *layout.parts)):
            raise ValueError("a layout has numbers that are no counts")
        if list(layout.starts) != sorted(set(layout.starts)) or max(layout.parts) >= len(manifest.parts):
            raise ValueError("a layout has starts that do not ascend, or parts that there are not")
    if any(layout.starts[-1] >= prod(manifest.shapes[name]) for (name, _), layout in manifest.layouts.items()):
        raise ValueError("a layout has values beyond its parameter")


def parse_part(data: bytes) -> tuple[StateFile, ...]:
    """The files of one rank, from the content of its list.

    Raises:
        ValueError, TypeError, KeyError: the content is not a list.
    """
    files = tuple(StateFile.from_plain(file) for file in record_json(data)["files"])
    for file in files:
        file.check()
    return files


def folder_name(step: int, attempt: str) -> str:
    """The name of a checkpoint's folder, with the step and the id of the start that writes it."""
    return f"step-{step:08d}-{attempt}"


# Steps are below 2**53.
_FOLDER_NAME = re.compile(r"step-[0-9]{8,16}-[0-9A-Za-z-]{1,64}")


class Checkpoint:
    """A finished checkpoint, opened by its URI. Values are read on request."""

    def __init__(self, store: Store, uri: str, manifest: CheckpointManifest) -> None:
        self.store = store
        self.uri = uri
        self.manifest = manifest
        self._whole_files: dict[str, bytes] = {}
        self._lock = Lock()  # of what is read once
        self._locks: dict[str, Lock] = defaultdict(Lock)
        self._lists: dict[int, _Pieces] = {}  # by part; of a manifest without parts, all have the number -1
        if not manifest.parts:
            self._lists[-1] = _by_state(manifest.files)

    @classmethod
    def load(cls, store: Store, uri: str, *, compare_sizes: bool = True) -> Self:
        """Open the checkpoint of a folder: read its manifest and compare the sizes of its files by one listing.

        Args:
            compare_sizes: False if another worker has compared them.

        Raises:
            DataError: there is no manifest, it cannot be parsed, or a file is missing or has another size.
        """
        uri = paths.absolute(uri)
        at, parse = paths.join(uri, MANIFEST), CheckpointManifest.from_json
        manifest = RecordFile(store, at, "a checkpoint's manifest", parse, _ADVICE).read()
        if manifest is None:
            raise DataError(
                f"{uri}: no finished checkpoint here ({MANIFEST} is missing). Use another one from the folder above."
            )
        if not compare_sizes:
            return cls(store, uri, manifest)
        present = {file.uri: file.size for file in store.list_files(uri)}
        for path, size in manifest.file_sizes:
            at = paths.join(uri, path)
            if present.get(at) != size:
                seen = f"has {present[at]:,} bytes" if at in present else "is missing"
                raise DataError(f"{at}: {seen}; {size:,} bytes were written. {_ADVICE}")
        return cls(store, uri, manifest)

    @property
    def files(self) -> Iterator[StateFile]:
        """All files with their pieces; the lists of parts are read."""
        yield from self.manifest.files
        for number in range(len(self.manifest.parts)):
            yield from self._files_of(number)

    @property
    def step(self) -> int:
        """Number of steps done when it was written."""
        return self.manifest.progress.step

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each trained parameter."""
        return self.manifest.shapes

    def check_weights(self) -> None:
        """Read the weights (not the optimizer's state) and compare each piece with its sha256.

        Raises:
            DataError: a piece has another sha256.
        """
        for file in self.files:
            for piece in file.pieces:
                if piece.state in ("param", self.manifest.exported_state):
                    self._read(file, piece)
            self._whole_files.clear()

    def fetch(self, name: str, state: str, start: int, stop: int) -> np.ndarray:
        """Values [start, stop) of one state of a parameter in its flattened order: float32[stop - start].

        Raises:
            DataError: they are not in the checkpoint, or a piece has another sha256 than was written.
        """
        values = np.empty(stop - start, np.float32)
        pieces = self._overlapping(name, state, start, stop)
        if len(pieces) > 1:
            with ThreadPoolExecutor(min(_READERS, len(pieces))) as pool:
                read = list(pool.map(lambda found: self._read(*found), pieces))
        else:
            read = [self._read(*found) for found in pieces]
        at = start
        for (_, piece), data in zip(pieces, read, strict=True):
            if piece.start > at:
                break
            upto = min(piece.start + piece.count, stop)
            found = np.frombuffer(data, np.float32)
            values[at - start : upto - start] = found[at - piece.start : upto - piece.start]
            at = upto
        if at < stop:
            raise DataError(f"{self.uri}: {state} of {name} has no values {at} to {stop} in it. {_ADVICE}")
        return values

    def _overlapping(self, name: str, state: str, start: int, stop: int) -> list[tuple[StateFile, StateRange]]:
        """The pieces with values of [start, stop), in order, and their files."""
        numbers: Iterable[int] = (-1,)
        if self.manifest.parts:
            layout = self.manifest.layouts.get((name, state))
            numbers = layout.overlapping(start, stop) if layout and start < stop else ()
        found: list[tuple[StateFile, StateRange]] = []
        for number in dict.fromkeys(numbers):
            pieces = self._pieces_of(number).get((name, state), [])
            first = max(0, bisect_right(pieces, start, key=lambda one: one[1].start) - 1)
            end = bisect_left(pieces, stop, key=lambda one: one[1].start)
            found += [one for one in pieces[first:end] if one[1].start + one[1].count > start]
        found.sort(key=lambda one: one[1].start)
        for (_, piece), (_, after) in pairwise(found):  # all of them are read
            if after.start < piece.start + piece.count:
                raise DataError(f"{self.uri}: {state} of {name} has value {after.start} twice. {_ADVICE}")
        return found

    def _pieces_of(self, part: int) -> "_Pieces":
        with self._lock:
            lock = self._locks[f"part {part}"]
        with lock:
            if part not in self._lists:
                self._lists[part] = _by_state(self._files_of(part))
            return self._lists[part]

    def _files_of(self, number: int) -> tuple[StateFile, ...]:
        """The files of a part, from its list.

        Raises:
            DataError: the list has another sha256 than the manifest says, or is no list.
        """
        part = self.manifest.parts[number]
        uri = paths.join(self.uri, part.path)
        try:
            data = self.store.read_bytes(uri, _LARGEST_LIST)
        except NotFound as error:
            raise DataError(f"{uri}: is missing. {_ADVICE}") from error
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise DataError(f"{uri}: has another sha256 than was written. {_ADVICE}")
        try:
            files = parse_part(data)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{uri}: Raymill did not write it ({error}). {_ADVICE}") from error
        if [(file.path, file.bytes) for file in files] != list(part.files):
            raise DataError(f"{uri}: has other files than the manifest. {_ADVICE}")
        return files

    def _whole(self, uri: str, path: str) -> bytes:
        with self._lock:
            lock = self._locks[path]
        with lock:
            if path not in self._whole_files:
                self._whole_files[path] = self.store.read_bytes(uri)
            return self._whole_files[path]

    def _read(self, file: StateFile, piece: StateRange) -> bytes:
        uri = paths.join(self.uri, file.path)
        size = piece.count * VALUE_BYTES
        if file.bytes <= _WHOLE_BYTES:
            data = self._whole(uri, file.path)[piece.offset : piece.offset + size]
        else:
            with self.store.open_input(uri) as opened:
                opened.seek(piece.offset)
                data = opened.read(size)
        if len(data) != size or hashlib.sha256(data).hexdigest() != piece.sha256:
            raise DataError(
                f"{uri}: {piece.state} of {piece.name} from value {piece.start} on has another sha256 than was "
                f"written. {_ADVICE}"
            )
        return data


_Pieces = dict[tuple[str, str], list[tuple[StateFile, StateRange]]]


def _by_state(files: Iterable[StateFile]) -> _Pieces:
    """The pieces of each (parameter, state) in the order of their values."""
    found: _Pieces = defaultdict(list)
    for file in files:
        for piece in file.pieces:
            found[piece.name, piece.state].append((file, piece))
    for pieces in found.values():
        pieces.sort(key=lambda one: one[1].start)
    return found


def checkpoint_folders(run: TrainingFolder) -> list[str]:
    """URIs of the finished checkpoints of a run, sorted by step. Costs one listing. Folders of other names are none."""
    ends = f"/{MANIFEST}"
    found = [file.uri.removesuffix(ends) for file in run.store.list_files(run.checkpoints) if file.uri.endswith(ends)]
    return sorted((uri for uri in found if is_folder_name(uri)), key=lambda uri: uri.rpartition("/")[2])


def discard(store: Store, uri: str, files: Iterable[str]) -> None:
    """Delete a checkpoint. Its manifest is deleted first, so that a partly deleted checkpoint is unfinished; then its
    files, and on a local disk its empty folder.
    """
    store.delete([paths.join(uri, MANIFEST)])
    store.delete(files)
    store.delete_empty_folder(uri)


def is_folder_name(uri: str) -> bool:
    """Whether a folder has a name of `folder_name`."""
    return _FOLDER_NAME.fullmatch(uri.rpartition("/")[2]) is not None


def step_of(uri: str) -> int:
    """The step of a checkpoint, from the name of its folder."""
    return int(uri.rpartition("/")[2].split("-")[1])


def at_step(run: TrainingFolder, step: int) -> str:
    """URI of the newest finished checkpoint of a step.

    Raises:
        DataError: there is none.
    """
    name = folder_name(step, "")
    for uri in reversed(checkpoint_folders(run)):
        if uri.rpartition("/")[2].startswith(name):
            return uri
    raise DataError(
        f"{run.checkpoints}: the checkpoint of step {step} is gone, which had the lowest validation loss. Bring it "
        "back, or add --replace to start again."
    )


def newest(run: TrainingFolder, damaged: dict[str, str]) -> Checkpoint | None:
    """The newest checkpoint that this training can continue from; None if there is none.

    Args:
        damaged: URI -> problem of the checkpoints that are known to be damaged, which are skipped. Checkpoints that are
            found to be damaged here are added to it.

    Raises:
        DataError: the checkpoint has another model, other data or other settings.
    """
    for uri in reversed(checkpoint_folders(run)):
        if uri in damaged:
            continue
        try:
            checkpoint = Checkpoint.load(run.store, uri)
        except DataError as error:
            damaged[uri] = problem(error)
            continue
        if changed := run.differences(checkpoint.manifest.fingerprint_parts):
            raise DataError(
                f"{checkpoint.uri}: cannot be continued with other settings, model or data: {'; '.join(changed)}. Set "
                "them back, choose another output, or add --replace to start again."
            )
        return checkpoint
    return None


def of_step(run: TrainingFolder, step: int | None) -> str:
    """URI of the newest finished checkpoint, or of the newest one of a step.

    Raises:
        DataError: there is none.
    """
    there = {step_of(uri): uri for uri in checkpoint_folders(run)}
    if not there:
        raise DataError(f"{run.checkpoints}: no checkpoint yet. Wait for the first, or run `raymill train`.")
    if step is not None and step not in there:
        steps = ", ".join(map(str, there))
        raise DataError(f"{run.checkpoints}: no checkpoint of step {step}. Steps that have one: {steps}")
    return there[max(there) if step is None else step]


def problem(damage: DataError) -> str:
    """The message of a damaged checkpoint's error without the advice to use another one."""
    return str(damage).removesuffix(f" {_ADVICE}")


def latest(run: TrainingFolder) -> Checkpoint | None:
    """The newest checkpoint that this training can continue from. Only manifests and file sizes are checked."""
    return newest(run, {})


def has_every_value(shapes: dict[str, tuple[int, ...]], files: Sequence[StateFile]) -> bool:
    """Whether the files have every value of every state exactly once, for all parameters in `shapes`."""
    held = ((piece.name, piece.state, piece.start, piece.count, 0) for file in files for piece in file.pieces)
    return layouts_of(shapes, held) is not None


def layouts_of(
    shapes: dict[str, tuple[int, ...]], ranges: Iterable[tuple[str, str, int, int, int]]
) -> dict[tuple[str, str], Layout] | None:
    """The layout of each (parameter, state); None if not every value is there exactly once.

    ranges: (parameter, state, start, count, part) of ranges without a gap.
    """
    held: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    for name, state, start, count, part in ranges:
        held[name, state].append((start, start + count, part))
    layouts = {}
    for (name, state), found in held.items():
        found.sort()
        starts, ends, parts = zip(*found, strict=True)
        if name not in shapes or [0, *ends] != [*starts, prod(shapes[name])]:
            return None
        layouts[name, state] = Layout(starts, parts)
    return layouts if {name for name, _ in held} == shapes.keys() else None


def kept(steps: Sequence[int], keep: int, best: int | None) -> set[int]:
    """The steps whose checkpoints are kept: the newest `keep`, and the best."""
    return set(sorted(steps)[-keep:]) | ({best} & set(steps) if best is not None else set())
