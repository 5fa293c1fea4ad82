"""An HTTP proxy before an S3 server that injects faults into a share of the requests, by a seeded plan.

A request is read whole and sent whole, or not at all: a store never has half of an object because of a lost connection.
"""

import http.client
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_OF_ONE_CONNECTION = {"connection", "transfer-encoding", "keep-alive", "date", "server", "content-length"}


class Fault(StrEnum):
    """What can happen to a request."""

    DELAY = "the answer comes late"
    UNAVAILABLE = "503 in place of the server's work"
    TOO_MANY = "429 in place of the server's work"
    CONFLICT = "409 in place of the server's work"
    RESET_REQUEST = "a reset while the request is sent; the server does not get it"
    RESET_ANSWER = "a reset in the middle of the answer's body"
    TRUNCATED = "the answer ends in the middle of its body, by an orderly close"
    DUPLICATED = "the server gets a PUT twice; the client gets the first answer or the second"
    LOST_ANSWER = "the server did it; the client gets a reset"
    TIME_OUT = "the server did it; the client gets nothing until it gives up"


_STATUS = {Fault.UNAVAILABLE: 503, Fault.TOO_MANY: 429, Fault.CONFLICT: 409}
_DELAY_S = 0.05


class FaultProxy:
    """The proxy. Use it in a `with`.

    Args:
        target: address of the server.
        faults: that are drawn from, with equal chances.
        share: of the requests, which get a fault. One that a request cannot have (a truncated answer to HEAD) is none.
        seed: of the draws, which are made in the order in which requests arrive.
        hold_s: how long a request is held that times out; longer than the client waits.
        away: (number of a request, seconds): from that request on the store is gone for so long; None: never.
        on_put: called with the path of each PUT after the server did it.
        on_leaving: called when the store is gone from then on.

    Attributes:
        injected: number of each fault.
        bodies: path -> the bodies that were sent to it.
        unreached: why requests did not come to the server although the proxy passed them on; their clients get a reset.
    """

    def __init__(
        self,
        target: str,
        faults: Sequence[Fault],
        share: float = 0.2,
        seed: int = 1,
        hold_s: float = 2.0,
        away: tuple[int, float] | None = None,
        on_put: Callable[[str], None] = lambda path: None,
        on_leaving: Callable[[], object] = lambda: None,
    ) -> None:
        self.injected: Counter[Fault] = Counter()
        self.bodies: dict[str, set[bytes]] = {}
        self.unreached: list[str] = []
        self.requests = 0
        self._target = urlsplit(target).netloc
        self._faults, self._share, self._hold_s, self._on_put = list(faults), share, hold_s, on_put
        self._away, self._on_leaving, self._back_at = away, on_leaving, 0.0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FaultProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _draw(self, method: str) -> tuple[Fault | None, float]:
        """The fault of the next request, and a number from 0 to 1 that decides the rest."""
        with self._lock:
            self.requests += 1
            if self._away and self.requests == self._away[0]:
                self._back_at = time.monotonic() + self._away[1]
                self._on_leaving()
            if time.monotonic() < self._back_at:
                return Fault.RESET_REQUEST, 0.0
            is_drawn = self._random.random() < self._share and self._faults
            fault = self._random.choice(self._faults) if is_drawn else None
            chance = self._random.random()
        if fault is Fault.DUPLICATED and method != "PUT":
            fault = None
        if fault in (Fault.RESET_ANSWER, Fault.TRUNCATED) and method != "GET":
            fault = None
        return fault, chance

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _request(self) -> None:
                fault, chance = proxy._draw(self.command)
                if fault is not None:
                    proxy.injected[fault] += 1
                length = int(self.headers.get("Content-Length") or 0)
                if fault is Fault.RESET_REQUEST:
                    self.rfile.read(length // 2)
                    self._reset()
                    return
                body = self.rfile.read(length)
                if fault in _STATUS:
                    self._answer(_STATUS[fault], [], b"")
                    return
                if fault is Fault.DELAY:
                    time.sleep(_DELAY_S)
                try:
                    answers = [self._forward(body) for _ in range(1 + (fault is Fault.DUPLICATED))]
                except (OSError, http.client.HTTPException) as error:
                    proxy.unreached.append(f"{self.command} {self.path}: {error!r}")
                    self._reset()
                    return
                status, headers, data = answers[chance < 0.5] if len(answers) == 2 else answers[0]
                if fault is Fault.TIME_OUT:
                    proxy._ended.wait(proxy._hold_s)
                if fault in (Fault.LOST_ANSWER, Fault.TIME_OUT):
                    self._reset()
                    return
                cut = fault in (Fault.RESET_ANSWER, Fault.TRUNCATED)
                self._answer(status, headers, data, int(chance * len(data)) if cut else None)
                if fault is Fault.RESET_ANSWER:
                    self._reset()
                elif cut:
                    self.close_connection = True

            def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
                if self.command == "PUT":
                    with proxy._lock:
                        proxy.bodies.setdefault(self.path, set()).add(body)
                connection = http.client.HTTPConnection(proxy._target)
                connection.request(self.command, self.path, body, dict(self.headers))
                found = connection.getresponse()
                data = found.read()
                connection.close()
                if self.command == "PUT":
                    proxy._on_put(self.path)
                headers = [
                    (name, value) for name, value in found.getheaders() if name.lower() not in _OF_ONE_CONNECTION
                ]
                if self.command == "HEAD":
                    headers.append(("Content-Length", found.getheader("Content-Length") or "0"))
                return found.status, headers, data

            def _answer(
                self, status: int, headers: list[tuple[str, str]], data: bytes, stop: int | None = None
            ) -> None:
                """stop: byte after which nothing is sent; the stated length is of all bytes."""
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                if self.command != "HEAD" or not headers:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:stop])

            def _reset(self) -> None:
                """End the connection by a reset in place of an orderly close."""
                self.close_connection = True
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.close(self.connection.detach())

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _request

            def log_message(self, *_: object) -> None: ...

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing if the client has left, as after its time-out; a mistake of the proxy is printed."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)
