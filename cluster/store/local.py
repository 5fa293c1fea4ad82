"""Files on this machine or a shared file system, with the guarantees of an object store.

A write goes to a hidden file beside the target, which is then moved there: a reader never sees half a file. `create`
makes a hard link instead, which fails if the name exists, on local disks and NFS alike.
"""

import errno
import io
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from raymill.cluster.errors import StorageError
from raymill.cluster.store.interface import FileInfo, NotFound, Upload, too_large

DANGLING, CIRCULAR, SPECIAL = "dangling link", "circular link", "FIFO, socket or device"
LEADS_OUT = "link out of the folder"
NOT_UTF8 = "name that is not UTF-8"

_OPENED_BY_THE_SHELL = ("/dev/fd/", "/dev/stdin")
_UMASK = re.compile(r"^Umask:\s*(\d+)", re.MULTILINE)
_PART = re.compile(r"\.[0-9a-f]{32}\.part")


def _storage_error(path: str | Path, error: OSError) -> StorageError:
    """The StorageError of an error of the system, with what to do about it."""
    if isinstance(error, FileNotFoundError):
        return NotFound(str(path))
    above = next((f": {parent}" for parent in Path(path).parents if os.path.isfile(parent)), "")
    fix = {
        errno.EACCES: "Change its permissions, or run as a user who may.",
        errno.ENOSPC: "The disk is full: free space there and run the same command again; finished work is kept.",
        errno.EDQUOT: "The quota is used up: free space there and run the same command again; finished work is kept.",
        errno.EROFS: "The file system is read-only: choose another output.",
        errno.EISDIR: "A file was wanted: name one in it.",
        errno.ENOTDIR: f"A file stands where a folder was wanted{above}.",
        errno.EEXIST: "A file stands where a folder was wanted. Choose another output.",
        errno.EPERM: "The file system does not allow it; it may be protected, or the system's own: choose another.",
        errno.ELOOP: "The link leads back to itself: replace it by the file that was meant.",
        errno.ENAMETOOLONG: "The name is too long for this file system.",
    }.get(error.errno or 0, "Check the path and the disk under it.")
    return StorageError(f"{path}: {error.strerror or error}. {fix}")


def _write_error(path: str | Path, error: OSError) -> StorageError:
    """As `_storage_error`, for a write: if the name is not found, the file system cannot make files there."""
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{path}: cannot be made here ({error.strerror or error}). Choose another output.")
    return _storage_error(path, error)


class LocalStore:
    """The backend of local paths."""

    def read(self, key: str, most: int | None = None) -> bytes:
        try:
            with _opened(key) as file:
                if most is not None and (size := os.fstat(file.fileno()).st_size) > most:
                    raise too_large(key, size, most)
                return file.readall()
        except NotADirectoryError:
            raise NotFound(key) from None  # below a file there is nothing, as on object stores
        except OSError as error:
            raise _storage_error(key, error) from error

    def read_range(self, key: str, start: int, end: int) -> bytes:
        try:
            with _opened(key) as file:
                file.seek(start)
                # Python allocates what is asked for, and `end` may come from a changed file.
                return file.read(max(0, min(end, os.fstat(file.fileno()).st_size) - start))
        except OSError as error:
            raise _storage_error(key, error) from error

    def open(self, key: str, stop: int | None = None) -> pa.NativeFile:
        try:
            _opened(key).close()
            return pa.OSFile(key)
        except OSError as error:
            raise _storage_error(key, error) from error

    def open_parts(self, key: str) -> pa.NativeFile:
        return self.open(key)

    def write(self, key: str, data: bytes | memoryview) -> None:
        self._place(key, lambda part: part.write_bytes(data), os.replace)

    def create(self, key: str, data: bytes) -> bool:
        try:
            self._place(key, lambda part: part.write_bytes(data), _link)
        except FileExistsError:
            return False
        return True

    def upload(self, path: Path, key: str, *, new: bool = False) -> None:
        _make_folder(key)
        try:
            # As files that are written here have. safetensors lets the owner alone read what it writes.
            with suppress(FileNotFoundError):  # outside of Linux
                os.chmod(path, 0o666 & ~int(_UMASK.search(Path("/proc/self/status").read_text())[1], 8))  # type: ignore[index]
            _flush(path)
            os.replace(path, key)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise _write_error(key, error) from error
            self._place(key, lambda part: shutil.copyfile(path, part), os.replace)

    def info(self, key: str) -> FileInfo:
        try:
            found = os.stat(key)  # not by `Path`, which takes longer than the call
        except NotADirectoryError:
            raise NotFound(key) from None  # below a file there is nothing, as on object stores
        except OSError as error:
            raise _storage_error(key, error) from error
        if stat.S_ISDIR(found.st_mode):
            raise NotFound(key, "is a folder; a file was wanted")
        if not stat.S_ISREG(found.st_mode):
            raise _special(key)
        return FileInfo(key, found.st_size, f"{found.st_size}-{found.st_mtime_ns}", found.st_mtime)

    def size(self, key: str) -> int:
        """Bytes of a file; 0 if there is none."""
        with suppress(OSError):
            return os.stat(key).st_size
        return 0

    def walk(self, prefix: str, *, skip_bad_names: bool = False, inside: bool = False) -> Iterator[FileInfo]:
        leads_out = _leads_out(prefix) if inside else None

        def refuse(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise _storage_error(error.filename, error) from error

        for folder, inner, names in os.walk(prefix, onerror=refuse, followlinks=True):
            if leads_out:
                inner[:] = [name for name in inner if not leads_out(os.path.join(folder, name))]
            inner[:] = [name for name in inner if not _leads_back(os.path.join(folder, name))]
            for name in names:
                path = os.path.join(folder, name)
                if _PART.fullmatch(name) or not os.path.isfile(path) or (leads_out and leads_out(path)):
                    continue
                if not path.isprintable() and not _encodable(path):
                    if skip_bad_names:
                        continue
                    raise StorageError(f"{path!a}: the name is not UTF-8. Rename it.")
                try:
                    yield self.info(path)
                except NotFound:
                    continue  # removed while we looked

    def unreadable(self, prefix: str, *, inside: bool = False) -> Iterator[tuple[str, str]]:
        """(path, kind) of all that `walk` leaves out below a folder: links to no file, FIFOs and names not in UTF-8;
        with `inside`, links that lead out of the folder.

        Bytes of a name that are not UTF-8 are escaped.
        """
        leads_out = _leads_out(prefix) if inside else None
        for folder, inner, names in os.walk(prefix, followlinks=True):
            circular = [name for name in inner if _leads_back(os.path.join(folder, name))]
            inner[:] = [name for name in inner if name not in circular]
            for name in circular:
                yield os.path.join(folder, name), CIRCULAR
            if outside := {name for name in (*inner, *names) if leads_out and leads_out(os.path.join(folder, name))}:
                inner[:] = [name for name in inner if name not in outside]
                names = [name for name in names if name not in outside]
            for name in outside:
                yield os.fsencode(os.path.join(folder, name)).decode(errors="backslashreplace"), LEADS_OUT
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.isfile(path):
                    if kind := _kind(path):
                        yield path, kind
                elif not path.isprintable() and not _encodable(path):
                    yield os.fsencode(path).decode(errors="backslashreplace"), NOT_UTF8

    def link_out(self, folder: str, within: str | None = None) -> tuple[str, str] | None:
        """(a link below the folder that leads out of it, its target); None if there is none, or no such folder.

        within: a folder above it; a link between the two is returned, too.
        """
        root = os.path.realpath(folder)
        if within is not None and root != os.path.join(os.path.realpath(within), os.path.relpath(folder, within)):
            return folder, root
        folders = [root]
        while folders:
            with suppress(OSError), os.scandir(folders.pop()) as entries:  # removed while we looked, or not readable
                for entry in entries:
                    if entry.is_symlink():
                        target = os.path.realpath(entry.path)
                        if os.path.commonpath((root, target)) != root:
                            return entry.path, target
                    elif entry.is_dir():
                        folders.append(entry.path)
        return None

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            try:
                Path(key).unlink(missing_ok=True)
            except OSError as error:
                raise _storage_error(key, error) from error

    def uploads(self, folder: str) -> list[Upload]:
        """The hidden files of writes that have not ended."""
        found = []
        for path in Path(folder).rglob(".*.part"):
            if _PART.fullmatch(path.name):
                with suppress(NotFound):  # it ended while we looked
                    part = self.info(str(path))
                    found.append(Upload(part.uri, part.modified, size=part.size))
        return sorted(found, key=lambda upload: upload.uri)

    def abort_uploads(self, uploads: list[Upload]) -> None:
        self.delete([upload.uri for upload in uploads])

    def _place(self, key: str, fill: Callable[[Path], object], move: Callable[[Path, str], object]) -> None:
        _make_folder(key)
        part = Path(key).with_name(f".{uuid.uuid4().hex}.part")
        try:
            fill(part)
            _flush(part)
            move(part, key)
        except FileExistsError:
            raise
        except OSError as error:
            raise _write_error(key, error) from error
        finally:
            with suppress(OSError):  # where the file cannot be made, it cannot be removed either
                part.unlink(missing_ok=True)

    def delete_empty_folder(self, key: str) -> None:
        with suppress(OSError):  # someone wrote into it, or removed it first
            os.rmdir(key)


def _kind(path: str) -> str | None:
    """The kind of a path that is neither file nor folder; None if it does not exist any more."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return DANGLING if os.path.islink(path) else None
    except OSError as error:
        return CIRCULAR if error.errno == errno.ELOOP else DANGLING
    return SPECIAL


def _opened(key: str) -> io.FileIO:
    """A file opened for reading. A FIFO is refused: opening it would wait for a writer, and a device may never end.

    Only those that the shell opened for this process are read, as for `raymill curate <(COMMAND)`.

    Raises:
        StorageError: it is a FIFO, socket or device.
        OSError: it cannot be opened.
    """
    if key.startswith(_OPENED_BY_THE_SHELL):
        return io.FileIO(key)
    try:
        descriptor = os.open(key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise (_special(key) if error.errno == errno.ENXIO else error) from error  # a socket
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder")
    raise _special(key)


def _special(key: str) -> StorageError:
    return StorageError(f"{key}: is a {SPECIAL}; a file was wanted. Copy its content to a file.")


def _make_folder(key: str) -> None:
    try:
        Path(key).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(Path(key).parent, error) from error


def _link(part: Path, key: str) -> None:
    try:
        os.link(part, key)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        raise StorageError(
            f"{key}: {error.strerror or error}. The file system does not allow a hard link here, likely because it has "
            "none, and commits are built on them: choose another output."
        ) from error


def _flush(path: Path) -> None:
    """Write the file's data to the disk itself: after a power cut, no record may exist without the files it names."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _leads_out(folder: str) -> Callable[[str], bool]:
    """Whether a path below the folder is a link to what is there, but outside of the folder. The folder may be one."""
    root = os.path.realpath(folder)
    within = f"{root.rstrip('/')}/"

    def leads_out(path: str) -> bool:
        if not os.path.islink(path):
            return False
        target = os.path.realpath(path)
        return target != root and not target.startswith(within) and os.path.exists(target)

    return leads_out


def _leads_back(folder: str) -> bool:
    """Whether a link points at one of the folders that contain it."""
    return (
        os.path.islink(folder)
        and Path(os.path.realpath(folder)) in Path(os.path.realpath(os.path.dirname(folder)), "x").parents
    )


def _encodable(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


LOCAL = LocalStore()


def own_folder() -> Path:
    """A folder for copies, into which only this user can write."""
    folder = Path(tempfile.gettempdir(), f"raymill-copies-{os.getuid()}")
    folder.mkdir(exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise StorageError(f"{folder}: belongs to someone else. Set TMPDIR to a folder of your own.")
    folder.chmod(0o700)  # it may have been made by another program
    return folder
