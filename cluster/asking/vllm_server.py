"""A server of vLLM beside a worker, for a model folder on GPUs.

vLLM is installed by the user (`pip install vllm`); it is started by its own command, `vllm serve`, and asked as any
endpoint is. It ends with the worker, also when the worker is killed.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2

from raymill.cluster.asking.endpoint import Endpoint, Reply
from raymill.cluster.errors import ClusterError, ConfigError
from raymill.cluster.secret_values import redacted
from raymill.cluster.temporary import temporary_folder

_READY_S = 1800.0  # loading and compiling a large model
_POLL_S = 0.5
_LINES_SHOWN = 5


def vllm_program(setting: str) -> str:
    """The path of the command `vllm`. setting: the one that asks for it.

    Raises:
        ConfigError: it is not installed.
    """
    if (program := shutil.which("vllm")) is None:
        raise ConfigError(
            f"{setting}: vllm is not installed on this machine. Install it: `pip install vllm`, or use transformers."
        )
    return program


class VllmServer:
    """A server in a process of its own.

    Args:
        link: links the files of the model into an empty folder.
        name: of the model in requests.
        gpus: number of GPUs over which the model is divided.
        options: more words of its command.
        environment: of its process; None: as of this process.

    scratch: a folder for files that it reads, which is removed with this object.
    """

    def __init__(
        self,
        link: Callable[[Path], None],
        name: str,
        gpus: int,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        program = vllm_program("engine")
        self.scratch = scratch = temporary_folder("vllm")
        self._environment = environment
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        (folder := scratch / "model").mkdir()
        link(folder)
        self._words = [program, "serve", str(folder), "--host", "127.0.0.1", "--served-model-name", name]
        self._words += ["--tensor-parallel-size", str(gpus)] if gpus > 1 else []
        self._words += options
        self._log = scratch / "log.txt"
        self._start()

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        # -P: no module of the working folder.
        words = [sys.executable, "-P", "-m", __name__, *self._words, "--port", str(self._port)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=self._environment
            )
        until = time.monotonic() + _READY_S
        while time.monotonic() < until:
            if self.ended:
                raise ClusterError(f"vLLM ended before it was ready: {self._last_lines()}")
            try:
                if httpx2.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(_POLL_S)
        self._process.kill()
        raise ClusterError(f"vLLM is not ready after {_READY_S:,.0f} s: {self._last_lines()}")

    @property
    def url(self) -> str:
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    @property
    def ended(self) -> bool:
        """Whether the server runs no more."""
        return self._process.poll() is not None

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return redacted(" | ".join(line.strip() for line in lines[-_LINES_SHOWN:])) or "it wrote nothing"

    @asynccontextmanager
    async def opened(self, timeout_s: float, most_bytes: int) -> AsyncIterator[Endpoint]:
        """Its endpoint. A server that has ended is started again."""
        if self.ended:
            self._start()
        async with _OwnEndpoint(self, f"{self.url}/v1", timeout_s, most_bytes) as endpoint:
            yield endpoint

    def refuse_ended(self) -> None:
        """
        Raises:
            ClusterError: the server has ended; with the last lines that it wrote.
        """
        if self.ended:
            raise ClusterError(f"vLLM ended: {self._last_lines()}")


class _OwnEndpoint(Endpoint):
    def __init__(self, server: VllmServer, url: str, timeout_s: float, most_bytes: int) -> None:
        super().__init__(url, "", timeout_s, most_bytes)
        self._server = server

    async def send(self, body: str) -> Reply:
        reply = await super().send(body)
        if reply.outcome == "again":
            self._server.refuse_ended()  # the unit is done again, with a new server
        return reply


def main(words: Sequence[str]) -> int:
    """Run a command until it ends, or until the end of the standard input: the process that holds it is gone.

    A process in a session of its own ends the command, because Ray kills the children of a worker that ends, and with
    them this process.
    """
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    own = os.getpid()
    if not os.fork():
        os.setsid()
        while os.getppid() == own:
            if select.select([0], [], [], _POLL_S)[0] and not os.read(0, 1024):
                break
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        os._exit(0)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
