"""The verb `warm`: compile every kernel ahead, so that no run has to.

The image's build calls it with `--into` and `--cpu`. At its start, a process whose package is read-only copies the
kernels from there (see kernel_cache.py). numba reads its settings when it is imported, so this module imports nothing
that imports numba; the kernels are reached by an `Entry`.
"""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from cluster.entry import Entry
from cluster.errors import ConfigError, RaymillError
from pipelines import kernel_cache

_compile_kernels = Entry("pipelines.all_kernels:compile_kernels")


def warm(
    into: Annotated[
        Path | None, typer.Option(help="folder for the kernels, for RAYMILL_KERNELS; default: this user's cache")
    ] = None,
    cpu: Annotated[
        str | None, typer.Option(help="compile for this kind of CPU, such as x86-64-v3; default: this machine's")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="fail if a kernel was not compiled before")] = False,
) -> None:
    """Compile the kernels of `raymill curate` ahead (about a minute on one core), or find them compiled."""
    use_folder(into, cpu)
    began = time.monotonic()
    found = _compile_kernels()
    cache, target = os.environ[kernel_cache.CACHE_VARIABLE], os.environ.get("NUMBA_CPU_NAME", "the CPU of this machine")
    print(
        f"{len(found.kernels)} kernels for {target} in {cache}: {len(found.compiled)} compiled, "
        f"{len(found.kernels) - len(found.compiled)} found compiled; {time.monotonic() - began:.1f} s"
    )
    if check and found.compiled:
        raise RaymillError(
            f"raymill warm --check: {len(found.compiled)} kernels were not compiled before: "
            f"{', '.join(found.compiled[:5])} ... The cache was filled for other sources, another CPU or another path "
            "of the package. Call `raymill warm` with the same package, and the same NUMBA_CPU_NAME, as the run has."
        )


def use_folder(into: Path | None, cpu: str | None) -> None:
    """Set the environment that numba reads: the CPU, and the folder of the cache.

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
    folder = os.environ.get(kernel_cache.CACHE_VARIABLE)
    try:
        if folder is None:
            raise PermissionError("the package, the user's cache folder and the temporary folder are read-only")
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder or 'raymill warm'}: {error.strerror or error}. Give --into a folder.") from error
