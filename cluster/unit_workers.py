"""Runs units in workers of Ray: each unit is a task, or a call of an actor if its stage has a set-up.

Imported once Ray has started.

Why not Ray Data, which runs functions over blocks in tasks and in pools of actors too: it is made for data that passes
through Ray's object store, with backpressure and a budget of resources for each operator. Units read from the run's
store and write to it, so these have no work here, and they cost the driver 8.4 ms of processor time a unit; a task
costs 1.5 ms (`python -m tests.benchmarks units`; 2026-11-25, two shared cores of an AMD EPYC). With units of 20 s one
driver so keeps 13,000 CPUs busy instead of 2,400. Ray Data also reports a lost worker in its log alone, and from Ray
2.64 on its maps no longer take a limit of how often a task is started again. What it has and is missed here is a pool
of actors: `in_actors`. Artifacts open as Ray Datasets for those who go on in Ray Data (artifact.py).
"""

import math
import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from raymill.cluster.secret_values import redacted
from raymill.cluster.stage import Answer, NothingYet

# Units that are given to Ray at a time, at least: an autoscaler starts machines for those that wait.
_SUBMITTED = 1000
_MOMENT_S = 0.1
_STARTED = "started"
_SPREAD: dict[str, Any] = {"scheduling_strategy": "SPREAD"}

RunUnit = Callable[[int, bytes], Answer]


def in_tasks(
    run: RunUnit,
    units: Mapping[int, Any],
    options: Mapping[str, Any],
    losses: int,
    most: int | None,
    wait_s: float,
    room: Callable[[], float] = lambda: math.inf,
) -> Iterator[Answer | NothingYet]:
    """The answer of each unit, in the order of completion, from tasks of Ray.

    Args:
        run: `run(index, pickled unit)` returns the answer of a unit. units: by index. options: of the tasks.
        losses: how often a unit whose worker or machine was lost is started again.
        most: number of units that run at once; None: as many as there are resources.
        wait_s: seconds after which `NothingYet` is returned.
        room: `room()` is the number of units that may be given to Ray at once now.
    """
    # The task is a generator whose first value says that it has started: until then it may wait for resources.
    task: Any = ray.remote(num_returns="streaming", max_retries=losses, **_SPREAD, **options)(_in_task)
    shared, waiting = ray.put(run), deque(units.items())
    most = most or max(_SUBMITTED, 2 * int(ray.cluster_resources().get("CPU", 0)))
    submitted: dict[Any, int] = {}
    running: set[int] = set()
    quiet_since = time.monotonic()
    try:
        while waiting or submitted:
            while waiting and len(submitted) < min(most, room()):
                index, unit = waiting.popleft()
                submitted[task.remote(shared, index, pickle.dumps(unit))] = index
            # All that end within a moment together, because each call of `wait` looks at all that were submitted.
            ready: list[Any] = ray.wait(list(submitted), num_returns=len(submitted), timeout=_MOMENT_S)[0]
            if ready:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since >= wait_s:
                quiet_since = time.monotonic()
                yield NothingYet(bool(running))
            for one in ready:
                index = submitted[one]
                try:
                    answer: Any = ray.get(next(one))
                except RayError as error:
                    answer = _lost(index, error)
                if answer == _STARTED:
                    running.add(index)
                else:
                    del submitted[one]
                    running.discard(index)
                    yield answer
    finally:
        for one in submitted:
            with suppress(Exception):
                ray.cancel(one, force=True)


def _in_task(run: RunUnit, index: int, unit: bytes) -> Iterator[Any]:
    yield _STARTED
    yield run(index, unit)


def in_actors(
    run: RunUnit,
    units: Mapping[int, Any],
    options: Mapping[str, Any],
    losses: int,
    most: int | None,
    wait_s: float,
    room: Callable[[], float] = lambda: math.inf,
) -> Iterator[Answer | NothingYet]:
    """As `in_tasks`, from actors, each of which does one unit after the other.

    The number of actors is doubled until it is `most`, or as large as the cluster's resources or the number of units.

    Raises:
        RayError: `losses` + 1 actors in a row could not be started.
    """
    actor_class: Any = ray.remote(**_SPREAD, **options)(_Actor)
    shared, waiting = ray.put(run), deque(units.items())
    # What each actor does: a unit, or None while it starts.
    busy: dict[Any, tuple[ActorHandle, tuple[int, Any] | None]] = {}
    lost, lost_starts = Counter[int](), 0
    try:
        while waiting or any(unit for _, unit in busy.values()):
            starting = sum(unit is None for _, unit in busy.values())
            running = len(busy) - starting
            largest = int(min(most or len(units), room()))
            for _ in range(starting, min(len(waiting), max(1, running), largest - running)):
                actor = actor_class.remote(shared)
                busy[actor.begin.remote()] = actor, None
            ready, _ = ray.wait(list(busy), timeout=wait_s)
            if not ready:
                yield NothingYet(running > 0)
            for one in ready:
                actor, unit = busy.pop(one)
                try:
                    answer = ray.get(one)
                except RayError as error:
                    ray.kill(actor)
                    if unit is None:
                        lost_starts += 1
                        if lost_starts > losses:
                            raise
                        continue
                    lost[unit[0]] += 1
                    if lost[unit[0]] > losses or isinstance(error, RayTaskError):
                        yield _lost(unit[0], error)
                    else:
                        waiting.appendleft(unit)
                    continue
                lost_starts = 0
                if waiting:
                    index, payload = following = waiting.popleft()
                    busy[actor.run.remote(index, pickle.dumps(payload))] = actor, following
                else:
                    ray.kill(actor)  # its resources are free for others
                if unit is not None:
                    yield answer
    finally:
        for actor, _ in busy.values():
            with suppress(Exception):
                ray.kill(actor)


class _Actor:
    def __init__(self, run: RunUnit) -> None:
        self._run = run

    def begin(self) -> None:
        """Returns when the actor has started."""

    def run(self, index: int, unit: bytes) -> Answer:
        return self._run(index, unit)


def _lost(index: int, error: RayError) -> Answer:
    """The answer of a unit that left none, because its worker or machine was lost, or could not read the unit."""
    raised = error.cause if isinstance(error, RayTaskError) else None
    cause = str(error) if raised is None else f"{type(raised).__name__}: {raised}"
    return {
        "unit": index,
        "error": redacted(cause),
        "traceback": "",
        "kind": type(raised or error).__name__,
        "final": None,
        "unexpected": False,  # a worker dies of what happens to its machine, too
    }
