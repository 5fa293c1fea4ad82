"""Buckets on S3, Google Cloud Storage and Azure through obstore: conditional puts, multipart uploads that leave nothing
when they fail, retries with back-off and deadlines.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from cluster.errors import StorageError, is_panic
from cluster.store.interface import FileInfo, NotFound, StorageOptions, Unavailable, first_line

_READ_AHEAD = 1 << 20

_MENDS = {
    "s3": "Check {setting}.region, the endpoint and the keys.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, or `{setting}: {{anonymous: true}}` for a public bucket.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or use a managed identity.",
}


@cache
def bucket(scheme: str, name: str, options: StorageOptions, setting: str) -> "Bucket":
    """A bucket of S3, Google Cloud Storage or Azure (scheme s3, gs or az); one object a process and settings.

    Args:
        setting: where a config has the options, for error messages: `storage`, or `inputs[0].storage`.

    Raises:
        StorageError: the settings or the credentials cannot be used. Nothing is sent yet.
    """
    shared: dict[str, Any] = {
        "client_options": {
            "timeout": timedelta(seconds=options.timeout_s),
            "connect_timeout": timedelta(seconds=min(10, options.timeout_s)),
        },
        "retry_config": {
            "max_retries": options.retries,
            "retry_timeout": timedelta(seconds=options.retry_deadline_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        },
    }
    root = f"{scheme}://{name}"
    make: Callable[..., Any]
    if scheme == "s3":
        from cluster.store.aws import s3_settings  # boto3 takes 0.3 s that only S3 needs

        settings = s3_settings(name, options, setting)
        shared["client_options"]["allow_http"] = settings.get("endpoint", "").startswith("http://")
        make, shared = S3Store, shared | settings
    else:
        shared |= {"skip_signature": True} if options.anonymous else {}
        make = {"gs": GCSStore, "az": AzureStore}[scheme]
    try:
        with _without_panic(root, setting):
            return Bucket(root, make(name, **shared), setting)
    except (exceptions.BaseError, ValueError) as error:
        raise StorageError(f"{root}: {first_line(error)}. {_MENDS[scheme].format(setting=setting)}") from error


@contextmanager
def _without_panic(uri: str, setting: str) -> Iterator[None]:
    """Turn a panic of the Rust library into a StorageError."""
    try:
        yield
    except BaseException as error:
        if not is_panic(error):
            raise
        raise StorageError(
            f"{uri}: the storage library stopped on an error of its own ({first_line(error)}). Check what is set "
            f"under `{setting}:` and in the environment (address, region, keys) for stray characters."
        ) from error


class Bucket:
    """The backend of one bucket, over obstore's store of it."""

    def __init__(self, root: str, store: Any, setting: str) -> None:
        self.root = root
        self.store = store
        self.setting = setting

    def read(self, key: str) -> bytes:
        with self._mended(key):
            return bytes(obstore.get(self.store, key).bytes())

    def open(self, key: str) -> pa.NativeFile:
        with self._mended(key):
            reader = obstore.open_reader(self.store, key, buffer_size=_READ_AHEAD)
        return pa.PythonFile(_Seekable(reader, lambda: self._mended(key)), mode="r")

    def write(self, key: str, data: bytes) -> None:
        with self._mended(key, writing=True):
            obstore.put(self.store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Put-if-absent. Returns False if the object exists."""
        with self._mended(key, writing=True):
            try:
                obstore.put(self.store, key, data, mode="create")
            except exceptions.AlreadyExistsError:
                return False
        return True

    def upload(self, path: Path, key: str) -> None:
        with self._mended(key, writing=True):
            obstore.put(self.store, key, path)

    def info(self, key: str) -> FileInfo:
        with self._mended(key):
            return self._info(obstore.head(self.store, key))

    def walk(self, prefix: str) -> Iterator[FileInfo]:
        with self._mended(prefix):
            files = [self._info(found) for page in obstore.list(self.store, prefix or None) for found in page]
        # Consoles and sync tools mark a folder by an empty object named like it.
        folders = {f"{self.root}/{prefix}"}
        for file in files:
            folder = file.uri.rpartition("/")[0]
            while folder not in folders and len(folder) > len(self.root):
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        yield from (file for file in files if file.size or file.uri not in folders)

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            with self._mended(key):
                try:
                    obstore.delete(self.store, key)
                except (exceptions.NotFoundError, FileNotFoundError):
                    continue

    def _info(self, found: Any) -> FileInfo:
        version = found["e_tag"] or f"{found['size']}-{found['last_modified'].timestamp()}"
        return FileInfo(f"{self.root}/{found['path']}", found["size"], version.strip('"'))

    @contextmanager
    def _mended(self, key: str, writing: bool = False) -> Iterator[None]:
        uri = f"{self.root}/{key}".rstrip("/")
        try:
            with _without_panic(uri, self.setting):
                yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            # A store has no folders that could be missing: what a write does not find is the bucket.
            if writing or _no_bucket(error):
                raise self._missing() from error
            raise NotFound(uri) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise self._refused(uri, error) from error
        except (exceptions.InvalidPathError, ValueError) as error:
            raise self._unnameable(uri, error) from error
        except exceptions.BaseError as error:
            if _no_bucket(error):
                raise self._missing() from error
            if re.search(r"status code: 40[13]\b", str(error)):  # met in a listing
                raise self._refused(uri, error) from error
            if "invalid path" in str(error):  # met in a listing
                raise self._unnameable(uri, error) from error
            raise Unavailable(
                f"{uri}: the store did not answer as it should ({first_line(error)}). "
                f"Check {self.setting}.endpoint_url, the region and the network; finished work is kept, so run it "
                "again."
            ) from error

    def _refused(self, uri: str, error: Exception) -> StorageError:
        return StorageError(
            f"{uri}: the store refused these credentials ({first_line(error)}). "
            f"Check AWS_PROFILE or the keys under `{self.setting}:`, and that their policy allows this prefix."
        )

    def _unnameable(self, uri: str, error: Exception) -> StorageError:
        return StorageError(
            f"{uri!r}: {first_line(error)}. Object names with empty parts (//), `.`, `..` or control characters "
            "do not work on every store: rename the object."
        )

    def _missing(self) -> StorageError:
        return StorageError(
            f"{self.root}: no such bucket. Make it first, or check its name and {self.setting}.endpoint_url."
        )


class _Seekable(io.RawIOBase):
    """obstore's reader as a raw binary file, which pyarrow and the decompressors of the standard library take."""

    def __init__(self, reader: Any, mended: Callable[[], AbstractContextManager[None]]) -> None:
        self._reader = reader
        self._mended = mended

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def read(self, size: int = -1) -> bytes:
        with self._mended():
            return bytes(self._reader.read(None if size < 0 else size))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _no_bucket(error: BaseException) -> bool:
    return "NoSuchBucket" in str(error)
