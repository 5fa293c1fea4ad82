"""A small Kubernetes API server in this process: HTTP and JSON as the real one, objects in memory.

Namespaces, service accounts, ConfigMaps, RayJobs, pods with logs, events, access reviews; create, get, list, watch,
merge patch, delete; label and field selectors; dry runs; resource versions; errors as Status objects; a bearer token.
RayJobs are validated against KubeRay's CRD, ConfigMaps against Kubernetes' schemas. Fields that the CRD has not are
dropped without a word, or refused in a request with `fieldValidation=Strict`.
"""

import copy
import datetime
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import pytest
import yaml

from tests.deploy.schemas import HOW_TO, crds, problems_of

Object = dict[str, Any]

_PATH = re.compile(
    r"/(?:api/v1|apis/ray\.io/v1)/namespaces/(?P<namespace>[^/]+)"
    r"(?:/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[^/]+))?)?)?"
)
_LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")


class Status(Exception):
    """An error of the API, as its JSON has it."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                     "message": message, "reason": reason, "code": code}  # fmt: skip


def moment(seconds: float | None = None) -> str:
    """A time as Kubernetes writes it, in whole seconds."""
    now = datetime.datetime.fromtimestamp(time.time() if seconds is None else seconds, datetime.UTC)
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """The objects of the cluster with their versions, and what happened to them."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._version = 100
        self.history: list[tuple[int, str, str, Object]] = []  # version, type of event, resource, object

    def get(self, resource: str, namespace: str, name: str) -> Object:
        with self.changed:
            try:
                return copy.deepcopy(self._objects[resource, namespace, name])
            except KeyError:
                raise Status(404, "NotFound", f'{_full(resource)} "{name}" not found') from None

    def find(self, resource: str, namespace: str, matches: Callable[[Object], bool] = lambda one: True) -> list[Object]:
        with self.changed:
            return [copy.deepcopy(one) for (kind, where, _), one in sorted(self._objects.items())
                    if (kind, where) == (resource, namespace) and matches(one)]  # fmt: skip

    def version(self) -> str:
        return str(self._version)

    def create(self, resource: str, namespace: str, new: Object, dry_run: bool = False) -> Object:
        with self.changed:
            name = new["metadata"]["name"]
            if (resource, namespace, name) in self._objects:
                raise Status(409, "AlreadyExists", f'{_full(resource)} "{name}" already exists')
            metadata = {"namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": moment()}
            new = copy.deepcopy(new) | {"metadata": copy.deepcopy(new["metadata"]) | metadata}
            if not dry_run:
                self._store("ADDED", resource, new)
            return copy.deepcopy(new)

    def update(self, resource: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        with self.changed:
            before = self.get(resource, namespace, name)
            after = copy.deepcopy(before)
            change(after)
            if after == before:
                return after
            if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
                self.remove(resource, namespace, name)
            else:
                self._store("MODIFIED", resource, after)
            return copy.deepcopy(after)

    def delete(self, resource: str, namespace: str, name: str, foreground: bool = False) -> Object:
        """Delete it as a request does: at once, or when the finalizers that it has then are gone."""
        if not foreground and not self.get(resource, namespace, name)["metadata"].get("finalizers"):
            self.remove(resource, namespace, name)
            return {"kind": "Status", "status": "Success"}

        def mark(one: Object) -> None:
            one["metadata"].setdefault("deletionTimestamp", moment())
            finalizers = one["metadata"].setdefault("finalizers", [])
            if foreground and "foregroundDeletion" not in finalizers:
                finalizers.append("foregroundDeletion")

        return self.update(resource, namespace, name, mark)

    def remove(self, resource: str, namespace: str, name: str) -> None:
        """Remove it at once, with the ConfigMaps that it owns."""
        with self.changed:
            gone = self._objects.pop((resource, namespace, name))
            self._version += 1
            self.history.append((self._version, "DELETED", resource, gone))
            uid = gone["metadata"]["uid"]
            for one in self.find("configmaps", namespace):
                if uid in [owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()]:
                    self.remove("configmaps", namespace, one["metadata"]["name"])
            self.changed.notify_all()

    def _store(self, event: str, resource: str, new: Object) -> None:
        self._version += 1
        new["metadata"]["resourceVersion"] = str(self._version)
        self._objects[resource, new["metadata"]["namespace"], new["metadata"]["name"]] = new
        self.history.append((self._version, event, resource, copy.deepcopy(new)))
        self.changed.notify_all()


class ContainerLog:
    """Standard output of a container as the kubelet keeps it: whole lines with times, the oldest of which it drops."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._lines: list[tuple[int, bytes]] = []
        self._dropped = 0
        self.size = 0  # bytes of all lines, also of those that were dropped
        self.closed = False

    def add(self, line: bytes) -> None:
        with self.changed:
            self._lines.append((time.time_ns(), line))
            self.size += len(line) + 1
            self.changed.notify_all()

    def rotate(self) -> None:
        """Drop all lines that there are."""
        with self.changed:
            self._dropped += len(self._lines)
            self._lines = []

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def read(self, follow: bool, since_s: float | None, stopped: Callable[[], bool]) -> Iterator[bytes]:
        oldest = 0 if since_s is None else int((time.time() - since_s) * 1e9)
        position = 0
        while not stopped():
            with self.changed:
                position = max(position, self._dropped)
                new = self._lines[position - self._dropped :]
                position += len(new)
                closed = self.closed
                if not new and follow and not closed:
                    self.changed.wait(0.1)
                    continue
            text = b"".join(_stamp(when) + b" " + line + b"\n" for when, line in new if when >= oldest)
            if text:
                yield text
            if not follow or closed:
                return


class KubernetesServer:
    """Use it in a `with`; `kubeconfig` is a file for clients.

    Attributes to change in tests: token; forbidden: pairs of verb and resource; serves_rayjobs; kueue: jobs with a
    queue are suspended when they are created; lacks: fields that the RayJob's CRD has not, as an older one; strict:
    whether the server knows `fieldValidation`, as Kubernetes does from 1.25; unreadable: logs are refused, as when the
    node of a pod is lost; empty_logs: they end at once, as those of a kubelet that ends; broken: statuses that the next
    requests are answered with, 0 for a connection that is closed without an answer after the request was carried out.
    """

    def __init__(self, folder: Path, namespace: str = "raymill") -> None:
        self.objects, self.namespaces, self.token = Objects(), {namespace}, uuid.uuid4().hex
        self.forbidden: set[tuple[str, str]] = set()
        self.serves_rayjobs, self.kueue = True, False
        self.lacks: set[str] = set()
        self.strict, self.unreadable, self.empty_logs = True, False, False
        self.broken: list[int] = []
        self.logs: dict[tuple[str, str], ContainerLog] = {}  # uid of a pod, container
        self.requests: list[str] = []
        self.cuts = 0  # a stream ends when this has changed since it began
        self.closing = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self.kubeconfig = folder / "kubeconfig"
        self.write_kubeconfig()
        self.objects.create("serviceaccounts", namespace, {"metadata": {"name": "raymill-head"}})

    def __enter__(self) -> "KubernetesServer":
        if not crds():
            pytest.skip(HOW_TO)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self._http.shutdown()
        self._http.server_close()

    def write_kubeconfig(self) -> None:
        one = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.address}}],
            "users": [{"name": "test", "user": {"token": self.token}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(one))

    def cut_streams(self) -> None:
        """Close the connections of all watches and followed logs, in the middle of a line where there is one."""
        self.cuts += 1

    # --- requests

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Object | Iterator[bytes]:
        """The JSON of an answer, or the parts of a stream."""
        if path == "/version":
            return {"major": "1", "minor": "33", "gitVersion": "v1.33.2"}
        if path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            return self._review(body)
        found = _PATH.fullmatch(path)
        if found is None or (path.startswith("/apis/ray.io") and not self.serves_rayjobs):
            raise Status(404, "NotFound", "the server could not find the requested resource")
        namespace, resource, name, part = found.group("namespace", "resource", "name", "part")
        if resource is None:
            self._authorize("get", "namespaces")
            if namespace not in self.namespaces:
                raise Status(404, "NotFound", f'namespaces "{namespace}" not found')
            return {"kind": "Namespace", "metadata": {"name": namespace}}
        watch = query.get("watch", "").lower() in ("1", "true")
        verb = {"GET": "get" if name else "watch" if watch else "list", "POST": "create"}.get(method, method.lower())
        self._authorize(verb, f"{resource}/{part}" if part else _full(resource))
        if part == "log":
            return self._log(namespace, name, query)
        if verb == "watch":
            return self._watch(resource, namespace, query)
        if verb == "list":
            items = self.objects.find(resource, namespace, _selector(query))
            return {"kind": "List", "metadata": {"resourceVersion": self.objects.version()}, "items": items}
        if verb == "get":
            return self.objects.get(resource, namespace, name)
        if verb == "create":
            return self._create(resource, namespace, body, "dryRun" in query, query.get("fieldValidation") == "Strict")
        if verb == "patch":
            return self._patch(resource, namespace, name, body)
        assert verb == "delete", method
        return self._delete(resource, namespace, name, {**query, **(body or {})})

    def _authorize(self, verb: str, resource: str) -> None:
        if (verb, resource) in self.forbidden:
            user = 'User "tester"'
            raise Status(403, "Forbidden", f'{resource} is forbidden: {user} cannot {verb} resource "{resource}"')

    def _review(self, body: Object) -> Object:
        asked = body["spec"]["resourceAttributes"]
        resource = asked["resource"] + (f".{asked['group']}" if asked.get("group") else "")
        resource += f"/{asked['subresource']}" if asked.get("subresource") else ""
        return body | {"status": {"allowed": (asked["verb"], resource) not in self.forbidden}}

    def _create(self, resource: str, namespace: str, new: Object, dry_run: bool, strict: bool) -> Object:
        if namespace not in self.namespaces:
            raise Status(404, "NotFound", f'namespaces "{namespace}" not found')
        name = new["metadata"]["name"]
        if resource == "rayjobs":
            new = copy.deepcopy(new)
            unknown = list(_without(new["spec"], self.lacks, "spec"))
            if strict and self.strict:
                found = [one.partition(": no such field: ") for one in _problems(resource, new)]
                unknown += [f"{at}.{name}" for at, sign, name in found if sign]
            if unknown and strict and self.strict:
                text = "strict decoding error: " + ", ".join(f'unknown field "{one}"' for one in unknown)
                raise Status(400, "BadRequest", f'RayJob in version "v1" cannot be handled as a RayJob: {text}')
        if problems := list(_problems(resource, new)):
            raise Status(422, "Invalid", f'{new["kind"]} "{name}" is invalid: {"; ".join(problems)}')
        if self.kueue and "kueue.x-k8s.io/queue-name" in new["metadata"].get("labels", {}):
            new["spec"]["suspend"] = True
        return self.objects.create(resource, namespace, new, dry_run)

    def _patch(self, resource: str, namespace: str, name: str, body: Object) -> Object:
        def change(one: Object) -> None:
            before = copy.deepcopy(one)
            _merge(one, body)
            if before.get("immutable") and before.get("data") != one.get("data"):
                text = "data: Forbidden: field is immutable when `immutable` is set"
                raise Status(422, "Invalid", f'ConfigMap "{name}" is invalid: {text}')

        return self.objects.update(resource, namespace, name, change)

    def _delete(self, resource: str, namespace: str, name: str, options: Object) -> Object:
        found = self.objects.get(resource, namespace, name)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != found["metadata"]["uid"]:
            text = (
                f"the UID in the precondition ({wanted}) does not match the UID in record ({found['metadata']['uid']})"
            )
            text += ". The object might have been deleted and then recreated"
            raise Status(409, "Conflict", f'Operation cannot be fulfilled on {found.get("kind")} "{name}": {text}')
        return self.objects.delete(resource, namespace, name, options.get("propagationPolicy") == "Foreground")

    # --- streams

    def _watch(self, resource: str, namespace: str, query: dict[str, str]) -> Iterator[bytes]:
        objects, cuts, matches = self.objects, self.cuts, _selector(query)
        seen = int(query.get("resourceVersion") or objects.version())
        until = time.monotonic() + float(query.get("timeoutSeconds") or 60)
        if objects.history and seen < objects.history[0][0] - 1:
            gone = Status(410, "Expired", f"too old resource version: {seen}").body
            yield json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n"
            return
        while not self.closing and time.monotonic() < until:
            with objects.changed:
                new = [one for one in objects.history if one[0] > seen]
                if not new:
                    objects.changed.wait(0.1)
            for version, event, kind, one in new:
                seen = version
                if kind == resource and one["metadata"]["namespace"] == namespace and matches(one):
                    yield json.dumps({"type": event, "object": one}).encode() + b"\n"
            if cuts != self.cuts:
                raise ConnectionAbortedError

    def _log(self, namespace: str, name: str, query: dict[str, str]) -> Iterator[bytes]:
        pod, container = self.objects.get("pods", namespace, name), query["container"]
        if self.unreadable:
            path = f"https://10.0.0.7:10250/containerLogs/{namespace}/{name}/{container}"
            raise Status(500, "InternalError", f'Get "{path}": dial tcp 10.0.0.7:10250: connect: no route to host')
        log = self.logs.get((pod["metadata"]["uid"], container))
        if container not in [one["name"] for one in pod["spec"]["containers"]]:
            raise Status(400, "BadRequest", f"container {container} is not valid for pod {name}")
        if log is None:
            text = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            raise Status(400, "BadRequest", text)
        if self.empty_logs:
            return iter(())
        since = float(query["sinceSeconds"]) if "sinceSeconds" in query else None
        return self._log_lines(log, query.get("follow", "").lower() == "true", since)

    def _log_lines(self, log: ContainerLog, follow: bool, since_s: float | None) -> Iterator[bytes]:
        cuts = self.cuts
        yield from log.read(follow, since_s, lambda: self.closing or cuts != self.cuts)
        if cuts != self.cuts:
            yield b"2026-01-01T00:00:00.0"  # the beginning of a line
            raise ConnectionAbortedError


def _full(resource: str) -> str:
    return f"{resource}.ray.io" if resource == "rayjobs" else resource


def _handler(server: KubernetesServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            server.requests.append(f"{self.command} {self.path}")
            broken = server.broken.pop(0) if server.broken else None
            try:
                if self.headers.get("Authorization") not in (f"Bearer {server.token}", f"bearer {server.token}"):
                    raise Status(401, "Unauthorized", "Unauthorized")
                if broken:
                    raise Status(broken, "InternalError", "an error of the server")
                answer = server.answer(self.command, url.path.rstrip("/"), query, body)
            except Status as error:
                self._json(error.code, error.body)
                return
            if broken == 0:
                self.close_connection = True
                return
            if isinstance(answer, dict):
                self._json(201 if self.command == "POST" else 200, answer)
            else:
                self._stream(answer)

        do_POST = do_PATCH = do_DELETE = do_PUT = do_GET

        def _json(self, code: int, body: Object) -> None:
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _stream(self, parts: Iterator[bytes]) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for part in parts:
                    self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            except OSError:  # cut by a test, or the client has left
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _problems(resource: str, new: Object) -> Iterator[str]:
    metadata = new["metadata"]
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"]):
        yield f"metadata.name: Invalid value: {metadata['name']!r}"
    for name, value in (metadata.get("labels") or {}).items():
        if not isinstance(value, str) or not _LABEL.fullmatch(value):
            yield f"metadata.labels: Invalid value: {name}={value!r}"
    for name, value in (metadata.get("annotations") or {}).items():
        if not isinstance(value, str) or not _LABEL.fullmatch(name.rpartition("/")[2]):
            yield f"metadata.annotations: Invalid value: {name}={value!r}"
    if resource == "rayjobs":
        yield from problems_of(new)
        return
    try:
        kubernetes_validate.validate(new, "1.33", strict=True)
    except kubernetes_validate.ValidationError as error:
        yield error.message


def _without(value: Any, names: set[str], at: str) -> Iterator[str]:
    """Remove the fields of these names from an object, at every depth, and name them."""
    if isinstance(value, dict):
        for name in list(value):
            if name in names:
                del value[name]
                yield f"{at}.{name}"
            else:
                yield from _without(value[name], names, f"{at}.{name}")
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _without(one, names, f"{at}[{number}]")


def _selector(query: dict[str, str]) -> Callable[[Object], bool]:
    fields = dict(one.split("=") for one in query.get("fieldSelector", "").split(",") if one)
    assert set(fields) <= {"metadata.name"}, fields
    labels = [one for one in query.get("labelSelector", "").split(",") if one]
    for name, _, value in map(_parted, labels):  # apimachinery's pkg/labels/selector.go
        if len(value) > 63 or not re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?", value):
            raise Status(400, "BadRequest", f"unable to parse requirement: values[0][{name}]: Invalid value: {value!r}")

    def matches(one: Object) -> bool:
        metadata = one["metadata"]
        if metadata["name"] != fields.get("metadata.name", metadata["name"]):
            return False
        have = metadata.get("labels") or {}
        return all(have.get(name) == value if sign else name in have for name, sign, value in map(_parted, labels))

    return matches


def _parted(selector: str) -> tuple[str, str, str]:
    return selector.partition("=")


def _merge(target: Object, change: Object) -> None:
    """JSON merge patch (RFC 7386)."""
    for name, value in change.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


def _stamp(nanoseconds: int) -> bytes:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{moment(seconds)[:-1]}.{rest:09d}Z".encode()
