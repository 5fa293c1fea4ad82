"""Where numba stores compiled kernels: one folder for each state of their sources and each kind of CPU.

numba compiles a kernel again when its own file changes, but not when a kernel that it calls changes in another file. So
the folder is named by a digest of numba's version and of every source that kernels are compiled from.

numba's own index has the CPU in its key, but two processes that store a kernel at the same time may both choose the
same file name: then the index of one refers to the machine code of the other. Machines with different CPUs may share
the folder (a home folder on NFS, a volume of pods), so the folder is also named by the CPU.

    NUMBA_CACHE_DIR      used as it is: nothing here applies
    NUMBA_CPU_NAME       compile for this CPU instead of this machine's, such as x86-64-v3; ignored with a warning if
                         this machine lacks its instructions. NUMBA_CPU_FEATURES is then empty unless it is set.
    RAYMILL_KERNELS      a folder that `raymill warm --into` filled; what the cache lacks is copied from it

A file `complete` in the folder means that it has all kernels, and is written after them. A run compiles only the
kernels that it calls; when it has finished, it leaves a file `used`.
"""

import fcntl
import hashlib
import logging
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

_HERE = Path(__file__).parent
CACHE_VARIABLE, WARMED_VARIABLE = "NUMBA_CACHE_DIR", "RAYMILL_KERNELS"
_CPU_NAME, _CPU_FEATURES = "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"
_CPU_INFO = Path("/proc/cpuinfo")

COMPLETE, USED = "complete", "used"

# The progress line of a run whose kernels may not be compiled, until the first unit is committed.
COMPILING = "compiling kernels (first run on this machine; `raymill warm` does it ahead)"

# The packages that hold kernels, and everything that a kernel calls or reads as a global.
KERNEL_PACKAGES = ("text", "language", "rules", "dedup")

# Flags in /proc/cpuinfo of the levels of the x86-64 psABI; each level includes those before.
_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"})
_V3 = _V2 | {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
CPU_LEVELS = {"x86-64": frozenset[str](), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}


def kernel_sources() -> list[Path]:
    """Every source file of KERNEL_PACKAGES, sorted."""
    return sorted(path for package in KERNEL_PACKAGES for path in _HERE.joinpath(package).rglob("*.py"))


def use() -> None:
    """Set numba's cache folder, unless the environment names one. Takes 5 ms, and a copy in a new container.

    The folder lies in the package, or if the package is read-only, below the user's cache folder, or the temporary
    folder. If another user made the last, it is a new one of this process and those that it starts. This runs when
    `pipelines` is imported. numba reads the environment when it is imported, so it reads it again if it already was.
    """
    # numba makes an error message for every operation before it needs one; with colours that takes 5% of its time.
    os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
    if CACHE_VARIABLE in os.environ:
        return
    choose_cpu()
    parent = next(filter(_make, _parents()), None) or Path(tempfile.mkdtemp(prefix="raymill-kernels-"))
    folder = parent / folder_name()
    _copy_warmed(folder)
    os.environ[CACHE_VARIABLE] = str(folder)
    if "numba" in sys.modules:
        sys.modules["numba"].config.reload_config()


def choose_cpu() -> None:
    """Check NUMBA_CPU_NAME; remove it if this machine cannot run code for that CPU."""
    name = os.environ.get(_CPU_NAME)
    if name is None:
        return
    lacking = CPU_LEVELS.get(name, frozenset()) - _cpu_flags()
    if lacking:
        log.warning(
            "%s=%s: this machine's CPU has no %s; kernels are compiled for this CPU instead, at their first use",
            _CPU_NAME, name, ", ".join(sorted(lacking)),
        )  # fmt: skip
        del os.environ[_CPU_NAME]
        os.environ.pop(_CPU_FEATURES, None)
    else:
        os.environ.setdefault(_CPU_FEATURES, "")  # numba's default would be the features of this machine


def folder_name() -> str:
    """numba-SOURCES-CPU: a digest of numba's version and the kernels' sources, and the CPU they are compiled for."""
    digest = hashlib.sha256(f"{version('numba')} {sys.implementation.cache_tag}".encode())
    for source in kernel_sources():
        digest.update(source.read_bytes())
    return f"numba-{digest.hexdigest()[:16]}-{cpu_label()}"


def cpu_label() -> str:
    """The CPU that kernels are compiled for, as a part of a file name."""
    name, features = os.environ.get(_CPU_NAME), os.environ.get(_CPU_FEATURES)
    if name is None:
        return hashlib.sha256(f"{platform.machine()} {_cpu_info()} {features}".encode()).hexdigest()[:8]
    added = hashlib.sha256(features.encode()).hexdigest()[:8] if features else ""
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {added}".lower()).strip("-")


def kernels_are_compiled() -> bool:
    """Whether the cache has all kernels, or those of a finished run.

    A run with other settings may call a few more, which it then compiles. The folder and single kernels say nothing:
    numba makes the folder when a kernel is imported, and a run that was ended leaves some of its kernels.
    """
    folder = Path(os.environ[CACHE_VARIABLE])
    return (folder / COMPLETE).exists() or (folder / USED).exists()


def say_if_compiling() -> None:
    """Say on the error output that kernels will be compiled, if they are not."""
    if not kernels_are_compiled():
        print("compiling kernels (first run on this machine, up to a minute)", file=sys.stderr)


def mark_cache(name: str) -> None:
    """Write COMPLETE or USED into the cache; nothing happens if the folder is read-only."""
    with suppress(OSError):
        (Path(os.environ[CACHE_VARIABLE]) / name).touch()


def _parents() -> Iterator[Path]:
    """The folders in which the cache may lie, in order of preference."""
    if os.access(_HERE, os.W_OK):
        yield _HERE / "__pycache__"
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    yield Path(home) / "raymill"
    yield Path(tempfile.gettempdir()) / f"raymill-kernels-{os.getuid()}"


def _make(folder: Path) -> bool:
    """Make a folder, unless it exists. Returns whether this user owns it, can write into it, and others cannot.

    The cache holds machine code that is executed, so it must not lie in a folder into which others can write.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
        return found.st_uid == os.getuid() and not found.st_mode & stat.S_IWOTH and os.access(folder, os.W_OK)
    except OSError:
        return False


def _copy_warmed(folder: Path) -> None:
    """Copy the kernels that the cache lacks from those that `raymill warm` compiled for these sources and this CPU."""
    warmed = os.environ.get(WARMED_VARIABLE)
    if not warmed or (folder / COMPLETE).exists() or not (source := Path(warmed) / folder.name).is_dir():
        return
    try:
        copied = [_copy_kernel(index, folder / index.parent.name) for index in source.glob("*/*.nbi")]
        if all(copied) and (source / COMPLETE).exists():
            (folder / COMPLETE).touch()
    except OSError as error:  # the disk is full: numba compiles what is missing
        log.info("%s was not copied: %s", source, error)


def _copy_kernel(index: Path, folder: Path) -> bool:
    """Copy a kernel, unless the folder has it. Returns False if another process copies or compiles it now.

    index: its file of numba's index, which names the files with machine code. Only the content is copied: the files of
    an image may be read-only, and numba replaces index files.
    """
    target = folder / index.name
    if target.exists():
        return True
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(folder / f"{index.stem}.lock") as locked:
        if locked and not target.exists():
            for data in index.parent.glob(f"{index.stem}.*.nbc"):
                shutil.copyfile(data, folder / data.name)
            shutil.copyfile(index, part := target.with_suffix(".part"))
            part.rename(target)  # with the index the kernel exists
        return locked


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a kernel (see pipelines/text/kernel.py); gives False if another process holds it."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    locked = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        locked = False
    except OSError as error:  # a file system without locks
        log.info("%s: no lock: %s", path, error)
    try:
        yield locked
    finally:
        os.close(descriptor)


def _cpu_flags() -> frozenset[str]:
    found = re.search(r"^flags\s*:(.*)$", _cpu_info(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def _cpu_info() -> str:
    """Model and flags of the first processor; empty on systems without /proc."""
    try:
        with _CPU_INFO.open() as stream:
            lines = stream.read(1 << 14).splitlines()
    except OSError:
        return ""
    wanted = ("vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features")
    found: dict[str, str] = {}
    for line in lines:
        name = line.partition(":")[0].strip()
        if name in wanted:
            found.setdefault(name, line)
    return "\n".join(found.values())


class CompilesKernels:
    """Part of a `RunJob` whose stages call kernels, which are compiled at their first use."""

    def at_first(self) -> str:
        """As of `RunJob`."""
        return "" if kernels_are_compiled() else COMPILING

    def after(self) -> None:
        """As of `RunJob`."""
        mark_cache(USED)


# --- first calls

_done: set[str] = set()  # the parts that this process has done


def each_in_turn(parts: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """The result of each part, by name and in the order of `parts`.

    On a fresh machine the workers then compile different kernels: with one order for all, each would wait for every
    kernel that another one compiles. A part that this process has not done before is done later if another process of
    this machine is doing it for the first time.
    """
    left, found = dict(parts), dict[str, T]()
    while left:
        name, lock = _next(left)
        try:
            found[name] = left.pop(name)()
        finally:
            if lock is not None:
                os.close(lock)
        _done.add(name)
    return {name: found[name] for name in parts}


def _next(left: Mapping[str, object]) -> tuple[str, int | None]:
    """The part to do next, and the descriptor of the lock that this process has taken for it."""
    for name in left:
        if name in _done:
            return name, None
        try:
            return name, _lock(name)
        except BlockingIOError:
            continue
        except OSError:  # a read-only folder, or a file system without locks
            return name, None
    return next(iter(left)), None


def _lock(name: str) -> int:
    """Take the lock of a part.

    Raises:
        BlockingIOError: another process has it.
    """
    folder = Path(os.environ[CACHE_VARIABLE])
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"first-{name}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
