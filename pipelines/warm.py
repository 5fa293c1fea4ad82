"""The verb `warm`: compile every kernel ahead, so that no run has to.

The image's build calls it with `--into` and `--cpu`. At its start, a process whose package is read-only copies the
kernels from there (see kernel_cache.py). numba reads its settings when it is imported, so this module imports nothing
that imports numba; the kernels are reached by an `Entry`.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from raymill.cluster.entry import Entry
from raymill.cluster.errors import ConfigError, UserError
from raymill.cluster.temporary import temporary_folder
from raymill.pipelines import kernel_cache

_compile_kernels = Entry("raymill.pipelines.all_kernels:compile_kernels")
_SHOWN = 5


def warm(
    into: Annotated[
        Path | None,
        typer.Option(
            help="folder for the kernels, for RAYMILL_KERNELS; default: NUMBA_CACHE_DIR, else __pycache__ of the "
            "package, or if that is read-only ~/.cache/raymill"
        ),
    ] = None,
    cpu: Annotated[
        str | None, typer.Option(help="compile for this kind of CPU, such as x86-64-v3; default: this machine's")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="name the kernels that are not compiled, exit with 2; compiles them in a copy, stores nothing",
        ),
    ] = False,
) -> None:
    """Compile the kernels of `raymill curate` ahead (17 s of one core), or find them compiled."""
    began = time.monotonic()
    found = warm_kernels(into, cpu, check)
    cache, target = os.environ[kernel_cache.CACHE_VARIABLE], os.environ.get("NUMBA_CPU_NAME", "the CPU of this machine")
    if check:
        print(f"{len(found.kernels)} kernels in {cache}: all compiled")
        return
    print(
        f"{len(found.kernels)} kernels for {target} in {cache}: {len(found.compiled)} compiled, "
        f"{len(found.kernels) - len(found.compiled)} found compiled; {time.monotonic() - began:.1f} s"
    )


def warm_kernels(into: str | os.PathLike[str] | None = None, cpu: str | None = None, check: bool = False) -> Any:
    """Compile the kernels of `curate` ahead (17 s of one core), or find them compiled.

    Args:
        into: folder for the kernels, for RAYMILL_KERNELS; None: NUMBA_CACHE_DIR, else __pycache__ of the package, or
            if that is read-only ~/.cache/raymill.
        cpu: kind of CPU to compile for, such as x86-64-v3; None: this machine's.
        check: compile them in a copy of the cache, and store nothing.

    Returns:
        An object with the names `kernels`, of all, and `compiled`, of those that had to be compiled.

    Raises:
        UserError: with `check`: a kernel is not compiled.
    """
    use_folder(None if into is None else Path(into), cpu, create=not check)
    return _check() if check else _compile_kernels()


def _check() -> Any:
    """Run every kernel with a copy of the cache, and name those that had to be compiled.

    Raises:
        UserError: a kernel is not compiled.
    """
    cache = Path(os.environ[kernel_cache.CACHE_VARIABLE])
    copy = temporary_folder("warm-check")
    try:
        if cache.is_dir():
            shutil.copytree(cache, copy, dirs_exist_ok=True)
        os.environ[kernel_cache.CACHE_VARIABLE] = str(copy)
        found = _compile_kernels()
    finally:
        os.environ[kernel_cache.CACHE_VARIABLE] = str(cache)
        shutil.rmtree(copy, ignore_errors=True)
    if found.compiled:
        shown = ", ".join(found.compiled[:_SHOWN])
        more = f" and {len(found.compiled) - _SHOWN} more" if len(found.compiled) > _SHOWN else ""
        raise UserError(
            f"raymill warm --check: {len(found.compiled)} of {len(found.kernels)} kernels are not compiled yet in "
            f"{cache}: {shown}{more}. Run `raymill warm` with the same package and, if it is set, the same "
            "NUMBA_CPU_NAME as the runs."
        )
    return found


def use_folder(into: Path | None, cpu: str | None, create: bool = True) -> None:
    """Set the environment that numba reads: the CPU, and the folder of the cache.

    create: make the folder.

    Raises:
        ConfigError: this machine's CPU cannot run code for `cpu`, which numba would have to do, or the folder cannot
            be written.
    """
    if cpu is not None:
        os.environ["NUMBA_CPU_NAME"] = cpu
        os.environ.pop("NUMBA_CPU_FEATURES", None)
        kernel_cache.choose_cpu()
        if os.environ.get("NUMBA_CPU_NAME") != cpu:
            raise ConfigError(
                f"--cpu {cpu}: this machine's CPU lacks instructions of it, and compiling runs each kernel once. "
                f"Compile on a newer machine, or choose one of {', '.join(kernel_cache.CPU_LEVELS)}."
            )
    if into is not None:
        os.environ[kernel_cache.CACHE_VARIABLE] = str(into / kernel_cache.folder_name())
    elif cpu is not None:
        os.environ.pop(kernel_cache.CACHE_VARIABLE, None)
        kernel_cache.use()
    folder = Path(os.environ[kernel_cache.CACHE_VARIABLE])
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror or error}. Give --into a folder.") from error
