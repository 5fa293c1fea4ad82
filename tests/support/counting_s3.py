"""An HTTP proxy before an S3 server that counts requests and bytes, and answers in the server's place if asked to."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "keep-alive", "date", "server"}


@dataclass(frozen=True)
class Request:
    """A request and its answer. path: with the query. sent: bytes of the answer's body."""

    method: str
    path: str
    body: bytes
    status: int = 0
    sent: int = 0


class CountingS3:
    """The proxy. Use it in a `with`.

    answer: called with each request before it is forwarded. It returns None to forward it, an HTTP status to answer
        with instead, or "lose" to forward it and close the connection without an answer.
    latency_s: waited before each answer.
    """

    def __init__(self, target: str) -> None:
        self.requests: list[Request] = []
        self.answer: Callable[[Request], int | Literal["lose"] | None] = lambda request: None
        self.latency_s = 0.0
        self._target = urlsplit(target).netloc
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "CountingS3":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def by_method(self) -> dict[str, int]:
        """Number of requests of each method."""
        return dict(Counter(request.method for request in self.requests))

    @property
    def sent(self) -> int:
        """Bytes of all answers' bodies."""
        return sum(request.sent for request in self.requests)

    def _record(self, request: Request, status: int, sent: int) -> None:
        with self._lock:
            self.requests.append(Request(request.method, request.path, request.body, status, sent))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, body)
                time.sleep(proxy.latency_s)
                instead = proxy.answer(request)
                if isinstance(instead, int):
                    proxy._record(request, instead, 0)
                    self.send_response(instead)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection(proxy._target)
                connection.request(self.command, self.path, body, dict(self.headers))
                found = connection.getresponse()
                data = found.read()
                connection.close()
                proxy._record(request, found.status, len(data))
                if instead == "lose":
                    self.close_connection = True
                    return
                self.send_response(found.status)
                for name, value in found.getheaders():
                    if name.lower() not in _OF_ONE_CONNECTION | {"content-length"}:
                        self.send_header(name, value)
                length = found.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

            def log_message(self, *_: object) -> None: ...

        return Handler
