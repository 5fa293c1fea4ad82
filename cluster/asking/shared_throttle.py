"""The throttle of a run on Ray: an actor that all workers report to.

It belongs to the worker that made it. If this worker dies, the next report of another makes a new one, which reads from
the answer store what was spent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray.exceptions import RayError

from raymill.cluster.asking.throttle import AskingState, Grant, Report, Throttle

_TRIES = 5
_STATE_S = 1.0  # maximum wait of the driver for the state


class _Shared:
    def __init__(self, make: Callable[[], Throttle]) -> None:
        self._throttle = make()

    def report(self, worker: str, made: Report) -> Grant:
        return self._throttle.report(worker, made)

    def state(self) -> AskingState:
        return self._throttle.state()


def report_to(name: str, make: Callable[[], Throttle]) -> Callable[[str, Report], Awaitable[Grant]] | None:
    """`report(worker, made)` of the throttle with this name; None where Ray is not running.

    make: makes it, where there is none.
    """
    if not ray.is_initialized():
        return None
    actor_class: Any = ray.remote(num_cpus=0, max_restarts=0)(_Shared)
    handle: Any = None

    async def report(worker: str, made: Report) -> Grant:
        nonlocal handle
        for left in reversed(range(_TRIES)):
            try:
                if handle is None:
                    handle = actor_class.options(name=name, get_if_exists=True).remote(make)
                grant: Grant = await handle.report.remote(worker, made)
                return grant
            except RayError:
                handle = None
                if not left:
                    raise
                await asyncio.sleep(0.2)
        raise AssertionError("returned or raised")

    return report


def state_of(name: str) -> AskingState | None:
    """The state of the throttle with this name; None if there is none, or if it does not answer in time."""
    try:
        actor: Any = ray.get_actor(name)
        found: Any = ray.get(actor.state.remote(), timeout=_STATE_S)
    except (RayError, ValueError):
        return None
    return found if isinstance(found, AskingState) else None
