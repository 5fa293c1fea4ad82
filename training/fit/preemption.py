"""Preemption: whether a node of this training will be taken away, so that a checkpoint is written now."""

from training.fit.ranks import Ranks

# Asking takes a round trip to Ray's control process; notices come tens of seconds ahead.
_EVERY_STEPS = 5


class Preemption:
    """Asks Ray Train for preemption notices. Under torchrun there are none."""

    def __init__(self, ranks: Ranks) -> None:
        self._ask = None
        if ranks.under_ray:
            import ray.train  # under torchrun Ray need not be installed

            self._ask = getattr(ray.train, "get_preemption_info", None)
        self._handled: set[int | None] = set()  # deadlines of the notices that were reported

    def announced(self, step: int) -> bool:
        """Whether there is a new notice, every fifth step. All workers call it at the same steps."""
        if self._ask is None or step % _EVERY_STEPS:
            return False
        notice = self._ask()
        if notice is None or notice.deadline_ms in self._handled:
            return False
        self._handled.add(notice.deadline_ms)
        return True
