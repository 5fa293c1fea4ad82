"""A store: every path and URI that one set of storage settings reaches, local files included.

    read_bytes, read_range, open_input, open_parts, local_copy     read
    write_bytes, upload                                write (a reader sees the old object or the new, never a part)
    create                                             write if absent (put-if-absent), on which commits are built
    info, exists, list_files, glob                     find
    delete, delete_listed, delete_empty_folder, list_uploads, abort_uploads     remove
    refuse_links_out                                   check
    clock                                              the store's clock, which dates its files

`local.py` handles local paths, `object_store.py` (obstore) s3://, gs:// and az:// URIs. The errors of both are
`StorageError` with the URI and what to do. Nothing outside of this package opens a path.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from raymill.cluster.errors import StorageError
from raymill.cluster.failpoints import failpoint
from raymill.cluster.store import paths
from raymill.cluster.store.interface import EndsTooEarly, FileInfo, NotFound, StorageOptions, StoreBackend, Upload
from raymill.cluster.store.local import LOCAL, own_folder
from raymill.cluster.store.paths import glob_regex

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """The operations on paths and URIs, with the settings that reach their buckets.

    A store can be pickled. It is made from the settings of a config and passed to all functions that read or write;
    workers receive it with their units, secret keys included. Equal stores share their connections within a process.

    Attributes:
        options: settings of object stores; local paths do not depend on them.
        setting: the config key of these options, for error messages: `storage`, or `inputs[0].storage`.
    """

    options: StorageOptions = field(default_factory=StorageOptions)
    setting: str = "storage"

    def read_bytes(self, uri: str, most: int | None = None) -> bytes:
        """The content of a file.

        Args:
            most: bytes of a file that others may have written, above which it is refused.

        Raises:
            NotFound: there is no such file.
            StorageError: it has more bytes than `most`.
        """
        backend, key = self._backend(uri)
        return backend.read(key) if most is None else backend.read(key, most)

    def read_range(self, uri: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of a file.

        Raises:
            NotFound: there is no such file.
            EndsTooEarly: it ends before `end`.
        """
        backend, key = self._backend(uri)
        found = backend.read_range(key, start, end)
        if len(found) < end - start:
            raise EndsTooEarly(
                f"{uri}: ends {end - start - len(found):,} bytes too early. It was damaged after it was written."
            )
        return found

    def open_input(self, uri: str, stop: int | None = None) -> pa.NativeFile:
        """A seekable binary file for sequential reading, which is fetched ahead. Close it, or use it in a `with`.

        stop: about the byte where reading will end; no later byte is fetched ahead.
        """
        backend, key = self._backend(uri)
        return backend.open(key, stop)

    def open_parts(self, uri: str) -> pa.NativeFile:
        """A seekable binary file for reading parts, as of Parquet; see `raymill.cluster.artifact.fetch_ahead`."""
        backend, key = self._backend(uri)
        return backend.open_parts(key)

    def write_bytes(self, uri: str, data: bytes | memoryview) -> None:
        """Write the object, or replace it; readers see the old content or the new."""
        backend, key = self._backend(uri)
        failpoint("before_write", uri)
        backend.write(key, data)
        failpoint("after_write", uri)

    def create(self, uri: str, data: bytes) -> bool:
        """Write the object unless it exists; of any number of racing callers exactly one gets True.

        No two callers may give equal data: if the store's answer is lost, a caller compares the object with its data.
        """
        backend, key = self._backend(uri)
        failpoint("before_create", uri)
        created = backend.create(key, data)
        failpoint("after_create", uri)
        return created

    def upload(self, path: Path, uri: str, *, new: bool = False) -> None:
        """Move a finished local file to the store, whole or not at all. The local file may be gone afterwards.

        new: whether the name is a new one. Buckets are then asked to replace nothing, and credentials that may do
            nothing else are enough (deploy/s3/worker.json).
        """
        backend, key = self._backend(uri)
        failpoint("before_upload", uri)
        backend.upload(path, key, new=new)
        failpoint("after_upload", uri)

    def info(self, uri: str) -> FileInfo:
        """Size, version and time of a file.

        Raises:
            NotFound: there is no such file.
        """
        backend, key = self._backend(uri)
        return backend.info(key)

    def exists(self, uri: str) -> bool:
        """Whether `uri` is a file; False for a folder."""
        try:
            self.info(uri)
        except NotFound:
            return False
        return True

    def list_files(self, folder: str, *, skip_bad_names: bool = False, inside: bool = False) -> list[FileInfo]:
        """Every file below a folder, at any depth, sorted by name. An empty list if there is no such folder.

        Args:
            skip_bad_names: leave out names that cannot be read, which `list_unreadable` then returns.
            inside: leave out what links lead to outside of the folder.
        """
        backend, key = self._backend(folder, file=False)
        found = backend.walk(key, skip_bad_names=skip_bad_names, inside=inside)
        return sorted(found, key=lambda file: file.uri)

    def holds_files(self, folder: str) -> bool:
        """Whether any file lies below a folder, at any depth."""
        backend, key = self._backend(folder, file=False)
        return next(iter(backend.walk(key)), None) is not None

    def list_unreadable(self, folder: str, *, inside: bool = False) -> list[tuple[str, str]]:
        """(path, kind) of what cannot be read below a folder: dangling links, FIFOs, bad names.

        inside: also of links that lead out of the folder.

        Of a bucket: the bad names that `list_files` left out.
        """
        backend, key = self._backend(folder, file=False)
        return sorted(backend.unreadable(key, inside=inside))

    def glob(self, pattern: str, *, skip_bad_names: bool = False, inside: bool = False) -> list[FileInfo]:
        """Files whose URI matches a pattern, see `glob_regex`. The other arguments are those of `list_files`."""
        pattern = paths.absolute(pattern)
        wild = re.search(r"[*?\[]", pattern)
        if wild is None:
            return [self.info(pattern)]
        fixed = pattern[: pattern.rindex("/", 0, wild.start())] or "/"
        regex = glob_regex(pattern)
        files = self.list_files(fixed, skip_bad_names=skip_bad_names, inside=inside)
        return [file for file in files if regex.fullmatch(file.uri)]

    def delete(self, uris: Iterable[str]) -> None:
        """Remove objects; those already gone are skipped."""
        for backend, group in self._by_backend(uris, str):
            failpoint("before_delete", group[0][0])
            backend.delete([key for _, key in group])
            failpoint("after_delete", group[0][0])

    def delete_listed(self, folder: str, uris: Iterable[str]) -> None:
        """Remove those of the files that a listing of the folder has: for URIs that come from a record."""
        if wanted := set(uris):
            self.delete(file.uri for file in self.list_files(folder) if file.uri in wanted)

    def refuse_links_out(self, folder: str, *, within: str | None = None) -> None:
        """Verify that no link below a local folder leads out of it. Object stores have no links.

        within: a folder above it, between which and the folder is no link either.

        Raises:
            StorageError: one does.
        """
        if paths.is_remote(folder):
            return
        above = within if within is None else paths.absolute(within)
        if found := LOCAL.link_out(paths.absolute(folder), above):
            raise StorageError(
                f"{found[0]}: a link to {found[1]}, outside of {folder}, where Raymill neither reads nor deletes. Copy "
                "what it leads to into the folder, or remove the link."
            )

    def list_uploads(self, folder: str) -> list[Upload]:
        """The uploads below a folder that have not ended, of killed and of running processes.

        If the store refuses the listing, that is logged and the list is empty.
        """
        if not paths.is_remote(folder) or paths.scheme(folder) == "s3":
            backend, key = self._backend(folder, file=False)
            return backend.uploads(key)
        return []  # Azure removes them after a week, Google by a lifecycle rule

    def abort_uploads(self, uploads: Iterable[Upload]) -> None:
        """Abort uploads; those that have ended are skipped."""
        for backend, group in self._by_backend(uploads, lambda upload: upload.uri):
            backend.abort_uploads([upload for upload, _ in group])

    def delete_empty_folder(self, uri: str) -> None:
        """Remove a local folder if it is empty. Object stores have no folders."""
        if not paths.is_remote(uri):
            LOCAL.delete_empty_folder(paths.absolute(uri))

    def require_conditional_writes(self, root: str) -> None:
        """Refuse a store on which put-if-absent can succeed for two writers of one object.

        Raises:
            StorageError: a second put-if-absent of the same object succeeded.
        """
        # Twice, because `raymill gc` of another driver may remove the file between the two writes.
        if not (self._refuses_second_write(root) or self._refuses_second_write(root)):
            raise StorageError(
                f"{root}: this store ignores put-if-absent (If-None-Match), so a retried worker could corrupt the run. "
                "Use a store that honours it: AWS S3, GCS, Azure, Ceph from 16, MinIO, or a local path."
            )

    def _refuses_second_write(self, root: str) -> bool:
        file = _test_file(root)
        first, second = self.create(file, b"1"), self.create(file, b"2")
        self.delete([file])
        return first and not second

    def clock(self, folder: str) -> float:
        """The store's clock, as Unix time in seconds. Writes a small file to the folder and removes it.

        S3 gives whole seconds, rounded down.
        """
        file = _test_file(folder)
        self.write_bytes(file, b"1")
        try:
            return self.info(file).modified
        finally:
            self.delete([file])

    def local_copy(self, uri: str) -> Path:
        """A local path with the object's content: the file itself, or a download, kept on this machine for its version.

        Raises:
            NotFound: there is no such file.
        """
        if not paths.is_remote(uri):
            path = Path(paths.absolute(uri))
            if not path.is_file():
                raise NotFound(str(path))
            return path
        found = self.info(uri)
        name = hashlib.sha256(f"{found.uri}\n{found.version}".encode()).hexdigest()[:32] + "-" + Path(uri).name[-100:]
        target = own_folder() / name
        if not target.exists():
            LOCAL.write(str(target), self.read_bytes(uri))
        return target

    def endpoint_of(self, uri: str) -> str:
        """The endpoint that the options set for a bucket, else "". At another endpoint its URIs are other files."""
        return (self.options.endpoint_url or "") if paths.is_remote(uri) else ""

    def _by_backend(
        self, items: Iterable[T], uri: Callable[[T], str]
    ) -> list[tuple[StoreBackend, list[tuple[T, Any]]]]:
        """(backend, items with their keys) of each backend. uri: of an item."""
        grouped: dict[int, tuple[StoreBackend, list[tuple[T, Any]]]] = {}
        for item in items:
            backend, key = self._backend(uri(item))
            grouped.setdefault(id(backend), (backend, []))[1].append((item, key))
        return list(grouped.values())

    def _backend(self, uri: str, *, file: bool = True) -> tuple[StoreBackend, Any]:
        scheme = paths.scheme(uri)
        if scheme in ("", "file"):
            return LOCAL, paths.absolute(uri)
        if scheme not in paths.OBJECT_SCHEMES:
            known = ", ".join(f"{name}://" for name in paths.OBJECT_SCHEMES)
            raise StorageError(f"{uri}: {scheme}:// is not a store this project reads. Use a local path, {known}.")
        # Not urlsplit: `?` and `#` are ordinary characters in an object's name.
        name, _, key = uri.partition("://")[2].partition("/")
        key = key.rstrip("/")
        if not name or re.search(r"[*?\[]", name):
            raise StorageError(f"{uri}: no bucket. Write {scheme}://BUCKET/PATH.")
        if file and not key:
            raise NotFound(uri, "is a bucket; a file in it was wanted")
        # Loaded here, as local paths need no obstore: images for `make gpu` and training from local disks may lack it.
        from raymill.cluster.store.object_store import bucket

        return bucket(scheme, name, self.options, self.setting), key


def _test_file(folder: str) -> str:
    return paths.join(folder, f"_probe-{uuid.uuid4().hex}")
