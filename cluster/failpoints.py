"""Named points in the code at which a test can disturb the process.

`RAYMILL_FAILPOINTS=FOLDER` turns them on. A process that reaches a point appends a line to FOLDER/passes, which all
processes of all commands share:

    NAME DETAIL PROCESS TIME        DETAIL: the unit or the URI; TIME: Unix time in seconds

FOLDER/plan, if it exists, has the disturbances, one on each line:

    NAME@K FUNCTION                 at the K-th pass of NAME over all processes, FUNCTION (module:function) is called
    NAME:DETAIL@K FUNCTION          the same, of passes with this DETAIL
    any@K FUNCTION                  the K-th pass of any point; @* for K: every one

Without the variable a failpoint costs one dictionary look-up.
"""

import fcntl
import os
import time
from pathlib import Path

from raymill.cluster.entry import Entry

FAILPOINTS = (
    "unit_started",
    "files_written",
    "before_create",
    "after_create",
    "before_write",
    "after_write",
    "before_upload",
    "after_upload",
    "before_delete",
    "after_delete",
)
# Those of runs that ask a model.
FAILPOINTS_OF_ASKING = (
    "request_sent",
    "answer_received",
    "answer_stored",
    "answers_settled",
    "answers_joined",
    "batch_sent",
    "batch_begun",
    "batches_read",
)

VARIABLE = "RAYMILL_FAILPOINTS"


def failpoint(name: str, detail: str = "") -> None:
    """Call the functions that the plan has for this pass of the point. name: one of those above."""
    assert name in (*FAILPOINTS, *FAILPOINTS_OF_ASKING), name
    if folder := os.environ.get(VARIABLE):
        for function in _planned(Path(folder), name, detail.replace(" ", "_") or "-"):
            function()


def _planned(folder: Path, name: str, detail: str) -> list[Entry]:
    """Count this pass; the functions that the plan has for it."""
    with open(folder / "passes", "a+") as passes:
        fcntl.flock(passes, fcntl.LOCK_EX)  # given back when the file is closed
        passes.seek(0)
        earlier = [line.split(" ")[:2] for line in passes]
        passes.write(f"{name} {detail} {os.getpid()} {time.time():.3f}\n")
    plan = folder / "plan"
    planned = []
    for line in plan.read_text().splitlines() if plan.exists() else ():
        selector, _, function = line.partition(" ")
        chosen, _, number = selector.rpartition("@")
        if _matches(chosen, name, detail):
            count = 1 + sum(_matches(chosen, *one) for one in earlier)
            planned += [Entry(function)] * (number in ("*", str(count)))
    return planned


def _matches(chosen: str, name: str, detail: str) -> bool:
    """chosen: NAME, NAME:DETAIL or any."""
    wanted, _, where = chosen.partition(":")
    return wanted in ("any", name) and where in ("", detail)
