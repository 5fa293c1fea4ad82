"""The kinds of faults of the matrix: each disturbs one run, in a way that its seed decides."""

import ctypes
import os
import random
import re
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import psutil

from raymill.cluster import lease
from raymill.cluster.failpoints import VARIABLE
from raymill.cluster.store import object_store
from raymill.cluster.store.interface import StorageOptions
from raymill.cluster.store.store import Store
from tests.conftest import CREDENTIALS
from tests.support.disturbances import TAKEN_BYTES
from tests.support.fault_case import WORKERS, Case, Pass
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.fault_works import STALL_S
from tests.support.forked import Command
from tests.support.inline import NoRay, RoundsInline
from tests.support.processes import MARK, marked, suspend
from tests.support.ray_cluster import RayCluster

# A worker of Ray takes many seconds to start on a busy machine, and a run that seems to stand still is broken off.
_PATIENT = {"execution": {"stall_s": 90.0}}
# Ray takes a node that does not answer for lost after about a minute.
_LONGEST_SUSPENSION_S = 240.0
# What is left below Ray's limit of memory, so that other programs of this machine do not reach it.
_ROOM_BYTES = 3 << 30
_IN_A_UNIT = ("unit_started", "files_written")
_KEYS = {"access_key_id": CREDENTIALS["aws_access_key_id"], "secret_access_key": CREDENTIALS["aws_secret_access_key"]}

# kind(case, random numbers of the seed, passes of an undisturbed run)
Kind = Callable[[Case, random.Random, list[Pass]], None]


def points(count: int) -> Kind:
    """`count` failpoints at which the process that comes there is killed; in units also suspended, or an error."""

    def disturb(case: Case, chance: random.Random, passes: list[Pass]) -> None:
        numbers = sorted(chance.sample(range(1, len(passes) + 1), count))
        for number in numbers:
            what = chance.choices(("kill", "stop", "fail", "hang"), (12, 4, 3, 1))[0]
            if what == "kill":
                case.plan(("any", number, what))
            else:
                name = chance.choice(_IN_A_UNIT)
                of_name = sum(one.name == name for one in passes)
                case.plan((name, chance.randrange(1, of_name + 1), what))
        case.finish()

    return disturb


def poisoned_unit(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """A unit that fails or kills its worker whenever it is tried: an error that names it; after a fix the rest."""
    units = [one.detail for one in passes if one.name == "unit_started"]
    unit = case.poisoned = chance.choice(units)
    case.plan((f"unit_started:{unit}", 0, chance.choice(("kill", "fail"))))
    command = case.start()
    code = case.code(command)
    error = case.last_error()
    stage, _, index = unit.partition("/")
    for wanted in (f"{stage}: no result for 1 of", f"Unit {index}", "same call again"):
        if code != 1 or wanted not in error:
            case.violations.append(f"exit code {code}; no {wanted!r} in the error of poisoned {unit}: {error}")
    case.no_more_faults()
    case.finish()


def two_drivers(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """The same command twice at once: one does the work, the other is refused with the holder's name, or too late."""
    first = case.start()
    time.sleep(chance.uniform(0, 1))
    second = case.start()
    case.faults.append(time.time())
    codes = sorted(code for command in (first, second) if (code := case.code(command)) is not None)
    if codes != [0, 0]:
        refused = "\n".join(command.error.read_text() for command in (first, second))
        if codes != [0, 2] or "another run is writing here: process" not in refused:
            case.violations.append(f"exit codes {codes} of two drivers: {refused}")


def suspended_driver(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """A driver sleeps until another takes its lease over and finishes; then it wakes, and changes nothing."""

    def on_a_machine_of_its_own() -> None:
        name = f"machine {os.getpid()}"
        lease._machine = lambda: name
        lease._REFRESH_S, lease._EXPIRES_S, lease._LOOK_S = 0.3, 1.5, 0.1

    # In its last stage the driver that wakes tries what is gone; nothing that was committed before it slept.
    case.redone_by_a_fault, case.woken = float("inf"), True
    first = case.start(on_a_machine_of_its_own)
    if not case.wait_for_passes(chance.randrange(5, len(passes)), first):
        case.violations.append(f"the first driver ended: {first.error.read_text()}")
        return
    everything = chance.random() < 0.5  # its workers too, as of a machine that sleeps
    with case.between_passes():
        suspend(first.group() if everything else [first.process])
    case.faults.append(time.time())
    second = case.start(on_a_machine_of_its_own)
    code = case.code(second)
    if code != 0:
        case.violations.append(f"the second driver ended with {code}: {second.error.read_text()}")
    os.killpg(first.process, signal.SIGCONT)
    code = case.code(first)
    if code != 0 and not (code == 2 and "another run took over here" in first.error.read_text()):
        case.violations.append(f"the driver that woke ended with {code}: {first.error.read_text()}")


def full_disk(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """Scratch on a small file system: an error that names what was written, folder and fix; then room for it."""
    # Until the driver ends, its workers begin other units, which fail too; the next command none that was committed.
    case.redone_by_a_fault = float("inf")
    kilobytes = chance.randrange(4, 25, 4)
    command = case.start(lambda: _small_scratch(case.folder, kilobytes))
    code = case.code(command)
    if code == 0:
        case.skipped = f"{kilobytes} KiB of scratch were enough"
        return
    case.faults.append(time.time())
    error = case.last_error()
    if code != 2 or not re.search(_FULL_DISK, error):
        case.violations.append(f"exit code {code} with a full disk: {error}")
    case.finish()


_FULL_DISK = (
    r"StorageError: (\S+, unit \d+|tokenizer|export): /\S+: No space left on device\. .*"
    r"free space, or set TMPDIR to a larger disk, and make the same call again"
)


def _small_scratch(folder: Path, kilobytes: int) -> None:
    """Mount a file system of this size for temporary files, for this process and those that it starts (root)."""
    scratch = folder / "scratch"
    scratch.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000):  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(scratch)], check=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)


# --- stores


def flaky_store(server: str) -> Kind:
    """Requests that are lost, cut, repeated, refused and late, on an S3 server."""

    def disturb(case: Case, chance: random.Random, passes: list[Pass]) -> None:
        kinds = [kind for kind in Fault if kind is not Fault.TIME_OUT]  # it takes longest
        _use_bucket(case, server)
        case.faults.append(time.time())
        command = _start_on_s3(case, server, {}, kinds, share=0.1, seed=chance.randrange(1 << 30))
        if code := case.code(command):
            case.violations.append(f"exit code {code} on a store that loses requests: {case.last_error()}")

    return disturb


def store_that_is_away(server: str) -> Kind:
    """A store that dies and comes back: soon, without notice; later, an error, and then the same command again."""

    def disturb(case: Case, chance: random.Random, passes: list[Pass]) -> None:
        long = chance.random() < 0.5
        _use_bucket(case, server)
        away = chance.randrange(20, len(passes)), 6.0 if long else 1.5
        # The units of a round fail, one after the other; none that was committed before.
        case.redone_by_a_fault, case.recovers_in_place = float("inf"), True
        left = case.folder / "left"
        told = {"on_leaving": lambda: left.write_text(str(time.time()))}
        command = _start_on_s3(case, server, {"retries": 2 if long else 10}, (), away=away, **told)
        code = case.code(command)
        if not left.exists():
            raise RuntimeError(f"the run ended before the store was away; see {case.folder}: {case.last_error()}")
        case.faults.append(float(left.read_text()))
        case.kept_from.append(sum(one.time <= case.faults[0] for one in case.passes()))
        if code and not long:
            case.violations.append(f"exit code {code} on a store that was away for 1.5 s: {case.last_error()}")
        if code:
            case.judge_failure(command, code, killed=False)
            if code := case.code(_start_on_s3(case, server, {}, ())):
                case.violations.append(f"exit code {code} when the store was back: {case.last_error()}")

    return disturb


def _use_bucket(case: Case, server: str) -> None:
    """Write to a new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=server, region_name="us-east-1", **CREDENTIALS).create_bucket(Bucket=name)
    case.output = f"s3://{name}/run"
    case.store = Store(StorageOptions.model_validate({"endpoint_url": server} | _KEYS))


def _start_on_s3(case: Case, server: str, options: dict, faults: Sequence[Fault], **proxy: Any) -> Command:
    """Start the command in one process, with this proxy before the server. options: of the store."""

    def run() -> None:
        if faults:  # many requests are repeated
            object_store._FIRST_WAIT_S /= 10
        with FaultProxy(server, faults, **proxy) as before:
            storage = {"endpoint_url": before.url, "timeout_s": 2.0} | _KEYS | options
            try:
                case.work.run(case.output, RoundsInline, NoRay(), {"storage": storage})
            finally:
                if before.unreached:
                    (case.folder / "unreached").write_text("\n".join(before.unreached))

    return case.start_process(run)


# --- Ray


def ray_workers(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """`kill -9` of Ray's workers at steps of their units, several in a run."""
    case.more = _PATIENT
    for name in chance.choices(_IN_A_UNIT, k=4):
        case.plan((name, chance.randrange(1, sum(one.name == name for one in passes)), "kill"))
    case.finish()


def ray_process(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """`kill -9` of Ray's raylet or control process, of the driver, or of a worker, at any moment of a run."""
    victim = chance.choice(("raylet", "raylet", "gcs_server", "driver", "driver", "worker"))
    case.more, mark = _PATIENT, uuid.uuid4().hex
    command = case.start(**{MARK: mark})
    if not case.wait_for_passes(chance.randrange(len(passes) * 3 // 4), command):
        case.violations.append(f"the run ended early: {case.last_error()}")
    found: list[int] = []
    for _ in range(100):
        title = {"worker": "ray::"}.get(victim, f"/{victim} ")
        found = (
            [process for process, line in marked(mark) if title in line] if victim != "driver" else [command.process]
        )
        if found or command.poll() is not None:
            break
        time.sleep(0.05)
    for process in found[:1]:
        os.kill(process, signal.SIGKILL)
        case.faults.append(time.time())
    code = case.code(command)
    if code:
        case.judge_failure(command, code, killed=victim == "driver")
        case.finish()
    for process, _ in marked(mark):  # what a killed driver left
        os.kill(process, signal.SIGKILL)


def ray_memory(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """A worker that takes memory until Ray's memory monitor kills it."""
    memory = psutil.virtual_memory()
    if memory.available < 2 * _ROOM_BYTES:
        case.skipped = f"{memory.available >> 30} GiB of memory are free, and {2 * _ROOM_BYTES >> 30} are needed"
        return
    used = (memory.total - memory.available + _ROOM_BYTES) / memory.total
    case.more = _PATIENT
    case.plan(("files_written", chance.randrange(2, 20), "take_memory"))
    limits = {"RAY_memory_usage_threshold": f"{used:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    command = case.start(**limits)
    _await_kill(case, command)
    code = case.code(command)
    if code:
        case.judge_failure(command, code, killed=False)
        case.finish()


def _await_kill(case: Case, command: Command) -> None:
    """Wait for the process that the plan disturbed to die, before the engine takes it for one that hangs."""
    while not (times := case.fault_times) and command.poll() is None:
        time.sleep(0.1)
    if not times:
        case.violations.append(f"the run ended before a worker took memory: {case.last_error()}")
        return
    (process,) = {one.process for one in case.passes() if one.time == times[0] and one.name == "files_written"}
    until = times[0] + _PATIENT["execution"]["stall_s"]
    while _runs(process) and time.time() < until:
        time.sleep(0.1)
    if _runs(process):
        case.violations.append(f"Ray did not kill process {process}, which took {TAKEN_BYTES >> 30} GiB")


def _runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ray_suspended_worker(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """A worker of Ray that is suspended: the run stalls, Ray is restarted, and the unit is done again."""
    case.more = {"execution": {"stall_s": 2 * STALL_S}}
    case.plan((chance.choice(_IN_A_UNIT), chance.randrange(2, 20), "stop"))
    case.finish()


def ray_suspended_node(case: Case, chance: random.Random, passes: list[Pass]) -> None:
    """A whole node of a cluster is suspended, is taken for lost, and wakes when another has done its units again."""
    case.more = _PATIENT
    with RayCluster(workers=WORKERS, environment={VARIABLE: str(case.points)}) as cluster:
        case.address = cluster.gcs
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": cluster.token}
        command = case.start(**token)
        if not case.wait_for_passes(chance.randrange(5, len(passes) * 3 // 4), command):
            case.violations.append(f"the run ended early: {case.last_error()}")
        suspended, lost, until = [], set[str](), time.monotonic() + _LONGEST_SUSPENSION_S
        while not lost and command.poll() is None and time.monotonic() < until:
            with case.between_passes():
                before = case.passes()
                for node in chance.sample(cluster.nodes[1:], WORKERS):
                    if lost := _in_flight(node, before):
                        suspended = cluster.suspend_node(node)
                        case.faults.append(time.time())
                        break
            time.sleep(0.02)
        until = time.monotonic() + _LONGEST_SUSPENSION_S
        while command.poll() is None and time.monotonic() < until:
            done = {one.detail for one in case.passes()[len(before) :] if one.name == "files_written"}
            if lost <= done:
                break
            time.sleep(0.1)
        for process in suspended:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        code = case.code(command)
        if code:
            case.judge_failure(command, code, killed=False)
            if code := case.code(case.start(**token)):
                case.violations.append(f"exit code {code} of the same command again: {case.last_error()}")
        psutil.wait_procs(suspended, timeout=_LONGEST_SUSPENSION_S)  # their raylet ends, as Ray took the node for lost


def _in_flight(node: subprocess.Popen, passes: list[Pass]) -> set[str]:
    """The units that processes of a node have begun and not committed."""
    of_node = {process.pid for process in psutil.Process(node.pid).children(recursive=True)}
    units: dict[int, str] = {}
    for one in passes:
        if one.process in of_node and one.name == "unit_started":
            units[one.process] = one.detail
        elif one.process in of_node and one.commits:
            units.pop(one.process, None)
    return set(units.values())
