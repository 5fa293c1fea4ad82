"""The time of steps that are made at the same time, from the time of each alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raymill.cluster.nodes import Resources

Choose = Callable[[Sequence[str], Sequence[str]], Sequence[str]]  # (waiting, running steps) -> those to begin


@dataclass(frozen=True)
class PlannedStep:
    """A step that can start now.

    Attributes:
        seconds: wall time if it is made alone on all cores.
        core_s: processor time of its units; None: it has workers, whose cores no other step uses.
        reserved: as of `RunJob.reserved`.
    """

    seconds: float
    core_s: float | None
    reserved: Resources


def seconds_together(steps: Mapping[str, PlannedStep], cores: int, choose: Choose) -> float:
    """Wall time of independent steps on this number of cores.

    Workers keep the cores that they reserve. The units of other steps share the rest: if they would use more than there
    is, all of these steps slow down by the same factor. At least one core is shared: Ray runs one unit at a time when
    workers reserve all.
    """
    seconds = 0.0
    left = {name: step.seconds for name, step in steps.items()}  # of each if it were alone from now on
    waiting, running = [*steps], list[str]()
    while waiting or running:
        begun = choose(waiting, running)
        waiting = [name for name in waiting if name not in begun]
        running += begun
        rates = _rates({name: steps[name] for name in running}, cores)
        until_end = {name: left[name] / rates[name] for name in running}
        passed = min(until_end.values())
        seconds += passed
        left |= {name: left[name] - passed * rates[name] for name in running}
        running = [name for name in running if until_end[name] > passed]
    return seconds


def _rates(steps: Mapping[str, PlannedStep], cores: int) -> dict[str, float]:
    """Seconds of a step alone that pass in a second of all of these together."""
    used = {
        name: min(step.core_s / step.seconds, cores) if step.seconds else 0.0
        for name, step in steps.items()
        if step.core_s is not None
    }
    of_workers = sum(step.reserved.get("CPU", 0) for step in steps.values() if step.core_s is None)
    room = max(cores - of_workers, 1)
    shared = min(1.0, room / sum(used.values())) if sum(used.values()) else 1.0
    return {name: shared if name in used else 1.0 for name in steps}
