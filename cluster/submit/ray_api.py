"""Requests to the dashboard of a Ray cluster: its REST API of jobs, logs and packages.

Every request has a time-out and carries the cluster's token. Redirects are not followed, because the token would go to
another address. RAY_ADDRESS and RAY_API_SERVER_ADDRESS, which replace the address in Ray's own client, are not read.
Source: ray/dashboard/modules/{job/job_head,state/state_head}.py of Ray 2.60.
"""

import ipaddress
import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import BadStatusLine, RemoteDisconnected
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from pydantic import TypeAdapter, ValidationError
from requests.auth import AuthBase
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, SSLError

from raymill.cluster.entry import within
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.secret_values import redacted, remember, shortened
from raymill.cluster.submit.backend import NoAnswer, NoConnection, NotThere

T = TypeVar("T")

_CONNECT_S = 10
_REQUEST_S = 60
_UPLOAD_S = 600
_LARGEST_ANSWER = 256 << 20  # bytes, decompressed: jobs with their configs; a log may be larger
_LARGEST_ERROR = 1 << 18  # bytes that are read of the answer to a request that is refused
_STREAM_SILENCE_S = 60  # then the connection of a log is made again, as it may have been cut without notice
_CHUNK = 1 << 16  # bytes
_TEXT_SHOWN = 300
_BYTES_SHOWN = 1 << 12
_NO_CONNECTION = (NewConnectionError, ConnectTimeoutError, SSLError)
# OpenSSL's reasons when the other side answers without TLS.
_NOT_ENCRYPTED = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


class RayApi:
    """The dashboard at an address.

    Args:
        address: http(s)://HOST:PORT, as `ray start` prints it.
        token: token of the cluster; None if it has none.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        self.address = address.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        # A proxy of the environment must not get requests to this machine.
        self._session.trust_env = not _is_loopback(urlsplit(address).hostname or "")

    def get(self, path: str) -> bytes:
        """The body of an answer of status 200.

        Raises:
            NotThere: status 404.
            Refused: another status from 400 to 499.
            NoAnswer: no whole one within a minute or in `_LARGEST_ANSWER`, or a status from 500 on.
            ConfigError: the token is missing or wrong.
        """
        return self._request("GET", path, _REQUEST_S)

    def get_as(self, kind: TypeAdapter[T], path: str) -> T:
        """The JSON value of an answer, of the form that Ray gives it.

        Raises:
            ConfigError: it is not JSON or has another form, as the answer of another server, such as a login page.
        """
        answer = self.get(path)
        try:
            return kind.validate_python(json.loads(answer))
        except ValidationError as error:
            at = ".".join(map(str, error.errors()[0]["loc"]))
            raise self._not_ours(path, f"one of Ray's dashboard{at and f', {at}'}", answer) from None
        except (ValueError, RecursionError):
            raise self._not_ours(path, "JSON", answer) from None

    def _not_ours(self, path: str, wanted: str, answer: bytes) -> ConfigError:
        begin = " ".join(shortened(answer[:_BYTES_SHOWN].decode(errors="replace"), _TEXT_SHOWN).split())
        return ConfigError(
            f"{self.address}: the answer to {path} is not {wanted} ({begin}), as a login page's is. Give the "
            "address of Ray's dashboard itself."
        )

    def post(self, path: str, body: Any = None) -> bytes:
        """As `get`, with a body of JSON."""
        return self._request("POST", path, _REQUEST_S, json=body)

    def put(self, path: str, data: bytes) -> bytes:
        """As `get`, with a body of bytes."""
        return self._request("PUT", path, _UPLOAD_S, data=data)

    def delete(self, path: str) -> bytes:
        """As `get`."""
        return self._request("DELETE", path, _REQUEST_S)

    def stream(self, path: str, **query: Any) -> Iterator[bytes]:
        """The bytes of an answer as they arrive. Raises NoAnswer when nothing has arrived for a minute."""

        def begun() -> tuple[requests.Response, bytes]:
            answer = self._send("GET", path, _STREAM_SILENCE_S, params=query)
            return answer, b"" if answer.status_code == 200 else self._whole(answer, path)

        with self._translated(path):
            answer, found = within(_CONNECT_S + _REQUEST_S, begun)
            with answer:
                if answer.status_code != 200:
                    self._raise(answer.status_code, path, found.decode(errors="replace").strip())
                yield from answer.iter_content(_CHUNK)

    def _request(self, method: str, path: str, seconds: float, **more: Any) -> bytes:
        def body() -> tuple[int, bytes]:
            with self._send(method, path, seconds, **more) as answer:
                return answer.status_code, self._whole(answer, path)

        with self._translated(path):
            status, found = within(_CONNECT_S + seconds, body)
        if status == 200:
            return found
        self._raise(status, path, found.decode(errors="replace").strip())
        raise AssertionError(status)

    def _send(self, method: str, path: str, seconds: float, **more: Any) -> requests.Response:
        """The answer without its body."""
        return self._session.request(
            method, self.address + path, timeout=(_CONNECT_S, seconds), allow_redirects=False, stream=True, **more
        )

    def _whole(self, answer: requests.Response, path: str) -> bytes:
        """The body of an answer; of one with an error its beginning."""
        found = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            found += chunk
            if answer.status_code != 200 and len(found) >= _LARGEST_ERROR:
                return b"".join(found.rsplit(None, 1)[:-1])  # not half of a secret, which would be shown
            if len(found) > _LARGEST_ANSWER:
                raise NoAnswer(f"{self.address}: the answer to {path} has more than {_LARGEST_ANSWER >> 20} MiB.")
        return bytes(found)

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except (requests.RequestException, OSError) as error:
            causes = list(_causes(error))
            kind = NoConnection if any(isinstance(one, _NO_CONNECTION) for one in causes) else NoAnswer
            message = (
                f"{self.address}: no answer to {path} ({_cause(error)}). Is the cluster running, is this the address "
                "of its dashboard (port 8265, not 6379), and is the port forwarded to this machine?"
            )
            if any(isinstance(one, BadStatusLine) and not isinstance(one, RemoteDisconnected) for one in causes):
                kind = NoConnection
                message = (
                    f"{self.address}: answers, but not as HTTP. Give the address of the dashboard; its port is 8265 by "
                    "default (6379 is the port for other machines)."
                )
            elif any(isinstance(one, ssl.SSLError) and one.reason in _NOT_ENCRYPTED for one in causes):
                plain, kind = self.address.replace("https://", "http://", 1), NoConnection
                message = f"{self.address}: the server does not use https. Use {plain}."
            # Without the library's exception, which would print headers with `--debug`.
            raise kind(message) from None

    def _raise(self, status: int, path: str, text: str) -> None:
        line = redacted(" ".join(text.split()))[-_TEXT_SHOWN:]
        if status == 401:
            raise ConfigError(
                f"{self.address}: the cluster requires a token, and none was sent. Set RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH, or give --token-file FILE."
            )
        if status == 403:
            raise ConfigError(
                f"{self.address}: the cluster refused the token. Take the one that the cluster was started with, from "
                "its RAY_AUTH_TOKEN, or from its Secret in Kubernetes."
            )
        if 300 <= status < 400:
            raise ConfigError(
                f"{self.address}: answered {path} with a redirect (status {status}), as a login page does. Give the "
                "address of Ray's dashboard itself."
            )
        if status == 404:
            raise NotThere(f"{self.address}: no {path} ({line}). Is this the dashboard of a Ray cluster?")
        # The head answers with status 500 when its agent has refused the request with 400.
        if status < 500 or "status code 400" in text:
            raise Refused(f"{self.address}: refused {path} with status {status}: {line}.", text)
        raise NoAnswer(f"{self.address}: {path} failed there with status {status}: {line}. Try again in a minute.")


class _Bearer(AuthBase):
    """Sets the token's header. Without it requests would take a password for the host from ~/.netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Refused(ClusterError):
    """The cluster refused a request. text: its answer."""

    def __init__(self, message: str, text: str) -> None:
        super().__init__(message)
        self.text = text


def checked_address(address: str, insecure_http: bool) -> str:
    """The address, without a slash at its end.

    Raises:
        ConfigError: it is not http(s)://HOST:PORT, or it is http to another machine and `insecure_http` is not given.
    """
    parts = urlsplit(address)
    try:
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, or above 65535
        whole = False
    if parts.username or parts.password:
        raise ConfigError("--address: holds a user name or password. Give the token by RAY_AUTH_TOKEN or --token-file.")
    if not whole or parts.query or parts.fragment:
        raise ConfigError(
            f"--address {address}: not the address of a dashboard; wanted http://HOST:PORT or https://HOST, as in "
            "http://127.0.0.1:8265."
        )
    if parts.scheme == "http" and not _is_loopback(str(parts.hostname)) and not insecure_http:
        raise ConfigError(
            f"--address {address}: config and token would cross the network unencrypted. Forward the port to this "
            f"machine (kubectl port-forward svc/NAME-head-svc 8265, or ssh -L 8265:127.0.0.1:8265 {parts.hostname}) "
            "and give http://127.0.0.1:8265, or an https:// address; in a trusted network add --insecure-http."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")


def found_token(file: str | None) -> str | None:
    """The token in a file, in RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token.

    Raises:
        ConfigError: a file that was named does not exist, or holds no token.
    """
    if file is None and (token := os.environ.get("RAY_AUTH_TOKEN", "").strip()):
        return _checked_token(token, "RAY_AUTH_TOKEN")
    named = file or os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or "~/.ray/auth_token").expanduser()
    where = "--token-file" if file else "RAY_AUTH_TOKEN_PATH" if named else "the default file of a token"
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named is None:
            return None
        cause = error.strerror if isinstance(error, OSError) and error.strerror else "not UTF-8 text"
        raise ConfigError(
            f"{where}: the token could not be read from {path} ({cause}). Give a file that holds the token alone."
        ) from None
    if not token and named is None:
        return None
    return _checked_token(token, f"{where}, {path}")


def _checked_token(token: str, where: str) -> str:
    if not token or not token.isascii() or any(character.isspace() for character in token):
        raise ConfigError(f"{where}: holds no token; wanted one word of ASCII characters.")
    return remember(token)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _cause(error: BaseException) -> str:
    """The innermost reason of a failed request, without the request's headers."""
    *_, found = _causes(error)
    text = str(found).rpartition(">: ")[2] or type(found).__name__
    return shortened(" ".join(text.split()), _TEXT_SHOWN).rstrip(".")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the reasons inside it, the innermost last."""
    found: BaseException | None = error
    while found is not None:
        yield found
        inside = (one for one in found.args if isinstance(one, BaseException))
        inner = getattr(found, "reason", None) or next(inside, None)
        found = inner if isinstance(inner, BaseException) and inner is not found else None
