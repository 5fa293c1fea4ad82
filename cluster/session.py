"""Starts or joins Ray, and runs single functions in its workers.

    address None, no RAY_ADDRESS   an embedded Ray on this machine, without dashboard; it ends with the command
    address given                  that cluster; Raymill's source is sent to it, its dependencies must be installed
    RAY_ADDRESS set                the cluster that this process runs in, as in a RayJob or a submitted job

Every worker computes with one thread; parallelism comes from units. Ray is imported in functions: it reads its
authentication mode from the environment when it is imported, and a command whose work is finished does not need it.
"""

import logging
import math
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from raymill.cluster import logs, sudden_end
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ClusterError, ConfigError, ErrorRecord, RaymillError, as_record, from_record
from raymill.cluster.nodes import Node, Resources, candidates
from raymill.cluster.progress import Progress
from raymill.cluster.ray_private import private, replace_private
from raymill.cluster.sudden_end import interrupt_on_sigterm, report_sudden_end
from raymill.cluster.temporary import abandoned, temporary_folder

log = logging.getLogger(__name__)

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "ARROW_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # glibc would give each thread that reads ahead memory of its own, and keep it: 0.3 GB a worker in grouping.
    "MALLOC_ARENA_MAX": "1",
    # A worker keeps up to 512 MiB that a unit has freed, as the kernel clears every page that it hands out: `measure`
    # is 2 to 7% faster, grouping 10%.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
}

# What passes through Ray has a few kilobytes a unit; by default Ray reserves 30% of the memory for objects.
_OBJECT_STORE_BYTES = 256 << 20

_CONNECT_S = 10
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# The path of a Unix socket has at most 107 bytes. This is appended to our folder; Ray chose most of it.
_RAY_SOCKET = "/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_KIND = "r"  # of our folder, short for the same reason
_LONGEST_PARENT = 107 - len(_RAY_SOCKET) - len(f"/raymill-{_KIND}-12ab-4194304-abcdefgh")

T = TypeVar("T")


class Session:
    """A connection to Ray that is opened by `start`. Use it in a `with`; leaving it shuts down what `start` started.

    address: that of a cluster; None or "local" for an embedded Ray.
    cpus: number of CPUs that the embedded Ray may use; default: all of this machine.
    progress: shows a line with the seconds that `start` takes.
    """

    def __init__(self, address: str | None = None, cpus: int | None = None, progress: Progress | None = None) -> None:
        self.address = address or os.environ.get("RAY_ADDRESS") or None
        self.cpus = cpus
        self.progress = progress or Progress()
        self.started = False
        self._folder: Path | None = None
        self._unwatch = threading.Event()
        self._leave: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is KeyboardInterrupt and self.embedded:
            self.abandon()
        else:
            self.stop()

    @property
    def embedded(self) -> bool:
        """Whether Ray is started on this machine for this session only, and not joined on a cluster."""
        return self.address in (None, "local")

    def own_resources(self, gpus: bool) -> dict[str, float]:
        """The CPUs and GPUs that an embedded Ray would find on this machine. Does not start it.

        gpus: count GPUs, which imports Ray; else their number is 0.
        """
        found = {"CPU": float(self.cpus or os.cpu_count() or 1), "GPU": 0.0}
        if gpus:
            manager = private("get_accelerator_manager_for_resource")("GPU")
            assert manager is not None, "Ray has no manager for GPUs"
            visible = manager.get_current_process_visible_accelerator_ids()
            count = manager.get_current_node_num_accelerators()
            found["GPU"] = float(count if visible is None else min(count, len(visible)))
        return found

    def start(self) -> None:
        """Start the embedded Ray, or join the cluster. Does nothing if that was done before.

        Raises:
            ConfigError: no Ray cluster answers at the address.
            ClusterError: Ray does not start on this machine.
        """
        if self.started:
            return
        os.environ.update({name: value for name, value in WORKER_ENVIRONMENT.items() if name not in os.environ})
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        # A thread that still waits for Ray when it is stopped must not start another one.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        # By default Ray retries tasks without limit after out-of-memory kills; the stage engine counts attempts.
        os.environ.setdefault("RAY_task_oom_retries", "1")
        self._leave = report_sudden_end()
        with self.progress.waiting("starting Ray" if self.embedded else "joining Ray"):
            if self.embedded:
                self._start_embedded()
            else:
                self._join()
            self._quieten()
        self.started = True
        if threading.current_thread() is threading.main_thread():
            interrupt_on_sigterm()  # Ray has set a handler of its own, which aborts

    def stop(self) -> None:
        """Shut Ray down, and end the agents that Ray's own shutdown leaves behind if its control process has died."""
        if self.started:
            ray = imported_ray()
            if self._folder is not None and self.dead():
                _kill_holders(self._folder)  # without its control process Ray cannot end them
            ray.shutdown()
            self.started = False
        self._remove_ray()

    def abandon(self) -> None:
        """Kill the embedded Ray, after an interrupt, when this process also ends.

        `ray.shutdown` would race with the thread that still reads answers, and crash.
        """
        self.started = False
        self._remove_ray()

    def _remove_ray(self) -> None:
        """Kill the processes of the embedded Ray that are still running, and remove its folder."""
        self._unwatch.set()
        self._leave()
        if self._folder is not None:
            _kill_holders(self._folder)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def could_run(self, wanted: Resources) -> bool:
        """Whether the cluster that was joined has a node with room for a unit now. True for the embedded Ray.

        wanted: what a unit reserves.
        """
        if self.embedded:
            return True
        free = private("available_resources_per_node")()
        nodes = candidates(self.nodes(), wanted)
        return any(replace(node, has=free[node.id]).takes(wanted) for node in nodes if node.id in free)

    def memory(self) -> float:
        """Bytes of memory that the embedded Ray has for tasks; 0 for a cluster that was joined."""
        return imported_ray().cluster_resources().get("memory", 0) if self.started and self.embedded else 0

    def nodes(self) -> list[Node]:
        """The nodes of the cluster. That of an embedded Ray has infinite memory, because a larger unit runs alone."""
        nodes = [Node.of(one) for one in imported_ray().nodes() if one["Alive"]]
        return [replace(one, has={**one.has, "memory": math.inf}) for one in nodes] if self.embedded else nodes

    def dead(self) -> bool:
        """Whether a process that the embedded Ray needs has died. Always False for a cluster that was joined."""
        if not (self.started and self.embedded):
            return False
        node = private("_global_node")
        return node is None or bool(node.dead_processes())

    def _start_embedded(self) -> None:
        # A token for this session, in the environment: Ray would write one to the user's home. Ray reads the mode when
        # it is imported; a program that imported Ray before keeps its own mode.
        if "ray" not in sys.modules:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ.get("RAY_AUTH_MODE") == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._listen_to_this_machine_alone(True)
        ray = imported_ray()
        # The agents of a killed driver's Ray never end by themselves.
        for folder in abandoned(_KIND, _short_folder()):
            _kill_holders(folder)
        self._folder = temporary_folder(_KIND, _short_folder())
        self._unwatch = sudden_end.watch(self._folder, self._remove_ray)
        try:
            ray.init(
                address="local",
                num_cpus=self.cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=_OBJECT_STORE_BYTES,
                # Below our folder, because Ray lets every user of the machine write into its own.
                _temp_dir=str(self._folder / "r"),
            )
        except Exception as error:
            raise ClusterError(
                f"Ray did not start on this machine: {_first_line(error)} Logs: {self._folder}. A busy machine may "
                "be the cause, as Ray waits for its processes for a limited time: run the same command again. If it "
                "fails again, look for a full disk or a memory limit, or give --address to use a running cluster."
            ) from error

    def _listen_to_this_machine_alone(self, alone: bool) -> None:
        """Whether the Ray that this process starts next is on 127.0.0.1, and not on all addresses of this machine.

        Ray has this setting for systems on which it has no clusters. Its processes read the variable, and this one the
        constant, because Ray may have been imported before.
        """
        os.environ[_CLUSTERS] = "0" if alone else "1"
        if "ray" in sys.modules:
            replace_private("ENABLE_RAY_CLUSTER", not alone)

    def _join(self) -> None:
        self._listen_to_this_machine_alone(False)
        ray = imported_ray()
        # Inside a job the source comes with the image or the job's working directory.
        ship = not (os.environ.get("RAY_JOB_ID") or os.environ.get("RAY_ADDRESS"))
        runtime = {"env_vars": WORKER_ENVIRONMENT} | ({"py_modules": [str(Path(__file__).parents[1])]} if ship else {})
        try:
            _require_listener(str(self.address))
            ray.init(address=self.address, runtime_env=runtime, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:
            raise ConfigError(
                f"--address {self.address}: no Ray cluster of version {ray.__version__} answers there "
                f"({_first_line(error)}). Check the address and port, or leave it out to use this machine."
            ) from error

    def _quieten(self) -> None:
        """Keep Ray from printing: standard output is for results."""
        replace_private("print_to_stdstream", _log_raylet)
        logger = logging.getLogger("ray")
        logger.setLevel(logging.CRITICAL)
        logger.propagate = False


def imported_ray() -> Any:
    """The module `ray`. Imported after `start` has set its environment, which Ray reads when it is imported."""
    import ray

    return ray


def _require_listener(address: str) -> None:
    """Connect once to HOST:PORT. Ray itself would try for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _log_raylet(data: dict, ignore_prefix: bool) -> None:
    log.info("raylet: %s", str(data["lines"][0]).partition("\n")[0])


def _kill_holders(folder: Path) -> None:
    """Kill every process that has a file open in Ray's folder; each has at least its log. Needs /proc."""
    mine = f"{folder}/"
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            if any(os.readlink(file).startswith(mine) for file in (process / "fd").iterdir()):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # it ended, or belongs to another user
            continue


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_PARENT else "/tmp"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def in_worker(session: Session, function: Callable[..., T], *arguments: Any, cpus: float = 1, gpus: int = 0) -> T:
    """The result of `function(*arguments)`, computed in a worker with these resources.

    The driver never loads a model: it may run on the head of a cluster, without a GPU and with little memory.

    Raises:
        RaymillError: the function raised one; its class and message are kept.
        ClusterError: the function raised another exception, or its worker died twice.
    """
    session.start()
    ray = imported_ray()
    # One retry: a worker that died twice, often out of memory, will die again.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(_call)
    try:
        failure, result = ray.get(task.remote(function, arguments))
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"{_name(function)}: its worker failed: {(str(error).strip().splitlines() or ['?'])[-1]} "
            "Finished work is kept: run the same command again."
        ) from error
    if failure is not None:
        raise from_record(failure)
    return result


def _name(function: Callable[..., Any]) -> str:
    return function.name if isinstance(function, Entry) else f"{function.__module__}:{function.__qualname__}"


def _call(function: Callable[..., Any], arguments: tuple) -> tuple[ErrorRecord | None, Any]:
    logs.setup()
    try:
        return None, function(*arguments)
    except RaymillError as error:
        return as_record(error), None
