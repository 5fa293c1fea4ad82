"""Buckets on S3, Google Cloud Storage and Azure through obstore: conditional puts, multipart uploads that leave nothing
when they fail, retries with back-off and deadlines.
"""

import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
import pyarrow as pa
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from raymill.cluster.entry import within
from raymill.cluster.errors import StorageError, is_panic
from raymill.cluster.store.interface import (
    FileInfo,
    NotFound,
    StorageOptions,
    Unavailable,
    Upload,
    first_line,
    held_by,
    refuse_endless,
    too_large,
)
from raymill.cluster.store.object_files import TAIL_BYTES, Onward, Parts, PartsFile

ODD_NAME = "name with an empty part, `.`, `..` or a control character"

# Matches such names in the part of a URI after the bucket. obstore refuses a whole listing that has one, and lists a
# name that ends in a slash without it.
_ODD_NAME = re.compile(r"(?:^|/)(?:\.{1,2})?(?:/|$)|[\x00-\x1f\x7f]")

_LARGEST_PUT = 5 << 20  # bytes that are sent in one request, from memory
_LARGEST_READ = 4 << 30  # bytes that are read to memory without a bound of the caller
_PIECE_BYTES = 8 << 20

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 15
_PAGE, _PAGE_S = 1000, 60.0  # files of a page of a listing; seconds for it besides the deadline of repeated requests
_CONFLICT = r"status code: 409\b"
_NO_SUFFIX = r"NotPartial|code: 416\b"

T = TypeVar("T")

# Answers that mean "not with these credentials". S3 answers 400 to a session token that is no longer valid. Azure gives
# the code of each key of a deletion, in parentheses.
_REFUSED = re.compile(
    r"status code: 40[13]\b|\(code: 40[13]\)"
    r"|(?:<Code>|\bcode: )(?:AccessDenied|ExpiredToken|InvalidToken|TokenRefreshRequired)\b"
)

_FIXES = {
    "s3": "Check {setting}.region, the endpoint and the keys.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, or `{setting}: {{anonymous: true}}` for a public bucket.",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or use a managed identity.",
}
# Where the credentials of a store come from, and what gives its address.
_CREDENTIALS = {
    "s3": "AWS_PROFILE or the keys under `{setting}:`",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (a key file) or the machine's service account",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or the managed identity",
}
_ADDRESS = {
    "s3": "{setting}.endpoint_url, the region",
    "gs": "{setting}.endpoint_url",
    "az": "{setting}.endpoint_url, AZURE_STORAGE_ACCOUNT_NAME",
}


@cache
def bucket(scheme: str, name: str, options: StorageOptions, setting: str) -> "Bucket":
    """A bucket of S3, Google Cloud Storage or Azure (scheme s3, gs or az); one object per process and settings.

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
                "init_backoff": timedelta(seconds=_FIRST_WAIT_S),
                "max_backoff": timedelta(seconds=_LONGEST_WAIT_S),
                "base": 2,
            },
        },
    }
    root = f"{scheme}://{name}"
    make: Callable[..., Any]
    more: dict[str, Any] = {}
    if scheme == "s3":
        # boto3 takes 0.3 s to import, and only S3 needs it.
        from raymill.cluster.store.aws import abort_uploads, list_objects, list_uploads, s3_settings, upload_new

        settings = s3_settings(name, options, setting)
        shared["client_options"]["allow_http"] = settings.get("endpoint", "").startswith("http://")
        make, shared = S3Store, shared | settings
        more = {
            "objects": partial(list_objects, name, options, setting),
            "uploads": partial(list_uploads, name, options, setting),
            "abort_uploads": partial(abort_uploads, name, options, setting),
            "upload_new": partial(upload_new, name, options, setting),
        }
    else:
        shared |= {"skip_signature": True} if options.anonymous else {}
        make = {"gs": GCSStore, "az": AzureStore}[scheme]
        if endpoint := options.endpoint_url:
            shared["client_options"]["allow_http"] = endpoint.startswith("http://")
            # AZURE_STORAGE_USE_EMULATOR would have obstore ignore the address.
            shared |= {"base_url": endpoint} if scheme == "gs" else {"endpoint": endpoint, "use_emulator": False}
        if scheme == "gs" and options.anonymous:
            # Google's client signs writes in spite of `skip_signature`, with a token that it asks for elsewhere.
            shared["credential_provider"] = lambda: {"token": "", "expires_at": None}
    try:
        with _without_panic(root, setting):
            return Bucket(root, make(name, **shared), setting, options.retries, options.retry_deadline_s, **more)
    except (exceptions.BaseError, ValueError) as error:
        raise StorageError(f"{root}: {first_line(error)}. {_FIXES[scheme].format(setting=setting)}") from error


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
    """The backend of one bucket, over obstore's store of it.

    retries: how often a request is repeated if it conflicts with another one on the same object (409), or if its
    connection was lost in the body of an answer or in put-if-absent. obstore itself repeats requests whose connection
    was lost otherwise, or that were answered by 408, 429 or 5xx. Both wait a random, growing time. deadline_s: seconds
    after which no request is repeated. uploads, abort_uploads: list and abort multipart uploads (S3).
    objects: lists a folder with all names as they are (S3). upload_new: uploads a large file unless its object exists
    (S3).
    """

    def __init__(
        self,
        root: str,
        store: Any,
        setting: str,
        retries: int = 10,
        deadline_s: float = 180,
        uploads: Callable[[str], list[Upload]] = lambda folder: [],
        abort_uploads: Callable[[list[Upload]], None] = lambda uploads: None,
        objects: Callable[[str], list[FileInfo]] | None = None,
        upload_new: Callable[[Path, str], None] | None = None,
    ) -> None:
        self.root = root
        self.store = store
        self.setting = setting
        self.retries = retries
        self.deadline_s = deadline_s
        self.uploads = uploads
        self.abort_uploads = abort_uploads
        self._objects = objects
        self._upload_new = upload_new
        self._odd_names: dict[str, list[tuple[str, str]]] = {}  # folder -> those of its last walk

    def read(self, key: str, most: int | None = None) -> bytes:
        most = _LARGEST_READ if most is None else most

        def whole() -> bytes:
            found = obstore.get(self.store, key)
            if (size := found.meta["size"]) > most:
                raise too_large(f"{self.root}/{key}", size, most)
            return _received(found, size)

        with self._explained(key, "read"):
            return self._retried(whole)

    def open(self, key: str, stop: int | None = None) -> pa.NativeFile:
        return pa.PythonFile(Onward(partial(self._whole_range, key), self.info(key).size, stop), mode="r")

    def open_parts(self, key: str) -> pa.NativeFile:
        with self._explained(key, "read"):
            try:
                last = self._retried(lambda: obstore.get(self.store, key, options={"range": {"suffix": TAIL_BYTES}}))
                size, tail = last.meta["size"], _received(last, TAIL_BYTES)
            except exceptions.BaseError as error:
                # The last bytes cannot be requested: the object is empty, or the store (Azure) has no such request.
                if not (isinstance(error, exceptions.NotSupportedError) or re.search(_NO_SUFFIX, str(error))):
                    raise
                size = self.info(key).size
                tail = self._whole_range(key, max(size - TAIL_BYTES, 0), size) if size else b""
        return PartsFile(Parts(partial(self._whole_range, key), size, tail), "r")

    def read_range(self, key: str, start: int, end: int) -> bytes:
        with self._explained(key, "read"):
            return self._retried(
                lambda: _received(obstore.get(self.store, key, options={"range": (start, end)}), end - start)
            )

    def _whole_range(self, key: str, start: int, end: int) -> bytes:
        """As `read_range`, of bytes that the object has: a reader would ask for missing ones without end."""
        data = self.read_range(key, start, end)
        if len(data) != end - start:
            raise Unavailable(
                f"{self.root}/{key}: the store answered with {len(data):,} of {end - start:,} bytes from byte "
                f"{start:,} on. Check {self._of_scheme(_ADDRESS)} and the network, and run the same command again; "
                "finished work is kept."
            )
        return data

    def write(self, key: str, data: bytes | memoryview) -> None:
        with self._explained(key, "write"):
            self._retried(lambda: obstore.put(self.store, key, data))

    def create(self, key: str, data: bytes) -> bool:
        """Put-if-absent. Returns False if the object exists with other content.

        An object that exists is read and compared, for two reasons. If the answer to a put was lost, the repeated put
        finds its own object. And S3 also answers 409 while another write of the object is in progress: if that write
        failed, there is no object, and the put is repeated.
        """

        def put() -> bool:
            try:
                obstore.put(self.store, key, data, mode="create")
            except exceptions.AlreadyExistsError as exists:
                try:
                    found = obstore.get(self.store, key)
                    return found.meta["size"] == len(data) and _received(found, len(data)) == data
                except (exceptions.NotFoundError, FileNotFoundError):
                    raise exists from None
            return True

        with self._explained(key, "write"):
            return self._retried(put)

    def upload(self, path: Path, key: str, *, new: bool = False) -> None:
        size = path.stat().st_size

        def put() -> None:
            try:
                if new and size <= _LARGEST_PUT:
                    obstore.put(self.store, key, path, mode="create", use_multipart=False)
                elif new and self._upload_new:
                    self._upload_new(path, key)
                else:
                    obstore.put(self.store, key, path)
            except (exceptions.NotFoundError, FileNotFoundError, exceptions.AlreadyExistsError) as error:
                # If an answer was lost, the request is repeated, and finds that the upload has ended or that the object
                # exists.
                if _no_bucket(error):
                    raise
                try:
                    there = obstore.head(self.store, key)["size"]
                except (exceptions.NotFoundError, FileNotFoundError):
                    there = None
                if there != size:
                    raise

        with self._explained(key, "write"):
            self._retried(put)

    def info(self, key: str) -> FileInfo:
        def head() -> Any:
            try:
                return obstore.head(self.store, key)
            except exceptions.BaseError as error:
                # The answer to a HEAD has no body, so it does not say why. That to a GET does.
                if "status code: 400" in str(error):
                    obstore.get_range(self.store, key, start=0, length=1)
                raise

        with self._explained(key, "look up"):
            return self._info(self._retried(head))

    def walk(self, prefix: str, *, skip_bad_names: bool = False, inside: bool = False) -> Iterator[FileInfo]:
        self._odd_names.pop(prefix, None)
        with self._explained(prefix, "list"):
            if skip_bad_names and self._objects:
                files, odd = [], []
                for file in self._retried(partial(self._objects, prefix)):
                    # An empty object whose name ends in a slash marks a folder.
                    uri = file.uri if file.size else file.uri.removesuffix("/")
                    if _ODD_NAME.search(uri.removeprefix(f"{self.root}/")):
                        odd.append((file.uri, ODD_NAME))
                    else:
                        files.append(replace(file, uri=uri))
                self._odd_names[prefix] = odd
            else:
                files = self._retried(partial(self._listed, prefix))
        # A store may list others, and what is listed is read and deleted.
        below = f"{self.root}/{prefix}/" if prefix else f"{self.root}/"
        files = [file for file in files if file.uri.startswith(below)]
        # Consoles and sync tools mark a folder by an empty object named like it.
        folders = {f"{self.root}/{prefix}"}
        for file in files:
            folder = file.uri.rpartition("/")[0]
            while folder not in folders and len(folder) > len(self.root):
                folders.add(folder)
                folder = folder.rpartition("/")[0]
        yield from (file for file in files if file.size or file.uri not in folders)

    def _listed(self, prefix: str) -> list[FileInfo]:
        files, held = list[FileInfo](), 0
        pages = obstore.list(self.store, prefix or None, chunk_size=_PAGE)
        while page := self._next(pages):
            found = [self._info(one) for one in page]
            held += held_by(found)
            refuse_endless(f"{self.root}/{prefix}", held)
            files += found
        return files

    def _next(self, pages: Iterator[Sequence[Any]]) -> Sequence[Any] | None:
        """The next files of a listing. obstore passes over empty pages, of which a store may send any number."""
        try:
            return within(_PAGE_S + self.deadline_s, lambda: next(pages, None))
        except TimeoutError as error:
            raise exceptions.GenericError(str(error)) from error

    def unreadable(self, prefix: str, *, inside: bool = False) -> list[tuple[str, str]]:
        return self._odd_names.get(prefix, [])

    def delete(self, keys: list[str]) -> None:
        """S3 takes a thousand keys a request."""
        if not keys:
            return
        with self._explained(keys[0] if len(keys) == 1 else os.path.commonpath(keys), "delete"):
            try:
                self._retried(lambda: obstore.delete(self.store, keys))
            except (exceptions.NotFoundError, FileNotFoundError):
                # Google and Azure report the first key that is gone, and do not delete the keys after it.
                for key in keys:
                    with suppress(exceptions.NotFoundError, FileNotFoundError):
                        self._retried(partial(obstore.delete, self.store, key))

    def _retried(self, request: Callable[[], T]) -> T:
        """The answer to a request. The request is repeated after a random, growing time if it conflicts with another
        one, or if its connection was lost and obstore did not repeat it."""
        wait_s, until = _FIRST_WAIT_S, time.monotonic() + self.deadline_s
        for _ in range(self.retries):
            try:
                return request()
            except exceptions.BaseError as error:
                is_conflict = isinstance(error, exceptions.AlreadyExistsError) or re.search(_CONFLICT, str(error))
                repeated = re.search(r"after (\d+) retries", str(error))  # by obstore, which may do so more often
                is_lost = "HTTP error: " in str(error) and (repeated is None or int(repeated[1]) < self.retries)
                if not (is_conflict or is_lost) or time.monotonic() > until:
                    raise
            time.sleep(wait_s)
            wait_s = min(random.uniform(_FIRST_WAIT_S, 3 * wait_s), _LONGEST_WAIT_S)
        return request()

    def _info(self, found: Any) -> FileInfo:
        modified = found["last_modified"].timestamp()
        version = found["e_tag"] or f"{found['size']}-{modified}"
        return FileInfo(f"{self.root}/{found['path']}", found["size"], version.strip('"'), modified)

    @contextmanager
    def _explained(self, key: str, act: str) -> Iterator[None]:
        """Raises errors that name the object, the operation (`act`) and the fix."""
        uri = f"{self.root}/{key}".rstrip("/")
        try:
            with _without_panic(uri, self.setting):
                yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            # Stores have no folders, so if a write finds no target, the bucket is missing.
            if act == "write" or _no_bucket(error):
                raise self._missing() from error
            raise NotFound(uri) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise self._refused(uri, act, error) from error
        except (exceptions.InvalidPathError, ValueError) as error:
            raise self._unnameable(uri, error) from error
        except exceptions.BaseError as error:
            if _no_bucket(error):
                raise self._missing() from error
            if _REFUSED.search(str(error)) or "token request" in str(error):
                raise self._refused(uri, act, error) from error
            if "invalid path" in str(error):  # a listing has a name that obstore refuses
                raise self._unnameable(uri, error) from error
            if "builder error" in str(error):
                raise StorageError(
                    f"{uri}: cannot {act}, the address of the store is http://, which is used only where "
                    f"`{self.setting}: {{endpoint_url: http://...}}` gives it. Give it there, or use https://."
                ) from error
            raise Unavailable(
                f"{uri}: cannot {act}, the store did not answer as it should ({first_line(error)}). "
                f"Check {self._of_scheme(_ADDRESS)} and the network, and run the same command again; finished work is "
                "kept."
            ) from error

    def _refused(self, uri: str, act: str, error: Exception) -> StorageError:
        return StorageError(
            f"{uri}: cannot {act}, the store refused these credentials ({first_line(error)}). "
            f"Check {self._of_scheme(_CREDENTIALS)}, that they have not expired, and that their policy allows this "
            "prefix."
        )

    def _of_scheme(self, texts: dict[str, str]) -> str:
        """The text for this bucket's scheme, with the name of its settings."""
        return texts[self.root.partition(":")[0]].format(setting=self.setting)

    def _unnameable(self, uri: str, error: Exception) -> StorageError:
        return StorageError(
            f"{uri!r}: {first_line(error)}. Object names with empty parts (//), `.`, `..` or control characters "
            "do not work on every store: rename the object."
        )

    def _missing(self) -> StorageError:
        return StorageError(
            f"{self.root}: no such {'container' if self.root.startswith('az:') else 'bucket'}. Make it first, or check "
            f"its name, {self._of_scheme(_ADDRESS)}."
        )


def _received(found: Any, most: int) -> bytes:
    """The content of an answer.

    obstore's own function takes memory for the size that the answer states, and reads what is sent without a bound.

    Raises:
        GenericError: it has more than `most` bytes.
    """
    pieces, size = [], 0
    for piece in found.stream(min_chunk_size=max(1, min(most, _PIECE_BYTES))):
        size += len(piece)
        if size > most:
            raise exceptions.GenericError(f"an answer of more than the {most:,} bytes that were asked for")
        pieces.append(bytes(piece))
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _no_bucket(error: BaseException) -> bool:
    return bool(re.search("NoSuchBucket|ContainerNotFound", str(error)))  # the first S3 and Google, the second Azure
