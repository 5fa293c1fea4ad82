"""HTTP requests of connectors: addresses are checked, sizes and times bounded, refusals repeated.

A host's name is resolved here, every address is checked, and the connection goes to the checked address, so that a
second answer of DNS cannot lead elsewhere. Each redirect is checked in the same way. Proxies of the environment are not
used, because they resolve names themselves. A request has one deadline, from the look-up of the name to the last byte.
"""

import email.utils
import random
import ssl
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore2
import httpx2

from raymill import cluster
from raymill.cluster.public_addresses import addresses_of, is_public
from raymill.cluster.secret_values import redacted, shortened
from raymill.pipelines.prepare.fetch.settings import Web
from raymill.pipelines.prepare.fetch.snapshot import now

USER_AGENT = f"raymill/{cluster.__version__}"

_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_ENCODINGS = ("", "identity", "gzip", "deflate")  # one of them: a chain of encodings unpacks without a bound


def pause(seconds: float) -> None:
    """Wait, if there is something to wait for."""
    if seconds > 0:
        time.sleep(seconds)


class RequestFailed(Exception):
    """A request without a usable answer.

    problem: a key of reader.PROBLEMS. message: the address and what was seen, without a full stop at its end. status:
    of the answer, if there was one.
    """

    def __init__(self, problem: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.problem = problem
        self.status = status


@dataclass(frozen=True)
class Response:
    """An answer with a status of success.

    url: after redirects. received: UTC time. following: the address of rel=next in the Link header.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes
    received: str
    following: str | None = None

    @property
    def content_type(self) -> str:
        """The header with its charset, in lower case; empty if there is none."""
        return self.headers.get("content-type", "").lower()


@dataclass
class Client:
    """Sends requests within the bounds of these settings. Use in a `with`."""

    settings: Web
    _client: httpx2.Client | None = field(default=None, init=False)
    _deadline: "_Deadline" = field(default_factory=lambda: _Deadline(), init=False)

    def __enter__(self) -> "Client":
        self._client = httpx2.Client(
            transport=_CheckedTransport(self.settings.allow_private, self._deadline),
            timeout=self.settings.timeout_s,
            follow_redirects=False,
            trust_env=False,
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "gzip, deflate"},
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._client is not None
        self._client.close()
        self._client = None

    def get(
        self,
        url: str,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        secret_parameters: Mapping[str, str] | None = None,
        allowed: Callable[[str], None] = lambda url: None,
    ) -> Response:
        """The answer to a GET, after redirects and repetitions.

        secrets, secret_parameters: headers and parameters of the query string that are sent to the server of `url`
            alone; no address in an answer or an error has the latter.
        allowed: called with the address of every redirect
            before it is followed; it may raise `RequestFailed`.

        Raises:
            RequestFailed: there is none.
        """
        asked = _with_parameters(_parsed(url, url), parameters or {})
        origin = _origin(asked)
        for _ in range(self.settings.max_redirects + 1):
            own, hidden = (secrets or {}, secret_parameters or {}) if _origin(asked) == origin else ({}, {})
            found = self._repeated(asked, {**(headers or {}), **own}, hidden)
            if isinstance(found, Response):
                return found
            asked = _parsed(found, str(asked))
            if asked.scheme not in ("http", "https"):
                raise RequestFailed(
                    "http_error", f"{shown(url)}: leads to {shown(asked)}, which is no page of a web server"
                )
            allowed(str(asked))
        raise RequestFailed(
            "http_error",
            f"{shown(url)}: more than {self.settings.max_redirects} redirects, the last one to {shown(asked)}",
        )

    def _repeated(self, url: httpx2.URL, headers: Mapping[str, str], hidden: Mapping[str, str]) -> Response | str:
        """The answer, or where it redirects to."""
        usual = _FIRST_PAUSE_S
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return self._once(url, headers, hidden)
            except _Refused as refused:
                wait = usual * random.uniform(0.5, 1) if refused.wait is None else refused.wait
                if attempt == self.settings.attempts or wait > self.settings.longest_wait_s:
                    asks = f", and asks to wait for {wait:,.0f} s" if wait > self.settings.longest_wait_s else ""
                    times = f" ({attempt} times)" if attempt > 1 else ""
                    raise RequestFailed(
                        refused.problem, f"{shown(url)}: {refused.seen}{times}{asks}", refused.status
                    ) from refused
                pause(wait)
                usual = min(2 * usual, _LONGEST_PAUSE_S)
        raise AssertionError("at least one try")

    def _once(self, url: httpx2.URL, headers: Mapping[str, str], hidden: Mapping[str, str]) -> Response | str:
        assert self._client is not None, "use in a `with`"
        self._deadline.until = time.monotonic() + self.settings.timeout_s
        try:
            asked = _with_parameters(url, hidden)
            with self._client.stream("GET", asked, headers=dict(headers)) as response:
                status = response.status_code
                if (encoding := response.headers.get("content-encoding", "").strip().lower()) not in _ENCODINGS:
                    raise RequestFailed(
                        "http_error", f"{shown(url)}: encoded as {encoding[:50]}, not as gzip or deflate"
                    )
                if status in (301, 302, 303, 307, 308) and "location" in response.headers:
                    return response.headers["location"]
                if status in _AGAIN:
                    raise _Refused("http_error", f"answered with status {status}", _wait(response.headers), status)
                if not 200 <= status < 300:
                    begin = " ".join(next(response.iter_bytes(300), b"").decode("utf-8", "replace").split())
                    seen = f"answered with status {status}" + (f" ({shortened(begin, 150)})" if begin else "")
                    raise RequestFailed("http_error", f"{shown(url)}: {seen}", status)
                blocks, size = [], 0
                for block in response.iter_bytes():
                    blocks.append(block)
                    size += len(block)
                    if size > self.settings.max_mib * (1 << 20):
                        raise RequestFailed(
                            "too_large", f"{shown(url)}: the answer has more than {self.settings.max_mib:g} MiB"
                        )
                following = response.links.get("next", {}).get("url")
                return Response(str(url), response.headers, b"".join(blocks), now(), following)
        except httpx2.TimeoutException as error:
            raise _Refused("unreachable", f"no whole answer within {self.settings.timeout_s:g} s") from error
        except httpx2.TransportError as error:
            said = str(error).strip() or type(error).__name__
            raise _Refused("unreachable", f"no whole answer ({shortened(said, 300)})") from error
        except httpx2.DecodingError as error:
            raise _Refused("http_error", f"the compressed answer is damaged ({shortened(str(error), 200)})") from error


class _Refused(Exception):
    """A request that may succeed later. seen: in words. wait: seconds that the server asks for."""

    def __init__(self, problem: str, seen: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(seen)
        self.problem, self.seen, self.wait, self.status = problem, seen, wait, status


class _Deadline(httpcore2.NetworkBackend):
    """Connections whose every read and write ends at `until`, which is set before each request.

    until: by `time.monotonic`. Timeouts of the client are those of a single read, of which a slow server needs many.
    """

    until = 0.0

    @property
    def seconds(self) -> float:
        """The seconds until then."""
        return max(0.0, self.until - time.monotonic())

    def left(self, limit: float | None) -> float:
        """The seconds that an operation may take.

        Raises:
            ReadTimeout: none are left.
        """
        left = self.seconds
        if not left:
            raise httpcore2.ReadTimeout("the time of the request is over")
        return left if limit is None else min(left, limit)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        backend = httpcore2.SyncBackend()
        made = backend.connect_tcp(host, port, self.left(timeout), local_address, socket_options)
        return _TimedStream(made, self)


class _TimedStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.left(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        made = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left(timeout))
        return _TimedStream(made, self._deadline)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _CheckedTransport(httpx2.HTTPTransport):
    """Connects to an address that was checked, with the host's name in the request and in TLS."""

    def __init__(self, allow_private: bool, deadline: _Deadline) -> None:
        super().__init__()
        self._allow_private, self._deadline = allow_private, deadline
        self._context = httpx2.create_ssl_context()
        self._connected = ""  # the host's name of the connections in the pool

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        extensions: dict[str, Any] = {**request.extensions, "sni_hostname": host}
        if host != self._connected:
            # The pool knows connections by their address: one whose certificate is of another name is not used again.
            self.close()
            self._pool = httpcore2.ConnectionPool(ssl_context=self._context, network_backend=self._deadline)
            self._connected = host
        failed: httpx2.TransportError | None = None
        for address in checked_addresses(host, port, self._allow_private, self._deadline.seconds):
            checked = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
            try:
                return super().handle_request(checked)
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
                failed = failed or error
        assert failed is not None, "a host has at least one address"
        raise failed


def checked_addresses(host: str, port: int, allow_private: bool, timeout_s: float) -> list[str]:
    """The IP addresses of a host, in the order in which they are to be tried.

    Raises:
        RequestFailed: one of its addresses is of this machine or of a private network, and these are not allowed.
        ConnectError: the name has no address.
        ConnectTimeout: no name server has answered within `timeout_s`.
    """
    try:
        addresses = addresses_of(host, port, timeout_s)
    except TimeoutError as error:
        raise httpx2.ConnectTimeout(str(error)) from error
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError(f"the name {host} has no address: {error}") from error
    for address in addresses:
        if not allow_private and not is_public(address):
            seen = host if host == address else f"{host} ({address})"
            raise RequestFailed(
                "private_address",
                f"{seen} is of this machine or of a private network; to allow this, set `allow_private: true` in the "
                "`api` or `pages` of this input",
            )
    return addresses


def _parsed(url: str, at: str) -> httpx2.URL:
    """The address that a text means at the address `at`.

    Raises:
        RequestFailed: it is none.
    """
    try:
        found = httpx2.URL(at).join(url)
        _origin(found)  # decodes the host's name, which may fail
        return found
    except (httpx2.InvalidURL, ValueError) as error:
        leads = "is no address" if url == at else f"leads to {shortened(url, 200)}, which is no address"
        raise RequestFailed("http_error", f"{shortened(at, 200)}: {leads} ({shortened(str(error), 100)})") from error


def _with_parameters(url: httpx2.URL, parameters: Mapping[str, str]) -> httpx2.URL:
    """The address with these parameters in its query string.

    Raises:
        RequestFailed: it would be too long, or a value is no text that UTF-8 can encode.
    """
    try:
        return url.copy_merge_params(dict(parameters)) if parameters else url
    except (httpx2.InvalidURL, ValueError) as error:
        raise RequestFailed(
            "http_error", f"{shortened(str(url), 200)}: its parameters make no address ({shortened(str(error), 100)})"
        ) from error


def checked_address(url: str, at: str) -> str:
    """The address that a text in the answer from `at` means.

    Raises:
        RequestFailed: it is none.
    """
    return str(_parsed(url, at))


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def same_server(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    return _origin(httpx2.URL(one)) == _origin(httpx2.URL(other))


def shown(url: httpx2.URL | str) -> str:
    """The address for messages and records: without what is a secret in it."""
    return redacted(str(url))


def without_parameters(url: str, names: Collection[str]) -> str:
    """The address without parameters of these names, in capitals or not."""
    parsed, lower = httpx2.URL(url), {name.lower() for name in names}
    for name in [one for one in parsed.params if one.lower() in lower]:
        parsed = parsed.copy_remove_param(name)
    return str(parsed) if parsed != httpx2.URL(url) else url


def _wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of a header Retry-After: a number, or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value[:12])  # a longer one is as good as never
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, IndexError, OverflowError):  # what a date of any form can raise
        return None
