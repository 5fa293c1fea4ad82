"""A checkpoint on the store: who wrote it, with which engine and on how many workers, does not matter to who reads it.

    checkpoints/step-00000050-ATTEMPT/
        rank-00003-00000.safetensors    flat float32 pieces of the training state, as far as that rank had it
        rank-00003.json                 what stands where in them; written after them
        manifest.json                   all of that, put last and only once: without it the folder is garbage

A piece is at most 32 MiB and carries its own sha256, so that whoever wants a part of a parameter reads the pieces that
touch it, and no more, and still knows that they are whole. The files are plain safetensors: key `NAME|STATE|START`.
"""

import hashlib
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Self

from cluster.errors import DataError
from cluster.store import paths
from cluster.store.interface import NotFound
from cluster.store.store import Store
from training.fit.job import Job
from training.fit.training_progress import Course

if TYPE_CHECKING:
    import torch

MANIFEST = "manifest.json"
PIECE_VALUES = 8 << 20
VALUE_BYTES = 4

_MEND = "Use another checkpoint."

# Files up to this size are fetched whole, once: one request for an adapter's hundreds of small tensors.
_WHOLE_BYTES = 64 << 20
_READERS = 8


@dataclass(frozen=True)
class Piece:
    """`count` values of a state of a parameter, from `start` in its flattened order; `offset`: bytes into the file."""

    name: str
    state: str
    start: int
    count: int
    offset: int
    sha256: str


@dataclass(frozen=True)
class StateFile:
    """`path` below the checkpoint."""

    path: str
    bytes: int
    pieces: tuple[Piece, ...]

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        return cls(plain["path"], plain["bytes"], tuple(Piece(*piece) for piece in plain["pieces"]))

    def to_plain(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "bytes": self.bytes,
            "pieces": [list(asdict(piece).values()) for piece in self.pieces],
        }


@dataclass(frozen=True)
class CheckpointManifest:
    """`shapes`: of every trained parameter. `identity`: see Job. `made`, `world`, `versions` are only told."""

    identity: dict[str, str]
    course: Course
    shapes: dict[str, tuple[int, ...]]
    files: tuple[StateFile, ...]
    world: int
    made: str
    versions: dict[str, str]

    def to_json(self) -> bytes:
        plain = {
            "identity": self.identity,
            "course": asdict(self.course),
            "world": self.world,
            "made": self.made,
            "versions": self.versions,
            "shapes": self.shapes,
            "files": [file.to_plain() for file in self.files],
        }
        return json.dumps(plain, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        plain = json.loads(data)
        return cls(
            **plain
            | {
                "course": Course.from_plain(plain["course"]),
                "shapes": {name: tuple(shape) for name, shape in plain["shapes"].items()},
                "files": tuple(StateFile.from_plain(file) for file in plain["files"]),
            }
        )


def folder_name(step: int, attempt: str) -> str:
    return f"step-{step:08d}-{attempt}"


class Saved:
    """A finished checkpoint, opened by its URI. Reads only what is asked for."""

    def __init__(self, store: Store, uri: str, manifest: CheckpointManifest) -> None:
        self.store = store
        self.uri = uri
        self.manifest = manifest
        self._whole: dict[str, bytes] = {}
        self._places: dict[tuple[str, str], list[tuple[int, StateFile, Piece]]] = defaultdict(list)
        for file in manifest.files:
            for piece in file.pieces:
                self._places[piece.name, piece.state].append((piece.start, file, piece))
        for places in self._places.values():
            places.sort(key=lambda place: place[0])

    @classmethod
    def load(cls, store: Store, uri: str) -> Self:
        """
        Raises:
            DataError: no finished checkpoint is there, or a file is not as long as its manifest promises.
        """
        uri = paths.absolute(uri)
        try:
            saved = cls(store, uri, CheckpointManifest.from_json(store.read_bytes(paths.join(uri, MANIFEST))))
        except NotFound:
            raise DataError(
                f"{uri}: no finished checkpoint here ({MANIFEST} is missing). Use another one of the folder above."
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{uri}/{MANIFEST}: not the manifest of a checkpoint ({error}). {_MEND}") from error
        saved.check_sizes()
        return saved

    @property
    def step(self) -> int:
        return self.manifest.course.step

    @property
    def names(self) -> dict[str, tuple[int, ...]]:
        """The shape of each trained parameter."""
        return self.manifest.shapes

    def check_sizes(self) -> None:
        present = {file.uri: file.size for file in self.store.list_files(self.uri)}
        for file in self.manifest.files:
            uri = paths.join(self.uri, file.path)
            if present.get(uri) != file.bytes:
                seen = f"has {present[uri]:,} bytes" if uri in present else "is missing"
                raise DataError(f"{uri}: {seen}; {file.bytes:,} bytes were written. {_MEND}")

    def check_weights(self) -> None:
        """Read the weights, not the optimizer's state, and compare each piece with its sha256.

        Raises:
            DataError: a piece is not what was written.
        """
        for file in self.manifest.files:
            for piece in file.pieces:
                if piece.state == "param":
                    self._read(file, piece)
            self._whole.clear()

    def fetch(self, name: str, state: str, start: int, stop: int) -> "torch.Tensor":
        """Values [start, stop) of one state of a parameter in its flattened order: float32[stop - start], on the CPU.

        Raises:
            DataError: it was never saved, or what is read is not what was written.
        """
        import torch

        values = torch.empty(stop - start, dtype=torch.float32)
        pieces = list(self._touching(name, state, start, stop))
        if len(pieces) > 1:
            with ThreadPoolExecutor(min(_READERS, len(pieces))) as pool:
                read = list(pool.map(lambda place: self._read(*place), pieces))
        else:
            read = [self._read(*place) for place in pieces]
        at = start
        for (_, piece), data in zip(pieces, read, strict=True):
            if piece.start > at:
                break
            upto = min(piece.start + piece.count, stop)
            found = torch.frombuffer(bytearray(data), dtype=torch.float32)
            values[at - start : upto - start] = found[at - piece.start : upto - piece.start]
            at = upto
        if at < stop:
            raise DataError(f"{self.uri}: {state} of {name} was saved without values {at} to {stop}. {_MEND}")
        return values

    def _touching(self, name: str, state: str, start: int, stop: int) -> Iterator[tuple[StateFile, Piece]]:
        places = self._places.get((name, state), [])
        first = max(0, bisect_right(places, start, key=lambda place: place[0]) - 1)
        for begins, file, piece in places[first:]:
            if begins >= stop:
                return
            if begins + piece.count > start:
                yield file, piece

    def _read(self, file: StateFile, piece: Piece) -> bytes:
        uri = paths.join(self.uri, file.path)
        size = piece.count * VALUE_BYTES
        if file.bytes <= _WHOLE_BYTES:
            if file.path not in self._whole:
                self._whole[file.path] = self.store.read_bytes(uri)
            data = self._whole[file.path][piece.offset : piece.offset + size]
        else:
            with self.store.open_input(uri) as opened:
                opened.seek(piece.offset)
                data = opened.read(size)
        if hashlib.sha256(data).hexdigest() != piece.sha256:
            raise DataError(
                f"{uri}: {piece.state} of {piece.name} from {piece.start} is not what was written (another sha256). "
                f"{_MEND}"
            )
        return data


def saved_folders(job: Job) -> list[str]:
    """URIs of the folders of this run that have a manifest, oldest step first. Nothing is read yet."""
    ends = f"/{MANIFEST}"
    found = [file.uri.removesuffix(ends) for file in job.store.list_files(job.checkpoints) if file.uri.endswith(ends)]
    return sorted(found, key=lambda uri: uri.rpartition("/")[2])


def discard(store: Store, uri: str, files: Iterable[str]) -> None:
    """Delete a checkpoint: its files, and on a local disk its own folder if nothing is left in it."""
    store.delete([paths.join(uri, MANIFEST)])  # first: nothing half deleted may be believed
    store.delete(files)
    store.delete_empty_folder(uri)


def step_of(uri: str) -> int:
    """The step of a checkpoint, from the name of its folder."""
    return int(uri.rpartition("/")[2].split("-")[1])


def at_step(job: Job, step: int) -> str:
    """URI of the finished checkpoint made after a step."""
    name = folder_name(step, "")
    return next(uri for uri in reversed(saved_folders(job)) if uri.rpartition("/")[2].startswith(name))


def newest(job: Job, damaged: dict[str, str]) -> Saved | None:
    """The newest checkpoint that this job may go on from; None if there is none.

    Args:
        damaged: what is wrong, by the URI of each checkpoint that is known to be damaged. Those that turn out to be
            damaged here are added.

    Raises:
        DataError: one was made by a different model, data or settings.
    """
    for uri in reversed(saved_folders(job)):
        if uri in damaged:
            continue
        try:
            saved = Saved.load(job.store, uri)
        except DataError as error:
            damaged[uri] = problem(error)
            continue
        require_identity(job, saved)
        return saved
    return None


def problem(damage: DataError) -> str:
    """What is wrong with a checkpoint, without the advice to use another one."""
    return str(damage).removesuffix(f" {_MEND}")


def latest(job: Job) -> Saved | None:
    """The newest checkpoint that this job may go on from, as far as manifests and sizes show."""
    return newest(job, {})


def require_identity(job: Job, saved: Saved) -> None:
    if changed := job.differing(saved.manifest.identity):
        raise DataError(
            f"{saved.uri}: cannot be continued, for what is asked now differs: {'; '.join(changed)}. Set it back, "
            "choose another output, or add --replace to begin anew."
        )


def fill(objective: "torch.nn.Module", saved: Saved) -> None:
    """Give every trained parameter of a whole, unsharded module its saved value.

    Raises:
        DataError: the checkpoint has other parameters than the module trains.
    """
    import torch

    trained = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    _require_same(saved, {name: tuple(parameter.shape) for name, parameter in trained.items()})
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved.fetch(name, "param", 0, parameter.numel()).view(parameter.shape))


def _require_same(saved: Saved, shapes: dict[str, tuple[int, ...]]) -> None:
    unlike: Sequence[str] = sorted(
        name for name in shapes.keys() | saved.names.keys() if shapes.get(name) != saved.names.get(name)
    )
    if unlike:
        name = unlike[0]
        raise DataError(
            f"{saved.uri}: {len(unlike)} parameters are not those of this model, first {name}: "
            f"{saved.names.get(name, 'none')} saved, {shapes.get(name, 'none')} wanted. "
            "It is another model's checkpoint."
        )


def complete(shapes: dict[str, tuple[int, ...]], files: Sequence[StateFile]) -> bool:
    """Whether the files hold each value of each state exactly once, every parameter having the same states."""
    held: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for file in files:
        for piece in file.pieces:
            held[piece.name, piece.state].append((piece.start, piece.start + piece.count))
    for (name, _), runs in held.items():
        runs.sort()
        ends = [0, *(end for _, end in runs)]
        if [start for start, _ in runs] != ends[:-1] or ends[-1] != prod(shapes[name]):
            return False
    return {name for name, _ in held} == shapes.keys()
