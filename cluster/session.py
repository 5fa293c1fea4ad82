"""Starts or joins Ray, and runs single functions in its workers.

    address None, no RAY_ADDRESS   an embedded Ray on this machine, without dashboard; it ends with the command
    address given                  that cluster; Raymill's source is sent to it, its dependencies must be installed
    RAY_ADDRESS set                the cluster that this process runs in, as in a RayJob or a submitted job

A command has its process to itself. Where another program calls a function of Raymill, as in a notebook, `opened`
returns a `GuestSession`: it uses a Ray that the program has started, and otherwise starts one for all calls that run at
the same time; the program's environment, signal handlers and loggers are as before when the last call has ended.

Every worker computes with one thread; parallelism comes from units. Ray is imported in functions: it reads its
authentication mode from the environment when it is imported, and a command whose work is finished does not need it.
"""

import atexit
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from raymill.cluster import logs, sudden_end
from raymill.cluster.entry import Entry
from raymill.cluster.errors import ClusterError, ConfigError, ErrorRecord, RaymillError, as_record, from_record
from raymill.cluster.nodes import Node, Resources, candidates
from raymill.cluster.progress import Progress
from raymill.cluster.ray_private import private, replace_private
from raymill.cluster.sudden_end import interrupt_on_sigterm, is_command, report_sudden_end
from raymill.cluster.temporary import abandoned, temporary_folder
from raymill.cluster.wording import of_the_command

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
_LOOK_S = 2.0
_QUEUED_EACH = 8  # units for each CPU, of a run that is made beside others
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Besides WORKER_ENVIRONMENT, what a session, a training or `ray.init` sets in this process.
_VARIABLES = (
    "PYTHONBREAKPOINT", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN",
    "RAY_DEDUP_LOGS", "RAY_ENABLE_AUTO_CONNECT", "RAY_task_oom_retries", "RAY_USAGE_STATS_ENABLED", _CLUSTERS,
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
)  # fmt: skip

# The path of a Unix socket has at most 107 bytes. This is appended to our folder; Ray chose most of it.
_RAY_SOCKET = "/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_KIND = "r"  # of our folder, short for the same reason
_LONGEST_PARENT = 107 - len(_RAY_SOCKET) - len(f"/raymill-{_KIND}-12ab-4194304-abcdefgh")

T = TypeVar("T")


class Session:
    """A connection to Ray that is opened by `start`. Use it in a `with`; leaving it shuts down what `start` started.

    address: of a cluster; None or "local" for an embedded Ray.
    cpus: number of CPUs that the embedded Ray may use; default: all of this machine.
    progress: shows a line with the seconds that `start` takes.
    """

    # Whether the process is ended, with a message, when the control process of its Ray has died.
    _ends_process: ClassVar = True
    # Whether several runs of this process use the Ray at the same time, so that units and workers may wait for each
    # other's room.
    shared: ClassVar = False
    # Bytes that the workers of a training reserve together, beside other runs; 0: none.
    workers_memory: float = 0

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

    @property
    def task_options(self) -> dict[str, Any]:
        """Options of Ray for every task and actor of this session."""
        return {}

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
        self._leave = report_sudden_end()
        self._start()
        if threading.current_thread() is threading.main_thread():
            interrupt_on_sigterm()  # Ray has set a handler of its own, which aborts

    def _start(self) -> None:
        os.environ.update({name: value for name, value in WORKER_ENVIRONMENT.items() if name not in os.environ})
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")
        # A thread that still waits for Ray when it is stopped must not start another one.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        if "ray" in sys.modules:
            replace_private("enable_auto_connect", False)
        # By default Ray retries tasks without limit after out-of-memory kills; the stage engine counts tries.
        os.environ.setdefault("RAY_task_oom_retries", "1")
        with self.progress.waiting("starting Ray" if self.embedded else "joining Ray"):
            if self.embedded:
                self._start_embedded()
            else:
                self._join()
            self._quieten()
        self.started = True

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
        """Whether a node has room for a unit now. True for an embedded Ray that no other run uses.

        wanted: what a unit reserves.
        """
        if self.embedded and not self.shared:
            return True
        if self.embedded:  # a larger unit runs alone
            wanted = {**wanted, "memory": min(wanted.get("memory", 0), self.memory())}
        free = private("available_resources_per_node")()
        nodes = candidates(self.nodes(), wanted)
        return any(replace(node, has=free[node.id]).takes(wanted) for node in nodes if node.id in free)

    def memory(self) -> float:
        """Bytes of memory that the embedded Ray has for tasks; 0 for a cluster that was joined."""
        return imported_ray().cluster_resources().get("memory", 0) if self.started and self.embedded else 0

    def nodes(self) -> list[Node]:
        """The nodes of the cluster. An embedded Ray's has infinite memory, because a larger unit runs alone."""
        nodes = [Node.of(one) for one in imported_ray().nodes() if one["Alive"]]
        return [replace(one, has={**one.has, "memory": math.inf}) for one in nodes] if self.embedded else nodes

    def dead(self) -> bool:
        """Whether a process that the embedded Ray needs has died. Always False for a cluster that was joined."""
        if not (self.started and self.embedded):
            return False
        node = private("_global_node")
        return node is None or bool(node.dead_processes())

    def room_for_units(self, cpus: float) -> float:
        """The number of units of a stage that may be given to Ray at once now. cpus: that each reserves."""
        return math.inf

    def raise_if_interrupted(self) -> None:
        """Looked at every few seconds, because an interrupt reaches the main thread alone.

        Raises:
            KeyboardInterrupt: the run has to end, as after Ctrl-C.
        """

    def _start_embedded(self) -> None:
        # A token for this session, in the environment, because Ray would write one to the user's home. Ray reads the
        # mode when it is imported, so a program that imported Ray before keeps its own.
        if "ray" not in sys.modules:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._listen_to_this_machine_alone(True)
        ray = imported_ray()
        _forget_token()
        # The agents of a killed driver's Ray never end by themselves.
        for folder in abandoned(_KIND, _short_folder()):
            _kill_holders(folder)
        self._folder = temporary_folder(_KIND, _short_folder())
        if self._ends_process:
            self._unwatch = sudden_end.watch(self._folder, self._remove_ray)
        try:
            with self._working_in(self._folder):
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

    @contextmanager
    def _working_in(self, folder: Path) -> Iterator[None]:
        """Change the working folder of this process, unless the process is a program that calls us.

        `ray.init` puts the working folder before all others on the path of its workers: a module among the data that a
        user has downloaded would be imported in place of an installed one.
        """
        if not self._ends_process:
            yield
            return
        before = os.getcwd()
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)

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
            with self._working_in(Path(__file__).parents[2]):
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


class SharedSession(Session):
    """The session of one of several runs that a process makes at the same time, each in a thread.

    session: its Ray is started, and ends with it. So a stage that stalls does not restart Ray: its units are ended and
    begun again. interrupted: set to end the run as after Ctrl-C. workers_memory: as of `Session`. others: `others()` is
    the number of CPUs that the workers of the trainings among the other runs reserve.
    """

    shared = True

    def __init__(
        self,
        session: Session,
        interrupted: threading.Event,
        workers_memory: float = 0,
        others: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(session.address, session.cpus, session.progress)
        self._session, self._interrupted, self.workers_memory = session, interrupted, workers_memory
        self._others = others
        self.started = True

    @property
    def embedded(self) -> bool:
        return self._session.embedded

    @property
    def task_options(self) -> dict[str, Any]:
        return self._session.task_options

    def start(self) -> None: ...
    def stop(self) -> None: ...

    def memory(self) -> float:
        return self._session.memory()

    def dead(self) -> bool:
        return self._session.dead()

    def room_for_units(self, cpus: float) -> float:
        """On this machine few units wait in Ray, which gives CPUs to them before it places the workers of a training,
        and none while there is one. On a cluster all are given, because an autoscaler counts those that wait.
        """
        if not self.embedded:
            return math.inf
        all_cpus, others = self.own_resources(gpus=False)["CPU"], self._others()
        return max(1, (all_cpus - others) // cpus) if others else _QUEUED_EACH * all_cpus

    def raise_if_interrupted(self) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt


class GuestSession(Session):
    """A session of a function that another program calls, from any thread. Ray is one for the whole process:

    the program has started or joined one       it is used and left as it is
    another guest of this process runs one      it is shared, and ends with the last guest
    else                                        it is started or joined

    Raises:
        ConfigError: at once, or in `start`: an address is given, and this process has a Ray at another.
    """

    _ends_process = False
    _lock: ClassVar = threading.RLock()
    _host: ClassVar["GuestSession | None"] = None  # the guest that started Ray
    _guests: ClassVar[int] = 0

    def __init__(self, address: str | None = None, cpus: int | None = None, progress: Progress | None = None) -> None:
        super().__init__(address, cpus, progress)
        self.given = address
        self.uses_other = False  # whether Ray was started by the program
        with self._lock:
            self._find()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()
        # From now on a call of Ray by the program may start one. Not after an error: a thread may still wait for ours.
        if kind is None and GuestSession._host is None and "ray" in sys.modules:
            replace_private("enable_auto_connect", os.environ.get("RAY_ENABLE_AUTO_CONNECT") != "0")

    @property
    def embedded(self) -> bool:
        return not self.uses_other and super().embedded

    @property
    def task_options(self) -> dict[str, Any]:
        return {"runtime_env": {"env_vars": WORKER_ENVIRONMENT}} if self.uses_other else {}

    def start(self) -> None:
        with self._lock:
            if self.started:
                return
            self._find()
            if self.uses_other:
                self.started = True
                return
            if GuestSession._host is None:
                self._before = _Process()
                try:
                    self._start()
                except BaseException:
                    self._remove_ray()
                    self._before.restore()
                    raise
                self._before.restore_at_once()
                GuestSession._host = self
            GuestSession._guests += 1
            self.started = True

    def stop(self) -> None:
        with self._lock:
            if not self.started:
                return
            self.started = False
            if self.uses_other:
                return
            GuestSession._guests -= 1
            host = GuestSession._host
            if host is not None and not GuestSession._guests:
                GuestSession._host = None
                host.started = True
                Session.stop(host)
                host._before.restore()

    def dead(self) -> bool:
        return not self.uses_other and super().dead()

    def _find(self) -> None:
        """Look for a Ray in this process."""
        host = GuestSession._host
        if host is not None:
            if self.given not in (None, host.address) and not (self.given == "local" and host.embedded):
                raise ConfigError(
                    f"address: {self.given} given; this process uses {host.address or 'a Ray of its own'} until the "
                    "calls that run, or the `with raymill.session()` around them, have ended. Leave address out, or "
                    "use another process."
                )
            self.address, self.cpus = host.address, host.cpus
            return
        self.uses_other = "ray" in sys.modules and imported_ray().is_initialized()
        if self.uses_other:
            here = imported_ray().get_runtime_context().gcs_address
            if self.given not in (None, "auto", "local", here):
                raise ConfigError(
                    f"address: {self.given} given; this process is connected to a Ray at {here}. Leave address out to "
                    "use that one, or call ray.shutdown() before."
                )


class _Process:
    """The state of this process that a session changes: environment, signal handler, loggers. Read when it is made."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._had_ray = "ray" in sys.modules
        self._in_main = threading.current_thread() is threading.main_thread()
        self._sigterm = signal.getsignal(signal.SIGTERM)
        logger = logging.getLogger("ray")
        self._logger = logger.level, logger.propagate
        self._print = private("print_to_stdstream") if self._had_ray else None

    def restore_at_once(self) -> None:
        """Restore what the processes of a Ray that has started have inherited, and the signal handler."""
        self._restore_environment(WORKER_ENVIRONMENT)
        # None: a handler that was not set by Python.
        if self._in_main and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)

    def restore(self) -> None:
        """Restore the rest, after Ray has ended."""
        self._restore_environment((*WORKER_ENVIRONMENT, *_VARIABLES))
        _forget_token()
        logger = logging.getLogger("ray")
        logger.level, logger.propagate = self._logger
        if self._print is not None:
            replace_private("print_to_stdstream", self._print)
            replace_private("ENABLE_RAY_CLUSTER", True)

    def _restore_environment(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                os.environ.pop(name, None)


def opened(address: str | None = None, cpus: int | None = None, progress: Progress | None = None) -> Session:
    """The session of a command, or of a function that another program calls. Use it in a `with`."""
    return (Session if is_command() else GuestSession)(address, cpus, progress)


@contextmanager
def session(address: str | None = None, cpus: int | None = None) -> Iterator[None]:
    """Start Ray once for all calls inside a `with`, from any thread. A Ray that this process has already is used.

    Args:
        address: of a Ray cluster; None: an embedded Ray on this machine.
        cpus: cores of this machine for the embedded Ray; None: all.

    Raises:
        ConfigError: no Ray cluster answers at the address, or this process has a Ray at another.
        ClusterError: Ray does not start on this machine.
    """
    with GuestSession(address, cpus) as opened_session:
        opened_session.start()
        yield


def ensure_ray() -> None:
    """Start a Ray that ends with this process, unless it has one: a Dataset is read after the call that made it."""
    if "ray" in sys.modules and imported_ray().is_initialized():
        return
    lasting = GuestSession()
    lasting.start()
    atexit.register(lasting.stop)


def _forget_token() -> None:
    """Make Ray read its token again: it keeps the first one that it finds."""
    private("AuthenticationTokenLoader").instance().reset_cache()


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
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1, **session.task_options)(_call)
    try:
        answer = task.remote(function, arguments)
        while not ray.wait([answer], timeout=_LOOK_S)[0]:
            session.raise_if_interrupted()
        failure, result = ray.get(answer)
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


@of_the_command()
def _call(function: Callable[..., Any], arguments: tuple) -> tuple[ErrorRecord | None, Any]:
    logs.setup()
    try:
        return None, function(*arguments)
    except RaymillError as error:
        return as_record(error), None
