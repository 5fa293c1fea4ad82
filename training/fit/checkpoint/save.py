"""Making checkpoints while training goes on.

    begin   every worker copies its part of the state to memory of its own (the only time training waits) ...
    thread  ... and uploads it in the background, its list of pieces last
    heard   the step's ordinary exchange of counts tells when all have; then the first worker puts the manifest
    settle  waits for all of that: at the end, and before a copy is overwritten

Only one checkpoint is on its way at a time, so each worker holds one copy of its part, in page-locked memory on GPUs.
Whatever a manifest refers to was uploaded before it. What a killed attempt left has none, and goes at the next start.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from safetensors.numpy import save

import cluster
from cluster.errors import ClusterError
from cluster.store import paths
from training.engines.engine import Slice
from training.fit.checkpoint.format import (
    MANIFEST,
    PIECE_VALUES,
    VALUE_BYTES,
    CheckpointManifest,
    Piece,
    StateFile,
    complete,
    discard,
    folder_name,
    step_of,
)
from training.fit.job import Job
from training.fit.ranks import Place
from training.fit.training_progress import Course, kept

# One file is in memory a second time while it is uploaded; larger ones would be sent no faster.
_FILE_VALUES = 128 << 20

Key = tuple[str, str, int]  # name, state, start


class Saver:
    """One worker's part in the checkpoints of one attempt.

    before_manifest: what must be on the store before a checkpoint is believed; called by the first worker, in a thread.
    """

    def __init__(self, job: Job, place: Place, attempt: str, before_manifest: Callable[[], None]) -> None:
        self.job = job
        self.place = place
        self.attempt = attempt
        self.step = -1
        self._before_manifest = before_manifest
        self._copies: dict[Key, torch.Tensor] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._upload: Future[None] | None = None
        self._commit: Future[None] | None = None
        self._course: Course | None = None  # of the checkpoint that is on its way
        if place.first:
            sweep(job)

    def uri(self, step: int) -> str:
        return paths.join(self.job.checkpoints, folder_name(step, self.attempt))

    def begin(self, course: Course, slices: Iterable[Slice]) -> float:
        """Copy the state as it is now, and upload it in the background. All workers call it at the same step.

        Returns:
            Seconds for which training stood still.
        """
        began = time.perf_counter()
        self.settle()
        self._copy(slices)
        stall = time.perf_counter() - began
        self._course, self.step = course, course.step
        self._upload = self._thread.submit(self._send, self.uri(course.step))
        return stall

    @property
    def uploading(self) -> bool:
        """Whether this worker's part of a checkpoint is still on its way.

        Raises:
            StorageError: it, or a manifest, could not be written.
        """
        if self._commit is not None and self._commit.done():
            self._commit.result()
        if self._upload is None or not self._upload.done():
            return self._upload is not None
        self._upload.result()
        return False

    def heard(self, uploading: int) -> None:
        """Every worker heard that so many still upload; when none does, the checkpoint becomes true."""
        if self._course is not None and not uploading:
            course, self._course, self._upload = self._course, None, None
            if self.place.first:
                self._commit = self._thread.submit(self._put_manifest, course)

    def settle(self) -> None:
        """Return when the checkpoint on its way, if any, is finished for all. All workers call it together."""
        if self._upload is not None:
            self._upload.result()
            self.place.exchange([0])
            self.heard(0)
        if self._commit is not None:
            self._commit.result()
            self._commit = None

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _copy(self, slices: Iterable[Slice]) -> None:
        on_gpu = self.place.device.type == "cuda"
        fresh: dict[Key, torch.Tensor] = {}
        with torch.no_grad():
            for one in slices:
                size = one.values.numel()
                key = (one.name, one.state, one.start)
                copy = self._copies.get(key)
                if copy is None or copy.numel() != size:
                    copy = torch.empty(size, dtype=torch.float32, pin_memory=on_gpu)
                copy.copy_(one.values.reshape(-1), non_blocking=True)
                fresh[key] = copy
                self._shapes[one.name] = tuple(one.shape)
        if on_gpu:
            torch.cuda.synchronize(self.place.device)
        self._copies = fresh

    def _send(self, folder: str) -> None:
        files = []
        for number, pieces in enumerate(_files(self._copies)):
            path = f"rank-{self.place.rank:05d}-{number:05d}.safetensors"
            file, data = pack_file(path, pieces)
            self.job.store.write_bytes(paths.join(folder, path), data)
            files.append(file.to_plain())
        told = {"shapes": self._shapes, "files": files}
        self.job.store.write_bytes(paths.join(folder, _part(self.place.rank)), json.dumps(told).encode())

    def _put_manifest(self, course: Course) -> None:
        folder = self.uri(course.step)
        shapes: dict[str, tuple[int, ...]] = {}
        files: list[StateFile] = []
        for rank in range(self.place.world):
            told = json.loads(self.job.store.read_bytes(paths.join(folder, _part(rank))))
            shapes |= {name: tuple(shape) for name, shape in told["shapes"].items()}
            files += [StateFile.from_plain(file) for file in told["files"]]
        if not complete(shapes, files):
            raise ClusterError(
                f"{folder}: the workers' parts do not hold every value of the training state exactly once. "
                "This is a fault of engine and loop; the checkpoints before it are good."
            )
        self._before_manifest()
        manifest = CheckpointManifest(
            identity=self.job.identity,
            course=course,
            shapes=shapes,
            files=tuple(files),
            world=self.place.world,
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
        )
        self.job.store.create(paths.join(folder, MANIFEST), manifest.to_json())
        retain(self.job, course, folder)


def pack_file(path: str, pieces: dict[Key, np.ndarray]) -> tuple[StateFile, bytes]:
    """float32 pieces as one safetensors file, and what stands where in it."""
    keys = {"|".join(map(str, key)): key for key in pieces}
    data = save({text: pieces[key] for text, key in keys.items()})
    begin = 8 + int.from_bytes(data[:8], "little")
    places = {name: place for name, place in json.loads(data[8:begin]).items() if name in keys}
    return StateFile(
        path,
        len(data),
        tuple(
            Piece(*keys[text], pieces[keys[text]].size, begin + place["data_offsets"][0], _sha256(pieces[keys[text]]))
            for text, place in places.items()
        ),
    ), data


def _files(copies: dict[Key, torch.Tensor]) -> Iterator[dict[Key, np.ndarray]]:
    """The copies cut into pieces, as many as one file takes at a time."""
    pieces: dict[Key, np.ndarray] = {}
    held = 0
    for (name, state, start), copy in copies.items():
        values = copy.numpy()
        for at in range(0, len(values), PIECE_VALUES):
            piece = values[at : at + PIECE_VALUES]
            if held + len(piece) > _FILE_VALUES:
                yield pieces
                pieces, held = {}, 0
            pieces[name, state, start + at] = piece
            held += len(piece)
    if pieces:
        yield pieces


def _sha256(values: np.ndarray) -> str:
    assert values.dtype == np.float32 and values.itemsize == VALUE_BYTES
    return hashlib.sha256(values.data).hexdigest()


def _part(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def retain(job: Job, course: Course, own: str) -> None:
    """Delete what the checkpoint just made at `own` replaces: older ones, and later ones of work that was lost."""
    folders = _folders(job)
    finished = {folder for folder, files in folders.items() if f"{folder}/{MANIFEST}" in files}
    by_step = {step_of(folder): folder for folder in sorted(finished, key=lambda folder: (folder == own, folder))}
    steps = kept([step for step in by_step if step <= course.step], job.config.checkpoint.keep, _best(course))
    stay = {by_step[step] for step in steps}
    for folder in sorted(finished - stay):
        discard(job.store, folder, folders[folder])


def sweep(job: Job) -> None:
    """Delete what attempts left that were killed before their checkpoint was finished."""
    for folder, files in _folders(job).items():
        if f"{folder}/{MANIFEST}" not in files:
            discard(job.store, folder, files)


def _folders(job: Job) -> dict[str, list[str]]:
    """The files of each checkpoint's folder."""
    folders: dict[str, list[str]] = {}
    for file in job.store.list_files(job.checkpoints):
        folders.setdefault(file.uri.rpartition("/")[0], []).append(file.uri)
    return folders


def _best(course: Course) -> int | None:
    return course.best.step if course.best else None


def _versions() -> dict[str, str]:
    found = {"raymill": cluster.__version__}
    for name in ("torch", "transformers", "peft", "ray", "deepspeed"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
