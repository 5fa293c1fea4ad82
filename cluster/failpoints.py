"""Named places where a test may kill the process, to prove that nothing half done is ever believed.

`RAYMILL_FAILPOINT=NAME` or `NAME@K` (the K-th time this process passes it, from 1) ends the process with SIGKILL there.
Unset, a failpoint costs one dictionary look-up a unit.
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
    assert name in FAILPOINTS, name
    wanted = os.environ.get("RAYMILL_FAILPOINT")
    if not wanted:
        return
    target, _, count = wanted.partition("@")
    if target == name:
        _passed[name] += 1
        if _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
