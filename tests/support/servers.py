"""What servers of tests share: their keys, a port, and waiting until they answer."""

import socket
import subprocess
import threading
import time

CREDENTIALS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def wait_for_port(port: int, server: subprocess.Popen, wait_s: float = 30) -> None:
    """Until something listens there; a server that ends instead is an error with its code."""
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        assert server.poll() is None, f"{server.args} ended with {server.returncode}"
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        threading.Event().wait(0.05)
    raise TimeoutError(f"nothing listens at port {port} after {wait_s:.0f} s")
