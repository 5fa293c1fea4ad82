"""Buckets on S3, Google Cloud Storage and Azure through obstore: conditional puts, multipart uploads that vanish when
they fail, retries with back-off and deadlines. boto3 finds the AWS credentials (profiles, SSO, IRSA, instance roles).
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from cluster.errors import StorageError
from cluster.storage import FileInfo, NotFound, StorageOptions

_READ_AHEAD = 1 << 20


@cache
def bucket(scheme: str, name: str, options: StorageOptions) -> "Bucket":
    make: dict[str, Callable[..., Any]] = {"s3": _s3, "gs": GCSStore, "az": AzureStore}
    shared = {
        "client_options": {
            "timeout": timedelta(seconds=options.timeout_s),
            "connect_timeout": timedelta(seconds=min(10, options.timeout_s)),
            "allow_http": (options.endpoint_url or "").startswith("http://"),
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
    if scheme == "s3":
        return Bucket(f"{scheme}://{name}", _s3(name, options, shared))
    if options.anonymous:
        shared["skip_signature"] = True
    return Bucket(f"{scheme}://{name}", make[scheme](name, **shared))


def _s3(name: str, options: StorageOptions, shared: dict[str, Any]) -> S3Store:
    import boto3

    session = boto3.session.Session(profile_name=options.profile, region_name=options.region)
    settings: dict[str, Any] = {"region": session.region_name or "us-east-1"}
    endpoint = options.endpoint_url or _aws_endpoint(session)
    if endpoint:
        settings["endpoint"] = endpoint
        shared["client_options"]["allow_http"] = endpoint.startswith("http://")
    path_style = options.path_style if options.path_style is not None else bool(endpoint)
    settings["virtual_hosted_style_request"] = not path_style
    if options.anonymous:
        return S3Store(name, **settings, **shared, skip_signature=True)
    if options.access_key_id and options.secret_access_key:
        settings["access_key_id"] = options.access_key_id.get_secret_value()
        settings["secret_access_key"] = options.secret_access_key.get_secret_value()
        if options.session_token:
            settings["session_token"] = options.session_token.get_secret_value()
        return S3Store(name, **settings, **shared)
    if session.get_credentials() is None:
        raise StorageError(
            f"s3://{name}: no AWS credentials found. Set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "give `storage: {profile: ...}` in the config, or `storage: {anonymous: true}` for a public bucket."
        )
    from obstore.auth.boto3 import Boto3CredentialProvider

    return S3Store(name, **settings, **shared, credential_provider=Boto3CredentialProvider(session))


def _aws_endpoint(session: Any) -> str | None:
    import os

    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


class Bucket:
    def __init__(self, root: str, store: Any) -> None:
        self.root = root
        self.store = store

    def read(self, key: str) -> bytes:
        with self._mended(key):
            return bytes(obstore.get(self.store, key).bytes())

    def open(self, key: str) -> pa.NativeFile:
        with self._mended(key):
            return pa.PythonFile(_Seekable(obstore.open_reader(self.store, key, buffer_size=_READ_AHEAD)), mode="r")

    def write(self, key: str, data: bytes) -> None:
        with self._mended(key):
            obstore.put(self.store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        with self._mended(key):
            try:
                obstore.put(self.store, key, data, mode="create")
            except exceptions.AlreadyExistsError:
                return False
        return True

    def upload(self, path: Path, key: str) -> None:
        with self._mended(key):
            obstore.put(self.store, key, path)

    def info(self, key: str) -> FileInfo:
        with self._mended(key):
            return self._info(obstore.head(self.store, key))

    def walk(self, prefix: str) -> Iterator[FileInfo]:
        with self._mended(prefix):
            for page in obstore.list(self.store, prefix or None):
                yield from (self._info(found) for found in page)

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
    def _mended(self, key: str) -> Iterator[None]:
        uri = f"{self.root}/{key}"
        try:
            yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise NotFound(uri) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise StorageError(
                f"{uri}: the store refused these credentials ({_first_line(error)}). "
                "Check AWS_PROFILE or the keys, and that their policy allows this prefix."
            ) from error
        except exceptions.BaseError as error:
            raise StorageError(
                f"{uri}: the store did not answer as it should ({_first_line(error)}). "
                "Check storage.endpoint_url, the region and the network; finished work is kept, so run it again."
            ) from error


class _Seekable(io.RawIOBase):
    """obstore's reader in the shape pyarrow and the decompressors of the standard library want."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def read(self, size: int = -1) -> bytes:
        return bytes(self._reader.read(None if size < 0 else size))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
