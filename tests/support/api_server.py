"""A real Kubernetes API server on this machine: etcd, kube-apiserver, kube-controller-manager, and a kubelet's logs.

The programs are built by build_kubernetes.sh (`make test-kubernetes-real`). The server has KubeRay's CRD, RBAC, quotas,
the garbage collector and the objects of overlays/kind; no scheduler, no containers and no operator: `Operator` plays
these. `objects` and `logs` are used as those of KubernetesServer.
"""

import copy
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
import urllib3
import yaml

from tests.conftest import free_port
from tests.deploy.manifests import K8S, kustomize
from tests.deploy.schemas import CRD_DIR
from tests.support.kubernetes_server import ContainerLog, Object, Status

PROGRAMS = Path(os.environ.get("KUBERNETES_BIN") or Path(__file__).resolve().parents[2] / ".kubernetes" / "bin")
HOW_TO = f"no kube-apiserver in {PROGRAMS}: `make test-kubernetes-real` builds it"
_READY_S = 90
_SERVED = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "ResourceQuota", "LimitRange",
           "NetworkPolicy", "PriorityClass")  # fmt: skip
_CORE = ("configmaps", "pods", "events", "serviceaccounts", "namespaces", "nodes", "secrets")


class ApiServer:
    """Use it in a `with`. folder: for state and keys. without: fields that are left out of the RayJob's CRD, as they
    are missing in an older one.

    Attributes: kubeconfig: of an administrator. namespaces: those that the operator looks after. logs: of containers.
    """

    def __init__(self, folder: Path, without: tuple[str, ...] = ()) -> None:
        self.folder, self.without = folder, without
        self.namespaces, self.kubeconfig = {"raymill"}, folder / "kubeconfig"
        self.logs: dict[tuple[str, str], ContainerLog] = {}
        self._etcd, self._peers, port = free_port(), free_port(), free_port()
        self.address = f"https://127.0.0.1:{port}"
        self._port = port
        self._programs: dict[str, subprocess.Popen] = {}
        self._session = requests.Session()
        self._session.verify = self._session.trust_env = False  # the environment may name other certificates
        self._session.headers["Authorization"] = "Bearer admin"
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        self.objects = RealObjects(self)

    def __enter__(self) -> "ApiServer":
        self.folder.mkdir(parents=True, exist_ok=True)
        key = str(self.folder / "account.key")
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens = 'admin,admin,1,"system:masters"\nperson,person,2,"people"\n'
        (self.folder / "tokens.csv").write_text(tokens)
        self.write_kubeconfig(self.kubeconfig, "admin")
        try:
            self._start(
                "etcd", "--data-dir", self.folder / "etcd", "--unsafe-no-fsync",
                "--listen-client-urls", f"http://127.0.0.1:{self._etcd}",
                "--advertise-client-urls", f"http://127.0.0.1:{self._etcd}",
                "--listen-peer-urls", f"http://127.0.0.1:{self._peers}",
            )  # fmt: skip
            self.start_server()
            self._start("kube-controller-manager", "--kubeconfig", self.kubeconfig, "--leader-elect=false", "--port=0",
                        f"--secure-port={free_port()}", "--cert-dir", self.folder / "manager",
                        "--controllers=*,-nodeipam,-nodelifecycle,-cloud-node-lifecycle,-service,-route,-attachdetach",
                        "--concurrent-gc-syncs=4", "--service-account-private-key-file", key)  # fmt: skip
            self._kubelet = _Kubelet(self)
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._stop(name)
        if hasattr(self, "_kubelet"):
            self._kubelet.close()

    def write_kubeconfig(self, file: Path, token: str) -> None:
        """A kubeconfig of the user with this token: `admin`, or `person` of the group `people`."""
        cluster = {"server": self.address, "insecure-skip-tls-verify": True}
        one = {
            "apiVersion": "v1", "kind": "Config", "current-context": "real",
            "contexts": [{"name": "real", "context": {"cluster": "real", "user": "real"}}],
            "clusters": [{"name": "real", "cluster": cluster}],
            "users": [{"name": "real", "user": {"token": token}}],
        }  # fmt: skip
        file.write_text(yaml.safe_dump(one))

    # --- what tests do to it

    def start_server(self) -> None:
        """Start the API server, which answers some seconds later."""
        key = self.folder / "account.key"
        self._start(
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self._etcd}", f"--secure-port={self._port}",
            "--bind-address=127.0.0.1", "--insecure-port=0", "--cert-dir", self.folder / "server",
            "--token-auth-file", self.folder / "tokens.csv", "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file", key,
            "--service-account-key-file", key, "--service-cluster-ip-range=10.96.0.0/24",
            "--endpoint-reconciler-type=none", "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-timeout=2s",
        )  # fmt: skip

    def wait_until_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while True:
            try:
                if self._session.get(f"{self.address}/readyz", timeout=5).status_code == 200:
                    return
            except requests.RequestException:
                pass
            assert time.monotonic() < until, (self.folder / "kube-apiserver.log").read_text()[-2000:]
            time.sleep(0.2)

    def stop_server(self) -> None:
        self._stop("kube-apiserver")

    def remove_jobs(self) -> None:
        """Remove RayJobs, pods and ConfigMaps of all namespaces that the operator looks after."""
        for namespace in self.namespaces:
            for job in self.objects.find("rayjobs", namespace):
                name = job["metadata"]["name"]
                self.objects.update("rayjobs", namespace, name, lambda one: one["metadata"].update(finalizers=[]))
            for resource in ("rayjobs", "pods", "configmaps"):
                for one in self.objects.find(resource, namespace):
                    with suppress(Status):
                        self.objects.remove(resource, namespace, one["metadata"]["name"])

    def lose_kubelet(self) -> None:
        """The node of all pods no longer answers."""
        self._kubelet.close()

    def kubectl(self, *words: str, text: str | None = None) -> str:
        """The output of kubectl as the administrator."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
        return done.stdout if done.returncode == 0 else f"{done.stdout}\n{done.stderr}"

    def apply(self, objects: list[Object]) -> None:
        """Apply those of the objects that 1.20 serves in their version."""
        chosen = [one for one in objects if one["kind"] in _SERVED]
        said = self.kubectl("apply", "--validate=false", "-f", "-", text=yaml.safe_dump_all(chosen))
        assert len(re.findall(" (?:created|configured|unchanged)$", said, re.MULTILINE)) == len(chosen), said

    def request(self, method: str, path: str, body: Any = None, **query: str) -> Object:
        kind = {"Content-Type": "application/merge-patch+json"} if method == "PATCH" else None
        answer = self._session.request(method, self.address + path, json=body, params=query, timeout=60, headers=kind)
        if answer.status_code >= 400:
            found = answer.json() if answer.text.startswith("{") else {"message": answer.text}
            raise Status(answer.status_code, found.get("reason", ""), found.get("message", ""))
        return answer.json()

    # --- set-up

    def _start(self, program: str, *words: object) -> None:
        with open(self.folder / f"{program}.log", "ab") as out:
            command = [str(PROGRAMS / program), *map(str, words)]
            self._programs[program] = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def _stop(self, program: str) -> None:
        running = self._programs.pop(program, None)
        if running is not None:
            running.kill()
            running.wait()

    def _set_up(self) -> None:
        self.wait_until_ready()
        for file in CRD_DIR.rglob("ray.io_rayjobs.yaml"):
            crd = _for_old_servers(yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
            _remove(crd["spec"], self.without)
            self.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        self.apply(kustomize(K8S / "overlays" / "kind"))
        node = {"metadata": {"name": "node"}, "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._kubelet.port}}}}  # fmt: skip
        self.request("POST", "/api/v1/nodes", node)
        until = time.monotonic() + _READY_S
        while True:
            try:
                self.request("GET", "/apis/ray.io/v1/namespaces/raymill/rayjobs")
                return
            except Status:
                assert time.monotonic() < until
                time.sleep(0.2)


class RealObjects:
    """The objects of the server, with the methods of `Objects` of KubernetesServer that the operator calls."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def get(self, resource: str, namespace: str, name: str) -> Object:
        return self._server.request("GET", f"{_path(resource, namespace)}/{name}")

    def find(self, resource: str, namespace: str, matches: Callable[[Object], bool] = lambda one: True) -> list[Object]:
        return [one for one in self._server.request("GET", _path(resource, namespace))["items"] if matches(one)]

    def create(self, resource: str, namespace: str, new: Object) -> Object:
        new = copy.deepcopy(new)
        if resource == "pods":
            new["spec"]["nodeName"] = "node"
        if resource == "events":
            new["involvedObject"] |= {"namespace": namespace}
        created = self._server.request("POST", _path(resource, namespace), new)
        if new.get("status"):
            self.update(resource, namespace, created["metadata"]["name"], lambda one: one.update(status=new["status"]))
        return created

    def update(self, resource: str, namespace: str, name: str, change: Callable[[Object], None]) -> Object:
        path = f"{_path(resource, namespace)}/{name}"
        while True:
            before = self.get(resource, namespace, name)
            after = copy.deepcopy(before)
            change(after)
            try:
                if after.get("status") != before.get("status"):
                    status = (
                        after["status"] if resource != "rayjobs" else {"failed": 0, "succeeded": 0} | after["status"]
                    )
                    before = self._server.request("PUT", f"{path}/status", before | {"status": status})
                after["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"]
                if {**after, "status": 0} != {**before, "status": 0}:
                    return self._server.request("PUT", path, after)
                return before
            except Status as error:
                if error.code != 409:
                    raise

    def remove(self, resource: str, namespace: str, name: str) -> None:
        body = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        self._server.request("DELETE", f"{_path(resource, namespace)}/{name}", body)

    def delete(self, resource: str, namespace: str, name: str) -> None:
        self.remove(resource, namespace, name)


class _Kubelet:
    """Serves the logs of containers as a kubelet does."""

    def __init__(self, server: ApiServer) -> None:
        folder, name = server.folder, "kubelet"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=node",
                        "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"],
                       check=True, capture_output=True)  # fmt: skip
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _kubelet_handler(server, self))
        self.connections: list[socket.socket] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._http.daemon_threads = True
        self.port, self.closing = self._http.server_port, False
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self._http.shutdown()
            self._http.server_close()
            for connection in self.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


def _kubelet_handler(server: ApiServer, kubelet: _Kubelet) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            kubelet.connections.append(self.connection)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            _, kind, namespace, pod, container = url.path.split("/")
            assert kind == "containerLogs", url.path
            query = {name: values[-1] for name, values in parse_qs(url.query).items()}
            uid = server.objects.get("pods", namespace, pod)["metadata"]["uid"]
            log = server.logs.get((uid, container), ContainerLog())
            since = float(query["sinceSeconds"]) if "sinceSeconds" in query else None
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                for part in log.read(query.get("follow") == "true", since, lambda: kubelet.closing):
                    self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                self.wfile.write(b"0\r\n\r\n")
            except OSError:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def missing() -> str:
    """What lacks to start an ApiServer; "" if nothing."""
    needed = ("etcd", "kube-apiserver", "kube-controller-manager")
    if not all((PROGRAMS / name).exists() for name in needed) or shutil.which("openssl") is None:
        return HOW_TO
    return ""


def _path(resource: str, namespace: str) -> str:
    return f"/api/v1/namespaces/{namespace}/{resource}" if resource in _CORE else (
        f"/apis/ray.io/v1/namespaces/{namespace}/{resource}")  # fmt: skip


def _for_old_servers(crd: Object) -> Object:
    """The CRD without what Kubernetes 1.20 does not know, or refuses: CEL rules, selectable fields, empty defaults."""
    for version in crd["spec"]["versions"]:
        version.pop("selectableFields", None)
        _strip(version["schema"])
    return crd


def _strip(value: Any) -> None:
    if isinstance(value, dict):
        value.pop("x-kubernetes-validations", None)
        if value.get("x-kubernetes-list-type") == "map":
            value.pop("x-kubernetes-list-type")
            value.pop("x-kubernetes-list-map-keys", None)
        if value.get("default") in ("", {}, []) and "type" in value:
            value.pop("default")
        for one in value.values():
            _strip(one)
    elif isinstance(value, list):
        for one in value:
            _strip(one)


def _remove(value: Any, names: tuple[str, ...]) -> None:
    """Remove these names from the properties of a schema, at every depth."""
    if isinstance(value, dict):
        for name in names:
            value.get("properties", {}).pop(name, None)
        for one in value.values():
            _remove(one, names)
    elif isinstance(value, list):
        for one in value:
            _remove(one, names)
