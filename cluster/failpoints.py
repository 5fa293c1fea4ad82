"""Named points in the code at which a test can kill the process.

`RAYMILL_FAILPOINT=NAME` kills the process with SIGKILL when it reaches the point NAME; `NAME@K` when it reaches it for
the K-th time, counted from 1. Without the variable a failpoint costs one dictionary look-up.
"""

import os
import signal
from collections import Counter

FAILPOINTS = (
    "unit_started",
    "files_written",
    "file_uploaded",
    "before_record",
    "after_record",
    "before_manifest",
    "after_manifest",
)

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process if the environment names this point and this pass of it. name: one of FAILPOINTS."""
    assert name in FAILPOINTS, name
    wanted = os.environ.get("RAYMILL_FAILPOINT")
    if not wanted:
        return
    target, _, count = wanted.partition("@")
    if target == name:
        _passed[name] += 1
        if _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
