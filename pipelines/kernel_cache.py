"""Where numba stores compiled kernels: one folder for each state of their sources.

numba compiles a kernel again when its own file changes, but not when a kernel that it calls changes in another file. So
the folder is named by a digest of every source that kernels are compiled from.
"""

import hashlib
import os
from pathlib import Path

_HERE = Path(__file__).parent
_VARIABLE = "NUMBA_CACHE_DIR"

# The packages that hold kernels, and everything that a kernel calls or reads as a global.
KERNEL_PACKAGES = ("text", "language", "rules", "dedup")


def kernel_sources() -> list[Path]:
    """Every source file of KERNEL_PACKAGES, sorted."""
    return sorted(path for package in KERNEL_PACKAGES for path in _HERE.joinpath(package).rglob("*.py"))


def use() -> None:
    """Set numba's cache folder, unless the environment names one or this folder cannot be written. Takes 5 ms.

    numba reads the setting when it is imported, so this runs when `pipelines` is imported.
    """
    if _VARIABLE in os.environ or not os.access(_HERE, os.W_OK):
        return
    digest = hashlib.sha256()
    for source in kernel_sources():
        digest.update(source.read_bytes())
    os.environ[_VARIABLE] = str(_HERE / "__pycache__" / f"numba-{digest.hexdigest()[:16]}")


def kernels_are_compiled() -> bool:
    """Whether the cache holds a kernel. Without any the first run compiles for about half a minute.

    The folder says nothing: numba makes it when a kernel is imported.
    """
    folder = os.environ.get(_VARIABLE)
    return folder is None or any(Path(folder).glob("*/*.nbi"))
