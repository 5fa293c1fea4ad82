"""Growth of a training whose `workers.count` is a range: more workers once the cluster has room for them.

Ray Train would end the running workers without notice, and their work since the last checkpoint would be lost. So its
resizing is off. The driver looks for room, reserves it by placement groups, and has the workers write a checkpoint and
end after the step at hand; then it starts more of them. Ray must have been started or joined before.
"""

import time

from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from raymill.cluster.record import read_json
from raymill.training.config_parts import Workers
from raymill.training.records.job import TrainingFolder
from raymill.training.records.schema import StartRecord

# A restart takes up to minutes, so there is one in this time at most.
GROW_EVERY_S = 600.0
_RESERVE_S = 5.0
# Ray Train learns of a node up to this late. Workers that start before are as many as those that were stopped.
_KNOWN_AFTER_S = 30.0


class WorkerGrowth:
    """Room for further workers, reserved for them.

    Args:
        workers: the config's. run: has a record of each start.
    """

    def __init__(self, workers: Workers, run: TrainingFolder) -> None:
        self.workers, self.run = workers, run
        self.reserved: list[PlacementGroup] = []
        self.before, self.looked_at = self._starts(), time.monotonic()

    def reserve(self) -> int:
        """Reserve the room that there is, if GROW_EVERY_S have passed. Returns the number of workers it is for."""
        if time.monotonic() - self.looked_at < GROW_EVERY_S:
            return 0
        self.looked_at = time.monotonic()
        started = sorted(self._starts() - self.before)
        if not started:
            return 0
        running = read_json(self.run.store, started[-1], "the record of a start", kind=StartRecord)["workers"]
        labels = [self.workers.labels] if self.workers.labels else None
        least, most = self.workers.range
        groups = [
            placement_group([self.workers.resources], bundle_label_selector=labels)
            for _ in range(min(most - running, most - least))  # others may have changed the record
        ]
        until = time.monotonic() + _RESERVE_S
        for group in groups:
            if group.wait(max(until - time.monotonic(), 0)):
                self.reserved.append(group)
            else:
                remove_placement_group(group)
        if self.reserved:
            time.sleep(_KNOWN_AFTER_S)
        return len(self.reserved)

    def release(self) -> None:
        """Give the reserved room back, for the workers that start next."""
        for group in self.reserved:
            remove_placement_group(group)
        self.reserved = []
        self.before, self.looked_at = self._starts(), time.monotonic()

    def _starts(self) -> set[str]:
        return {file.uri for file in self.run.store.list_files(self.run.attempts)}
