"""A file about a training that makes no progress: OUTPUT/hangs/ATTEMPT-rank-00003.json.

It has the sentence that names the missing workers, and the collectives that torch's flight recorder holds: the last
2,000 of each process group, with their sizes, states and stacks. torch itself would write them to a file with a name
that others on the machine can guess; process_group.py switches that off.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

import torch

from raymill.cluster.errors import RaymillError
from raymill.cluster.store import paths
from raymill.training.fit.ranks import Ranks
from raymill.training.records.job import TrainingFolder

log = logging.getLogger(__name__)


class HangRecord:
    """Writes the file of one worker. attempt: id of this start of the workers."""

    def __init__(self, run: TrainingFolder, attempt: str, ranks: Ranks) -> None:
        self.run = run
        self.uri = paths.join(run.hangs, f"{attempt}-rank-{ranks.rank:05d}.json")

    def write(self, report: str) -> None:
        """Write the file. report: the sentence. Called in the heartbeat's thread, while the main thread waits."""
        content = {"report": report, "collectives": recorded_collectives()}
        try:
            self.run.store.write_bytes(self.uri, json.dumps(content).encode())
        except RaymillError:
            log.warning("the record of a hang could not be written", exc_info=True)


def recorded_collectives() -> Any:
    """The content of the flight recorder; None if this torch has none."""
    module: Any = torch._C._distributed_c10d
    dump: Callable[[], bytes] | None
    dump = getattr(module, "_dump_nccl_trace_json", None) or getattr(module, "_dump_fr_trace_json", None)
    return json.loads(dump()) if dump else None
