"""A Ray cluster of several nodes on this machine, with dashboard, Jobs API and token authentication."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

import psutil
import requests

from tests.support.processes import suspend

ROOT = Path(__file__).resolve().parents[2]
_START_S = 120
# Ray gives a node up whose processes need more than 30 s to start, as they may on a busy machine.
_STARTS = 3
_OBJECT_STORE = 100 << 20
# Seconds without a task after which an autoscaled node ends.
IDLE_S = 10
# Of ray.autoscaler._private.fake_multi_node.node_provider. Processes that fork must not import Ray.
FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE = "f" * 51 + "00000", "ray.head.default"
_AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
MARK = "RAYMILL_TEST_CLUSTER"
# Required in a configuration, and unused.
_NO_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
)


def _port() -> int:
    """A free port above those of Ray's workers and below those that the system gives to connections.

    Ray binds some of its ports half a minute after it was started with their numbers.
    """
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as taken:
            try:
                taken.bind(("0.0.0.0", port))
                return port
            except OSError:
                continue


class GivenUp(AssertionError):
    """Ray did not start the newest node."""


class RayCluster:
    """A head without CPUs of its own and `workers` nodes, all processes of this machine.

    Use it in a `with`. `kill_head` kills every process of the head and `start` starts a new head at the same address,
    as KubeRay does. autoscaled: Ray's autoscaler, version 2 as in KubeRay, adds up to this number of nodes when tasks
    wait, and takes them away again when they have been idle for IDLE_S. environment: further variables of all
    processes.
    """

    def __init__(
        self, workers: int = 2, cpus_each: int = 1, autoscaled: int = 0, environment: Mapping[str, str] | None = None
    ) -> None:
        assert find_spec("aiohttp_cors"), "the dashboard needs: pip install 'ray[default]'"
        self.workers, self.cpus_each, self.autoscaled = workers, cpus_each, autoscaled
        self.environment = dict(environment or {})
        self.token, self.mark = uuid.uuid4().hex, uuid.uuid4().hex
        self.port, self.dashboard_port = _port(), _port()
        self.folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
        self.nodes: list[subprocess.Popen] = []
        self.heads: set[str] = set()  # their ids

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def gcs(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> "RayCluster":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._start_node(
            lambda: self._answers() and self.alive() == 1,
            "--head",
            f"--port={self.port}",
            "--num-cpus=0",
            "--include-dashboard=true",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard_port}",
            f"--temp-dir={self.folder}",
            "--disable-usage-stats",
            *([f"--autoscaling-config={self._autoscaling_config()}"] if self.autoscaled else []),
        )
        self.heads |= self.alive_nodes()
        for _ in range(self.workers):  # one after the other, as each has 30 s
            self.add_node()

    def add_node(self, gpus: int = 0) -> str:
        """Start a node; returns its id."""
        before = self.alive_nodes()
        options = (f"--address={self.gcs}", f"--num-cpus={self.cpus_each}", f"--num-gpus={gpus}")
        self._start_node(lambda: bool(self.alive_nodes() - before), *options)
        (added,) = self.alive_nodes() - before
        return added

    def preempt(self) -> subprocess.Popen:
        """Give notice to the oldest node, as to a spot machine: SIGTERM, on which Ray drains it, then ends."""
        node = self.nodes.pop(1)
        node.terminate()
        return node

    def kill_node(self) -> None:
        """Kill the oldest node without notice: its raylet, its workers, then what is left."""
        node = self.nodes.pop(1)
        processes = psutil.Process(node.pid).children(recursive=True)
        processes.sort(key=lambda process: "raylet" not in process.name())
        for process in (*processes, node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.wait()

    def suspend_node(self, node: subprocess.Popen) -> list[psutil.Process]:
        """Suspend a node with its raylet and workers; returns all of its processes. They may be resumed and killed."""
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        suspend(process.pid for process in processes)
        return processes

    def kill_head(self, processes: Sequence[psutil.Process] = ()) -> None:
        """Kill the head's processes, and those of the other nodes, which cannot go on without it.

        processes: killed first; found before, this takes no time.
        """
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._kill()

    def processes(self) -> list[psutil.Process]:
        """All processes of the nodes, those of running jobs included."""
        return [child for node in self.nodes for child in psutil.Process(node.pid).children(recursive=True)]

    def stop(self) -> None:
        self._kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start_node(self, ready: Callable[[], bool], *options: str) -> None:
        """Start a node and wait until it is ready; several times, if Ray gives it up."""
        for left in reversed(range(_STARTS)):
            self._node(*options)
            try:
                self._wait(ready)
                return
            except GivenUp:
                if not left:
                    raise
                self.nodes.pop()

    def _node(self, *options: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            MARK: self.mark,
            **(_AUTOSCALER if self.autoscaled else {}),
            "RAY_USAGE_STATS_ENABLED": "0",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **self.environment,
        }
        common = ["--node-ip-address=127.0.0.1", f"--object-store-memory={_OBJECT_STORE}", "--block"]
        # Each node of this machine needs agent ports of its own.
        for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"):
            common.append(f"--{name}={_port()}")
        with open(self.folder / f"node-{len(self.nodes)}.txt", "w") as log:
            self.nodes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "ray.scripts.scripts", "start", *options, *common],
                    env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True,
                )
            )  # fmt: skip

    def _autoscaling_config(self) -> Path:
        """The configuration of Ray's provider of pretended machines, each a node of this machine."""
        settings = {name: [] for name in _NO_COMMANDS} | {
            "file_mounts": {},
            "cluster_name": "test",
            "max_workers": self.autoscaled,
            "idle_timeout_minutes": IDLE_S / 60,
            # Ray's wheel lacks the defaults of its own name for it, fake_multinode.
            "provider": {
                "type": "external",
                "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
                "gcs_address": self.gcs,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "disable_node_updaters": True,
                "launch_multiple": True,
            },
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "available_node_types": {
                FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                "cpu": {
                    "resources": {"CPU": self.cpus_each, "object_store_memory": _OBJECT_STORE},
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": self.autoscaled,
                },
            },
        }
        path = self.folder / "autoscaling.json"
        path.write_text(json.dumps(settings))
        return path

    def _get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, headers={"Authorization": f"Bearer {self.token}"}, timeout=10)

    def _answers(self) -> bool:
        try:
            return self._get("/api/version").ok and self._get("/api/jobs/").ok
        except requests.RequestException:
            return False

    def alive(self) -> int:
        """The number of nodes, with the head."""
        return len(self.alive_nodes())

    def alive_nodes(self) -> set[str]:
        """The ids of the nodes, with the head."""
        raylets = [node["raylet"] for node in self._get("/nodes?view=summary").json()["data"]["summary"]]
        return {raylet["nodeId"] for raylet in raylets if raylet.get("state") == "ALIVE"}

    def jobs(self) -> list[str]:
        """The ids of the drivers that were connected, in their order."""
        found = self._get("/api/jobs/").json()
        return sorted(job["job_id"] for job in found if job["job_id"])

    def nodes_of(self, kind: str, job: str, name: str) -> set[str]:
        """The ids of the nodes that ran tasks or actors of a driver.

        kind: tasks or actors. name: how the names of those begin.
        """
        filters = {"filter_keys": "job_id", "filter_predicates": "=", "filter_values": job}
        path = f"/api/v0/{kind}?{urlencode(filters | {'limit': 10_000, 'detail': 'true'})}"
        answer = self._get(path).json()["data"]["result"]["result"]
        named = (one for one in answer if str(one.get("name") or one.get("class_name")).startswith(name))
        return {one["node_id"] for one in named if one["node_id"]}

    def _wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + _START_S
        while time.monotonic() < until:
            for number, node in enumerate(self.nodes):
                if node.poll() is not None:
                    text = (self.folder / f"node-{number}.txt").read_text()
                    error = f"ray start ended with {node.returncode}:\n{text}"
                    raise GivenUp(error) if number == len(self.nodes) - 1 else AssertionError(error)
            with contextlib.suppress(requests.RequestException):  # a busy dashboard
                if ready():
                    return
            time.sleep(0.3)
        raise TimeoutError(f"Ray did not start within {_START_S} s")

    def _kill(self) -> None:
        """Kill the nodes and all their descendants."""
        found: list[psutil.Process] = []
        for node in self.nodes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(node.pid)
                found += [process, *process.children(recursive=True)]
        mine = str(self.folder)
        for process in psutil.process_iter(["cmdline", "environ"]):
            line, environment = process.info["cmdline"] or [], process.info["environ"] or {}
            if any(mine in word for word in line) or environment.get(MARK) == self.mark:
                found.append(process)
        for process in found:
            if process.pid == os.getpid():
                continue
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        for node in self.nodes:
            node.wait()
        psutil.wait_procs([one for one in found if one.pid != os.getpid()], timeout=10)
        self.nodes = []
