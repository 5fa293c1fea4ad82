"""What every kind of store has in common: its settings, its errors, and the operations of a backend."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, Self
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from raymill.cluster.errors import Problem, StorageError
from raymill.cluster.secret_values import shortened

SECRETS = ("access_key_id", "secret_access_key", "session_token")

Secret = SecretStr | None


class StorageOptions(BaseModel):
    """Settings of object stores. Settings that are left out are found as the cloud's own tools find them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str | None = Field(
        None,
        description="Address of the object store, http(s)://HOST:PORT; for Azure "
        "https://ACCOUNT.blob.core.windows.net or http://HOST:PORT/ACCOUNT; null: the cloud provider's "
        "own",
    )
    path_style: bool | None = Field(
        None,
        description="Whether S3 requests have the bucket's name in the path and not in the host name; null: only "
        "with `endpoint_url`",
    )
    region: str | None = Field(None, description="AWS region of the S3 buckets; null: from the AWS configuration")
    profile: str | None = Field(
        None,
        description="Profile of the AWS configuration for S3, single sign-on and roles included; null: the default one",
    )
    access_key_id: Secret = Field(
        None,
        description="S3 access key id, or ${ENVIRONMENT_VARIABLE}; null: credentials of the environment, the AWS "
        "configuration or the machine",
    )
    secret_access_key: Secret = Field(
        None,
        description="S3 secret key for `access_key_id`, or ${ENVIRONMENT_VARIABLE}; null: credentials of the "
        "environment, the AWS configuration or the machine",
    )
    session_token: Secret = Field(
        None, description="S3 session token of temporary credentials, or ${ENVIRONMENT_VARIABLE}; null: none"
    )
    anonymous: bool = Field(False, description="Whether requests are sent without credentials, as for public buckets")
    timeout_s: float = Field(60, gt=0, le=86_400, description="Seconds that one request to the object store may take")
    retries: int = Field(
        10, ge=0, le=1000, description="Maximum number of retries of a failed request to the object store"
    )
    retry_deadline_s: float = Field(
        180, gt=0, le=86_400, description="Seconds that a request to the object store may take with all its retries"
    )

    @field_validator("endpoint_url")
    @classmethod
    def _is_an_address(cls, url: str | None) -> str | None:
        return None if url is None else checked_endpoint(url)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together: give both, or neither")
        if self.session_token and not self.access_key_id:
            raise ValueError("session_token goes with access_key_id and secret_access_key: give all three, or none")
        for other in ("access_key_id", "profile"):
            if self.anonymous and getattr(self, other) is not None:
                raise ValueError(f"anonymous sends no credentials, and {other} is one: keep one of them")
        return self

    def without_secrets(self) -> dict[str, Any]:
        """The settings that are not the defaults, as JSON values, without secret keys, for the records of a run."""
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(SECRETS))


# The setting `storage` of a run.
Storage = Annotated[StorageOptions, Field(description="Credentials, address and timeouts of the object store")]

# Of a listing, in bytes of memory: some ten million files. A file takes some bytes besides its name.
MOST_LISTED, _LISTED_BYTES = 4 << 30, 300


def checked_endpoint(url: str) -> str:
    """The address of a store, without a slash at its end.

    Raises:
        ValueError: it is not http://HOST[:PORT][/PATH] or https://..., or it holds a password.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("the address holds a user name or password; give access_key_id and secret_access_key instead")
    try:
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is not a number, or above 65535
        whole = False
    if not whole or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(
            f"{url!r} is not the address of a store; wanted http://HOST:PORT or https://HOST. Write the scheme, the "
            "host and no more"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """`version` changes whenever the content does: an ETag, or size and modification time.

    modified: Unix time in seconds by the clock of the store; infinite if it is not known.
    """

    uri: str
    size: int
    version: str
    modified: float = math.inf


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that has not ended: a multipart upload on S3, a hidden file beside its target on a local disk.

    uri: the object, or the hidden file. started: Unix time by the clock of the store. id: S3's, else empty. size:
    bytes; 0 if it is not known.
    """

    uri: str
    started: float
    id: str = ""
    size: int = 0


class StoreBackend(Protocol):
    """The operations of one kind of store. key: a local path, or the part of the URI after the bucket.

    read_range: the bytes from `start` to `end`, fewer at the file's end. open: a seekable file for sequential reading
    up to `stop`. open_parts: a seekable file for reading parts. write: replaces the object, whole or not at all.
    create: put-if-absent; returns whether the object has this caller's data, so no two callers may give equal data.
    upload: moves a local file; with `new`, the request to a bucket states that no object may be replaced. walk: all
    files below a folder; a name that cannot be read is an error, or skipped; with `inside`, links that lead out of the
    folder are not followed (buckets have no links). unreadable: (path, kind) of what the last walk of a folder skipped.
    delete: missing objects are skipped. uploads: those below a folder that have not ended.

    Raises:
        NotFound: `read`, `read_range`, `open`, `open_parts` and `info` of a missing object.
        StorageError: any other refusal.
    """

    def read(self, key: str, most: int | None = None) -> bytes: ...
    def read_range(self, key: str, start: int, end: int) -> bytes: ...
    def open(self, key: str, stop: int | None = None) -> pa.NativeFile: ...
    def open_parts(self, key: str) -> pa.NativeFile: ...
    def write(self, key: str, data: bytes | memoryview) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def upload(self, path: Path, key: str, *, new: bool = False) -> None: ...
    def info(self, key: str) -> FileInfo: ...
    def walk(self, prefix: str, *, skip_bad_names: bool = False, inside: bool = False) -> Iterable[FileInfo]: ...
    def unreadable(self, prefix: str, *, inside: bool = False) -> Iterable[tuple[str, str]]: ...
    def delete(self, keys: list[str]) -> None: ...
    def uploads(self, folder: str) -> list[Upload]: ...
    def abort_uploads(self, uploads: list[Upload]) -> None: ...


class EndsTooEarly(StorageError):
    """A file ends before the bytes that were asked for."""


def too_large(uri: str, size: int, most: int) -> StorageError:
    """The error of a file with more bytes than one of its kind."""
    return StorageError(
        f"{uri}: has {size:,} bytes, and a file of this kind at most {most:,}. It is damaged or of another program: "
        "delete it, or point elsewhere."
    )


def held_by(files: Iterable[FileInfo]) -> int:
    """Bytes of memory that listed files take."""
    return sum(_LISTED_BYTES + len(file.uri) for file in files)


def refuse_endless(uri: str, held: int) -> None:
    """Raises StorageError: the files that were listed, which take `held` bytes, take over MOST_LISTED."""
    if held > MOST_LISTED:
        raise StorageError(
            f"{uri}: over {MOST_LISTED >> 20:,} MiB of names are listed. Name a folder with fewer files; if this has "
            "fewer, the store lists others."
        )


class NotFound(StorageError):
    """There is no such object. Not final: the unit is tried again, because the object may exist then."""

    is_final = False

    def __init__(self, uri: str, seen: str = "no such file") -> None:
        problem = Problem.of(uri, seen, fix="Check the path, or list the folder it should be in.")
        super().__init__(problem.message, problems=[problem])


class Unavailable(StorageError):
    """The store did not answer, or answered wrongly. Not final: the unit is tried again."""

    is_final = False


_MOST_OF_AN_ERROR = 20_000  # characters; a server may answer with any number of them


def first_line(error: BaseException) -> str:
    """The first line of a library's message. Of an XML answer of the store, only code and message are kept."""
    whole = str(error)[:_MOST_OF_AN_ERROR]
    text = whole.partition("\n\nDebug source")[0].strip() or type(error).__name__
    # Azure appends the request's id and time to the message, on lines of their own.
    answer = re.search(r"<Code>(.*?)</Code>(?:\s*<Message>([^<\n]*))?", text, re.DOTALL)
    line = text.partition("<?xml")[0].splitlines()[0].rstrip(" :.")
    # Only the debug text has the cause of a failed connection.
    if cause := re.search(r'ConnectError\(.*?(?:message|error): "(.*?)"', whole, re.DOTALL):
        line = f"{line}: {cause[1]}"
    return shortened(f"{line}: {' '.join(filter(None, answer.groups()))}" if answer else line, 400)
