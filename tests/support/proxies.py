"""A TCP proxy that cuts connections and changes answers, between a client and a server of this machine."""

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Forwards connections to a port. Use it in a `with`.

    cut: end all connections, at once and without a farewell. refuse: take no new ones.
    lose_answer_to: forward a request that begins with these bytes, and end its connection in place of the answer, once.
    change: applied to every piece of an answer.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.cuts = self.accepted = self.refused = 0  # accepted, refused: connections
        self.refuse = False
        self.lose_answer_to: bytes | None = None
        self.change: Callable[[bytes], bytes] = lambda data: data
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        self.cuts += 1
        connections, self._open = self._open, []
        for connection in connections:
            # Linger 0: the other side gets a reset, as from a machine that was replaced.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                self.refused += 1
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            self.accepted += 1
            lost = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, lost), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, lost), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, lost: threading.Event) -> None:
        try:
            while data := source.recv(1 << 16):
                if self.lose_answer_to and data.startswith(self.lose_answer_to):
                    self.lose_answer_to = None
                    lost.set()
                target.sendall(data)
        except OSError:
            pass
        _end(target)

    def _back(self, source: socket.socket, target: socket.socket, lost: threading.Event) -> None:
        try:
            while data := source.recv(1 << 16):
                if lost.is_set():
                    break
                target.sendall(self.change(data))
        except OSError:
            pass
        _end(target)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
