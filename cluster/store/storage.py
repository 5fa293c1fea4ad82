"""Every path the project opens, by one name: a local path, s3://, gs:// or az://.

    read_bytes, open_input, local_copy     read
    write_bytes, upload                    write (a reader sees the old object or the new, never a part)
    create                                 write if absent: the one primitive that commits are built on
    info, list_files, glob                 look
    delete, delete_empty_folder            tidy

Local paths go through `local_store`, everything else through `object_store` (obstore). Errors of both arrive as
`StorageError` with the URI and the mend. Nothing else in the project opens a path.
"""

import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, Self
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from cluster.errors import StorageError

OBJECT_SCHEMES = ("s3", "gs", "az")

Secret = Annotated[SecretStr | None, Field(description="may be ${ENVIRONMENT_VARIABLE}")]


class StorageOptions(BaseModel):
    """How to reach the object store. Everything left out is found the way that cloud's own tools find it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint_url: str | None = Field(None, description="an S3-compatible store's address, http(s)://host:port")
    path_style: bool | None = Field(None, description="bucket in the path; default: only with endpoint_url")
    region: str | None = None
    profile: str | None = Field(None, description="a profile of the AWS configuration (SSO and roles included)")
    access_key_id: Secret = None
    secret_access_key: Secret = None
    session_token: Secret = None
    anonymous: bool = Field(False, description="public buckets: send no credentials")
    timeout_s: float = Field(60, gt=0, le=86_400, description="one request")
    retries: int = Field(10, ge=0, le=1000)
    retry_deadline_s: float = Field(180, gt=0, le=86_400, description="one request with all its retries")

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
        """The settings that are not the defaults, as JSON values, without keys: what a run may record."""
        return self.model_dump(
            mode="json", exclude_defaults=True, exclude={"access_key_id", "secret_access_key", "session_token"}
        )


def checked_endpoint(url: str) -> str:
    """The address of an S3-compatible store, without a slash at its end.

    Raises:
        ValueError: it is not http://HOST[:PORT][/PATH] or https://..., or it holds a password.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("the address holds a user name or password; give storage.access_key_id and the others instead")
    try:
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or above 65535
        whole = False
    if not whole or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError(
            f"{url!r} is not the address of a store; wanted http://HOST:PORT or https://HOST. Write the scheme, the "
            "host and no more"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class FileInfo:
    """`version` changes whenever the content does: an ETag, or size and modification time."""

    uri: str
    size: int
    version: str


class Backend(Protocol):
    """What a kind of store must offer; `key` is a local path or the part of the URI after the bucket."""

    def read(self, key: str) -> bytes: ...
    def open(self, key: str) -> pa.NativeFile: ...
    def write(self, key: str, data: bytes) -> None: ...
    def create(self, key: str, data: bytes) -> bool: ...
    def upload(self, path: Path, key: str) -> None: ...
    def info(self, key: str) -> FileInfo: ...
    def walk(self, prefix: str) -> Iterable[FileInfo]: ...
    def delete(self, keys: list[str]) -> None: ...


_options = StorageOptions()  # type: ignore[call-arg]


def configure(options: StorageOptions) -> None:
    """Use these options for every later call in this process. A worker does it before each unit."""
    global _options
    _options = options


def options() -> StorageOptions:
    """What `configure` last set."""
    return _options


def absolute(uri: str) -> str:
    """A local path made absolute (`~` expanded); a URI without a trailing slash.

    Only file:// URIs are percent-decoded: in an object's name `%20` is three characters, as the stores have it.
    """
    scheme = _scheme(uri)
    rest = uri.partition("://")[2]
    if scheme == "":
        return str(Path(uri).expanduser().absolute())
    if scheme == "file":
        path = unquote(rest.removeprefix("localhost"))
        if not path.startswith("/"):
            raise StorageError(f"{uri}: names a machine. Write file:///PATH with three slashes, or a plain path.")
        return str(Path(path))
    return f"{scheme}://{rest.rstrip('/')}"


def is_remote(uri: str) -> bool:
    return _scheme(uri) in OBJECT_SCHEMES


def join(uri: str, *parts: str) -> str:
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def read_bytes(uri: str) -> bytes:
    backend, key = _backend(uri)
    return backend.read(key)


def open_input(uri: str) -> pa.NativeFile:
    """A seekable binary file. Close it, or use it in a `with`."""
    backend, key = _backend(uri)
    return backend.open(key)


def write_bytes(uri: str, data: bytes) -> None:
    backend, key = _backend(uri)
    backend.write(key, data)


def create(uri: str, data: bytes) -> bool:
    """Write the object unless it exists; of any number of racing callers exactly one gets True."""
    backend, key = _backend(uri)
    return backend.create(key, data)


def upload(path: Path, uri: str) -> None:
    """Move a finished local file to the store, whole or not at all. The local file may be gone afterwards."""
    backend, key = _backend(uri)
    backend.upload(path, key)


def info(uri: str) -> FileInfo:
    backend, key = _backend(uri)
    return backend.info(key)


def exists(uri: str) -> bool:
    try:
        info(uri)
    except NotFound:
        return False
    return True


def list_files(folder: str) -> list[FileInfo]:
    """Every file below a folder, at any depth, in the order of their names. None if there is no such folder."""
    backend, key = _backend(folder, file=False)
    return sorted(backend.walk(key), key=lambda file: file.uri)


def holds_files(folder: str) -> bool:
    """Whether any file lies below a folder, at any depth."""
    backend, key = _backend(folder, file=False)
    return next(iter(backend.walk(key)), None) is not None


def list_unreadable(folder: str) -> list[tuple[str, str]]:
    """(path, kind) of what is below a local folder and no file: dangling or circular links, FIFOs, devices."""
    if is_remote(folder):
        return []
    from cluster.store.local import LOCAL

    return sorted(LOCAL.unreadable(absolute(folder)))


def delete(uris: Iterable[str]) -> None:
    """Remove objects; those already gone are no error."""
    grouped: dict[int, tuple[Backend, list[str]]] = {}
    for uri in uris:
        backend, key = _backend(uri)
        grouped.setdefault(id(backend), (backend, []))[1].append(key)
    for backend, keys in grouped.values():
        backend.delete(keys)


def delete_empty_folder(uri: str) -> None:
    """Remove a local folder that holds nothing; one that holds something stays. Object stores have no folders."""
    if not is_remote(uri):
        from cluster.store.local import LOCAL

        LOCAL.delete_empty_folder(absolute(uri))


def glob(pattern: str) -> list[FileInfo]:
    """Files whose URI matches: `*` and `?` stay inside a folder, `**` crosses folders, `[ab]` is a set."""
    pattern = absolute(pattern)
    wild = re.search(r"[*?\[]", pattern)
    if wild is None:
        return [info(pattern)]
    fixed = pattern[: pattern.rindex("/", 0, wild.start())] or "/"
    regex = _glob_regex(pattern)
    return [file for file in list_files(fixed) if regex.fullmatch(file.uri)]


def matches(pattern: str, path: str) -> bool:
    """Whether a path or URI matches a pattern of `glob`; neither has to exist."""
    return _glob_regex(pattern).fullmatch(path) is not None


def require_conditional_writes(root: str) -> None:
    """Refuse a store on which two writers could both believe they were first.

    Raises:
        StorageError: a second put-if-absent of the same object succeeded.
    """
    probe = join(root, f"_probe-{uuid.uuid4().hex}")
    first, second = create(probe, b"1"), create(probe, b"2")
    delete([probe])
    if second or not first:
        raise StorageError(
            f"{root}: this store ignores put-if-absent (If-None-Match), so a retried worker could corrupt the run. "
            "Use a store that honours it: AWS S3, GCS, Azure, Ceph from 16, MinIO, or a local path."
        )


def local_copy(uri: str) -> Path:
    """A local path with the object's content: the file itself, or a download kept for this machine by its version."""
    if not is_remote(uri):
        path = Path(absolute(uri))
        if not path.is_file():
            raise NotFound(uri)
        return path
    found = info(uri)
    name = hashlib.sha256(f"{found.uri}\n{found.version}".encode()).hexdigest()[:32] + "-" + Path(uri).name[-100:]
    target = own_folder() / name
    if not target.exists():
        from cluster.store.local import LOCAL

        LOCAL.write(str(target), read_bytes(uri))
    return target


def own_folder() -> Path:
    """A folder for copies that no other user of this machine could have put files into."""
    folder = Path(tempfile.gettempdir(), f"raymill-copies-{os.getuid()}")
    folder.mkdir(exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise StorageError(f"{folder}: belongs to someone else. Set TMPDIR to a folder of your own.")
    return folder


class NotFound(StorageError):
    """There is no such object."""

    def __init__(self, uri: str, seen: str = "no such file") -> None:
        super().__init__(f"{uri}: {seen}. Check the path, or list the folder it should be in.")


class Unavailable(StorageError):
    """The store did not answer, or not as it should: the one refusal that may be gone a minute later."""


def _scheme(uri: str) -> str:
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", uri)
    return match[1].lower() if match else ""


def _backend(uri: str, *, file: bool = True) -> tuple[Backend, Any]:
    scheme = _scheme(uri)
    if scheme in ("", "file"):
        from cluster.store.local import LOCAL

        return LOCAL, absolute(uri)
    if scheme not in OBJECT_SCHEMES:
        known = ", ".join(f"{name}://" for name in OBJECT_SCHEMES)
        raise StorageError(f"{uri}: {scheme}:// is not a store this project reads. Use a local path, {known}.")
    from cluster.store.object_store import bucket

    # Not urlsplit: `?` and `#` are ordinary characters in an object's name.
    name, _, key = uri.partition("://")[2].partition("/")
    key = key.rstrip("/")
    if not name or re.search(r"[*?\[]", name):
        raise StorageError(f"{uri}: no bucket. Write {scheme}://BUCKET/PATH.")
    if file and not key:
        raise NotFound(uri, "is a bucket; a file in it was wanted")
    return bucket(scheme, name, _options), key


def _glob_regex(pattern: str) -> re.Pattern[str]:
    out, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif pattern[at] == "*":
            out, at = out + "[^/]*", at + 1
        elif pattern[at] == "?":
            out, at = out + "[^/]", at + 1
        elif found := re.compile(r"\[([!^]?)(\]?[^\]]*)\]").match(pattern, at):
            negated, inside = found.groups()
            out += "(?!/)[" + "^" * bool(negated) + re.escape(inside).replace(r"\-", "-") + "]"
            at = found.end()
        else:
            out, at = out + re.escape(pattern[at]), at + 1
    try:
        return re.compile(out, re.DOTALL)
    except re.error as error:
        raise StorageError(
            f"{pattern}: a set in brackets is not right ({error}). Write [abc], [a-z] or [!a]."
        ) from error
