"""HTTP requests of connectors: addresses are checked, sizes and times bounded, refusals repeated.

A host's name is resolved here, every address is checked, and the connection goes to the checked address, so that a
second answer of DNS cannot lead elsewhere. Each redirect is checked in the same way. Proxies of the environment are not
used, because they resolve names themselves.
"""

import email.utils
import ipaddress
import random
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

import cluster
from pipelines.prepare.fetch.answers import now
from pipelines.prepare.fetch.settings import Web

USER_AGENT = f"raymill/{cluster.__version__}"

_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


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

    def __enter__(self) -> "Client":
        self._client = httpx2.Client(
            transport=_CheckedTransport(self.settings.allow_private),
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
        allowed: Callable[[str], None] = lambda url: None,
    ) -> Response:
        """The answer to a GET, after redirects and repetitions.

        secrets: headers that are sent to the server of `url` alone. allowed: called with the address of every redirect
            before it is followed; it may raise `RequestFailed`.

        Raises:
            RequestFailed: there is none.
        """
        asked = httpx2.URL(url)
        if parameters:
            asked = asked.copy_merge_params(dict(parameters))
        origin = _origin(asked)
        for _ in range(self.settings.max_redirects + 1):
            own = {**(headers or {}), **(secrets or {} if _origin(asked) == origin else {})}
            found = self._repeated(asked, own)
            if isinstance(found, Response):
                return found
            try:
                asked = asked.join(found)
            except httpx2.InvalidURL as error:
                raise RequestFailed(
                    "http_error", f"{shown(asked)}: leads to {found[:200]}, which is no address"
                ) from error
            if asked.scheme not in ("http", "https"):
                raise RequestFailed(
                    "http_error", f"{shown(url)}: leads to {shown(asked)}, which is no page of a web server"
                )
            allowed(str(asked))
        raise RequestFailed(
            "http_error",
            f"{shown(url)}: more than {self.settings.max_redirects} redirects, the last one to {shown(asked)}",
        )

    def _repeated(self, url: httpx2.URL, headers: Mapping[str, str]) -> Response | str:
        """The answer, or where it redirects to."""
        usual = _FIRST_PAUSE_S
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return self._once(url, headers)
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
        raise AssertionError("at least one attempt")

    def _once(self, url: httpx2.URL, headers: Mapping[str, str]) -> Response | str:
        assert self._client is not None, "use in a `with`"
        until = time.monotonic() + self.settings.timeout_s
        try:
            with self._client.stream("GET", url, headers=dict(headers)) as response:
                status = response.status_code
                if status in (301, 302, 303, 307, 308) and "location" in response.headers:
                    return response.headers["location"]
                if status in _AGAIN:
                    raise _Refused("http_error", f"answered with status {status}", _wait(response.headers), status)
                if not 200 <= status < 300:
                    raise RequestFailed(
                        "http_error", f"{shown(url)}: answered with status {status}{_begin(response)}", status
                    )
                following = response.links.get("next", {}).get("url")
                return Response(str(url), response.headers, self._body(url, response, until), now(), following)
        except httpx2.TransportError as error:
            said = str(error).strip() or type(error).__name__
            raise _Refused("unreachable", f"no whole answer ({said[:300]})") from error
        except httpx2.DecodingError as error:
            raise _Refused("http_error", f"the compressed answer is damaged ({str(error)[:200]})") from error

    def _body(self, url: httpx2.URL, response: httpx2.Response, until: float) -> bytes:
        blocks, size = [], 0
        for block in response.iter_bytes(1 << 16):
            blocks.append(block)
            size += len(block)
            if size > self.settings.max_mib * (1 << 20):
                raise RequestFailed(
                    "too_large", f"{shown(url)}: the answer has more than {self.settings.max_mib:g} MiB"
                )
            if time.monotonic() > until:
                raise _Refused("unreachable", f"no whole answer within {self.settings.timeout_s:g} s")
        return b"".join(blocks)


class _Refused(Exception):
    """A request that may succeed later. seen: in words. wait: seconds that the server asks for."""

    def __init__(self, problem: str, seen: str, wait: float | None = None, status: int | None = None) -> None:
        super().__init__(seen)
        self.problem, self.seen, self.wait, self.status = problem, seen, wait, status


class _CheckedTransport(httpx2.HTTPTransport):
    """Connects to an address that was checked, with the host's name in the request and in TLS."""

    def __init__(self, allow_private: bool) -> None:
        super().__init__()
        self._allow_private = allow_private

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        extensions: dict[str, Any] = {**request.extensions, "sni_hostname": host}
        failed: httpx2.TransportError | None = None
        for address in checked_addresses(host, port, self._allow_private):
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


def checked_addresses(host: str, port: int, allow_private: bool) -> list[str]:
    """The IP addresses of a host, in the order in which they are to be tried.

    Raises:
        RequestFailed: one of its addresses is of this machine or of a private network, and these are not allowed.
        ConnectError: the name has no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError(f"the name {host} has no address: {error}") from error
    addresses = [str(one[4][0]).partition("%")[0] for one in found]
    for address in addresses:
        if not allow_private and not is_public(address):
            seen = host if host == address else f"{host} ({address})"
            raise RequestFailed(
                "private_address",
                f"{seen} is of this machine or of a private network; to allow this, set `allow_private: true` in the "
                "`api` or `pages` of this input",
            )
    return list(dict.fromkeys(addresses))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; also of an IPv4 address inside an IPv6 one."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if inner is None and ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _origin(url: httpx2.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def same_server(one: str, other: str) -> bool:
    """Whether two addresses have the same scheme, host and port."""
    return _origin(httpx2.URL(one)) == _origin(httpx2.URL(other))


def shown(url: httpx2.URL | str) -> str:
    """The address for messages and records: without the values of parameters whose names are those of secrets."""
    return re.sub(r"(?i)([?&][^=&]*(?:token|key|secret|signature|password)[^=&]*=)[^&#]+", r"\1***", str(url))


def _wait(headers: Mapping[str, str]) -> float | None:
    """The seconds of a header Retry-After: a number, or a date."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _begin(response: httpx2.Response) -> str:
    """The beginning of an error's text, for the message."""
    block = next(response.iter_bytes(300), b"")
    text = " ".join(block.decode("utf-8", "replace").split())
    return f" ({text[:150]})" if text else ""
