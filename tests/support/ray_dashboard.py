"""The dashboard of a Ray cluster in this process: HTTP as Ray's, jobs in memory that run nothing.

Source: ray/dashboard/modules/job/job_head.py and modules/state/state_head.py of Ray 2.60.
"""

import importlib.metadata
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from raymill.cluster.submit.preflight import CheckReport

CHECK = "python -m raymill.cluster.submit.cluster_check"


class RayDashboard:
    """Use it in a `with`.

    Attributes to change in tests: jobs: submission id -> job, as `GET /api/jobs/ID` has it; logs: submission id ->
    bytes; report: of a check, which is a job that ends at once with this in its log; lost: number of answers that are
    lost after the request was carried out, at requests of these methods.

    Attributes to read: bodies: of the jobs that were submitted, by id; requests: METHOD PATH, in order.
    """

    def __init__(self, report: CheckReport | None = None, version: str = "") -> None:
        self.report, self.version = report, version or importlib.metadata.version("ray")
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, bytes] = {}
        self.bodies: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.lost: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "RayDashboard":
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add(self, name: str, status: str = "RUNNING", log: bytes = b"", **fields: Any) -> None:
        """A job that is there already."""
        self.jobs[name] = {"submission_id": name, "status": status, "driver_node_id": "node", "metadata": {}} | fields
        self.logs[name] = log

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a request."""
        if path == "/api/version":
            return 200, json.dumps({"ray_version": self.version}).encode()
        if path.startswith("/api/v0/logs/"):
            name = query["filename"].removeprefix("job-driver-").removesuffix(".log")
            assert (query["node_id"], query["lines"]) == ("node", "-1"), query
            return (200, self.logs[name]) if name in self.logs else (404, b"no such file")
        if (method, path) == ("POST", "/api/jobs/"):
            return self._submit(json.loads(body))
        if path == "/api/jobs/":
            return 200, json.dumps(list(self.jobs.values())).encode()
        name, _, stop = path.removeprefix("/api/jobs/").partition("/")
        if name not in self.jobs:
            return 404, f"Job {name} does not exist".encode()
        if stop:
            self.jobs[name] |= {"status": "STOPPED"} if self.jobs[name]["status"] in ("PENDING", "RUNNING") else {}
        elif method == "DELETE":
            del self.jobs[name]
        return 200, json.dumps(self.jobs.get(name)).encode()

    def _submit(self, body: dict[str, Any]) -> tuple[int, bytes]:
        name = body["submission_id"]
        if name in self.jobs:  # the head answers 500 for the 400 of its agent
            return 500, f"Request failed with status code 400: Job with submission_id {name} already exists".encode()
        self.bodies[name] = body
        self.add(name, "PENDING", **{key: body[key] for key in ("entrypoint", "metadata", "runtime_env")})
        if body["entrypoint"] == CHECK:
            self.logs[name] = f"a line\n{self.report.to_line()}\n".encode() if self.report else b"Traceback\n"
            self.jobs[name] |= {"status": "SUCCEEDED"}
        return 200, json.dumps({"submission_id": name}).encode()


def _handler(dashboard: RayDashboard) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            dashboard.requests.append(f"{self.command} {url.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            status, data = dashboard.answer(self.command, url.path, query, body)
            if self.command in dashboard.lost:
                dashboard.lost.remove(self.command)
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
