"""The machines of a run over units of input, each of which is one task on one core.

Their number is computed from the amount of text, so that the run ends within a wanted time, and no core is without a
unit.
"""

import math
from collections.abc import Callable
from dataclasses import replace

from cluster.formats import plural
from cluster.readers.units import InputManifest
from cluster.submit.work import Machines

# Machines, stores and texts differ from those of a measured rate, so twice the cores are planned.
_RESERVE = 2.0
# The time before the first unit, in which machines and Ray start, and kernels are loaded.
_START_S = 180.0
_CORES_OF_A_MACHINE = 16
_UNITS_OF_A_CORE = 4
_MOST_MACHINES = 64


def machines_for(
    inputs: InputManifest, seconds: float | None, rate: float, machine: Callable[[int], Machines]
) -> Machines:
    """The machines that do the units of a run.

    seconds: wanted duration. rate: bytes of text that a core does in a second. machine: one of so many cores.
    """
    cores, why = cores_of(inputs, seconds, rate)
    cpus = min(_CORES_OF_A_MACHINE, max(2, cores))
    most = min(_MOST_MACHINES, max(1, math.ceil(cores / cpus)))
    reasons = {
        "cpus": f"{cpus}, at most {_CORES_OF_A_MACHINE} a machine; {plural(cores, 'core')} wanted: {why}",
        "least": "1: the autoscaler starts the others when units wait",
        "most": f"{most}: {why}" + (f"; at most {_MOST_MACHINES}" if cores > cpus * most else ""),
    }
    found = machine(cpus)
    return replace(found, most=most, reasons={**reasons, **found.reasons})


def cores_of(inputs: InputManifest, seconds: float | None, rate: float) -> tuple[int, str]:
    """(number of cores, the reason); see `machines_for`."""
    size, units = sum(unit.bytes for unit in inputs.units), len(inputs.units)
    text = f"{size / 1e9:,.2f} GB of text in {plural(units, 'unit')}"
    if seconds is None:
        cores = min(math.ceil(units / _UNITS_OF_A_CORE), 16 * _CORES_OF_A_MACHINE)
        return cores, f"{text}, {_UNITS_OF_A_CORE} for each core"
    wanted = _RESERVE * size / (rate * max(seconds - _START_S, _START_S))
    cores = max(1, math.ceil(wanted))
    why = f"{text} within {seconds:,.0f} s at {rate / 1e6:g} MB/s a core, twice the cores"
    return (cores, why) if cores <= units else (units, f"{why}; a core for each unit is the most that has work")
