"""Notice that a node is to be taken away: a checkpoint now costs less than the steps since the last one."""

from training.fit.ranks import Place

# Asking is a round through Ray's control process, and a notice is given tens of seconds ahead.
_EVERY_STEPS = 5


class Notice:
    """Asks Ray Train, together with all other workers; elsewhere nobody gives notice."""

    def __init__(self, place: Place) -> None:
        self._asks = place.under_ray and _ray_can_tell()
        self._answered: set[int | None] = set()

    def given(self, step: int) -> bool:
        """Whether a node goes of which this was not said before. All workers ask at the same steps."""
        if not self._asks or step % _EVERY_STEPS:
            return False
        import ray.train

        told = ray.train.get_preemption_info()
        if told is None or told.deadline_ms in self._answered:
            return False
        self._answered.add(told.deadline_ms)
        return True


def _ray_can_tell() -> bool:
    import ray.train

    return hasattr(ray.train, "get_preemption_info")
