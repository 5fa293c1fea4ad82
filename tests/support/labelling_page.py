"""A round of annotation without a run, its labelling page in a process of its own, and a client of the page."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymill.pipelines.annotate.labelling import Labelling
from raymill.pipelines.annotate.round import Round
from raymill.pipelines.annotate.serve import PageServer
from tests.support.annotate_inline import annotate_inline

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> & &amp; \u202e\x07 \U0001f600'
ANSWERS = {"answer_a": "Click *Export*.", "answer_b": "Use the menu.", "answer_c": HOSTILE}
TASKS: Mapping[str, dict[str, Any]] = {
    "classify": {"type": "classify", "show": ["prompt"], "labels": ["billing", "login", "other"]},
    "several": {"type": "classify", "show": ["prompt"], "labels": ["billing", "login", "other"], "several": True},
    "rate": {"type": "rate", "show": ["prompt", "answer_a"]},
    "points": {"type": "rate", "show": ["prompt"], "points": 100},
    "compare": {"type": "compare", "show": ["prompt"], "answers": ["answer_a", "answer_b"]},
    "rank": {"type": "rank", "show": ["prompt"], "answers": list(ANSWERS)},
    "correct": {"type": "correct", "show": ["prompt"]},
    "write": {"type": "write", "show": ["prompt"]},
    "span": {"type": "span", "show": ["prompt"], "labels": ["person", "place"]},
    "check": {"type": "check", "show": ["prompt"], "source": "answer_b"},
}


def make_round(
    folder: Path, patch: pytest.MonkeyPatch, task: Mapping[str, Any], texts: Sequence[str], **more: Any
) -> Round:
    """A round with a task for each text, of which an annotator `ada` is given all."""
    rows = [{"id": f"r{number:06d}", "prompt": text, **ANSWERS} for number, text in enumerate(texts)]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet")
    settings = {
        "kind": "annotate",
        "input": str(folder / "in.parquet"),
        "task": dict(task),
        "choose": {"count": len(texts)},
        "annotators": ["ada"],
        "output": str(folder / "round"),
    }
    return annotate_inline(settings | more, patch).round


class Page:
    """`raymill annotate label ROUND` in a process of its own, for a `with` block."""

    def __init__(self, round: Round, *options: str) -> None:
        self.round, self.options = round, options

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Start the server, and read the address that it prints."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "raymill.cluster.cli", "annotate", "label", self.round.uri, *self.options],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"label at (http://\S+/\?token=\S+)\n", line)
        assert found, line
        self.url = found[1]

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self._reap()

    def interrupt(self) -> str:
        """End it as Ctrl-C does. Returns what it printed."""
        self.process.send_signal(signal.SIGINT)
        return self._reap()

    def _reap(self) -> str:
        with self.process:
            return self.process.communicate(timeout=60)[0]

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


class PageHere:
    """The page of a round, served by threads of this process."""

    def __init__(self, round: Round) -> None:
        self.round = round

    def start(self) -> None:
        self._server = PageServer(Labelling(self.round))
        self.url = self._server.url
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def kill(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class Client:
    """Sends requests as the page does, with its cookie."""

    def __init__(self, url: str, annotator: str = "ada", **headers: str) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.annotator = parts.hostname or "", parts.port or 0, annotator
        self.headers = {"Cookie": f"raymill_{self.port}={parts.query.removeprefix('token=')}"} | headers

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """(status, content, headers) of the answer."""
        connection = HTTPConnection(self.host, self.port, timeout=30)
        try:
            sent = self.headers | ({"Content-Type": "application/json"} if body is not None else {})
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    def post(self, path: str, **body: Any) -> Any:
        """The answer to JSON."""
        status, content, _ = self.ask("POST", path, json.dumps({"annotator": self.annotator} | body).encode())
        assert status == 200, (status, content)
        return json.loads(content)

    def add(self, *answers: Mapping[str, Any]) -> Any:
        """The answer to labels."""
        return self.post("/api/answers", answers=list(answers))

    def cut_off(self, content: bytes, sent: int) -> None:
        """Send the first bytes of a post of labels, and drop the connection."""
        head = f"POST /api/answers HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nCookie: {self.headers['Cookie']}\r\n" \
               f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"  # fmt: skip
        with socket.create_connection((self.host, self.port), timeout=30) as connection:
            connection.sendall((head.encode() + content)[:sent])
