"""Documents in, corpus out: read, normalise, measure, decide, deduplicate, select, report.

Kernels are compiled once for each state of the sources: numba notices a change in a kernel's own file, but not in one
that it calls, so the cache lies in a folder named by a digest of the modules that may hold kernels.
"""

import hashlib
import os
from pathlib import Path


def _own_cache() -> None:
    here = Path(__file__).parent
    digest = hashlib.sha256()
    folders = ("", "text", "normalize", "personal_data", "dedup", "rules")
    for source in sorted(path for folder in folders for path in here.joinpath(folder).glob("*.py")):
        digest.update(source.read_bytes())
    if os.access(here, os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(here / "__pycache__" / f"numba-{digest.hexdigest()[:16]}"))


def kernels_are_compiled() -> bool:
    """Whether this machine has run this state of the sources before; the first run takes about half a minute more."""
    cache = os.environ.get("NUMBA_CACHE_DIR")
    return cache is None or Path(cache).exists()


_own_cache()
