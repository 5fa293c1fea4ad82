"""Checks and bounds on the answers of the Hugging Face hub, for every request that its client sends.

The library uses commits, ETags and object ids of answers as names of files in its cache, and reads answers whole. So a
server that HF_ENDPOINT names could write, replace and link any file of the user, or take all memory. Raymill sends
requests to the hub only inside `checked_hub`; outside of it the client of this process is as others have set it up.

Files are transferred over HTTP there. The package hf_xet has a client of its own, in Rust, with none of these bounds:
an answer of its store takes all memory, and any time.

Answers name the addresses to which files are uploaded and from which they come. These have to be public, or like the
hub's own: a hub in a private network has its store there.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http as library

from raymill.cluster.public_addresses import addresses_of, kind_of
from raymill.cluster.secret_values import shortened

# Bounds on an answer of the hub besides the content of files, and on all of them in one `checked_hub`.
_MAX_ANSWER_BYTES = 16 << 20
_MAX_ANSWER_S = 300  # after the last byte of the request; a commit of many files takes a minute
_MAX_READ_S = 60  # of a GET
_MAX_BYTES = 256 << 20
_MAX_ANSWERS = 1_000_000
_MAX_WAIT_S = 3600  # for all of them
_LOOK_UP_S = 30  # for the name of a host
_MAX_RETRY_S = 300  # until a request is repeated; the hub counts requests of five minutes
# A file takes at most the time of a read, and a second for this number of bytes.
_LEAST_BYTES_PER_S = 32 << 10

_ID = re.compile(r"[\w-]{0,128}", re.ASCII)  # of a commit or an object
_SIZE = re.compile(r"[0-9]{1,18}")
_IDS = ("sha", "oid", "sha256")
_ETAG = re.compile(r'(?:W/)?"?\w[\w.:+=-]{0,254}"?', re.ASCII)


class AnswerRefused(OSError):
    """An answer of the hub exceeds a bound, or has an id that would be a path out of the cache."""


@dataclass(eq=False)
class _Bounds:
    """Number of answers, of their bytes, and of seconds of waiting for them, that are left.

    sizes: bytes of files by the paths of their addresses, as the answers to HEAD state them.
    """

    answers: int
    bytes: int
    seconds: float = _MAX_WAIT_S
    sizes: dict[str, int] = field(default_factory=dict)


_bounds: list[_Bounds] = []


class _WithoutXet:
    """Turns hf_xet off while any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._was_off = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._was_off = huggingface_hub.constants.HF_HUB_DISABLE_XET
                huggingface_hub.constants.HF_HUB_DISABLE_XET = True
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                huggingface_hub.constants.HF_HUB_DISABLE_XET = self._was_off


_without_xet = _WithoutXet()


class _ThisRequest(threading.local):
    """The deadline of the answer to this thread's request.

    seconds: bound on the time of the answer; None without a bound. until: its end, by time.monotonic.
    """

    seconds: float | None = None
    until = 0.0

    def begin(self) -> None:
        self.until = time.monotonic() + (self.seconds or 0)

    def passed(self) -> float:
        """Seconds since the request, if it has a bound."""
        return 0.0 if self.seconds is None else time.monotonic() - self.until + self.seconds

    def allow(self, seconds: float) -> None:
        """Give the answer this time from the request on."""
        self.until += seconds - (self.seconds or 0)
        self.seconds = seconds

    def left(self, timeout: float | None) -> float | None:
        """Timeout of a read, in seconds. timeout: the client's own.

        Raises:
            AnswerRefused: none are left.
        """
        if self.seconds is None:
            return timeout
        left = self.until - time.monotonic()
        if left <= 0:
            raise AnswerRefused(f"no whole answer within {self.seconds:g} s")
        return left if timeout is None else min(left, timeout)


_this_request = _ThisRequest()


@contextmanager
def checked_hub(answers: int = _MAX_ANSWERS) -> Iterator[None]:
    """Check and bound the answers that the hub's client reads inside, in all threads.

    Answers are asked for without compression, since a few kilobytes can unpack to gigabytes.

    Args:
        answers: maximum number of answers.

    Raises:
        AnswerRefused: there are more, one is too large, takes too long, is encoded, or names a file outside of the
            library's cache.
    """
    made = library._GLOBAL_CLIENT_FACTORY
    if not isinstance(made, _Checked):
        huggingface_hub.set_client_factory(_Checked(made))
    bounds = _Bounds(answers, _MAX_BYTES)
    _bounds.append(bounds)
    try:
        with _without_xet:
            yield
    finally:
        _bounds.remove(bounds)


@dataclass(frozen=True, eq=False)
class _Checked:
    """A client factory that adds the checks. make: the factory before. The library calls it again after a lost
    connection and after a fork.
    """

    make: Callable[[], httpx2.Client]

    def __call__(self) -> httpx2.Client:
        client = self.make()
        client.event_hooks["request"].append(_prepare)
        client.event_hooks["response"].append(_check_answer)
        for transport in {client._transport, *client._mounts.values()}:
            if pool := getattr(transport, "_pool", None):
                backend = pool._network_backend
                # A proxy looks names up itself, and may be in a private network.
                by_proxy = isinstance(pool, httpcore2.HTTPProxy | httpcore2.SOCKSProxy)
                pool._network_backend = _TimedBackend(backend if by_proxy else _CheckedBackend(backend))
        return client


def _prepare(request: httpx2.Request) -> None:
    _this_request.seconds = None
    if _bounds:
        if "authorization" in request.headers and not _is_of_the_hub(request.url):
            raise AnswerRefused(
                f"an answer would have the token sent to {shortened(request.url.host, 100)!a}. Do not use this server, "
                "and check HF_ENDPOINT"
            )
        with suppress(ValueError):
            _check_address(request.url.host, request.url.host)  # a name has no address here, by a proxy not even later
        _this_request.seconds = _MAX_READ_S if request.method == "GET" else _MAX_ANSWER_S
        _this_request.begin()
        request.headers["Accept-Encoding"] = "identity"
        # A redirect has the extensions of the first request: what the library reads as an answer of the API stays one.
        request.extensions.setdefault("raymill_file", request.method == "GET" and "/api/" not in request.url.path)
        if request.extensions.get("raymill_size") is None:
            sizes = (bounds.sizes.get(request.url.path) for bounds in _bounds)
            request.extensions["raymill_size"] = next((size for size in sizes if size is not None), None)


def _is_of_the_hub(url: httpx2.URL) -> bool:
    """Whether an address is on the server that HF_ENDPOINT names, or on the same one by https in place of http."""
    hub = httpx2.URL(huggingface_hub.constants.ENDPOINT)
    ports = [one.port or {"http": 80, "https": 443}.get(one.scheme) for one in (hub, url)]
    is_same = (url.scheme, ports[1]) == (hub.scheme, ports[0])
    return url.host == hub.host and (is_same or (hub.scheme, url.scheme, *ports) == ("http", "https", 80, 443))


def _check_address(host: str, address: str) -> None:
    """Check the IP address of a host that an answer leads to.

    Raises:
        AnswerRefused: it is not public, and not of the same kind as those of the hub.
        ValueError: it is no IP address.
    """
    hub = httpx2.URL(huggingface_hub.constants.ENDPOINT)
    kind = kind_of(address)
    if kind is None or host == hub.host:
        return
    try:
        of_the_hub = {kind_of(one) for one in addresses_of(hub.host, 0, _LOOK_UP_S)}
    except (OSError, UnicodeError):  # by a proxy
        of_the_hub = set()
    if kind not in of_the_hub:
        seen = shortened(host, 100) if host == address else f"{shortened(host, 100)} ({address})"
        raise AnswerRefused(
            f"an answer leads to {seen!a}, an address of {kind}, and {hub.host} has none of these. Do not use this "
            "server, and check HF_ENDPOINT"
        )


def _check_answer(answer: httpx2.Response) -> None:
    if not _bounds:
        return
    headers, request = answer.headers, answer.request
    for bounds in _bounds:
        bounds.answers -= 1
        if bounds.answers < 0:
            raise AnswerRefused("too many answers")
    if answer.status_code >= 400:  # also 408, after which the library waits
        _check_wait(answer)
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise AnswerRefused(f"an answer encoded as {shortened(headers['content-encoding'], 50)}")
    names = [(headers.get("x-repo-commit"), _ID)]
    if request.method == "HEAD" and answer.status_code < 400:
        names += [(headers.get(name), _ETAG) for name in ("etag", "x-linked-etag")]
        _remember_size(answer)
    for name, form in names:
        if name is not None and not form.fullmatch(name):
            raise _no_name(name)
    if request.extensions.get("raymill_file") and answer.is_success:
        size = request.extensions.get("raymill_size")
        if size is None:  # of a part of a file, or of one whose HEAD states none
            size = _stated_size(headers.get("content-length", ""))
        _this_request.allow(_MAX_READ_S + size / _LEAST_BYTES_PER_S)
        if isinstance(answer.stream, httpx2.SyncByteStream):
            answer.stream = _FileStream(answer.stream, size)
    elif isinstance(answer.stream, httpx2.SyncByteStream):
        answer.stream = _BoundedStream(answer.stream)
        if request.method != "HEAD" and not answer.is_redirect:
            with suppress(ValueError, RecursionError):  # the library names what is no JSON
                json.loads(answer.read(), object_hook=_check_ids)
        for bounds in _bounds:
            bounds.seconds -= _this_request.passed()
            if bounds.seconds < 0:
                raise AnswerRefused(f"no end of its answers within {_MAX_WAIT_S} s")


def _check_wait(answer: httpx2.Response) -> None:
    """Check the time after which the answer wants the request again, for which the library sleeps.

    Raises:
        AnswerRefused: it is too long, or all of them are.
    """
    try:
        limit = library.parse_ratelimit_headers(answer.headers) if answer.status_code == 429 else None
        wait = max(library._parse_retry_after(answer.headers) or 0, limit.reset_in_seconds if limit else 0)
    except ValueError:  # a number of over 4,300 digits
        wait = _MAX_RETRY_S + 1
    if wait > _MAX_RETRY_S:
        raise AnswerRefused(f"answer {answer.status_code}, which asks to wait for over {_MAX_RETRY_S} s")
    for bounds in _bounds:
        bounds.seconds -= wait


def _remember_size(answer: httpx2.Response) -> None:
    """Keep the size of a file that an answer to HEAD states, of its address and of the one that it leads to.

    Raises:
        AnswerRefused: it is none, or the disk has no room for it.
    """
    headers = answer.headers
    stated: str = headers.get("x-linked-size") or ("" if answer.is_redirect else headers.get("content-length")) or ""
    if not stated:
        return
    size = _stated_size(stated)
    leads_to = headers.get("location", "") if answer.is_redirect else ""
    for bounds in _bounds:
        for address in filter(None, (str(answer.request.url), leads_to)):
            bounds.sizes[answer.request.url.join(address).path] = size


def _stated_size(stated: str) -> int:
    """The size of a file that an answer states.

    Raises:
        AnswerRefused: it is no number of bytes, as the library's `int` may read it, or the disk has no room for it.
    """
    if not _SIZE.fullmatch(stated):
        raise AnswerRefused(f"a file of {shortened(stated, 50)!a} bytes" if stated else "a file of unknown size")
    size, cache = int(stated), Path(huggingface_hub.constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if size > free:
        raise AnswerRefused(f"a file of {size:,} bytes, and {free:,} are free for {cache}")
    return size


def _check_ids(found: dict[str, Any]) -> None:
    for key in _IDS:
        if isinstance(value := found.get(key), str) and not _ID.fullmatch(value):
            raise _no_name(value)


def _no_name(name: str) -> AnswerRefused:
    return AnswerRefused(
        f"an answer has {shortened(name, 100)!a} in place of the id of a commit or file. Do not use this "
        "server, and check HF_ENDPOINT"
    )


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self._stream:
            size += len(part)
            for bounds in _bounds:
                bounds.bytes -= len(part)
            if size > _MAX_ANSWER_BYTES or any(bounds.bytes < 0 for bounds in _bounds):
                raise AnswerRefused(f"an answer of over {size:,} bytes, or all of over {_MAX_BYTES >> 20:,} MiB")
            yield part

    def close(self) -> None:
        self._stream.close()


class _FileStream(httpx2.SyncByteStream):
    """The content of a file. most: its bytes."""

    def __init__(self, stream: httpx2.SyncByteStream, most: int) -> None:
        self._stream, self._left = stream, most

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            self._left -= len(part)
            if self._left < 0:
                raise AnswerRefused("a file with more bytes than the answer to HEAD states")
            yield part

    def close(self) -> None:
        self._stream.close()


class _CheckedBackend(httpcore2.NetworkBackend):
    """Connects to addresses that were checked, while any thread is inside `checked_hub`."""

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore2.NetworkStream:
        if not _bounds:
            return self._backend.connect_tcp(host, port, timeout, *args, **options)
        try:
            addresses = addresses_of(host, port, _LOOK_UP_S)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"the name {host} has no address ({error})") from error
        for address in addresses:
            _check_address(host, address)
        failed: httpcore2.ConnectError | httpcore2.ConnectTimeout | None = None
        for address in addresses:
            try:
                return self._backend.connect_tcp(address, port, timeout, *args, **options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = failed or error
        assert failed is not None, "a host has at least one address"
        raise failed

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return self._backend.connect_unix_socket(*args, **options)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _TimedBackend(httpcore2.NetworkBackend):
    """Connections on which an answer has to arrive within its time, headers included.

    Timeouts of the client are those of a single read, of which a slow server needs many.
    """

    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _TimedStream(self._backend.connect_tcp(*args, **options))

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _TimedStream(self._backend.connect_unix_socket(*args, **options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _TimedStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._stream.read(max_bytes, _this_request.left(timeout))
        except httpcore2.ReadTimeout:
            _this_request.left(timeout)  # the library repeats a request that the client's own timeout ended
            raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)
        _this_request.begin()  # a large file takes any time to send

    def start_tls(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _TimedStream(self._stream.start_tls(*args, **options))

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def hub_folder(name: str, revision: str | None, patterns: Iterable[str], **how: Any) -> Path:
    """The folder of a model of the hub in the library's cache, fetched if it is not there.

    Args:
        patterns: glob patterns of the files to fetch. how: further arguments of `snapshot_download`.

    Raises:
        AnswerRefused: a file in it is a link that leads out of the cache, or an answer has another form than the
            hub's.
        Exception: those of `snapshot_download`.
    """
    fetch = partial(huggingface_hub.snapshot_download, name, revision=revision, allow_patterns=list(patterns), **how)
    with checked_hub():
        try:
            folder = Path(fetch())
        except HfHubHTTPError:
            raise
        except (AttributeError, LookupError, TypeError, httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise AnswerRefused(
                f"{huggingface_hub.constants.ENDPOINT} answered in another form than the hub does "
                f"({type(error).__name__}). Check HF_ENDPOINT"
            ) from error
    allowed = [Path(huggingface_hub.constants.HF_HUB_CACHE).resolve(), folder.parent.parent.resolve()]
    for path in folder.rglob("*"):
        if not any((target := path.resolve()).is_relative_to(one) for one in allowed):
            raise AnswerRefused(f"{path} is a link to {target}, outside of the cache: remove the folder {folder}")
    return folder
