"""The server of the labelling page, for `raymill annotate label`.

    GET  /?token=TOKEN      the page, with the cookie that every other request needs
    GET  /, /page.js, /page.css
    GET  /api/state         what the page has to know of the round
    POST /api/next          {annotator, having}: the next tasks besides those that the page has
    POST /api/task          {annotator, task}: one task, to which an annotator goes back
    POST /api/answers       {annotator, answers}: labels, which are stored when the response comes

Any page in the same browser can send requests to a server on this machine, and the name of any site can lead to it. So
every request needs the random token, as a cookie that the page's script cannot read and other sites do not send; the
header Host has to name this server; and labels are taken from pages of this server alone.

Whoever reaches the port can connect without the token. So connections have a bound, in all and for each address, and a
request has bounds in bytes and time: what is kept for strangers is about 100 MiB.
"""

import hmac
import io
import json
import logging
import re
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections import Counter
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import SplitResult, parse_qs, urlsplit

from raymill.cluster.errors import ConfigError, RaymillError
from raymill.cluster.formats import plural
from raymill.pipelines.annotate.labelling import Labelling, RefusedLabel
from raymill.pipelines.annotate.round import Round

log = logging.getLogger(__name__)

LARGEST_BODY, MOST_ANSWERS = 8 << 20, 200  # of a request
_MOST_HAVING = 1000
_HEADER_BYTES = 128 << 10  # of a request, without its content
_IDLE_S, _REQUEST_S = 60, 120  # until a silent connection is closed, and for a whole request with the wait for it
_CONNECTIONS, _CONNECTIONS_OF_AN_ADDRESS = 512, 128  # at once; a browser has 6
_FIRST_PORT, _PORTS = 20_000, 10_000  # below those that systems give to connections
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CLOSED = "Open the address that `raymill annotate label` printed: it has a token, another one at each start.\n"
_NUMBER = re.compile(r"[0-9]{1,12}")


class _Problem(Exception):
    """A request that is answered with this status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class PageServer(ThreadingHTTPServer):
    """Serves the page of a round. `url` has the token."""

    daemon_threads = True

    def __init__(self, labelling: Labelling, host: str = "127.0.0.1", port: int | None = None) -> None:
        """Listen. port: 0 is any free one; None: one of the round's own, or any if that is taken.

        Raises:
            ConfigError: the host or port cannot be used.
        """
        self.labelling, self.token = labelling, secrets.token_urlsafe(24)
        self._connected, self._lock = Counter[str](), threading.Lock()
        self._names = frozenset({"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()})
        folder = resources.files("raymill.pipelines.annotate").joinpath("page")
        self.files = {
            path: (folder.joinpath(name).read_text("utf-8").encode(), kind) for path, (name, kind) in _FILES.items()
        }
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        wanted = [port] if port is not None else [_own_port(labelling), 0]
        for number in wanted:
            try:
                super().__init__((host, number), _Handler)
                break
            except (OSError, OverflowError) as error:
                if number == wanted[-1]:
                    problem = getattr(error, "strerror", None) or error
                    raise ConfigError(f"--host {host} --port {number}: {problem}. Choose others.") from error
        self.port: int = self.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        if host in ("0.0.0.0", "::", ""):
            shown = socket.gethostname()
        self.url = f"http://{shown}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The name of the cookie. Servers on one machine share cookies, whatever their ports."""
        return f"raymill_{self.port}"

    def is_own_name(self, host: str) -> bool:
        """Whether the header Host names this server: an address, this machine, or what was given as `--host`.

        A site that leads its own name to this machine (DNS rebinding) is recognised by that name. The port does not
        matter: a tunnel may have another.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ip_address(name)
        except ValueError:
            return False
        return True

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether one more connection is accepted from this address. It is counted."""
        with self._lock:
            address = client_address[0]
            if self._connected.total() >= _CONNECTIONS or self._connected[address] >= _CONNECTIONS_OF_AN_ADDRESS:
                return False
            self._connected[address] += 1
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection that was accepted."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._ended(client_address)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the requests of a connection that was accepted."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._ended(client_address)

    def _ended(self, client_address: Any) -> None:
        with self._lock:
            self._connected[client_address[0]] -= 1
            self._connected += Counter()  # without those that have none

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is no error of ours."""
        log.debug("connection from %s ended", client_address, exc_info=True)


def _own_port(labelling: Labelling) -> int:
    """A port by the round, so that the browser finds the labels again that it could not send: they are kept by port."""
    return _FIRST_PORT + int(labelling.round_key, 16) % _PORTS


class _Received(io.RawIOBase):
    """What a connection sends, up to `until` (of time.monotonic) and `left` bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.until, self.left = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds = self.until - time.monotonic()
        if seconds <= 0 or self.left <= 0:
            raise TimeoutError("a request takes too long or is too large")
        self.connection.settimeout(min(_IDLE_S, seconds))
        try:
            count = self.connection.recv_into(buffer)
        finally:
            self.connection.settimeout(_IDLE_S)
        self.left -= count
        return count


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "raymill", ""
    timeout = _IDLE_S
    _posts: ClassVar[Mapping[str, str]] = {
        "/api/next": "_next",
        "/api/task": "_task",
        "/api/answers": "_answers",
    }

    def setup(self) -> None:
        super().setup()
        self._received = _Received(self.connection)
        self.rfile = io.BufferedReader(self._received)

    def handle_one_request(self) -> None:
        self._received.until = time.monotonic() + _REQUEST_S
        self._received.left = _HEADER_BYTES
        super().handle_one_request()

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def _respond(self, work: Any) -> None:
        try:
            work()
        except _Problem as problem:
            # What is left of the request would be taken as the next one.
            self.close_connection = self.close_connection or self.command == "POST"
            self._send(problem.status, problem.text.encode(), "text/plain; charset=utf-8")
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _url(self) -> SplitResult:
        try:
            return urlsplit(self.path)
        except ValueError as error:
            raise _Problem(400, "The address is none.\n") from error

    def _get(self) -> None:
        self._check_host()
        url = self._url()
        if url.path == "/" and (given := parse_qs(url.query).get("token")):
            if not self._is_token(given[0]):
                raise _Problem(403, _CLOSED)
            cookie = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"
            # No redirect: after a link on another site, browsers would follow it without the cookie.
            self._send(200, *self.server.files["/"], {"Set-Cookie": cookie})
            return
        self._check_token()
        if url.path == "/api/state":
            self._send_json(self._called(lambda: self.server.labelling.state()))
        elif url.path in self.server.files:
            self._send(200, *self.server.files[url.path])
        else:
            raise _Problem(404, "There is no such page.\n")

    def _post(self) -> None:
        self._check_host()
        self._check_token()
        if (name := self._posts.get(self._url().path)) is None:
            raise _Problem(404, "There is no such page.\n")
        # Another server on this machine is the same site, to which browsers send the cookie.
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            raise _Problem(403, "Labels are taken from the page of this server alone.\n")
        if self.headers.get_content_type() != "application/json":
            raise _Problem(415, "Send JSON.\n")
        body = self._body()
        self._send_json(self._called(lambda: getattr(self, name)(body)))

    def _called(self, work: Any) -> Any:
        try:
            return work()
        except RefusedLabel as problem:
            raise _Problem(400, f"{problem}\n") from problem
        except RaymillError as error:
            log.error("%s", error)
            raise _Problem(503, f"{error}\n") from error

    def _body(self) -> Mapping[str, Any]:
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not _NUMBER.fullmatch(length):
            raise _Problem(411, "Send the length of the content.\n")
        if int(length) > LARGEST_BODY:
            raise _Problem(413, f"The content is larger than {LARGEST_BODY:,} bytes.\n")
        self._received.left += int(length)
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise ConnectionError("the connection ended within a request")
        try:
            found = json.loads(content.decode(), parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise _Problem(400, "The content is no JSON.\n") from None
        if not isinstance(found, dict) or not isinstance(found.get("annotator"), str):
            raise _Problem(400, "The content has no annotator.\n")
        return found

    def _next(self, body: Mapping[str, Any]) -> Any:
        having = body.get("having")
        if (
            not isinstance(having, list)
            or len(having) > _MOST_HAVING
            or not all(isinstance(one, str) for one in having)
        ):
            raise RefusedLabel("`having` is no list of ids")
        return self.server.labelling.next_tasks(body["annotator"], having)

    def _task(self, body: Mapping[str, Any]) -> Any:
        if not isinstance(body.get("task"), str):
            raise RefusedLabel("`task` is no id")
        return self.server.labelling.task(body["annotator"], body["task"])

    def _answers(self, body: Mapping[str, Any]) -> Any:
        answers = body.get("answers")
        if not isinstance(answers, list) or len(answers) > MOST_ANSWERS:
            raise RefusedLabel(f"`answers` is no list of at most {MOST_ANSWERS} labels")
        return self.server.labelling.add(body["annotator"], answers)

    def _check_host(self) -> None:
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or not self.server.is_own_name(hosts[0]):
            raise _Problem(421, "This server has another name: open the address that the command printed.\n")

    def _check_token(self) -> None:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(self.server.cookie)
        except CookieError:
            cookie = None
        if cookie is None or not self._is_token(cookie.value):
            raise _Problem(403, _CLOSED)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode())

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, content: bytes, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        sizes = {"Content-Type": kind, "Content-Length": str(len(content))}
        for name, value in (_HEADERS | sizes | dict(more or {})).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def serve_labels(
    round: Round,
    host: str = "127.0.0.1",
    port: int | None = None,
    annotator: str | None = None,
    *,
    predictions: bool = False,
    open: bool = False,
) -> None:
    """Serve the page of a round until Ctrl-C, then print how many labels came in.

    Args:
        host, port: as of `PageServer`.
        annotator: the only one who may label here; None: those of the round.
        predictions: whether the labels by the classifier are shown.
        open: whether the page is opened in the browser.
    """
    labelling = Labelling(round, predictions, annotator)
    server = PageServer(labelling, host, port)
    # Commands print no secrets, and the token in this address has to be one.
    print(f"label at {server.url}", file=getattr(sys.stdout, "unescaped", sys.stdout), flush=True)
    if open:
        webbrowser.open_new_tab(server.url)
    problems = list[RaymillError]()

    def load() -> None:
        """Read the labels while the page is served; it waits for them where it needs them."""
        try:
            labelling.load()
        except RaymillError as error:
            problems.append(error)
            server.shutdown()

    threading.Thread(target=load, daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
        labelling.close()
    if problems:
        raise problems[0]
    came_in = labelling.came_in()
    skipped = f", {plural(came_in['skipped'], 'task')} skipped" if came_in["skipped"] else ""
    print(f"{plural(came_in['labelled'], 'label')} came in{skipped}")
