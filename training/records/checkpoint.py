"""The format of a checkpoint on the store, and reading it, also with another engine or number of workers.

    checkpoints/step-00000050-ATTEMPT/
        rank-00003-00000.safetensors    flat float32 pieces of that rank's part of the training state
        rank-00003.json                 the list of its files and pieces; written after them
        manifest.json                   the lists of all ranks; created last (put-if-absent). A folder without it is an
                                        unfinished checkpoint and is deleted at the next start.

A piece has at most 32 MiB and its own sha256. To read a part of a parameter, only the pieces that overlap it are read
and verified. The files are ordinary safetensors files with keys `NAME|STATE|START`.
"""

import hashlib
import json
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from math import prod
from typing import Any, Self

import numpy as np

from raymill.cluster.errors import DataError
from raymill.cluster.record import RecordFile, record_json
from raymill.cluster.store import paths
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

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The file that `to_plain` described."""
        return cls(FileName(plain["path"]), plain["bytes"], tuple(StateRange(*piece) for piece in plain["pieces"]))

    def to_plain(self) -> dict[str, Any]:
        """The file as JSON values for the manifest."""
        return {"path": self.path, "bytes": self.bytes, "pieces": [list(astuple(piece)) for piece in self.pieces]}


@dataclass(frozen=True)
class CheckpointManifest:
    """The content of manifest.json.

    fingerprint_parts: see TrainingFolder. shapes: of every trained parameter, by name. world, made, versions: number of
    workers, time and package versions when it was written; for information only.
    """

    fingerprint_parts: dict[str, str]
    progress: TrainingProgress
    shapes: dict[str, tuple[int, ...]]
    files: tuple[StateFile, ...]
    world: int
    made: str
    versions: dict[str, str]

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
        )
        identity = manifest.fingerprint_parts
        if not isinstance(identity, dict) or not all(isinstance(one, str) for one in identity.values()):
            raise ValueError("its identity is no object of texts")
        if any(type(file.bytes) is not int for file in manifest.files):
            raise ValueError("the size of a file is no number of bytes")
        sizes = [size for shape in manifest.shapes.values() for size in shape]
        if any(type(size) is not int or not 0 <= size < 1 << 53 for size in sizes):
            raise ValueError("a shape has numbers that are no sizes")
        pieces = [piece for file in manifest.files for piece in file.pieces]
        if not all(isinstance(text, str) for piece in pieces for text in (piece.name, piece.state, piece.sha256)):
            raise ValueError("a piece has no name, state or sha256")
        numbers = [number for piece in pieces for number in (piece.start, piece.count, piece.offset)]
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError("a piece has numbers that are no counts of values")
        if any(sum(one.count for one in file.pieces) * VALUE_BYTES > file.bytes for file in manifest.files):
            raise ValueError("a file has fewer bytes than its pieces")
        if any(piece.count > PIECE_VALUES for piece in pieces) or not has_every_value(manifest.shapes, manifest.files):
            raise ValueError("values are missing, are there twice, or are more than a piece holds")
        return manifest


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
        self._pieces: dict[tuple[str, str], list[tuple[StateFile, StateRange]]] = defaultdict(list)
        for file in manifest.files:
            for piece in file.pieces:
                self._pieces[piece.name, piece.state].append((file, piece))
        for pieces in self._pieces.values():
            pieces.sort(key=lambda found: found[1].start)

    @classmethod
    def load(cls, store: Store, uri: str) -> Self:
        """Open the checkpoint of a folder: read its manifest and compare the sizes of its files by one listing.

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
        present = {file.uri: file.size for file in store.list_files(uri)}
        for file in manifest.files:
            at = paths.join(uri, file.path)
            if present.get(at) != file.bytes:
                seen = f"has {present[at]:,} bytes" if at in present else "is missing"
                raise DataError(f"{at}: {seen}; {file.bytes:,} bytes were written. {_ADVICE}")
        return cls(store, uri, manifest)

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
        for file in self.manifest.files:
            for piece in file.pieces:
                if piece.state == "param":
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
        pieces = self._pieces.get((name, state), [])
        first = max(0, bisect_right(pieces, start, key=lambda found: found[1].start) - 1)
        end = bisect_left(pieces, stop, key=lambda found: found[1].start)
        return [found for found in pieces[first:end] if found[1].start + found[1].count > start]

    def _read(self, file: StateFile, piece: StateRange) -> bytes:
        uri = paths.join(self.uri, file.path)
        size = piece.count * VALUE_BYTES
        if file.bytes <= _WHOLE_BYTES:
            if file.path not in self._whole_files:
                self._whole_files[file.path] = self.store.read_bytes(uri)
            data = self._whole_files[file.path][piece.offset : piece.offset + size]
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
    """URI of the newest finished checkpoint of a step."""
    name = folder_name(step, "")
    return next(uri for uri in reversed(checkpoint_folders(run)) if uri.rpartition("/")[2].startswith(name))


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
    held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for file in files:
        for piece in file.pieces:
            held[piece.name, piece.state].append((piece.start, piece.start + piece.count))
    for (name, _), ranges in held.items():
        ranges.sort()
        ends = [0, *(end for _, end in ranges)]
        if [start for start, _ in ranges] != ends[:-1] or ends[-1] != prod(shapes[name]):
            return False
    return {name for name, _ in held} == shapes.keys()


def kept(steps: Sequence[int], keep: int, best: int | None) -> set[int]:
    """The steps whose checkpoints are kept: the newest `keep`, and the best."""
    return set(sorted(steps)[-keep:]) | ({best} & set(steps) if best is not None else set())
